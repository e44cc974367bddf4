"""What is checked before anything runs: the numbers that are asked for, and what the problem gives at its start."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bilevel_rl.environments import TabularMDP
from bilevel_rl.formulation import BilevelProblem, OccupancyCost

MAX_ITERATIONS = 2**31 - 1
"""The largest number that devices count iterations with."""

MAX_SEEDS = 2**20
"""More take hours to set up, and a metric row each at every log point."""


def check_run_arguments(num_seeds: int, num_iterations: int, log_every: int, evaluation_entropy_weight: float):
    """Raises `ValueError` for numbers that `run` cannot work with."""
    for name, count in (("num_seeds", num_seeds), ("num_iterations", num_iterations), ("log_every", log_every)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if num_iterations > MAX_ITERATIONS:
        raise ValueError(f"num_iterations must be at most {MAX_ITERATIONS:,}, got {num_iterations:,}")
    if num_seeds > MAX_SEEDS:
        raise ValueError(f"num_seeds must be at most {MAX_SEEDS:,}, got {num_seeds:,}: share them among several runs")
    if not 0 < evaluation_entropy_weight < float("inf"):
        raise ValueError(
            f"evaluation_entropy_weight must be finite and positive, got {evaluation_entropy_weight}; use 0.01 to be "
            "close to the unregularized objective"
        )


def check_checkpoint_every(seconds: float):
    """Raises `ValueError` unless it is a number of seconds."""
    if not seconds >= 0:
        raise ValueError(f"checkpoint_every must be a number of seconds, got {seconds}")


def check_start(problem: BilevelProblem):
    """Raises `ValueError`, naming the function, where reward, cost or regularizer is not finite at `initial_x`.

    Rewards and costs of all pairs of a table; in other environments only a run shows them.
    """
    for name, values in _at_start(problem).items():
        if np.all(np.isfinite(values)):
            continue
        first = np.argwhere(~np.isfinite(values))[0]
        where = f" in state {first[0]}, action {first[1]}" if len(first) else ""
        raise ValueError(f"{name} must be finite at initial_x, got {np.asarray(values)[tuple(first)]}{where}")


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
