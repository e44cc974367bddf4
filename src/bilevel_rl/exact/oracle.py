"""What makes a pure function an oracle: checked arguments, double precision, and never a silent NaN."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

Function = TypeVar("Function", bound=Callable)


class OracleError(RuntimeError):
    """An exact computation did not converge, or left the range of floating-point numbers."""


def _is_traced(tree: PyTree) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def _to_double(leaf: Any) -> Any:
    return np.asarray(leaf, np.float64) if isinstance(leaf, float | int | np.ndarray | np.generic | jax.Array) else leaf


def _to_fresh(leaf: Any) -> Any:
    # JAX keeps the single-precision buffer of a NumPy array that a living compiled function captured, by identity, and
    # would use it for the same array here; a view is another object on the same memory.
    return leaf.view() if isinstance(leaf, np.ndarray) else leaf


def oracle(function: Function) -> Function:
    """Compiles `function(problem, x, *arrays)`, runs it in double precision, and returns NumPy arrays.

    Called on traced values (inside `jit`, `vmap`, `grad`) it is the plain function in the ambient precision instead,
    and the caller sees NaN where the plain call raises `OracleError`.
    """
    compiled = eqx.filter_jit(function)

    @functools.wraps(function)
    def call(problem: Any, x: PyTree, *args: Any, **kwargs: Any) -> Any:
        check_weights(kwargs)
        if _is_traced((problem, x, args, kwargs)):
            return function(problem, x, *args, **kwargs)
        arguments = as_upper_variable(problem, x), *jax.tree.map(_to_double, args)
        result = in_double_precision(compiled, problem, *arguments, **jax.tree.map(_to_double, kwargs))
        check_finite(function.__name__.lstrip("_"), result)
        return result

    return call  # pyright: ignore[reportReturnType]


def in_double_precision(compiled: Callable, problem: Any, *args: PyTree, **kwargs: PyTree) -> PyTree:
    """Calls a compiled function of a problem and double-precision arrays, and returns NumPy arrays."""
    problem, args, kwargs = jax.tree.map(_to_fresh, (problem, args, kwargs))
    with jax.enable_x64(True):
        return jax.tree.map(lambda leaf: np.asarray(leaf)[()], compiled(problem, *args, **kwargs))


def check_finite(name: str, result: PyTree):
    """Raises `OracleError` where an oracle's result is not finite."""
    if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result)):
        raise OracleError(
            f"{name} did not converge or overflowed; likely causes: a reward or cost that is not finite at this x, an "
            f"entropy weight below the reward's rounding error, or a discount too close to 1"
        )


def check_weights(weights: dict[str, Any]):
    """Raises `ValueError` unless the entropy weight and the penalty among the arguments are positive."""
    for name in ("entropy_weight", "penalty"):
        value = weights.get(name)
        if value is None or _is_traced(value):
            continue
        if not (np.all(np.isfinite(value)) and np.all(np.asarray(value) > 0)):
            raise ValueError(f"{name} must be finite and positive, got {value}")


def as_upper_variable(problem: Any, x: PyTree) -> PyTree:
    """x as NumPy arrays in double precision, of the structure and shapes of `problem.initial_x`, or `ValueError`."""
    if jax.tree.structure(problem.initial_x) == jax.tree.structure(0):
        x = np.asarray(x)
    x = jax.tree.map(_to_double, x)
    expected, got = jax.tree.structure(problem.initial_x), jax.tree.structure(x)
    if expected != got or jax.tree.map(np.shape, problem.initial_x) != jax.tree.map(np.shape, x):
        shapes = [jax.tree.map(np.shape, tree) for tree in (problem.initial_x, x)]
        raise ValueError(f"x must have the structure and shapes of problem.initial_x, {shapes[0]}, got {shapes[1]}")
    return x
