import dataclasses

import numpy as np
import pytest

from bilevel_rl import exact
from bilevel_rl.problems import Patrol, patrol

SMALL = Patrol(
    positions=((0, 0), (3, 0)),
    gains=(2.0, 3.0),
    damages=(5.0, 7.0),
    fine=4.0,
    detection=0.5,
    reach=3.0,
    speed=0.25,
    price=0.1,
)
ARRIVES = np.exp(-1.0)


@pytest.fixture(scope="module")
def game():
    return SMALL.game()


def law(game, state, action, move):
    chances = np.zeros(6)
    np.add.at(chances, game.successors[state, action], game.probabilities[state, action, move])
    return chances


def test_a_trap_catches_game_or_its_owner_is_caught(game):
    # Ranger at 0, trap at 1, poacher there; the ranger sets out for 1.
    state = 0 * 3 + 1
    escapes = 1 - 0.5 * ARRIVES
    assert game.follower_reward[state, 1, 1] == pytest.approx(3 * 0.25 * escapes - 4 * 0.5 * ARRIVES)
    assert game.leader_cost[state, 1, 1] == pytest.approx(7 * 0.25 * escapes + 0.1 * 3)
    expected = {1: (1 - ARRIVES) * 0.75, 2: (1 - ARRIVES) * 0.25, 4: ARRIVES * 0.5 * 0.75}
    expected[5] = ARRIVES * (0.5 + 0.5 * 0.25)
    np.testing.assert_allclose(law(game, state, 1, 1), [expected.get(s, 0) for s in range(6)], rtol=1e-12)


def test_a_trap_is_set_before_it_catches_and_one_at_a_time(game):
    # Ranger at 0 and staying, trap at 1, poacher at 0.
    assert game.follower_reward[1, 0, 0] == pytest.approx(-4 * 0.5)
    assert game.leader_cost[1, 0, 0] == 0
    np.testing.assert_allclose(law(game, 1, 0, 0), [0.5, 0, 0.5, 0, 0, 0])


def test_who_lies_low_earns_nothing_and_loses_his_trap(game):
    assert game.follower_reward[1, 2, 1] == 0
    assert game.leader_cost[1, 2, 1] == pytest.approx(0.3)
    np.testing.assert_allclose(law(game, 1, 2, 1), [0, 0, 1 - ARRIVES, 0, 0, ARRIVES])
    assert game.initial.tolist() == [0, 0, 0.5, 0, 0, 0.5]


@pytest.mark.parametrize(("sees", "num_rows"), [("everything", 6), ("position", 2), ("nothing", 1)])
def test_the_policy_depends_on_what_the_ranger_sees(sees, num_rows):
    seen = dataclasses.replace(SMALL, sees=sees)
    assert seen.policy().initial_x.shape == (num_rows, 2)
    assert len(seen.problem().names.of_x(2 * num_rows)) == 2 * num_rows
    chances = seen.game().commitment(seen.policy(), np.arange(2.0 * num_rows).reshape(num_rows, 2))
    assert len(np.unique(seen.rows())) == num_rows
    np.testing.assert_allclose(chances, np.broadcast_to(1 / (1 + np.exp([1, -1])), (6, 2)), rtol=1e-12)


def test_harm_and_ways_are_what_the_ranger_pays(game):
    problem = SMALL.problem()
    x = np.random.default_rng(0).normal(size=(6, 2))
    policy = exact.lower_policy(problem, x, entropy_weight=0.2)
    found, chances = exact.evaluate(problem, x, policy), game.commitment(SMALL.policy(), x)
    harm = SMALL.harm(np.asarray(found.occupancy), chances)
    position = np.arange(6) // 3
    sets_out = chances[np.arange(6), 1 - position]
    ways = 0.1 * 3 * np.asarray(found.occupancy).sum(1) @ sets_out
    assert harm.min() > 0
    assert harm.sum() + ways == pytest.approx(float(found.upper_value), rel=1e-9)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gains": (1.0,)}, ValueError, "equally many"),
        ({"positions": ((0, 0),), "gains": (1.0,), "damages": (1.0,)}, ValueError, "at least two sites, got 1"),
        ({"fine": -1.0}, ValueError, "fine must be"),
        ({"detection": 1.5}, ValueError, r"detection must lie in \[0, 1\]"),
        ({"reach": 0.0}, ValueError, "reach must be"),
        ({"sees": "all"}, Exception, "sees"),
        ({"discount": 1.0}, ValueError, "discount must lie"),
    ],
)
def test_bad_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(SMALL, **options).problem()


def test_the_function_builds_the_same_problem():
    assert patrol(sees="position").initial_x.shape == (6, 6)
