"""Arrays as users have them, made what a table holds, or refused by the argument's name."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

INT32 = np.iinfo(np.int32)


def array_of(name: str, values: Any) -> np.ndarray:
    """Of any numbers.

    Raises:
        ValueError: rows differ in length, entries are no numbers, or there are none.
    """
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{name} must be an array with rows of one length, got {_short(values)}") from error
    if array.dtype == object:
        hint = "; a sparse matrix becomes an array by .toarray()" if hasattr(values, "toarray") else ""
        raise ValueError(f"{name} must be an array of numbers, got {_short(values)}{hint}")
    if not array.size:
        raise ValueError(f"{name} must not be empty, got an array of shape {array.shape}")
    return array


def numbers(name: str, values: Any) -> Float[np.ndarray, "..."]:
    """In double precision.

    Raises:
        ValueError: not an array of real numbers, or one without entries.
    """
    array = array_of(name, values)
    if not (jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.kind in "iub"):
        raise ValueError(f"{name} must hold real numbers, got the type {array.dtype}; convert it by .astype(float)")
    return array.astype(np.float64)


def whole_numbers(name: str, values: Any) -> Int[np.ndarray, "..."]:
    """In 32 bits, which states and actions have here. Floating-point numbers count where they are whole.

    Raises:
        ValueError: not an array of whole numbers from 0 to 2³¹ − 1, or one without entries.
    """
    array = array_of(name, values)
    if not (jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.kind in "iu"):
        raise ValueError(f"{name} must hold whole numbers, got the type {array.dtype}; convert it by .astype(int)")
    if jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(np.float64)
    # Compared before they are narrowed, which would wrap around in silence; a NaN is in no range.
    is_wrong = ~((array >= 0) & (array <= INT32.max))
    is_wrong |= array != np.floor(np.where(is_wrong, 0, array))
    if np.any(is_wrong):
        raise ValueError(
            f"{name} must hold whole numbers from 0 to {INT32.max:,}, got {array[is_wrong][0]}; number them from 0"
        )
    return array.astype(np.int32)


def flags(name: str, values: Any) -> Bool[np.ndarray, "..."]:
    """True and false; the numbers 0 and 1 count as such.

    Raises:
        ValueError: anything else, or an array without entries.
    """
    array = array_of(name, values)
    if array.dtype.kind not in "biuf" or not np.all((array == 0) | (array == 1)):
        raise ValueError(f"{name} must hold True or False for every entry, got {_short(values)}")
    return array.astype(bool)


def _short(values: Any) -> str:
    text = " ".join(repr(values).split())
    return text if len(text) <= 80 else f"{text[:80]}…"
