"""Are the bounds true that a problem states of its rewards and costs?

Critics are clipped to what the bounds allow. One that is too small leaves no trace but wrong values, so it is refused
at x_0, and told at the first log point where x has come to rewards or costs beyond it.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from bilevel_rl.environments import TabularMDP
from bilevel_rl.formulation import BilevelProblem, OccupancyCost
from bilevel_rl.formulation.scales import some_pairs

ROUNDING = 1e-4
"""Share of a bound by which single precision may exceed it."""


class Largest(NamedTuple):
    """The largest |r| and |c| that were seen."""

    reward: float
    cost: float


def largest_at(problem: BilevelProblem, xs: PyTree, info: Any = None) -> Largest:
    """Of the tables at the x of every seed, or of 4,096 pairs of larger ones; where there are none, of mean samples.

    Args:
        problem: whose bounds are in question.
        xs: upper variables; leading axis of every leaf: the seed.
        info: mean of an algorithm's Info, which may have a `mean_reward` and a `mean_cost`.
    """
    if isinstance(problem.environment, TabularMDP):
        return Largest(*(float(value) for value in _largest(problem, *some_pairs(problem), xs)))
    means = (getattr(info, f"mean_{name}", 0.0) for name in Largest._fields)
    return Largest(*(float(np.max(np.abs(mean))) for mean in means))


def exceeded(problem: BilevelProblem, largest: Largest, where: str) -> list[str]:
    """What to say of each bound that is exceeded, and where."""
    found = {
        "reward_bound": (problem.reward_bound, largest.reward),
        "cost_bound": (float(np.asarray(problem.upper.step_cost_bound)), largest.cost),
    }
    return [
        f"{name} must be at least {value:.4g}, the largest size {where}, got {bound:g}; critics are clipped to it: "
        "raise it, or leave it out"
        for name, (bound, value) in found.items()
        if value > bound * (1 + ROUNDING)
    ]


@eqx.filter_jit
def _largest(
    problem: BilevelProblem, states: Int[ArrayLike, " pairs"], actions: Int[ArrayLike, " pairs"], xs: PyTree
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    def of(x: PyTree) -> tuple[Array, Array]:
        cost = jnp.zeros(())
        if isinstance(problem.upper, OccupancyCost):
            cost = jnp.max(jnp.abs(problem.costs(x, states, actions)))
        return jnp.max(jnp.abs(problem.rewards(x, states, actions))), cost

    reward, cost = jax.lax.map(of, jax.tree.map(lambda leaf: jnp.asarray(leaf, float), xs))
    return jnp.max(reward), jnp.max(cost)
