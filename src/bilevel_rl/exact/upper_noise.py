"""Spread of the random direction that (U) moves x along, at fixed policies.

Source: docs/explanation/method.md, sections 4 and 5.
"""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from bilevel_rl.environments import DrivenMDP
from bilevel_rl.formulation import BilevelProblem, OccupancyCost


def upper_noise(
    problem: BilevelProblem,
    x: PyTree,
    occupancies: tuple[Float[Array, "S A"], Float[Array, "S A"]],
    values: tuple[Float[Array, " S"], Float[Array, " S"]],
    penalty: Float[ArrayLike, ""],
) -> Float[Array, ""]:
    """√E‖h − E[h]‖² of the direction h that (U) takes from one pair of samples; Euclidean over all numbers of x.

    h = ∇g(x) + ∇_x c_x(sᴸ,aᴸ) + (∇_x r_x(s,a) − ∇_x r_x(sᴸ,aᴸ)) / w with (s, a) and (sᴸ, aᴸ) drawn independently from
    the two occupancies; where the dynamics depend on x, r_x has γ log P_x(s'|s,a) (V(s') − V(s)) beside it, V fixed.
    Where the upper objective is not an `OccupancyCost`, the noise of ∇_x f is left out.
    The mean of B independent pairs has 1/√B of it; the samples of a chain, which are correlated in time, have more
    from one iteration to the next.

    A plain JAX function: it follows the precision of its arguments.

    Args:
        problem: what is solved.
        x: upper variable.
        occupancies: d^π of the lower and of the penalized policy, normalized.
        values: V of both, under the rewards that they learn from.
        penalty: w.
    """
    environment, is_driven = problem.mdp, problem.outcome_probabilities is not None
    num_outcomes = environment.probabilities.shape[-1] if is_driven else 1

    def gain(x: PyTree, s: Array, choice: Array, values: Array) -> Array:
        a, k = jnp.divmod(choice, num_outcomes)
        reward = problem.rewards(x, s, a)
        if not is_driven:
            return reward
        log_probability = cast(DrivenMDP, problem.driven_environment(x)).log_probability(s, a, k)
        following = values[environment.successor(s, a, k)] - values[s]
        return reward + environment.discount * log_probability * following

    def own(x: PyTree, s: Array, choice: Array) -> Array:
        return gain(x, s, choice, values[0]) / penalty

    def others(x: PyTree, s: Array, choice: Array) -> Array:
        has_cost = isinstance(problem.upper, OccupancyCost)
        cost = problem.costs(x, s, choice // num_outcomes) if has_cost else 0.0
        return cost - gain(x, s, choice, values[1]) / penalty

    weights = occupancies
    if is_driven:
        chances = problem.environment_at(x).probabilities
        weights = tuple((d[..., None] * chances).reshape(len(d), -1) for d in occupancies)
    return jnp.sqrt(_gradient_variance(own, x, weights[0]) + _gradient_variance(others, x, weights[1]))


def _gradient_variance(function: Callable, x: PyTree, weights: Float[Array, "S N"]) -> Array:
    """E‖∇_x function − E[∇_x function]‖² over states and choices of these weights, a state at a time: x may be long."""
    choices = jnp.arange(weights.shape[1])

    def add_state(totals: tuple[PyTree, Array], state: Array) -> tuple[tuple[PyTree, Array], None]:
        gradients = jax.vmap(lambda choice: jax.grad(function)(x, state, choice))(choices)
        means = jax.tree.map(lambda leaf: jnp.tensordot(weights[state], leaf, 1), gradients)
        squares = weights[state] @ jax.vmap(_squared_norm)(gradients)
        return (jax.tree.map(jnp.add, totals[0], means), totals[1] + squares), None

    nothing = jax.tree.map(jnp.zeros_like, x), jnp.zeros_like(weights[0, 0])
    (mean, second_moment), _ = jax.lax.scan(add_state, nothing, jnp.arange(weights.shape[0]))
    return jnp.maximum(second_moment - _squared_norm(mean), 0.0)  # Rounding may leave it just below 0.


def _squared_norm(tree: PyTree) -> Array:
    return jnp.asarray(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))
