"""What arguments must be: one set of checks, whose sentences name the argument, the value and the remedy.

A wrong type raises `TypeError`, a wrong value `ValueError`. What JAX traces has no value yet, and passes.
"""

import inspect
import math
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

LARGEST_INTEGER = 2**31 - 1
"""What compiled programs can count to."""

NUM_SHOWN = 100
"""Characters of a value that a message shows."""


def integer(
    name: str, value: Any, *, at_least: int | None = None, at_most: int = LARGEST_INTEGER, remedy: str = ""
) -> Any:
    """The value as an `int`, where it is an integer within its limits.

    Raises:
        TypeError: it is no integer; bools and whole floats are none.
        ValueError: it exceeds a limit.
    """
    if isinstance(value, Tracer):
        return value
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(_sentence(name, "be an integer", value, remedy))
    if at_least is not None and value < at_least:
        raise ValueError(_sentence(name, f"be at least {at_least}", value, remedy))
    if value > at_most:
        raise ValueError(_sentence(name, f"be at most {at_most}", value, remedy))
    return int(value)


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    allow_infinite: bool = False,
    remedy: str = "",
) -> Any:
    """The value as a `float`, where it is a real number within its limits; single numbers in arrays count.

    Raises:
        TypeError: it is no real number; bools, strings and complex numbers are none.
        ValueError: it is NaN, exceeds a limit, or is infinite where that is not allowed.
    """
    if isinstance(value, Tracer):
        return value
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, np.ndarray | jax.Array) and np.ndim(value) == 0 and _is_real(value)):
        raise TypeError(_sentence(name, "be a number", value, remedy))
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        # A function that closes over such an integer cannot be compiled.
        raise ValueError(_sentence(name, "be a float where it is that large, as in 1e10", value))
    found = float(value)
    fits = (
        (above is None or found > above)
        and (at_least is None or found >= at_least)
        and (below is None or found < below)
        and (at_most is None or found <= at_most)
    )
    if math.isnan(found) or not fits or (math.isinf(found) and not allow_infinite):
        wanted = _wanted(above, at_least, below, at_most, allow_infinite)
        raise ValueError(_sentence(name, wanted, value, remedy))
    return found


def flag(name: str, value: Any) -> bool:
    """The value, where it is True or False; `TypeError` for anything else."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(_sentence(name, "be True or False", value))
    return bool(value)


def function(name: str, value: Any) -> Any:
    """The value, where it can be called and is no class; `TypeError` for anything else."""
    if inspect.isclass(value) or not callable(value):
        raise TypeError(_sentence(name, "be a function", value))
    return value


def instance(name: str, value: Any, *kinds: type, remedy: str = "") -> Any:
    """The value, where it is of one of the kinds; `TypeError` for anything else, such as the class itself."""
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        if inspect.isclass(value) and issubclass(value, kinds) and not remedy:
            remedy = f"make one: {value.__name__}(…)"
        raise TypeError(_sentence(name, f"be {_article(wanted)} {wanted}", value, remedy))
    return value


def one_of(name: str, value: Any, choices: Collection[str]) -> Any:
    """The value, where it is among the choices; `TypeError` for what is no string, otherwise `ValueError`."""
    if not isinstance(value, str):
        raise TypeError(_sentence(name, f"be one of {', '.join(choices)}", value))
    if value not in choices:
        raise ValueError(_sentence(name, f"be one of {', '.join(choices)}", value))
    return value


def real(name: str, value: Any) -> Float[np.ndarray, "..."] | Array:
    """The value as an array in double precision; what JAX has made stays in its precision.

    Raises:
        TypeError: it does not hold real numbers; bools, strings and complex numbers are none.
        ValueError: rows differ in length.
    """
    if isinstance(value, Tracer):
        return value
    try:
        array = value if isinstance(value, jax.Array) else np.asarray(value)
    except ValueError:
        raise ValueError(_sentence(name, "hold rows of equal length", value)) from None
    if not _is_real(array) and not (array.size == 0 and array.dtype != object):
        raise TypeError(_sentence(name, "hold real numbers", value))
    return array if isinstance(array, jax.Array) else array.astype(np.float64)


def finite(name: str, value: Any) -> Float[np.ndarray, "..."] | Array:
    """As `real`; `ValueError` where a number is NaN or infinite."""
    array = real(name, value)
    if not isinstance(array, Tracer) and not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite, got {shown(value)}")
    return array


def shape(name: str, value: Any, expected: tuple[int, ...]) -> Any:
    """The value; `ValueError` unless it has this shape."""
    if np.shape(value) != expected:
        raise ValueError(f"{name} must have shape {expected}, got shape {np.shape(value)}")
    return value


def key(value: Any) -> Array:
    """The value, where it is one random key of JAX; `TypeError` or `ValueError` with the remedy for anything else."""
    remedy = "key must come from jax.random.key(0)"
    if not isinstance(value, jax.Array) or not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        raise TypeError(f"{remedy}, got {shown(value)}")
    if value.shape != ():
        raise ValueError(f"{remedy}, got an array of keys, of shape {value.shape}")
    return value


def shown(value: Any) -> str:
    """A value as a message shows it: short, and of classes and functions the name."""
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"the function {value.__name__}"
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    text = str(value) if isinstance(value, np.ndarray | jax.Array) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= NUM_SHOWN else f"{text[: NUM_SHOWN - 1]}…"


def _sentence(name: str, wanted: str, value: Any, remedy: str = "") -> str:
    return f"{name} must {wanted}, got {shown(value)}{'; ' if remedy else ''}{remedy}"


def _wanted(
    above: float | None, at_least: float | None, below: float | None, at_most: float | None, allow_infinite: bool
) -> str:
    """The limits in words."""
    low, high = (above if at_least is None else at_least), (below if at_most is None else at_most)
    if low is not None and high is not None:
        return f"lie in {'(' if at_least is None else '['}{low:g}, {high:g}{')' if at_most is None else ']'}"
    if low == 0:
        sign = "positive" if at_least is None else "at least 0" if allow_infinite else "not negative"
    elif low is not None:
        sign = f"{'above' if at_least is None else 'at least'} {low:g}"
    elif high is not None:
        sign = f"{'below' if at_most is None else 'at most'} {high:g}"
    else:
        return "be a number" if allow_infinite else "be finite"
    return f"be {sign} (may be infinite)" if allow_infinite else f"be finite and {sign}"


def _is_real(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, np.integer) or jnp.issubdtype(array.dtype, np.floating)


def _article(noun: str) -> str:
    return "an" if noun[0] in "AEIOUaeiou" else "a"
