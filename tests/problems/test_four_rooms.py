import dataclasses

import jax
import numpy as np
import pytest

from bilevel_rl.exact import hyper_gradient, hyper_objective, upper_value
from bilevel_rl.problems import four_rooms
from bilevel_rl.problems.four_rooms import FREE_CELLS, four_rooms_value, penalties
from bilevel_rl.problems.four_rooms_transfers import improved_by_transfers
from dense_reference import kernel

NUM_CELLS, END = 104, 208
UP, RIGHT, DOWN, LEFT = range(4)
UNUSED = 60 * np.eye(105)[104]
"""The whole budget is left unused, up to 1e-26."""


def state(context, row, column):
    return context * NUM_CELLS + FREE_CELLS.index((row, column))


GOALS = [state(0, 1, 9), state(1, 11, 11)]


@pytest.fixture(scope="module")
def problem():
    return four_rooms(entropy_weight=0.005, beta=3.0)


@pytest.fixture(scope="module")
def chances(problem):
    """P[s, a, s']."""
    return kernel(problem.environment)


def test_the_map_has_four_rooms_and_four_doors():
    assert len(FREE_CELLS) == NUM_CELLS
    assert list(FREE_CELLS) == sorted(FREE_CELLS)
    assert {cell for cell in FREE_CELLS if cell[1] == 6} == {(3, 6), (10, 6)}
    assert {cell for cell in FREE_CELLS if cell[0] == 6 and cell[1] <= 6} == {(6, 2)}
    assert {cell for cell in FREE_CELLS if cell[0] == 7 and cell[1] >= 6} == {(7, 9)}
    assert {number for cell in FREE_CELLS for number in cell} == set(range(1, 12))
    rooms = [(1, 5, 1, 5), (1, 6, 7, 11), (7, 11, 1, 5), (8, 11, 7, 11)]
    inside = {
        (r, c) for top, bottom, left, right in rooms for r in range(top, bottom + 1) for c in range(left, right + 1)
    }
    assert set(FREE_CELLS) == inside | {(3, 6), (10, 6), (6, 2), (7, 9)}


def test_a_move_succeeds_with_chance_056_and_slips_evenly_to_the_other_three(chances):
    slip = 0.44 / 3
    for action, (row, column) in enumerate([(2, 3), (3, 4), (4, 3), (3, 2)]):
        row_of_kernel = chances[state(0, 3, 3), action]
        assert row_of_kernel[state(0, row, column)] == pytest.approx(0.56, rel=1e-14)
        assert np.sort(row_of_kernel)[-4:-1] == pytest.approx([slip] * 3, rel=1e-14)
    np.testing.assert_allclose(chances.sum(-1), 1, rtol=1e-14)


def test_walls_stop_a_move_and_doors_let_it_through(chances):
    slip = 0.44 / 3
    corner = chances[state(1, 1, 1), LEFT]
    assert corner[state(1, 1, 1)] == pytest.approx(0.56 + slip)  # left and up
    assert (corner[state(1, 1, 2)], corner[state(1, 2, 1)]) == pytest.approx((slip, slip))
    door = chances[state(0, 6, 2)]
    assert (door[UP, state(0, 5, 2)], door[DOWN, state(0, 7, 2)]) == pytest.approx((0.56, 0.56))
    assert door[LEFT, state(0, 6, 2)] == pytest.approx(0.56 + slip)  # left and right
    assert chances[state(0, 3, 5), RIGHT, state(0, 3, 6)] == pytest.approx(0.56)


def test_contexts_are_drawn_evenly_and_do_not_communicate(problem, chances):
    starts = {state(0, 4, 1): 0.5, state(1, 4, 1): 0.5}
    assert {int(s): problem.environment.initial[s] for s in np.flatnonzero(problem.environment.initial)} == starts
    assert not chances[:NUM_CELLS, :, NUM_CELLS:END].any()
    assert not chances[NUM_CELLS:END, :, :NUM_CELLS].any()


def test_the_end_follows_on_either_goal_and_on_nothing_else(problem, chances):
    assert set(np.flatnonzero(chances[:END, :, END].any(-1))) == set(GOALS)
    np.testing.assert_allclose(chances[[*GOALS, END], :, END], 1, rtol=1e-14)
    assert np.flatnonzero(problem.environment.terminal).tolist() == [END]
    assert problem.environment.discount == 0.99


def test_rewards_and_costs_by_hand():
    problem = four_rooms(beta=2.5)
    x = np.zeros(105)
    x[[0, FREE_CELLS.index((1, 9)), 104]] = np.log([11, 31, 56])  # sums to 102 + 98 = 200
    states = np.array([state(0, 1, 1), state(1, 1, 9), state(0, 8, 4), *GOALS, END])
    share = np.array([11, 31, 1]) / 200

    np.testing.assert_allclose(problem.rewards(x, states, UP), [*(-0.2 * share), 1, 1, 0], rtol=1e-5)
    price = 2.5 * 0.2 * (1 - 56 / 200)
    np.testing.assert_allclose(problem.costs(x, states, LEFT), [0, 0, -1, price, price, 0], rtol=1e-5)
    np.testing.assert_allclose(penalties(x, budget=0.4)[np.array([0, -1])], [0.4 * 11 / 200, 0.4 / 200], rtol=1e-5)


def test_bounds_hold_and_are_tight():
    problem = four_rooms(beta=8.0)
    states = np.arange(END + 1)
    costs = [np.abs(problem.costs(x, states, UP)).max() for x in (np.zeros(105), -UNUSED)]
    assert costs[0] < costs[1] == pytest.approx(problem.upper.cost_bound, rel=1e-6)
    assert np.abs(problem.rewards(-UNUSED, states, UP)).max() == problem.reward_bound == 1.0


@pytest.mark.parametrize(
    ("entropy_weight", "unused", "even"), [(0.001, 0.410, 0.288), (0.003, 0.321, 0.200), (0.005, 0.299, 0.182)]
)
def test_the_published_benchmarks_values_come_out(entropy_weight, unused, even):
    problem = four_rooms(entropy_weight, beta=1.0)
    assert four_rooms_value(problem, UNUSED) == pytest.approx(unused, abs=5e-4)
    assert four_rooms_value(problem, np.zeros(105)) == pytest.approx(even, abs=5e-4)


def test_what_a_strolling_follower_is_worth_by_summing_over_time(problem, chances):
    x = np.random.default_rng(0).normal(size=105)
    distribution, expected = problem.environment.initial, 0.0
    costs = np.asarray(problem.costs(x, np.arange(END + 1), UP))
    for t in range(3_000):
        expected += (1 - 0.99) * 0.99**t * distribution @ costs
        distribution = distribution @ chances.mean(1)
    assert upper_value(problem, x, np.full((END + 1, 4), 0.25)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_with_one_goal_there_is_one_context_and_two_goals_are_worth_the_mean_of_each_alone():
    alone = [four_rooms(entropy_weight=0.005, beta=3.0, goals=(goal,)) for goal in ((1, 9), (11, 11))]
    x = np.random.default_rng(3).normal(size=105)
    assert [p.environment.num_states for p in alone] == [NUM_CELLS + 1] * 2
    assert np.flatnonzero(alone[1].environment.initial).tolist() == [state(0, 4, 1)]
    values = [four_rooms_value(p, x) for p in alone]
    both = four_rooms_value(four_rooms(entropy_weight=0.005, beta=3.0), x)
    assert abs(values[0] - values[1]) > 1e-3
    assert np.mean(values) == pytest.approx(both, rel=1e-9)


@pytest.mark.slow
def test_transfers_close_the_next_door():
    # A door closed one cell too far is a local optimum, where F is 1.34. Transfers find the door itself.
    problem = four_rooms(entropy_weight=0.005, beta=1.0)
    shares = np.full(105, 0.1 / 105)
    shares[[FREE_CELLS.index(cell) for cell in ((3, 5), (10, 7))]] += 0.6, 0.3
    before, improved = (
        four_rooms_value(problem, improved_by_transfers(problem, np.log(shares), max_rounds=n)) for n in (0, 1)
    )
    assert before < 1.35
    assert 1.46 < improved < 1.5


def test_the_value_is_unnormalized_maximized_and_at_the_problems_own_entropy_weight(problem):
    x = np.random.default_rng(1).normal(size=105)
    own = -hyper_objective(problem, x, entropy_weight=0.005) / (1 - 0.99)
    assert four_rooms_value(problem, x) == pytest.approx(own, rel=1e-12)
    other = -hyper_objective(problem, x, entropy_weight=0.02) / (1 - 0.99)
    assert four_rooms_value(problem, x, entropy_weight=0.02) == pytest.approx(other, rel=1e-12)
    assert abs(own - other) > 1e-3


def test_the_exact_gradient_is_the_slope_of_the_objective(problem):
    rng = np.random.default_rng(2)
    x, direction = 2 * rng.normal(size=105), rng.normal(size=105)
    slope = hyper_gradient(problem, x, entropy_weight=0.005) @ direction
    ahead, behind = (hyper_objective(problem, x + h * direction, entropy_weight=0.005) for h in (1e-5, -1e-5))
    assert slope == pytest.approx((ahead - behind) / 2e-5, rel=1e-5)
    assert abs(slope) > 1e-4


def test_seeds_start_close_to_even_penalties(problem):
    starts = np.stack([problem.start(jax.random.key(seed)) for seed in range(20)])
    assert starts.std() == pytest.approx(0.01, rel=0.05)
    assert abs(starts.mean()) < 4 * 0.01 / np.sqrt(starts.size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"entropy_weight": 0.0}, r"^entropy_weight must be finite and positive, got 0\.0"),
        ({"beta": -1.0}, r"^beta must be finite and not negative, got -1\.0"),
        ({"budget": 0.0}, r"^budget must be finite and positive, got 0\.0"),
        ({"slip": 1.2}, r"^slip must lie in \[0, 1\], got 1\.2"),
        ({"discount": 1.0}, r"^discount must lie in \[0, 1\), got 1\.0"),
        ({"goals": ()}, r"^goals must be different free cells"),
        ({"goals": ((1, 9), (1, 9))}, r"^goals must be different free cells"),
        ({"goals": ((6, 6),)}, r"^goals must be different free cells, .*got \(\(6, 6\),\)"),
    ],
)
def test_impossible_problems_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        four_rooms(**arguments)


def test_a_value_needs_an_entropy_weight(problem):
    with pytest.raises(ValueError, match=r"^entropy_weight must be given for a problem that has none of its own"):
        four_rooms_value(dataclasses.replace(problem, entropy_weight=None), np.zeros(105))
