import functools

import numpy as np
import pytest

from bilevel_rl.exact import hyper_gradient, hyper_objective
from bilevel_rl.problems import goal_position


@functools.cache
def standard():
    return goal_position()


@pytest.mark.parametrize(("x", "objective"), [((2, 7), 0.365710486), ((7, 3), 0.049012015)])
def test_known_objective(x, objective):
    assert hyper_objective(standard(), x, entropy_weight=0.1) == pytest.approx(objective, abs=1e-9)


def test_known_hyper_gradient():
    gradient = hyper_gradient(standard(), (2, 7), entropy_weight=0.1)

    np.testing.assert_allclose(gradient, [-0.07689656, 0.06020953], atol=1e-8, rtol=0)


def test_reward_and_cost_by_hand():
    problem = goal_position(size=4, target=(3, 1), width=2.0, initial_x=(0, 2))
    states, actions = np.array([0, 6, 13]), np.array([4, 0, 2])  # the cells (0, 0), (1, 2) and (3, 1)

    rewards = problem.rewards(np.array([0.5, 2.0]), states, actions)
    costs = problem.costs(np.array([0.5, 2.0]), states, actions)

    np.testing.assert_allclose(rewards, np.exp([-4.25 / 8, -0.25 / 8, -7.25 / 8]), rtol=1e-6)
    np.testing.assert_allclose(costs, [10 / 16, 5 / 16, 0], rtol=1e-6)
    np.testing.assert_array_equal(problem.initial_x, [0, 2])


def test_bounds_hold_and_are_tight():
    problem = goal_position(size=4, target=(3, 1), initial_x=(0, 2))
    states, actions = np.arange(16), np.zeros(16, int)

    costs = problem.costs(np.zeros(2), states, actions)
    assert np.max(costs) == pytest.approx(problem.upper.cost_bound, rel=1e-6)
    assert np.max(problem.rewards(np.array([2.0, 1.0]), states, actions)) == problem.reward_bound


def test_installation_cost_enters_objective_and_gradient():
    priced = goal_position(installation_cost=0.7, home=(2, 1))
    x = np.array([3.25, 8.75])

    added = hyper_objective(priced, x, entropy_weight=0.1) - hyper_objective(standard(), x, entropy_weight=0.1)
    added_gradient = hyper_gradient(priced, x, entropy_weight=0.1) - hyper_gradient(standard(), x, entropy_weight=0.1)

    assert added == pytest.approx(0.7 * (1.25**2 + 7.75**2) / 100, rel=1e-12)
    np.testing.assert_allclose(added_gradient, 2 * 0.7 * np.array([1.25, 7.75]) / 100, rtol=1e-11)


def test_walls_and_slip_reach_the_environment():
    environment = goal_position(3, slip=0.4, discount=0.8, target=(2, 0), initial_x=(0, 1), walls=((1, 1),)).environment

    np.testing.assert_allclose(environment.initial, (np.arange(9) != 4) / 8, rtol=1e-15)
    assert environment.discount == 0.8
    assert environment.probabilities[0, 3, 3] == pytest.approx(0.7)


def test_projection_is_onto_the_grid():
    project = goal_position(size=4, target=(3, 1), initial_x=(0, 2)).project

    assert project(np.array([-1.0, 5.0])).tolist() == [0.0, 3.0]
    assert project(np.array([1.25, 3.0])).tolist() == [1.25, 3.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": (10, 3)}, r"^target must be \(row, col\) .*got \(10, 3\)"),
        ({"initial_x": (2, -1)}, r"^initial_x must be \(row, col\) .*got \(2, -1\)"),
        ({"home": (0, float("nan"))}, r"^home must be \(row, col\) .*got \(0, nan\)"),
        ({"width": 0.0}, r"^width must be finite and positive, got 0\.0"),
        ({"installation_cost": -1.0}, r"^installation_cost must be finite and not negative, got -1\.0"),
        ({"installation_cost": float("inf")}, r"^installation_cost must be finite .*got inf"),
        ({"slip": 2.0}, r"^slip must lie"),
        ({"discount": 1.0}, r"^discount must lie"),
    ],
)
def test_impossible_problems_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        goal_position(**arguments)
