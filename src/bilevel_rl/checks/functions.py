"""The first call of a function that a user wrote: slips that everybody makes get a sentence of their own.

Functions are called as compiled programs call them, on values that JAX traces, and nothing is computed.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from bilevel_rl import checks

SLIPS: tuple[tuple[type[Exception], str], ...] = (
    (
        jax.errors.TracerBoolConversionError,
        "decides by `if`, `and`, `or` or `while` on a value that JAX traces; use jnp.where(s == 3, …, …), & and |",
    ),
    (
        jax.errors.TracerIntegerConversionError,
        "indexes a list, or a NumPy array, with a value that JAX traces; wrap the table: jnp.asarray(table)[s]",
    ),
    (
        jax.errors.TracerArrayConversionError,
        "indexes a NumPy array with a traced state, or hands a traced value to NumPy; wrap the table: "
        "jnp.asarray(table)[s], and write jnp where it says np",
    ),
    (
        jax.errors.ConcretizationTypeError,
        "makes a Python number, by int() or float(), of a value that JAX traces; keep it an array: jnp.asarray(…)",
    ),
)
"""JAX's error, and what the function does that leads to it."""

NUMBERS = (bool, int, float, complex, np.generic, np.ndarray, jax.Array)


def takes(name: str, function: Any, *arguments: str) -> Any:
    """The function, where it can be called with arguments of these names, by position; `TypeError` otherwise."""
    checks.function(name, function)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Some built-in functions have none.
        return function
    try:
        signature.bind(*arguments)
    except TypeError:
        raise TypeError(f"{name} must take the arguments ({', '.join(arguments)}), got {signature}") from None
    return function


def answer(name: str, function: Any, arguments: Mapping[str, Any]) -> PyTree[jax.ShapeDtypeStruct]:
    """Shapes and types of what a function returns.

    Args:
        name: of the function, for messages.
        function: called with the arguments, in their order.
        arguments: name to a value, or to its shape and type.

    Raises:
        TypeError: it cannot be called, takes other arguments, or returns something else than numbers.
        ValueError: it fails on values that JAX traces.
    """
    takes(name, function, *arguments)
    no_numbers: list[Any] = []

    def call(*given: Any) -> Any:
        result = function(*given)
        leaves = jax.tree.leaves(result, is_leaf=lambda leaf: leaf is None)
        no_numbers.extend(leaf for leaf in leaves if not isinstance(leaf, NUMBERS))
        return () if no_numbers else jax.tree.map(jnp.asarray, result)

    try:
        shapes = jax.eval_shape(call, *arguments.values())
    except Exception as error:
        remedy = next((text for kind, text in SLIPS if isinstance(error, kind)), None)
        told = (
            f"{name} {remedy}"
            if remedy
            else f"{name} failed when it was first called, {_where(arguments)}: {_told(error)}"
        )
        raise ValueError(told) from error
    if no_numbers:
        raise TypeError(f"{name} must return numbers, got {checks.shown(no_numbers[0])}")
    for leaf in jax.tree.leaves(shapes):
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise ValueError(f"{name} must return real numbers, got {leaf.dtype} ones")
    return shapes


def scalar(name: str, function: Any, arguments: Mapping[str, Any], *, of: str = "") -> None:
    """Checks that a function returns one real number.

    Args:
        name: as `answer`.
        function: as `answer`.
        arguments: as `answer`.
        of: what the arguments are, for the message.

    Raises:
        TypeError: as `answer`.
        ValueError: as `answer`, or it returns an array.
    """
    result = answer(name, function, arguments)
    found = f"shape {result.shape}" if isinstance(result, jax.ShapeDtypeStruct) else f"a {type(result).__name__}"
    if found != "shape ()":
        # A list of numbers is an array to most, so it is told as one.
        raise ValueError(f"{name} must return a scalar {f'for {of}' if of else 'for one x'}, got {found}")


def _where(arguments: Mapping[str, Any]) -> str:
    """Shapes of the arguments that are arrays."""
    shapes = {name: value.shape for name, value in arguments.items() if hasattr(value, "shape")}
    return ", ".join(f"{name} of shape {shape}" for name, shape in shapes.items())


def _told(error: Exception) -> str:
    """Kind and first line of an error."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
