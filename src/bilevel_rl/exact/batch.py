"""Φ and ∇Φ at many upper variables at once, for landscapes and paths."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from bilevel_rl.exact.objectives import hyper_gradient, hyper_objective
from bilevel_rl.exact.oracle import check_finite, check_weights, in_double_precision
from bilevel_rl.formulation import BilevelProblem


def hyper_objectives(
    problem: BilevelProblem, xs: PyTree, *, entropy_weight: Float[ArrayLike, ""]
) -> Float[np.ndarray, " points"]:
    """Φ_τ(x) for every x of a batch, one after the other in one compiled loop.

    Args:
        problem: what is solved.
        xs: upper variables; leading axis of every leaf: the points.
        entropy_weight: τ > 0.

    Raises:
        ValueError: `entropy_weight` is not positive.
        OracleError: an oracle does not converge at one of the points.
    """
    check_weights({"entropy_weight": entropy_weight})
    xs, weight = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (xs, entropy_weight))
    objectives = in_double_precision(_hyper_objectives, problem, xs, weight)
    check_finite("hyper_objectives", objectives)
    return objectives


@eqx.filter_jit
def _hyper_objectives(problem: BilevelProblem, xs: PyTree, entropy_weight: Array) -> Float[Array, " points"]:
    return jax.lax.map(lambda x: jnp.asarray(hyper_objective(problem, x, entropy_weight=entropy_weight)), xs)


def hyper_gradients(problem: BilevelProblem, xs: PyTree, *, entropy_weight: Float[ArrayLike, ""]) -> PyTree:
    """∇Φ_τ(x) for every x of a batch, one after the other in one compiled loop.

    Args:
        problem: what is solved.
        xs: upper variables; leading axis of every leaf: the points.
        entropy_weight: τ > 0.

    Returns:
        Gradients of the structure of `xs`, in double precision.

    Raises:
        ValueError: `entropy_weight` is not positive.
        OracleError: an oracle does not converge at one of the points.
    """
    check_weights({"entropy_weight": entropy_weight})
    xs, weight = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (xs, entropy_weight))
    gradients = in_double_precision(_hyper_gradients, problem, xs, weight)
    check_finite("hyper_gradients", gradients)
    return gradients


@eqx.filter_jit
def _hyper_gradients(problem: BilevelProblem, xs: PyTree, entropy_weight: Array) -> PyTree:
    return jax.lax.map(lambda x: hyper_gradient(problem, x, entropy_weight=entropy_weight), xs)
