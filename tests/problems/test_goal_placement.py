import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl.problems import goal_placement
from bilevel_rl.problems.goal_placement import HAZARDS, WALLS
from dense_reference import kernel

SMALL = {"size": 3, "delivery": (2, 0), "home": (0, 2), "walls": ((1, 1),), "hazards": ((2, 2),)}


def test_reward_cost_and_price_of_the_ground_by_hand():
    problem = goal_placement(**SMALL, scale=4.0, price=0.3, splitting_fee=0.2)
    x = np.log([1.0, 3, 1, 1, 100, 1, 5, 2, 2])  # sums to 16 outside the wall
    states, actions = np.array([1, 4, 6, 8]), np.array([0, 1, 4, 2])

    np.testing.assert_allclose(problem.rewards(x, states, actions), [0.75, 0, 1.25, 0.5], rtol=1e-6)
    np.testing.assert_allclose(problem.costs(x, states, actions), [5 / 9, 2 / 9, 0, 4 / 9], rtol=1e-6)
    squared_distances = np.array([4, 1, 0, 5, 2, 1, 8, 5, 4])
    placement = np.array([1, 3, 1, 1, 0, 1, 5, 2, 2]) / 16
    ground_price = placement @ squared_distances * 0.3 / 9 + 0.2 * (1 - 46 / 256)
    np.testing.assert_allclose(problem.upper.regularizer(jnp.asarray(x)), ground_price, rtol=1e-6)


def test_the_logit_of_a_wall_has_no_gradient():
    problem = goal_placement(**SMALL)

    @jax.jit
    @jax.grad
    def gradient_at(x):
        return problem.upper.regularizer(x) + problem.rewards(x, 1, 0)

    gradient = gradient_at(jnp.arange(9.0) / 9)

    assert np.flatnonzero(gradient == 0).tolist() == [4]
    assert np.isfinite(gradient).all()


def test_a_single_cell_costs_its_ground_and_no_fee():
    problem = goal_placement(**SMALL, price=0.3, splitting_fee=0.2)

    prices = [float(problem.upper.regularizer(60 * jnp.eye(9)[cell])) for cell in (2, 6)]

    assert prices == pytest.approx([0, 0.3 * 8 / 9], abs=1e-6)


def test_the_start_is_an_even_placement():
    problem = goal_placement(**SMALL, scale=4.0)

    rewards = problem.rewards(problem.initial_x, np.arange(9), np.int32(0))
    assert problem.initial_x.shape == (9,)
    np.testing.assert_allclose(rewards, np.where(np.arange(9) == 4, 0, 0.5), rtol=1e-6)


def test_hazards_and_walls_hold_no_start_and_hazards_lead_back():
    mdp = goal_placement(**SMALL, discount=0.8).environment

    starts = np.array([1, 1, 1, 1, 0, 1, 1, 1, 0]) / 7
    np.testing.assert_allclose(mdp.initial, starts, rtol=1e-15)
    np.testing.assert_allclose(kernel(mdp)[8], np.tile(starts, (5, 1)), rtol=1e-14)
    assert mdp.discount == 0.8


def test_bounds_hold_and_are_tight():
    problem = goal_placement(**SMALL, scale=4.0)
    states, actions = np.arange(9), np.zeros(9, int)

    assert np.max(problem.costs(problem.initial_x, states, actions)) == pytest.approx(
        problem.upper.cost_bound, rel=1e-6
    )
    assert np.max(problem.rewards(60 * np.eye(9)[6], states, actions)) == problem.reward_bound == 4.0


def test_the_standard_map_is_walled_and_hazardous():
    mdp = goal_placement().environment

    closed = {row * 10 + col for row, col in (*WALLS, *HAZARDS)}
    assert set(np.flatnonzero(mdp.initial == 0)) == closed
    assert len(closed) == 11


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"delivery": (3, 0)}, r"^delivery must be \(row, col\) .*got \(3, 0\)"),
        ({"home": (0, -1)}, r"^home must be \(row, col\) .*got \(0, -1\)"),
        ({"scale": 0.0}, r"^scale must be finite and positive, got 0\.0"),
        ({"scale": float("inf")}, r"^scale must be finite and positive, got inf"),
        ({"price": -0.1}, r"^price must be finite and not negative, got -0\.1"),
        ({"splitting_fee": float("nan")}, r"^splitting_fee must be finite and not negative, got nan"),
        ({"walls": ((5, 1),)}, r"^walls must be \(row, col\) with both in 0\.\.2"),
        ({"hazards": ((1, 1),)}, r"^hazards must not be walls"),
        (
            {"walls": (), "hazards": tuple((r, c) for r in range(3) for c in range(3))},
            r"^start must hold at least one cell",
        ),
    ],
)
def test_impossible_problems_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        goal_placement(**(SMALL | arguments))
