"""What a problem amounts to on a known model: tables over all pairs of state and action.

Plain JAX functions: they follow the precision of their arguments.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from bilevel_rl.exact.evaluation import expected_next
from bilevel_rl.formulation import BilevelProblem


def reward_table(problem: BilevelProblem, x: PyTree) -> Float[Array, "S A"]:
    """r_x(s, a) of every pair."""
    mdp = problem.mdp
    return problem.rewards(x, jnp.arange(mdp.num_states)[:, None], jnp.arange(mdp.num_actions))


def cost_table(problem: BilevelProblem, x: PyTree) -> Float[Array, "S A"]:
    """c_x(s, a) of every pair; `ValueError` unless the upper objective is an `OccupancyCost`."""
    mdp = problem.mdp
    return problem.costs(x, jnp.arange(mdp.num_states)[:, None], jnp.arange(mdp.num_actions))


def linear_cost(
    problem: BilevelProblem, x: PyTree, occupancy: Float[Array, "S A"], log_policy: Float[Array, "S A"]
) -> Float[Array, "S A"]:
    """The cost per step whose mean over d^π has the same slope as f(x, π) in every direction of π, at this π.

    `∂f/∂d + (∂f/∂θ) / d(s)π(a|s)`, d^π and the logits θ taken as independent arguments. The second part has mean 0
    under π(·|s), so it is an advantage: it accrues nothing. The cost c_x itself where f = E_{d^π}[c_x] + g(x).
    Pairs that are never visited get no second part. Source: docs/explanation/method.md, section 6.
    """

    def upper(occupancy: Array, logits: Array) -> Array:
        return problem.upper.value(problem.mdp, x, occupancy, jax.nn.log_softmax(logits))

    of_occupancy, of_logits = jax.grad(upper, argnums=(0, 1))(occupancy, log_policy)
    is_visited = occupancy > 0
    return of_occupancy + jnp.where(is_visited, of_logits / jnp.where(is_visited, occupancy, 1.0), 0.0)


def following_value_table(problem: BilevelProblem, x: PyTree, values: Float[Array, " S"]) -> Float[Array, "S A"]:
    """γ Σ_s' P_x(s'|s, a) v(s') of every pair: how x acts through the dynamics, at fixed values."""
    return problem.environment.discount * expected_next(problem.environment_at(x), jax.lax.stop_gradient(values))
