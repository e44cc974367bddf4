"""The known optimum of goal placement."""

import numpy as np
from jaxtyping import Float

from bilevel_rl.exact.batch import hyper_objectives
from bilevel_rl.exact.solver import Solution, solve
from bilevel_rl.problems import BilevelProblem

ONE_HOT_LOGIT = 30.0
"""Logit of the chosen cell; the others share a mass of 1e-11."""


def one_cell_objectives(problem: BilevelProblem, *, entropy_weight: float = 0.01) -> Float[np.ndarray, " cells"]:
    """Φ_τ of putting the whole reward into one cell, for every cell.

    Args:
        problem: from `problems.goal_placement`.
        entropy_weight: τ > 0 at which placements are compared.

    Raises:
        OracleError: an oracle does not converge.
    """
    one_hots = ONE_HOT_LOGIT * np.eye(problem.initial_x.size)
    return hyper_objectives(problem, one_hots, entropy_weight=entropy_weight)


def goal_placement_optimum(problem: BilevelProblem, *, entropy_weight: float = 0.01, num_descents: int = 4) -> Solution:
    """Best of all one-cell placements and of exact descents from the uniform and from softened one-cell placements.

    Args:
        problem: from `problems.goal_placement`.
        entropy_weight: τ > 0 at which placements are compared.
        num_descents: exact descents: from `problem.initial_x` and from the best `num_descents` − 1 cells.

    Raises:
        ValueError: `num_descents` < 1.
        OracleError: an oracle does not converge.
    """
    if num_descents < 1:
        raise ValueError(f"num_descents must be at least 1, got {num_descents}")
    one_hots = ONE_HOT_LOGIT * np.eye(problem.initial_x.size)
    objectives = one_cell_objectives(problem, entropy_weight=entropy_weight)
    ranked = np.argsort(objectives)
    best_cell = Solution(one_hots[ranked[0]], float(objectives[ranked[0]]), residual=0.0, num_iterations=0)
    starts = [problem.initial_x, *(one_hots[ranked[: num_descents - 1]] / 5)]
    descended = solve(problem, entropy_weight=entropy_weight, starts=starts, max_iterations=200)
    return min(best_cell, descended, key=lambda solution: solution.objective)
