"""How much one exact step would still lower Φ: what tells a stationary point from where a run merely stopped."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from bilevel_rl.exact.evaluation import occupancy
from bilevel_rl.exact.soft_mdp import soft_optimal
from bilevel_rl.exact.tables import reward_table
from bilevel_rl.formulation import BilevelProblem

SHARES = 1.0, 1 / 4, 1 / 16
"""Lengths of the steps that are tried, as multiples of the largest."""


def descent_left(
    problem: BilevelProblem,
    x: PyTree,
    gradient: PyTree,
    length: Float[ArrayLike, ""],
    entropy_weights: Float[Array, " weights"],
    objectives: Float[Array, " weights"],
    values: Float[Array, "weights S"],
) -> Float[Array, " weights"]:
    """What the best of some steps lowers Φ_τ by, at the first of some τ, and what the same step does at the others.

    The steps are x' = Π_X[x − ℓ g / ‖g‖] with ℓ = `length` and some shares of it. Unlike ‖g‖ the result has the unit of
    Φ, knows the feasible set, and does not take the edge of a staircase for a slope: Φ is measured where a step leads.
    A plain JAX function, in the ambient precision.

    Args:
        problem: whose Φ.
        x: from where.
        gradient: g = ∇Φ_τ(x) at the first weight.
        length: ℓ of the largest step, in units of x.
        entropy_weights: τ; the steps are judged at the first.
        objectives: Φ_τ(x).
        values: the follower's optimal soft values at x, to start from.

    Returns:
        Φ_τ(x) − Φ_τ(x') for every τ, in units of the leader's cost; all 0 where no step gains at the first.
    """
    steepness = optax.tree.norm(gradient)
    scale = length / jnp.where(steepness > 0, steepness, 1.0)

    def gains(share: Array) -> Float[Array, " weights"]:
        moved = problem.project(jax.tree.map(lambda leaf, g: leaf - share * scale * g, x, gradient))
        there = jax.lax.map(lambda arguments: _objective(problem, moved)(*arguments), (entropy_weights, values))
        # Where a step leads out of what can be computed, it is no gain.
        return jnp.where(jnp.all(jnp.isfinite(there)), objectives - there, -jnp.inf)

    tried = jax.lax.map(gains, jnp.asarray(SHARES))
    best = tried[jnp.argmax(tried[:, 0])]
    return jnp.where(best[0] > 0, best, jnp.where(jnp.isnan(objectives), jnp.nan, 0.0))


def _objective(problem: BilevelProblem, x: PyTree) -> Callable[[Array, Array], Array]:
    """From τ, and values to start from, to Φ_τ(x)."""
    mdp, reward = problem.environment_at(x), reward_table(problem, x)

    def objective(entropy_weight: Array, start_values: Array) -> Array:
        answer = soft_optimal(mdp, reward, entropy_weight, start_values=start_values)
        return problem.upper.value(problem.mdp, x, occupancy(mdp, answer.policy), answer.log_policy)

    return objective
