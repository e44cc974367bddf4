"""Spaces of Gymnasium and gymnax, read by what they have: neither library has to be installed for the other's."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

INT32_MAX = 2**31 - 1


class Actions(NamedTuple):
    """The actions that a space has.

    Attributes:
        num_actions: A, for actions 0…A−1; None where actions are vectors.
        num_action_dimensions: d, for actions that are vectors of d numbers; None for integers.
        first: what the environment calls action 0.
    """

    num_actions: int | None
    num_action_dimensions: int | None
    first: int = 0

    @classmethod
    def of(cls, name: str, space: Any) -> "Actions":
        """Of a `Discrete` space, or of a `Box` with one axis.

        Raises:
            ValueError: the space is another one.
        """
        if _is_discrete(space):
            return cls(int(space.n), None, _first(space))
        if _is_box(space) and len(space.shape) == 1:
            return cls(None, int(space.shape[0]))
        raise ValueError(
            f"{name} must be discrete, or a box with one axis, got {_described(space)}; give the environment "
            f"{_numbered(space)}"
        )


def observed(name: str, space: Any) -> tuple[jax.ShapeDtypeStruct, Callable[[Array], ArrayLike]]:
    """Shape and type of one observation, and what a policy sees of it: one-hot rows of a `Discrete` space.

    Raises:
        ValueError: the space is neither a `Box` nor `Discrete`.
    """
    if _is_discrete(space):
        num_values, first = int(space.n), _first(space)
        if first + num_values - 1 > INT32_MAX or first < -INT32_MAX:
            raise ValueError(f"{name} must have values of 32 bits, got {_described(space)}; count them from 0")
        return jax.ShapeDtypeStruct((), jnp.int32), lambda s: jax.nn.one_hot(s - first, num_values)
    if _is_box(space) and hasattr(space, "dtype"):
        dtype = jnp.result_type(float) if jnp.issubdtype(space.dtype, jnp.floating) else space.dtype
        return jax.ShapeDtypeStruct(space.shape, dtype), lambda s: s
    raise ValueError(
        f"{name} must be Box or Discrete, got {_described(space)}; gymnasium.wrappers.FlattenObservation makes a Box "
        "of most others"
    )


def _is_discrete(space: Any) -> bool:
    """`MultiBinary` has an `n` too, and a shape."""
    return hasattr(space, "n") and not getattr(space, "shape", None)


def _first(space: Any) -> int:
    return int(getattr(space, "start", 0))


def _is_box(space: Any) -> bool:
    """Numbers of any size: `MultiDiscrete` and `MultiBinary` have a shape, and only so many values."""
    is_counted = hasattr(space, "n") or hasattr(space, "nvec")
    return getattr(space, "shape", None) is not None and not is_counted


def _described(space: Any) -> str:
    """With its shape, where the space does not print itself."""
    shape = getattr(space, "shape", None)
    return str(space) if shape is None else f"{space} of shape {tuple(shape)}"


def _numbered(space: Any) -> str:
    """The wrapper that makes one number of a space with finitely many actions."""
    sizes = getattr(space, "nvec", None)
    if sizes is None and hasattr(space, "n"):
        sizes = [2] * math.prod(space.shape)
    if sizes is None:
        return "a wrapper whose actions are numbers or vectors"
    sizes = tuple(int(size) for size in jnp.ravel(jnp.asarray(sizes)))
    return (
        f"numbered actions: gymnasium.wrappers.TransformAction(env, lambda a: np.array(np.unravel_index(a, {sizes})), "
        f"gymnasium.spaces.Discrete({math.prod(sizes)}))"
    )
