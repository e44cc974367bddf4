"""Answers of people and of models: one finite number for each thing that was asked about."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


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
