"""The same small random search for every method, on seeds of its own, and a record of all of it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bilevel_rl.comparison.tasks import Task
from bilevel_rl.runs.folder import RunFolder


def score(task: Task) -> float:
    """Mean over the seeds of a finished task of the final Φ, lower is better; infinite where one of them diverged."""
    folder, num_iterations = RunFolder(task.folder), task.num_iterations()
    if folder.read_divergences():
        return math.inf
    final = [row["upper_objective"] for row in folder.read_rows("metrics") if row["num_iterations"] == num_iterations]
    mean = float(np.mean(final))
    return mean if math.isfinite(mean) else math.inf


def choose(name: str, tasks: Sequence[Task]) -> tuple[Task, dict[str, Any]]:
    """The task with the lowest score, the first of equals, and what the protocol says about the method.

    Args:
        name: of the method.
        tasks: a finished one for each trial.

    Raises:
        ValueError: every trial diverged.
    """
    scores = [score(task) for task in tasks]
    if not math.isfinite(min(scores)):
        raise ValueError(f"{name} diverged in each of its {len(tasks)} trials; give it more --trials or leave it out")
    chosen = tasks[int(np.argmin(scores))]
    method = chosen.method
    return chosen, {
        "transitions_per_iteration": chosen.algorithm().num_transitions_per_iteration,
        "iterations": chosen.num_iterations(),
        "exponents": method.exponents,
        "ranges": dict(method.ranges),
        "choices": dict(method.choices),
        "chosen": dict(chosen.parameters),
        "at_edge": method.at_edge(chosen.parameters),
        "trials": [
            {"score": value if math.isfinite(value) else "diverged", "parameters": dict(task.parameters)}
            for task, value in zip(tasks, scores, strict=True)
        ],
    }
