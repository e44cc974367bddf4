"""How parameters are searched: which trial is chosen, and what the protocol says about it; and proposals by Optuna.

Optuna proposes what is tried next from what has been tried, batch after batch: tree-structured Parzen estimators
(Bergstra et al., NeurIPS 2011) of all parameters jointly. Each proposal is a function of the seed, the trial's number
and the trials before it, so that neither the workers nor a kill change them. The trials are kept in `study.log` of the
run folder, where Optuna's own tools can read them.
"""

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bilevel_rl import checks
from bilevel_rl.comparison.methods import Method, Parameters
from bilevel_rl.comparison.tasks import Task
from bilevel_rl.comparison.workers import run_tasks

if TYPE_CHECKING:
    import optuna

SIGNIFICANT_DIGITS = 4
"""Of every number that Optuna proposes, so that what is found can be typed."""

MOST = 10_000
"""Of trials, seeds and log points: each is a run, or a row, of its own."""


def check_search(budget: float, seed: int, evaluation_entropy_weight: float, counts: Mapping[str, int]):
    """Raises `TypeError` or `ValueError` for numbers that no search of parameters can be run with.

    Args:
        budget: environment transitions of a run.
        seed: of all randomness.
        evaluation_entropy_weight: τ at which Φ is measured.
        counts: name of an option to how many.
    """
    transitions = checks.number("--budget", budget, allow_infinite=True)
    if not (transitions >= 1 and math.isfinite(transitions) and transitions == int(transitions)):
        raise ValueError(f"--budget must be a positive number of transitions, got {budget:g}")
    for name, count in counts.items():
        checks.integer(f"--{name.replace('_', '-')}", count, at_least=1, at_most=MOST)
    checks.integer("--seed", seed, at_least=0, at_most=2**32 - 1)
    checks.number("--evaluation-entropy-weight", evaluation_entropy_weight, above=0)


def choose(tasks: Sequence[Task]) -> tuple[Task, dict[str, Any]]:
    """The trial with the lowest score, the first of equals, and what the protocol says about its method.

    Args:
        tasks: a finished one for each trial, all of the same method.

    Raises:
        ValueError: every trial diverged.
    """
    method, scores = tasks[0].method, [task.score() for task in tasks]
    if not math.isfinite(min(scores)):
        raise ValueError(
            f"{method.name} diverged in each of its {len(tasks)} trials; give it more --trials or leave it out"
        )
    chosen = tasks[int(np.argmin(scores))]
    return chosen, {
        "transitions_per_iteration": chosen.algorithm().num_transitions_per_iteration,
        "iterations": chosen.num_iterations(),
        "exponents": method.exponents,
        "ranges": dict(method.ranges),
        "choices": dict(method.choices),
        "chosen": dict(chosen.parameters),
        "at_edge": method.at_edge(chosen.parameters),
        "trials": [
            {"score": score if math.isfinite(score) else "diverged", "parameters": dict(task.parameters)}
            for task, score in zip(tasks, scores, strict=True)
        ],
    }


def check_installed():
    """Raises `ModuleNotFoundError` where Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise ModuleNotFoundError(
            "the search needs the package optuna, which is not installed: pip install 'bilevel-rl[tune]'", name="optuna"
        )


def search(
    path: Path,
    method: Method,
    task: Callable[[int, Parameters], Task],
    *,
    num_trials: int,
    batch_size: int,
    seed: int,
    progress: bool,
) -> list[Task]:
    """Runs the trials that the file does not hold yet, in the workers of `Workers.connected`; returns all tasks.

    Args:
        path: of the file of trials; made if it does not exist.
        method: what is tuned.
        task: number and parameters of a trial → its task.
        num_trials: in total.
        batch_size: trials that are proposed together, before any of them has run. In the file a batch ends when all of
            its tasks have.
        seed: of the proposals.
        progress: show a bar for each batch.

    Raises:
        ModuleNotFoundError: Optuna is not installed.
    """
    check_installed()
    study, tasks = _open(path), []
    for first in range(0, num_trials, batch_size):
        batch = range(first, min(first + batch_size, num_trials))
        new = [task(number, _parameters(study, method, seed, number)) for number in batch]
        run_tasks(new, f"trials {first}–{batch[-1]} of {num_trials}", progress=progress)
        for number, finished in zip(batch, new, strict=True):
            study.tell(number, finished.score(), skip_if_finished=True)
        tasks += new
    return tasks


def _open(path: Path) -> "optuna.Study":
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if path.exists():
        # A kill may have torn the last line; Optuna would append to it.
        whole, _, torn = path.read_bytes().rpartition(b"\n")
        if torn:
            path.write_bytes(whole + b"\n" if whole else b"")
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.create_study(study_name="tuning", storage=storage, direction="minimize", load_if_exists=True)


def _parameters(study: "optuna.Study", method: Method, seed: int, number: int) -> Parameters:
    """The parameters of a trial, which are proposed and noted unless the file holds them."""
    import optuna
    from optuna.trial import TrialState, create_trial

    known = study.get_trials(deepcopy=False)
    if number < len(known):
        return known[number].params
    distributions = _distributions(method)
    # Asked of a copy: a trial enters the file with all of its parameters at once, or not at all.
    own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    copy = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=own_seed), direction="minimize")
    copy.add_trials(known)
    proposed = copy.ask(distributions).params
    parameters = {
        name: float(f"{value:.{SIGNIFICANT_DIGITS}g}") if name in method.ranges else value
        for name, value in proposed.items()
    }
    study.add_trial(create_trial(state=TrialState.RUNNING, params=parameters, distributions=distributions))
    return parameters


def _distributions(method: Method) -> "dict[str, optuna.distributions.BaseDistribution]":
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    ranges = {name: FloatDistribution(low, high, log=True) for name, (low, high) in method.ranges.items()}
    choices = {name: CategoricalDistribution(values) for name, values in method.choices.items()}
    return {**ranges, **choices}
