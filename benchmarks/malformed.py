"""What nobody should pass to a call, and what its arguments may be."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

Accepts = Callable[[Any], bool]


class Thing:
    """A class and its instances are garbage everywhere."""

    def __repr__(self) -> str:
        return "Thing()"


GARBAGE: dict[str, Any] = {
    "None": None,
    "True": True,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "1j": 1 + 2j,
    "'no'": "no",
    "''": "",
    "bytes": b"no",
    "object": Thing(),
    "class": Thing,
    "[]": [],
    "()": (),
    "{}": {},
    "1.5": 1.5,
    "-1": -1,
    "0": 0,
    "10**23": 10**23,
    "10**400": 10**400,
    "empty array": np.zeros(0),
    "2 x 3": np.ones((2, 3)),
    "NaN array": np.full(2, np.nan),
    "strings": np.array(["a", "b"]),
    "function": lambda: 0,
    "key": jax.random.key(0),
}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def between(low: float, high: float, *, infinite: bool = False, open_low: bool = False) -> Accepts:
    """Numbers from low to high; infinite ones where it says so."""

    def accepts(value: Any) -> bool:
        if not is_number(value) or (isinstance(value, int) and abs(value) >= 2**31) or math.isnan(value):
            return False
        if math.isinf(value) and not infinite:
            return False
        return (low < value if open_low else low <= value) and value <= high

    return accepts


def count(least: int, most: int = 2**31 - 1) -> Accepts:
    """Integers from least to most."""

    def accepts(value: Any) -> bool:
        is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
        return is_integer and bool(least <= value <= most)

    return accepts


def optional(accepts: Accepts) -> Accepts:
    return lambda value: value is None or accepts(value)


def leaf(*, zero: bool, infinite: bool = False) -> Accepts:
    """Numbers in arrays of any shape, as those of step sizes."""

    def accepts(value: Any) -> bool:
        array = numbers_of(value)
        if array is None or not array.size:
            return False
        fits = (array >= 0 if zero else array > 0) & (np.isfinite(array) | (infinite & (array > 0)))
        return bool(np.all(fits))

    return accepts


def numbers_of(value: Any) -> np.ndarray | None:
    """A number, an array, or a list as an array of real numbers; None where it is none."""
    if isinstance(value, bool) or not (is_number(value) or isinstance(value, np.ndarray | list | tuple)):
        return None
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array if array.dtype.kind in "iuf" or (array.size == 0 and array.dtype != object) else None


def nothing(value: Any) -> bool:
    return False


def flag(value: Any) -> bool:
    return isinstance(value, bool)


POSITIVE, NOT_NEGATIVE = between(0, math.inf, open_low=True), between(0, math.inf)
BOUND, SHARE, COUNT = between(0, math.inf, infinite=True, open_low=True), between(0, 1), count(1)


@dataclass(frozen=True)
class Call:
    """A call that works.

    Attributes:
        name: of what is called.
        function: what is called.
        arguments: of the call, by their names.
        accepts: which values of an argument are right beside the one given; none by default.
        named_as: what a message may name instead of an argument.
    """

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]
    accepts: dict[str, Accepts] = field(default_factory=dict)
    named_as: dict[str, str] = field(default_factory=dict)
