"""The upper variable x as users write it, made a pytree of arrays."""

import numbers
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, PyTree

from bilevel_rl import checks

ROUNDING = 1e-6
"""Relative distance up to which two x count as one: functions of users may compute in single precision."""


def distance_to(nearest: PyTree, x: PyTree) -> float:
    """How far the furthest number of x lies from its projection, relative to the largest of its array."""
    return max(
        float(np.max(np.abs(far - near) / max(1.0, np.max(np.abs(near))), initial=0.0))
        for near, far in zip(jax.tree.leaves(nearest), jax.tree.leaves(x), strict=True)
    )


def as_arrays(name: str, x: PyTree) -> PyTree[Float[np.ndarray, "..."]]:
    """Arrays in double precision; what JAX traces stays. Lists and tuples of numbers, also nested ones, are one array.

    Named tuples stay what they are, and so do lists of arrays.

    Raises:
        TypeError: an entry is no real number.
        ValueError: rows of a list differ in length, or there are no entries.
    """
    arrays = jax.tree.map_with_path(
        lambda path, leaf: _in_double_precision(checks.real(f"{name}{jax.tree_util.keystr(path)}", leaf)),
        x,
        is_leaf=lambda node: node is None or _is_list_of_numbers(node),
    )
    if not sum(np.size(leaf) for leaf in jax.tree.leaves(arrays)):
        raise ValueError(f"{name} must hold at least one number, got {checks.shown(x)}")
    return arrays


def _in_double_precision(leaf: Any) -> Any:
    return leaf if isinstance(leaf, Tracer) else np.asarray(leaf, np.float64)


def _is_list_of_numbers(node: Any) -> bool:
    if not isinstance(node, list | tuple) or hasattr(node, "_fields") or not node:
        return False
    return all(isinstance(entry, numbers.Number | np.generic) or _is_list_of_numbers(entry) for entry in node)
