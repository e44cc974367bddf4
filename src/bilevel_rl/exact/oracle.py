"""What makes a pure function an oracle: checked arguments, double precision, and never a silent NaN."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, PyTree

from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.formulation.upper_variables import as_arrays, distance_to

Function = TypeVar("Function", bound=Callable)

OUTSIDE = 1e-3
"""Relative distance from the feasible set up to which x is taken: finite differences step over its ends."""

POLICY_TOLERANCE = 1e-4
"""By which the probabilities of a policy may miss 1: they may come from single precision."""


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
    """Compiles `function(problem, x, …)`, runs it in double precision, and returns NumPy arrays.

    Called on traced values (inside `jit`, `vmap`, `grad`) it is the plain function in the ambient precision instead,
    and the caller sees NaN where the plain call raises `OracleError`.
    """
    compiled, parameters = eqx.filter_jit(function), inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = parameters.bind(*args, **kwargs).arguments
        problem, x, others = given["problem"], given["x"], {k: v for k, v in given.items() if k not in ("problem", "x")}
        check_problem(problem)
        check_weights(others)
        if _is_traced((problem, x, others)):
            return function(problem, x, **others)
        x = as_upper_variable(problem, x)
        check_feasible(problem, x)
        if "policy" in others:
            others["policy"] = as_policy(problem, others["policy"])
        result = in_double_precision(compiled, problem, x, **jax.tree.map(_to_double, others))
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


def check_problem(problem: Any):
    """Raises `ValueError` unless it is one."""
    if not isinstance(problem, BilevelProblem):
        raise ValueError(f"problem must be a BilevelProblem, got {problem!r}; oracles take (problem, x, …)")


def check_weights(weights: dict[str, Any]):
    """Raises `ValueError` unless the entropy weight and the penalty among the arguments are positive numbers."""
    for name in ("entropy_weight", "penalty"):
        value = weights.get(name)
        if name not in weights or _is_traced(value) or (name == "penalty" and value is None):
            continue
        # A scalar array counts as its number, and one with an axis is no number.
        number = value.item() if isinstance(value, np.ndarray | jax.Array) and np.ndim(value) == 0 else value
        if not (isinstance(number, float | int | np.number) and 0 < float(number) < float("inf")):
            raise ValueError(f"{name} must be finite and positive, got {value!r}; a single number, such as 0.1")


def as_upper_variable(problem: BilevelProblem, x: PyTree, name: str = "x") -> PyTree[Float[np.ndarray, "..."]]:
    """x as NumPy arrays in double precision.

    Raises:
        ValueError: x has not the structure and shapes of `problem.initial_x`, or holds something else than real
            numbers.
    """
    if jax.tree.structure(problem.initial_x) == jax.tree.structure(0) and isinstance(x, list | tuple):
        x = np.asarray(x) if all(np.ndim(entry) == 0 for entry in x) else x
    x = as_arrays(name, x)
    expected, got = jax.tree.structure(problem.initial_x), jax.tree.structure(x)
    if expected != got or jax.tree.map(np.shape, problem.initial_x) != jax.tree.map(np.shape, x):
        shapes = [jax.tree.map(np.shape, tree) for tree in (problem.initial_x, x)]
        raise ValueError(
            f"{name} must have the structure and shapes of problem.initial_x, {shapes[0]}, got {shapes[1]}"
        )
    return x


def check_feasible(problem: BilevelProblem, x: PyTree[Float[np.ndarray, "..."]]):
    """Raises `ValueError` where x lies further from the feasible set than a finite difference steps over its ends."""
    nearest = in_double_precision(project, problem, x)
    if distance_to(nearest, x) > OUTSIDE:
        raise ValueError(f"x must lie in the feasible set, got {x}, which project moves to {nearest}; project it first")


@eqx.filter_jit
def project(problem: BilevelProblem, x: PyTree) -> PyTree:
    """Π_X(x)."""
    return problem.project(x)


def as_policy(problem: BilevelProblem, policy: Any) -> Float[np.ndarray, "S A"]:
    """A policy's probabilities in double precision.

    Raises:
        ValueError: not a row of probabilities for each state.
    """
    shape = problem.mdp.num_states, problem.mdp.num_actions
    table = as_arrays("policy", policy)
    if not isinstance(table, np.ndarray) or table.shape != shape:
        raise ValueError(f"policy must have shape {shape}, a row for each state, got {jax.tree.map(np.shape, table)}")
    sums = table.sum(axis=1)
    worst = int(np.argmax(np.where(np.isfinite(sums), np.abs(sums - 1), np.inf)))
    if not (np.all(table >= 0) and abs(sums[worst] - 1) <= POLICY_TOLERANCE):
        wrong = int(np.argmin(np.where(np.isnan(table), -np.inf, table).min(axis=1)))
        state = wrong if not np.all(table >= 0) else worst
        raise ValueError(
            f"policy must be probabilities that sum to 1 in every state, got {table[state]} in state {state}; "
            "logits become probabilities by jax.nn.softmax"
        )
    return table
