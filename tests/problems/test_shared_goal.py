import numpy as np
import pytest

from bilevel_rl import exact
from bilevel_rl.problems import shared_goal

FOLLOWERS = {
    "homes": ((0, 0), (2, 1)),
    "slips": (0.0, 0.4),
    "attachments": (0.5, 0.2),
    "weights": (0.7, 0.3),
}
SMALL = {"size": 3, "target": (1, 2), "width": 1.5, "initial_x": (1, 1)}


def test_reward_and_cost_by_hand():
    problem = shared_goal(**SMALL, **FOLLOWERS)
    states, actions = np.arange(18), np.zeros(18, int)
    rewards, costs = problem.rewards(np.array([0.0, 2.0]), states, actions), problem.costs(np.zeros(2), states, actions)
    some = np.array([4, 9 + 4, 9 + 7])  # the cells (1, 1), (1, 1) and (2, 1)
    own = [np.exp(-2 / 4.5) + 0.5 * np.exp(-2 / 4.5), np.exp(-2 / 4.5) + 0.2 * np.exp(-1 / 4.5), np.exp(-5 / 4.5) + 0.2]
    np.testing.assert_allclose(rewards[some], own, rtol=1e-6)
    np.testing.assert_allclose(costs[some], [1 / 9, 1 / 9, 2 / 9], rtol=1e-6)
    assert np.max(costs) == pytest.approx(problem.upper.cost_bound, rel=1e-6)
    assert problem.reward_bound == 1.5


def test_the_objective_is_the_mean_over_the_followers_and_its_gradient_that_of_finite_differences():
    problem, x = shared_goal(**SMALL, **FOLLOWERS), np.array([0.7, 1.6])
    alone = [
        shared_goal(**SMALL, **{name: (values[i],) for name, values in FOLLOWERS.items()} | {"weights": (1.0,)})
        for i in range(2)
    ]
    objectives = [exact.hyper_objective(one, x, entropy_weight=0.1) for one in alone]
    assert exact.hyper_objective(problem, x, entropy_weight=0.1) == pytest.approx(
        0.7 * objectives[0] + 0.3 * objectives[1], abs=1e-12
    )
    steps = 1e-5 * np.eye(2)
    slopes = [
        (
            exact.hyper_objective(problem, x + step, entropy_weight=0.1)
            - exact.hyper_objective(problem, x - step, entropy_weight=0.1)
        )
        / 2e-5
        for step in steps
    ]
    gradient = exact.hyper_gradient(problem, x, entropy_weight=0.1)
    assert np.abs(gradient).min() > 1e-3
    np.testing.assert_allclose(gradient, slopes, atol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"slips": (0.1,)}, "homes, slips, attachments and weights must be equally many"),
        ({"target": (7, 0)}, "target must be"),
        ({"initial_x": (0, -1)}, "initial_x must be"),
        ({"homes": ((0, 0), (7, 0), (1, 1))}, "homes must be"),
        ({"attachments": (0.1, -0.1, 0.0)}, "attachments must be finite and not negative"),
        ({"weights": (0.1, 0.1, 0.1)}, "weights must be positive and sum to 1"),
        ({"width": 0.0}, "width must be finite and positive"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        shared_goal(**arguments)
