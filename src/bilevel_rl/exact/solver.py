"""The reference optimum of a bi-level problem with a known model: projected descent on exact hyper-gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
from jaxtyping import PyTree

from bilevel_rl.exact.objectives import hyper_gradient, hyper_objective
from bilevel_rl.exact.oracle import as_upper_variable, check_problem, check_weights, in_double_precision, project
from bilevel_rl.formulation import BilevelProblem

SUFFICIENT_DECREASE = 1e-4
STEP_RANGE = (1e-12, 1e12)

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

    Returns:
        The solution with the lowest objective over all starts; its `status` says whether it is stationary.

    Raises:
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
    solutions = []
    for number, start in enumerate(starts):
        x = _start(problem, start, number)
        x = _moved(problem, x, gradient=jax.tree.map(np.zeros_like, x), step=0.0)
        solution = Solution(x, np.inf, np.inf, num_iterations=0, status="iteration limit")
        for weight in weights:
            solution = _descend(problem, solution, weight, max_iterations, tolerance)
        solutions.append(solution)
    return min(solutions, key=lambda solution: solution.objective)


def _start(problem: BilevelProblem, start: PyTree, number: int) -> PyTree:
    try:
        return as_upper_variable(problem, start, f"starts[{number}]")
    except ValueError as error:
        raise ValueError(f"{error}; starts is a list of values of x, [x] for a single one") from error


def _descend(
    problem: BilevelProblem, start: Solution, entropy_weight: float, max_iterations: int, tolerance: float
) -> Solution:
    x = start.x
    objective = float(hyper_objective(problem, x, entropy_weight=entropy_weight))
    gradient = hyper_gradient(problem, x, entropy_weight=entropy_weight)
    # The first step moves x by 1 at most. Steps are in units of x² over those of Φ.
    unit = max(abs(objective), _norm(gradient)) or 1.0
    step, smallest, largest = 1.0 / unit, *(limit / unit for limit in STEP_RANGE)
    num_iterations, u = start.num_iterations, min(unit, 1.0)
    while (residual := _norm(_minus(_moved(problem, x, gradient, 1.0 / u), x))) > tolerance:
        if num_iterations == start.num_iterations + max_iterations:
            return Solution(x, objective, residual, num_iterations, "iteration limit")
        while True:
            new_x = _moved(problem, x, gradient, step)
            move = _minus(new_x, x)
            new_objective = float(hyper_objective(problem, new_x, entropy_weight=entropy_weight))
            if new_objective == objective and _is_small(problem, x, gradient, 1.0 / unit, tolerance):
                return Solution(x, objective, residual, num_iterations, "converged")
            if new_objective <= objective - SUFFICIENT_DECREASE / step * _norm(move) ** 2:
                break
            step /= 2
            if step < smallest:
                is_rounding = _is_small(problem, x, gradient, 1.0 / unit, tolerance)
                status = "converged" if is_rounding else "line search failed"
                return Solution(x, objective, residual, num_iterations, status)
        new_gradient = hyper_gradient(problem, new_x, entropy_weight=entropy_weight)
        curvature = _dot(move, _minus(new_gradient, gradient))
        step = float(np.clip(_norm(move) ** 2 / curvature if curvature > 0 else 4 * step, smallest, largest))
        x, objective, gradient, num_iterations = new_x, new_objective, new_gradient, num_iterations + 1
    return Solution(x, objective, residual, num_iterations, "converged")


def _is_small(problem: BilevelProblem, x: PyTree, gradient: PyTree, step: float, tolerance: float) -> bool:
    """Whether a step hardly moves x: where rounding keeps Φ from descending, that is as stationary as x can get."""
    return _norm(_minus(_moved(problem, x, gradient, step), x)) <= tolerance


def _moved(problem: BilevelProblem, x: PyTree, gradient: PyTree, step: float) -> PyTree:
    return in_double_precision(project, problem, jax.tree.map(lambda leaf, g: leaf - step * g, x, gradient))


def _minus(left: PyTree, right: PyTree) -> PyTree:
    return jax.tree.map(np.subtract, left, right)


def _dot(left: PyTree, right: PyTree) -> float:
    return sum(float(np.vdot(a, b)) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


def _norm(tree: PyTree) -> float:
    return _dot(tree, tree) ** 0.5
