"""Arguments that users pass: each check gives the value back, or says which argument must be what, and what it is."""

import contextlib
import inspect
import math
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

Value = TypeVar("Value")


def integer(name: str, value: Any, *, at_least: int | None = None, at_most: int | None = None) -> int:
    """An integer within bounds, as Python's own.

    Raises:
        TypeError: it is none; a bool and 2.0 are none.
        ValueError: it is out of bounds.
    """
    wanted = f"{name} must be an integer{_within([('at least', at_least), ('at most', at_most)])}, got {value!r}"
    try:
        found = operator.index(value)
    except TypeError:
        raise TypeError(wanted) from None
    if isinstance(value, bool):
        raise TypeError(wanted)
    if (at_least is not None and found < at_least) or (at_most is not None and found > at_most):
        raise ValueError(wanted)
    return found


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    allow_infinite: bool = False,
) -> float:
    """A real number within bounds, as Python's own; NaN is none.

    Raises:
        TypeError: it is none; a bool is none.
        ValueError: it is NaN, infinite or out of bounds.
    """
    bounds = _within([("above", above), ("at least", at_least), ("below", below), ("at most", at_most)])
    wanted = f"{name} must be a {'' if allow_infinite else 'finite '}number{bounds}, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(wanted)
    found: float = value if type(value) in (int, float) else float(value)  # pyright: ignore[reportAssignmentType]
    if math.isnan(found) or (math.isinf(found) and not allow_infinite):
        raise ValueError(wanted)
    is_high_enough = (above is None or found > above) and (at_least is None or found >= at_least)
    is_low_enough = (below is None or found < below) and (at_most is None or found <= at_most)
    if not (is_high_enough and is_low_enough):
        raise ValueError(wanted)
    return found


def function(name: str, value: Callable[..., Value]) -> Callable[..., Value]:
    """A function; raises `TypeError` otherwise."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r:.200}")
    return value


def takes(name: str, value: Callable[..., Value], *arguments: str) -> Callable[..., Value]:
    """A function that can be called with so many arguments, which have no names.

    Raises:
        TypeError: it is no function, or takes others.
    """
    function(name, value)
    with contextlib.suppress(ValueError):  # Not every built-in function says what it takes.
        try:
            inspect.signature(value).bind(*arguments)
        except TypeError as error:
            raise TypeError(
                f"{name} must be a function of ({', '.join(arguments)}), got {value!r:.200}: {error}"
            ) from None
    return value


def instance(name: str, value: Any, kind: type[Value]) -> Value:
    """An instance of a class; raises `TypeError` otherwise."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {value!r:.200}")
    return value


def number_each(name: str, given: Any, count: int) -> list[float]:
    """One finite number for each of `count` things: from a list, an array or a tensor of shape (count,) or (count, 1).

    Raises:
        ValueError: there are more or fewer, or one is no finite number; a string is none.
    """
    values = _numbers(given)
    # Single precision is what is learned in, and may be too small for a number.
    with np.errstate(over="ignore"):
        is_finite = values is not None and bool(np.all(np.isfinite(np.asarray(values, np.float32))))
    if values is None or len(values) != count or not is_finite:
        raise ValueError(f"{name}: expected {count} finite answers, one each, got {given!r:.200}")
    return values


def _numbers(given: Any) -> list[float] | None:
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | Mapping | set | frozenset):
        return None
    found = []
    for value in given:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        if array.size != 1 or array.dtype.kind not in "biuf":
            return None
        found.append(float(array.item()))
    return found


def _within(bounds: list[tuple[str, float | None]]) -> str:
    said = [f"{word} {bound}" for word, bound in bounds if bound is not None]
    return f" {'of ' if said[0].startswith('at') else ''}{' and '.join(said)}" if said else ""
