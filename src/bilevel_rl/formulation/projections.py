"""Projections Π_X onto common feasible sets, for `BilevelProblem(project=…)`.

Each maps any x, an array or a pytree of arrays, to the nearest point of its set in Euclidean distance. They work under
`jit`, `vmap` and `grad`, in the precision of x; a NaN stays one, so that a run that diverges is seen to.
"""

from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, PyTree

from bilevel_rl import checks


class Box(eqx.Module):
    """{x : lower ≤ x ≤ upper}, number by number.

    Attributes:
        lower, upper: numbers, arrays that broadcast to x, or pytrees of them that begin like x, such as a number for
            each entry of a dict. A list or tuple of plain numbers counts as one array. −∞ and ∞ where there is no
            bound.

    Raises:
        TypeError: a bound is no number.
        ValueError: a bound is NaN; or, when called, a bound does not fit x, or `lower` exceeds `upper`. A
            `BilevelProblem` calls it when it is made.

    Example:
        >>> import numpy as np
        >>> from bilevel_rl import projections
        >>> projections.Box(0.0, [1.0, 2.0])(np.array([-3.0, 5.0])).tolist()
        [0.0, 2.0]
    """

    lower: PyTree
    upper: PyTree

    def __init__(self, lower: PyTree[ArrayLike], upper: PyTree[ArrayLike]):
        self.lower, self.upper = _as_leaves("lower", lower), _as_leaves("upper", upper)

    def __call__(self, x: PyTree[ArrayLike]) -> PyTree[Array]:
        """The nearest point of the box."""
        lower, upper = _fitted("lower", self.lower, x), _fitted("upper", self.upper, x)
        _check_order(lower, upper)
        return jax.tree.map(jnp.clip, x, lower, upper)


class Simplex(eqx.Module):
    """{x : x ≥ 0, Σ x = total} along an axis, by sorting (Held, Wolfe and Crowder 1974; Duchi et al., ICML 2008).

    Attributes:
        total: what the numbers sum to.
        axis: of every leaf of x, along which each slice is projected on its own; None: all numbers of x together.

    Raises:
        TypeError: `total` is no number, or `axis` no integer.
        ValueError: `total` is not finite and positive; or, when called, a leaf of x has no such axis.

    Example:
        >>> import numpy as np
        >>> from bilevel_rl import projections
        >>> projections.Simplex()(np.array([2.0, 1.5, -4.0])).tolist()
        [0.75, 0.25, 0.0]
    """

    total: float = 1.0
    axis: int | None = eqx.field(static=True, default=-1)

    def __check_init__(self):
        checks.number("total", self.total, above=0)
        if self.axis is not None:
            checks.integer("axis", self.axis, remedy="None is for all numbers of x together")

    def __call__(self, x: PyTree[ArrayLike]) -> PyTree[Array]:
        """The nearest point of the simplex, or of the simplices."""
        axis = self.axis
        if axis is None:
            flat, unravel = jax.flatten_util.ravel_pytree(x)
            return unravel(self._project(flat))
        for path, leaf in jax.tree.leaves_with_path(x):
            if not -np.ndim(leaf) <= axis < np.ndim(leaf):
                name = f"x{jax.tree_util.keystr(path)}"
                raise ValueError(f"axis must be one of {name}, which has shape {np.shape(leaf)}, got {axis}")
        return jax.tree.map(lambda leaf: jnp.moveaxis(self._project(jnp.moveaxis(leaf, axis, -1)), -1, axis), x)

    def _project(self, x: ArrayLike) -> Array:
        """Of the last axis: max(x − θ, 0) with the θ that makes the sum right."""
        shifted = jnp.asarray(x, float) - jnp.max(jnp.asarray(x, float), axis=-1, keepdims=True)
        descending = jnp.flip(jnp.sort(shifted, axis=-1), axis=-1)
        thresholds = (jnp.cumsum(descending, axis=-1) - self.total) / jnp.arange(1, descending.shape[-1] + 1)
        num_positive = jnp.sum(descending > thresholds, axis=-1, keepdims=True)
        return jnp.maximum(shifted - jnp.take_along_axis(thresholds, num_positive - 1, axis=-1), 0.0)


class Ball(eqx.Module):
    """{x : ‖x − center‖ ≤ radius}, the Euclidean norm over all numbers of x.

    Attributes:
        radius: of the ball.
        center: as the bounds of `Box`.

    Raises:
        TypeError: `radius` or `center` is no number.
        ValueError: `radius` is not finite and positive, or `center` is NaN; or, when called, `center` does not fit x.

    Example:
        >>> import numpy as np
        >>> from bilevel_rl import projections
        >>> projections.Ball(radius=5.0, center=1.0)(np.array([7.0, 9.0])).tolist()
        [4.0, 5.0]
    """

    radius: float
    center: PyTree

    def __init__(self, radius: float, center: PyTree[ArrayLike] = 0.0):
        self.radius, self.center = checks.number("radius", radius, above=0), _as_leaves("center", center)

    def __call__(self, x: PyTree[ArrayLike]) -> PyTree[Array]:
        """The nearest point of the ball."""
        center = _fitted("center", self.center, x)
        offset = jax.tree.map(lambda x, c: jnp.asarray(x, float) - c, x, center)
        squared_distance = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(offset))
        is_outside = squared_distance > self.radius**2
        # The root of a constant where it is not used: its gradient at the center would be NaN.
        scale = jnp.where(is_outside, self.radius / jnp.sqrt(jnp.where(is_outside, squared_distance, 1.0)), 1.0)
        return jax.tree.map(lambda x, c, d: jnp.where(is_outside, c + scale * d, x), x, center, offset)


def _as_leaves(name: str, tree: PyTree[ArrayLike]) -> PyTree:
    """Arrays in double precision, as which they enter oracles; plain numbers stay numbers."""

    def checked(path: tuple[Any, ...], leaf: Any) -> Any:
        array = checks.real(f"{name}{jax.tree_util.keystr(path)}", leaf)
        if isinstance(array, Tracer):
            return array
        if np.isnan(array).any():
            raise ValueError(f"{name} must not be NaN, got {checks.shown(leaf)}")
        return float(array) if array.ndim == 0 else np.asarray(array, np.float64)

    are_numbers = isinstance(tree, list | tuple) and all(type(entry) in (int, float) for entry in tree)
    if are_numbers:
        return checked((), tree)
    return jax.tree_util.tree_map_with_path(checked, tree, is_leaf=lambda leaf: leaf is None)


def _fitted(name: str, values: PyTree, x: PyTree) -> PyTree:
    """A leaf of `values` for every leaf of x."""
    try:
        fitted = jax.tree.broadcast(values, x)
    except ValueError as error:
        raise ValueError(f"{name} must have the structure of x or begin like it, got {values} for {x}") from error
    for (path, leaf), value in zip(jax.tree.leaves_with_path(x), jax.tree.leaves(fitted), strict=True):
        shape = np.shape(leaf)
        try:
            fits = np.broadcast_shapes(np.shape(value), shape) == shape
        except ValueError:
            fits = False
        if not fits:
            where = f"x{jax.tree_util.keystr(path)}, of shape {shape}"
            raise ValueError(f"{name} must broadcast to {where}, got the shape {np.shape(value)}")
    return fitted


def _check_order(lower: PyTree, upper: PyTree):
    for low, high in zip(jax.tree.leaves(lower), jax.tree.leaves(upper), strict=True):
        if not isinstance(low, Tracer) and not isinstance(high, Tracer) and np.any(np.asarray(low) > np.asarray(high)):
            raise ValueError(f"lower must not exceed upper, got {low} and {high}")
