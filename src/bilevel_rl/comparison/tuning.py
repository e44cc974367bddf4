"""The same small random search for every method, on seeds of its own, and a record of all of it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bilevel_rl.comparison.cells import Cell
from bilevel_rl.runs.folder import RunFolder


def score(cell: Cell) -> float:
    """Mean over the seeds of a finished cell of the final Φ, lower is better; infinite where one of them diverged."""
    folder, num_iterations = RunFolder(cell.folder), cell.num_iterations()
    if folder.read_divergences():
        return math.inf
    final = [row["upper_objective"] for row in folder.read_rows("metrics") if row["num_iterations"] == num_iterations]
    mean = float(np.mean(final))
    return mean if math.isfinite(mean) else math.inf


def choose(name: str, cells: Sequence[Cell]) -> tuple[Cell, dict[str, Any]]:
    """The cell with the lowest score, the first of equals, and what the protocol says about the method.

    Args:
        name: of the method.
        cells: a finished one for each trial.

    Raises:
        ValueError: every trial diverged.
    """
    scores = [score(cell) for cell in cells]
    if not math.isfinite(min(scores)):
        raise ValueError(f"{name} diverged in each of its {len(cells)} trials; give it more --trials or leave it out")
    chosen = cells[int(np.argmin(scores))]
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
            {"score": value if math.isfinite(value) else "diverged", "parameters": dict(cell.parameters)}
            for cell, value in zip(cells, scores, strict=True)
        ],
    }
