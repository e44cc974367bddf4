"""What is checked before anything runs: the numbers that are asked for, and what the problem gives at its start."""

import inspect
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bilevel_rl import checks
from bilevel_rl.algorithms import Algorithm
from bilevel_rl.environments import TabularMDP
from bilevel_rl.formulation import BilevelProblem, OccupancyCost
from bilevel_rl.runs.bounds import Largest, exceeded
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.log_points import LogPoints

MAX_SEEDS = 2**20
"""More take hours to set up, and a metric row each at every log point."""


def check_run_arguments(
    num_seeds: int, num_iterations: int, log_every: int | LogPoints, evaluation_entropy_weight: float
) -> LogPoints:
    """When a run is measured. Raises `TypeError` or `ValueError` for numbers that `run` cannot work with."""
    checks.integer("num_seeds", num_seeds, at_least=1, at_most=MAX_SEEDS)
    checks.integer("num_iterations", num_iterations, at_least=1)
    log_points = log_every if isinstance(log_every, LogPoints) else LogPoints(log_every)
    remedy = "use 0.01 to be close to the unregularized objective"
    checks.number("evaluation_entropy_weight", evaluation_entropy_weight, above=0, remedy=remedy)
    return log_points


def check_storage(folder: RunFolder | Path | str | None, checkpoint_every: float, progress: bool):
    """Raises `TypeError` or `ValueError` unless a run can be kept there, and so often."""
    if folder is not None:
        checks.instance("folder", folder, RunFolder, Path, str, remedy="or None, which writes nothing")
    if folder == "":
        raise ValueError("folder must be a path, got ''; None writes nothing, and '.' is the working directory")
    remedy = "it is in seconds, and 0 saves at every log point"
    checks.number("checkpoint_every", checkpoint_every, at_least=0, allow_infinite=True, remedy=remedy)
    checks.flag("progress", progress)


def check_algorithm(algorithm: Any):
    """Raises `TypeError` for what is no algorithm, such as a problem or the class of one."""
    if isinstance(algorithm, BilevelProblem):
        remedy = "wrap it, for instance untuned(problem) or SingleLoopActorCritic(problem)"
        raise TypeError(f"algorithm must be an algorithm, got a BilevelProblem; {remedy}")
    if inspect.isclass(algorithm) or not isinstance(algorithm, Algorithm):
        remedy = "make one: SingleLoopActorCritic(problem)"
        raise TypeError(f"algorithm must be an algorithm, got {checks.shown(algorithm)}; {remedy}")


def check_start(problem: BilevelProblem):
    """Raises `ValueError` where reward, cost or regularizer is not finite at `initial_x`, or exceeds its bound there.

    Rewards and costs of all pairs of a table; in other environments only a run shows them.
    """
    found = {name: np.asarray(values) for name, values in _at_start(problem).items()}
    for name, values in found.items():
        if np.all(np.isfinite(values)):
            continue
        first = np.argwhere(~np.isfinite(values))[0]
        where = f" in state {first[0]}, action {first[1]}" if len(first) else ""
        raise ValueError(f"{name} must be finite at initial_x, got {values[tuple(first)]}{where}")
    largest = Largest(*(float(np.max(np.abs(found.get(name, 0.0)))) for name in ("reward", "upper.cost")))
    for sentence in exceeded(problem, largest, "at initial_x"):
        raise ValueError(sentence)


@eqx.filter_jit
def _at_start(problem: BilevelProblem) -> dict[str, Array]:
    x = jax.tree.map(jnp.asarray, problem.initial_x)
    found = {"upper.regularizer": jnp.asarray(problem.upper.regularizer(x), float)}
    if isinstance(problem.environment, TabularMDP):
        pairs = jnp.arange(problem.mdp.num_states)[:, None], jnp.arange(problem.mdp.num_actions)
        found["reward"] = problem.rewards(x, *pairs)
        if isinstance(problem.upper, OccupancyCost):
            found["upper.cost"] = problem.costs(x, *pairs)
    return found
