"""Spread of the random direction that (U) moves x along, at fixed policies. Source: docs/method.md, section 4."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from bilevel_rl.problems import BilevelProblem
from bilevel_rl.problems.problem import StateActionFunction


def upper_noise(
    problem: BilevelProblem,
    x: PyTree,
    occupancies: tuple[Float[Array, "S A"], Float[Array, "S A"]],
    penalty: Float[ArrayLike, ""],
) -> Float[Array, ""]:
    """√E‖h − E[h]‖² of the direction h that (U) takes from one pair of samples; Euclidean over all numbers of x.

    h = ∇g(x) + ∇_x c_x(sᴸ,aᴸ) + (∇_x r_x(s,a) − ∇_x r_x(sᴸ,aᴸ)) / w with (s, a) and (sᴸ, aᴸ) drawn independently from
    the two occupancies. The mean of B independent pairs has 1/√B of it; the samples of a chain, which are correlated
    in time, have more from one iteration to the next.

    A plain JAX function: it follows the precision of its arguments.

    Args:
        problem: what is solved.
        x: upper variable.
        occupancies: d^π of the lower and of the penalized policy, normalized.
        penalty: w.
    """
    lower, penalized = occupancies
    return jnp.sqrt(
        _gradient_variance(lambda x, s, a: problem.rewards(x, s, a) / penalty, x, lower)
        + _gradient_variance(lambda x, s, a: problem.costs(x, s, a) - problem.rewards(x, s, a) / penalty, x, penalized)
    )


def _gradient_variance(function: StateActionFunction, x: PyTree, weights: Float[Array, "S A"]) -> Array:
    """E‖∇_x function − E[∇_x function]‖² over pairs of these weights, a state at a time, since x may be long."""
    actions = jnp.arange(weights.shape[1])

    def add_state(totals: tuple[PyTree, Array], state: Array) -> tuple[tuple[PyTree, Array], None]:
        gradients = jax.vmap(lambda action: jax.grad(function)(x, state, action))(actions)
        means = jax.tree.map(lambda leaf: jnp.tensordot(weights[state], leaf, 1), gradients)
        squares = weights[state] @ jax.vmap(_squared_norm)(gradients)
        return (jax.tree.map(jnp.add, totals[0], means), totals[1] + squares), None

    nothing = jax.tree.map(jnp.zeros_like, x), jnp.zeros_like(weights[0, 0])
    (mean, second_moment), _ = jax.lax.scan(add_state, nothing, jnp.arange(weights.shape[0]))
    return jnp.maximum(second_moment - _squared_norm(mean), 0.0)  # Rounding may leave it just below 0.


def _squared_norm(tree: PyTree) -> Array:
    return jnp.asarray(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))
