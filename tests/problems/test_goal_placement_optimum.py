import itertools

import numpy as np
import pytest

from bilevel_rl import BilevelProblem
from bilevel_rl.exact import hyper_objective, hyper_objectives
from bilevel_rl.problems import goal_placement
from bilevel_rl.problems.goal_placement import ONE_HOT_LOGIT, goal_placement_optimum, one_cell_objectives

TAU, WALL = 0.02, 4
ONE_HOTS = ONE_HOT_LOGIT * np.eye(9)


def small(price: float, splitting_fee: float) -> BilevelProblem:
    return goal_placement(
        3, delivery=(2, 0), home=(0, 2), walls=((1, 1),), hazards=((1, 0),), price=price, splitting_fee=splitting_fee
    )


def test_the_optimum_is_the_best_placement_by_brute_force():
    problem = small(price=0.3, splitting_fee=0.5)

    solution = goal_placement_optimum(problem, entropy_weight=TAU, num_descents=2)

    pairs = np.array(
        [
            np.log(p * np.eye(9)[i] + (1 - p) * np.eye(9)[j] + 1e-13)
            for i, j in itertools.combinations(np.delete(np.arange(9), WALL), 2)
            for p in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
        ]
    )
    single = hyper_objectives(problem, ONE_HOTS, entropy_weight=TAU)
    assert single.min() < hyper_objectives(problem, pairs, entropy_weight=TAU).min()  # thanks to the fee
    assert np.argmin(single) == np.argmax(solution.x) == 7  # next to the delivery, on cheaper ground
    assert single.min() - 1e-6 < solution.objective <= single.min()
    np.testing.assert_array_equal(one_cell_objectives(problem, entropy_weight=TAU), single)


@pytest.mark.long
def test_descents_find_what_no_single_cell_is():
    problem = small(0.3, splitting_fee=0.0)

    solution = goal_placement_optimum(problem, entropy_weight=TAU, num_descents=1)

    assert solution.objective < one_cell_objectives(problem, entropy_weight=TAU).min() - 0.01
    assert solution.objective == hyper_objective(problem, solution.x, entropy_weight=TAU)
    assert solution.num_iterations > 0


def test_the_number_of_descents_is_checked():
    with pytest.raises(ValueError, match=r"^num_descents must be at least 1, got 0"):
        goal_placement_optimum(small(0.3, 0.5), num_descents=0)
