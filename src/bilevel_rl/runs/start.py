"""What a problem gives at its start has to be numbers, or nothing that follows is."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bilevel_rl.environments import TabularMDP
from bilevel_rl.formulation import BilevelProblem, OccupancyCost


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
