"""The reference optimum of a bi-level problem with a known model: projected descent on exact hyper-gradients."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from bilevel_rl import checks
from bilevel_rl.exact.objectives import implicit_gradient
from bilevel_rl.exact.oracle import (
    as_upper_variable,
    check_finite,
    check_problem,
    check_weights,
    in_double_precision,
    project,
)
from bilevel_rl.exact.soft_mdp import soft_optimal
from bilevel_rl.exact.tables import reward_table
from bilevel_rl.formulation import BilevelProblem

SUFFICIENT_DECREASE = 1e-4
STEP_RANGE = (1e-12, 1e12)
SECONDS_BETWEEN_LINES = 2.0
"""At least so many between two lines about the progress."""

Status = Literal["converged", "line search failed", "iteration limit"]
"""How a descent ended: the residual is within the tolerance, or as close to it as rounding lets Φ_τ descend; no step of
`STEP_RANGE` descends enough (as at a kink of Φ_τ); or the allowed iterations are used up."""


@dataclass(frozen=True)
class Solution:
    """Where exact descent ended, and how.

    Attributes:
        x: upper variable, NumPy arrays in double precision.
        objective: Φ_τ(x) at the last entropy weight.
        residual: ‖Π_X(x − ∇Φ_τ(x)/u) − x‖, zero at a stationary point; u as in `solve`.
        num_iterations: accepted steps, all entropy weights and this start only.
        status: how descent at the last entropy weight ended.
    """

    x: PyTree
    objective: float
    residual: float
    num_iterations: int
    status: Status


def solve(
    problem: BilevelProblem,
    *,
    entropy_weight: float | Sequence[float] = (0.1, 0.03, 0.01),
    starts: Sequence[PyTree] | np.ndarray | None = None,
    max_iterations: int = 500,
    tolerance: float = 1e-7,
    progress: bool = False,
) -> Solution:
    """Minimizes Φ_τ by projected descent on (IG): Barzilai–Borwein steps, Armijo backtracking, several starts.

    Φ_τ is not convex: the solution is a stationary point, the best over all starts. At small τ Φ_τ is nearly flat
    wherever the optimal policy does not change, so descent is annealed through a sequence of entropy weights.

    Args:
        entropy_weight: τ, or the sequence to anneal through; the objective reported is that of the last.
        starts: values of x to start from, projected; `problem.initial_x` alone by default.
        max_iterations: accepted steps per start and entropy weight.
        tolerance: residual at which a point counts as stationary. It is relative to u, the larger of |Φ_τ| and ‖∇Φ_τ‖
            where descent starts, so that x does not depend on the unit of the leader's cost; where u > 1, u = 1.
        progress: tell on standard error every few seconds how far it is.

    Returns:
        The solution with the lowest objective over all starts; its `status` says whether it is stationary.

    Raises:
        TypeError: `progress` is not true or false.
        ValueError: an empty sequence, a weight that is not positive, a start of the wrong structure, a negative
            number of iterations or a tolerance that is not positive.
        OracleError: an oracle does not converge.

    Example:
        >>> import bilevel_rl as brl
        >>> problem = brl.problems.goal_position(size=4, target=(3, 1), initial_x=(0, 2), width=2.0)
        >>> brl.exact.solve(problem, entropy_weight=0.1).x.round().tolist()
        [3.0, 1.0]
    """
    check_problem(problem)
    weights = list(entropy_weight) if isinstance(entropy_weight, Sequence | np.ndarray) else [entropy_weight]
    starts = [problem.initial_x] if starts is None else list(starts)
    if not weights or not starts:
        raise ValueError(f"entropy_weight and starts must not be empty, got {weights} and {len(starts)} starts")
    for weight in weights:
        check_weights({"entropy_weight": weight})
    if not isinstance(max_iterations, int | np.integer) or max_iterations < 0:
        raise ValueError(f"max_iterations must be a whole number, at least 0, got {max_iterations!r}; 500 is usual")
    if not isinstance(tolerance, int | float | np.number) or not 0 < tolerance < float("inf"):
        raise ValueError(f"tolerance must be finite and positive, got {tolerance!r}; 1e-7 is usual")
    lines = _Lines(checks.flag("progress", progress), len(starts))
    solutions = []
    for number, start in enumerate(starts):
        x = _start(problem, start, number)
        x = _moved(problem, x, gradient=jax.tree.map(np.zeros_like, x), step=0.0)
        solution = Solution(x, np.inf, np.inf, num_iterations=0, status="iteration limit")
        for weight in weights:
            lines.begin(number, weight)
            solution = _descend(problem, solution, weight, max_iterations, tolerance, lines)
        solutions.append(solution)
    return min(solutions, key=lambda solution: solution.objective)


def _start(problem: BilevelProblem, start: PyTree, number: int) -> PyTree:
    try:
        return as_upper_variable(problem, start, f"starts[{number}]")
    except ValueError as error:
        raise ValueError(f"{error}; starts is a list of values of x, [x] for a single one") from error


class _Point(NamedTuple):
    """Φ_τ and ∇Φ_τ at an x, and the follower's optimal soft values, from which those of the next x are sought."""

    x: PyTree
    objective: float
    gradient: PyTree
    values: Float[np.ndarray, " S"]


def _measured(problem: BilevelProblem, x: PyTree, entropy_weight: float, values: Float[np.ndarray, " S"]) -> _Point:
    weight = np.asarray(entropy_weight, np.float64)
    objective, gradient, values = in_double_precision(_of_response, problem, x, weight, values)
    check_finite("hyper_objective", objective)
    return _Point(x, float(objective), gradient, values)


@eqx.filter_jit
def _of_response(
    problem: BilevelProblem, x: PyTree, entropy_weight: Array, start_values: Float[Array, " S"]
) -> tuple[Array, PyTree, Float[Array, " S"]]:
    reward = reward_table(problem, x)
    answer = soft_optimal(problem.environment_at(x), reward, entropy_weight, start_values=start_values)
    return *implicit_gradient(problem, x, answer.log_policy, entropy_weight), answer.values


def _descend(
    problem: BilevelProblem,
    start: Solution,
    entropy_weight: float,
    max_iterations: int,
    tolerance: float,
    lines: "_Lines",
) -> Solution:
    point = _measured(problem, start.x, entropy_weight, np.zeros(problem.mdp.num_states))
    check_finite("hyper_gradient", point.gradient)
    # The first step moves x by 1 at most. Steps are in units of x² over those of Φ.
    unit = max(abs(point.objective), _norm(point.gradient)) or 1.0
    step, smallest, largest = 1.0 / unit, *(limit / unit for limit in STEP_RANGE)
    num_iterations, u = start.num_iterations, min(unit, 1.0)

    def ended(status: Status) -> Solution:
        return Solution(point.x, point.objective, residual, num_iterations, status)

    while (residual := _residual(problem, point, 1.0 / u)) > tolerance:
        lines.tell(num_iterations, point.objective, residual)
        if num_iterations == start.num_iterations + max_iterations:
            return ended("iteration limit")
        while True:
            new_x = _moved(problem, point.x, point.gradient, step)
            move = _minus(new_x, point.x)
            new = _measured(problem, new_x, entropy_weight, point.values)
            # Where rounding keeps Φ from descending, a step that hardly moves x is as stationary as x can get.
            if new.objective == point.objective and _residual(problem, point, 1.0 / unit) <= tolerance:
                return ended("converged")
            if new.objective <= point.objective - SUFFICIENT_DECREASE / step * _norm(move) ** 2:
                break
            step /= 2
            if step < smallest:
                is_rounding = _residual(problem, point, 1.0 / unit) <= tolerance
                return ended("converged" if is_rounding else "line search failed")
        check_finite("hyper_gradient", new.gradient)
        curvature = _dot(move, _minus(new.gradient, point.gradient))
        step = float(np.clip(_norm(move) ** 2 / curvature if curvature > 0 else 4 * step, smallest, largest))
        point, num_iterations = new, num_iterations + 1
    return ended("converged")


def _residual(problem: BilevelProblem, point: _Point, step: float) -> float:
    """‖Π_X(x − step ∇Φ_τ(x)) − x‖."""
    return _norm(_minus(_moved(problem, point.x, point.gradient, step), point.x))


class _Lines:
    """What `progress` writes to standard error."""

    def __init__(self, is_shown: bool, num_starts: int):
        self._is_shown, self._num_starts, self._last, self._stage = is_shown, num_starts, -np.inf, ""

    def begin(self, number: int, entropy_weight: float):
        self._stage = f"start {number + 1} of {self._num_starts}, entropy weight {entropy_weight:g}"

    def tell(self, num_iterations: int, objective: float, residual: float):
        now = time.monotonic()
        if self._is_shown and now >= self._last + SECONDS_BETWEEN_LINES:
            self._last = now
            text = f"{self._stage}: {num_iterations} iterations, Φ = {objective:.6g}, residual {residual:.2g}"
            print(text, file=sys.stderr, flush=True)


def _moved(problem: BilevelProblem, x: PyTree, gradient: PyTree, step: float) -> PyTree:
    return in_double_precision(project, problem, jax.tree.map(lambda leaf, g: leaf - step * g, x, gradient))


def _minus(left: PyTree, right: PyTree) -> PyTree:
    return jax.tree.map(np.subtract, left, right)


def _dot(left: PyTree, right: PyTree) -> float:
    return sum(float(np.vdot(a, b)) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


def _norm(tree: PyTree) -> float:
    return _dot(tree, tree) ** 0.5
