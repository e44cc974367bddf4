import numpy as np
import pytest

from bilevel_rl.problems import Grid
from dense_reference import kernel

UP, DOWN, LEFT, RIGHT, STAY = range(5)
START = [(0, 0)]


def row(mdp, state: int, action: int) -> dict[int, float]:
    """Possible successors and their probabilities."""
    dense = kernel(mdp)[state, action]
    return {int(s): round(float(dense[s]), 12) for s in np.flatnonzero(dense)}


@pytest.mark.parametrize(
    ("state", "action", "expected"),
    [
        (0, UP, {0: 0.9, 1: 0.05, 3: 0.05}),
        (0, RIGHT, {0: 0.1, 1: 0.85, 3: 0.05}),
        (0, DOWN, {0: 0.1, 1: 0.05, 3: 0.85}),
        (1, DOWN, {0: 0.05, 1: 0.9, 2: 0.05}),  # the wall is below
        (5, STAY, {2: 0.05, 5: 0.9, 8: 0.05}),  # the wall is on the left
        (3, RIGHT, {0: 0.05, 3: 0.9, 6: 0.05}),
        (7, UP, {6: 0.05, 7: 0.9, 8: 0.05}),
        (8, LEFT, {5: 0.05, 7: 0.85, 8: 0.1}),
    ],
)
def test_moves_slip_and_stop_at_the_edge_and_at_a_wall(state, action, expected):
    #  0 1 2
    #  3 # 5
    #  6 7 8
    grid = Grid(3, slip=0.2, walls=((1, 1),))

    assert row(grid.mdp(START, discount=0.9), state, action) == pytest.approx(expected)


def test_nothing_enters_a_wall():
    dense = kernel(Grid(3, slip=0.2, walls=((1, 1),)).mdp(None, discount=0.9))

    assert dense[np.arange(9) != 4, :, 4].max() == 0


def test_without_slip_every_action_is_its_own_move():
    mdp = Grid(3, slip=0.0).mdp(START, discount=0.9)

    assert [row(mdp, 4, action) for action in range(5)] == [{1: 1}, {7: 1}, {3: 1}, {5: 1}, {4: 1}]


def test_with_certain_slip_the_action_does_not_matter():
    dense = kernel(Grid(3, slip=1.0).mdp(START, discount=0.9))

    np.testing.assert_array_equal(dense[4], np.tile([0, 0.25, 0, 0.25, 0, 0.25, 0, 0.25, 0], (5, 1)))


@pytest.mark.parametrize("start", [[(0, 2), (1, 0)], [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1)], None])
def test_every_action_in_a_hazard_leads_to_the_start_distribution(start):
    grid = Grid(3, slip=0.2, hazards=((1, 2),))
    mdp, safe = grid.mdp(start, discount=0.9), Grid(3, slip=0.2).mdp(start, discount=0.9)

    dense = kernel(mdp)

    np.testing.assert_allclose(dense[5], np.tile(mdp.initial, (5, 1)), rtol=1e-14)
    elsewhere = np.arange(9) != 5
    np.testing.assert_allclose(dense[elsewhere], kernel(safe)[elsewhere], rtol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "starts", "successors", "probabilities"),
    [
        ({"walls": ((1, 1),)}, None, (9, 1, 5), (1, 5, 5)),
        ({"hazards": ((1, 2),)}, [(0, 2), (1, 0)], (9, 1, 5), (9, 5, 5)),
        ({"hazards": ((1, 2), (0, 0))}, None, (9, 1, 9), (9, 5, 9)),
    ],
)
def test_tables_hold_what_cells_and_actions_share_once(arguments, starts, successors, probabilities):
    mdp = Grid(3, slip=0.2, **arguments).mdp(starts, discount=0.9)
    assert (mdp.successors.shape, mdp.probabilities.shape) == (successors, probabilities)
    assert (mdp.num_states, mdp.num_actions) == (9, 5)
    np.testing.assert_allclose(kernel(mdp).sum(-1), 1, rtol=1e-15)


def test_starts_are_uniform():
    grid = Grid(3, walls=((0, 1), (2, 2)))

    np.testing.assert_allclose(grid.mdp([(0, 2), (2, 1)], 0.9).initial, [0, 0, 0.5, 0, 0, 0, 0, 0.5, 0], rtol=1e-15)
    np.testing.assert_allclose(grid.mdp(None, 0.9).initial, np.array([1, 0, 1, 1, 1, 1, 1, 1, 0]) / 7, rtol=1e-15)
    assert grid.mdp(None, 0.25).discount == 0.25


def test_cells_states_and_positions_agree():
    grid = Grid(4, walls=((1, 2), (0, 0)), hazards=((3, 3),))

    assert grid.num_cells == 16
    assert grid.state((1, 2)) == 6
    assert grid.position(6).tolist() == [1.0, 2.0]
    assert grid.free_states().tolist() == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    grid.check_position("anything", (0.5, 3.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 1}, r"^size must be at least 2, got 1"),
        ({"slip": 1.5}, r"^slip must lie in \[0, 1\], got 1\.5"),
        ({"slip": -0.1}, r"^slip must lie in .*got -0\.1"),
        ({"slip": float("nan")}, r"^slip must lie in .*got nan"),
        ({"walls": ((0, 3),)}, r"^walls must be \(row, col\) with both in 0\.\.2, got \(0, 3\)"),
        ({"hazards": ((-1, 0),)}, r"^hazards must be \(row, col\) .*got \(-1, 0\)"),
        ({"walls": ((1, 2),), "hazards": ((0, 0), (1, 2))}, r"^hazards must not be walls, got \[\(1, 2\)\]"),
        ({"walls": tuple((r, c) for r in range(3) for c in range(3))}, r"^walls must leave a free cell"),
    ],
)
def test_impossible_grids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grid(**({"size": 3} | arguments))


@pytest.mark.parametrize(
    ("start", "discount", "message"),
    [
        ([(1, 1)], 0.9, r"^start must hold free cells, got the wall \(1, 1\)"),
        ([(0, 0), (3, 0)], 0.9, r"^start must be \(row, col\) .*got \(3, 0\)"),
        ([], 0.9, r"^start must hold at least one cell"),
        (None, 1.0, r"^discount must lie in \[0, 1\), got 1\.0"),
    ],
)
def test_impossible_starts_are_refused(start, discount, message):
    with pytest.raises(ValueError, match=message):
        Grid(3, walls=((1, 1),)).mdp(start, discount)
