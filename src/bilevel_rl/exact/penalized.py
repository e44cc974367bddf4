"""The penalized follower of any upper objective: π^L = argmin_π f(x, π) + (J_τ* − J_τ(x, π)) / w.

Source: docs/explanation/method.md, sections 3 and 6.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from bilevel_rl.exact.evaluation import occupancy
from bilevel_rl.exact.soft_mdp import SoftSolution, soft_optimal, soft_return
from bilevel_rl.exact.tables import cost_table, linear_cost, reward_table
from bilevel_rl.formulation import BilevelProblem, OccupancyCost

MAX_STEPS = 2_000
"""Of the fixed-point iteration; a mild penalty takes a dozen."""

TOLERANCE = 1e-10
"""Change of w c / τ at which it counts as converged, in double precision."""


class _Iterate(NamedTuple):
    """A cost per step, the best response to it, and the cost that f's slope at this response amounts to."""

    cost: Float[Array, "S A"]
    response: SoftSolution
    slope: Float[Array, "S A"]
    objective: Float[Array, ""]


def penalized_response(
    problem: BilevelProblem, x: PyTree, entropy_weight: Float[ArrayLike, ""], penalty: Float[ArrayLike, ""]
) -> SoftSolution:
    """π^L, with the values that it has under r_x − w c, where c is f's `linear_cost` at π^L itself.

    Where f is linear in d^π that is the soft-optimal policy of r_x − w c_x. Otherwise a damped fixed-point iteration on
    c finds it: every step moves c towards the slope at the response to it, half as far whenever w f − J_τ did not fall.
    Where f is not convex in d^π, π^L is a stationary point.

    A plain JAX function: it follows the precision of `x`, and is NaN where the iteration does not converge.
    """
    mdp, reward = problem.environment_at(x), reward_table(problem, x)
    τ, w = (jnp.asarray(weight, reward.dtype) for weight in (entropy_weight, penalty))

    if isinstance(problem.upper, OccupancyCost):
        return soft_optimal(mdp, reward - w * cost_table(problem, x), τ)

    def iterate(cost: Array, start_values: Array | None) -> _Iterate:
        response = soft_optimal(mdp, reward - w * cost, τ, start_values=start_values)
        d = occupancy(mdp, response.policy)
        objective = w * problem.upper.value(problem.mdp, x, d, response.log_policy) - soft_return(
            mdp, reward, response.log_policy, τ
        )
        return _Iterate(cost, response, linear_cost(problem, x, d, response.log_policy), objective)

    def distance(iterate: _Iterate) -> Array:
        return w * jnp.max(jnp.abs(iterate.slope - iterate.cost)) / τ

    def improve(carry: tuple) -> tuple:
        count, share, best = carry
        tried = iterate((1 - share) * best.cost + share * best.slope, best.response.values)
        change = tried.objective - best.objective
        rounding = max(1e3, 10 / (1 - mdp.discount)) * eps * (1 + jnp.abs(best.objective))
        # Where the objective is flat to rounding, only the distance still tells better from worse.
        is_better = jnp.where(jnp.abs(change) > rounding, change < 0, distance(tried) < distance(best))
        best = jax.tree.map(lambda new, old: jnp.where(is_better, new, old), tried, best)
        return count + 1, jnp.where(is_better, jnp.minimum(1.5 * share, 1.0), share / 2), best

    def is_unfinished(carry: tuple) -> Array:
        return (carry[0] < MAX_STEPS) & (distance(carry[2]) > tolerance)

    eps = float(jnp.finfo(reward.dtype).eps)
    tolerance = max(TOLERANCE, 1e4 * eps, 100 * eps / (1 - mdp.discount))
    start = iterate(jnp.zeros_like(reward), None)
    _, _, found = jax.lax.while_loop(is_unfinished, improve, (0, jnp.ones((), reward.dtype), start))
    converged = distance(found) <= tolerance
    return jax.tree.map(lambda leaf: jnp.where(converged, leaf, jnp.nan), found.response)
