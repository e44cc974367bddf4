"""Figures of outcomes show what the files hold, for grids, graphs and plain problems."""

import dataclasses

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver

import bilevel_rl as brl
from bilevel_rl import figures
from bilevel_rl.figures import curves, outcomes, style
from bilevel_rl.figures.grids import draw_moves
from bilevel_rl.outcome import Outcome
from bilevel_rl.runs.folder import RunFolderError
from hand_outcomes import GRAPH, GRID, hand_folder, hand_outcome, rows


@pytest.fixture
def drawn(monkeypatch):
    """Calls a drawing function and returns its figures by name, instead of saving them."""

    def call(draw, *arguments):
        found = {}
        for module in (curves, outcomes):
            monkeypatch.setattr(module, "save_figure", lambda _, name, make: found.setdefault(name, make(style.LIGHT)))
        monkeypatch.setattr(
            outcomes, "save_figure_at", lambda path, make: found.setdefault(path.name, make(style.LIGHT))
        )
        with mpl.rc_context(rc=style.LIGHT.parameters):
            draw(*arguments)
        return found

    return call


def test_all_that_apply_are_drawn(tmp_path, drawn):
    found = drawn(figures.draw_outcome, hand_folder(tmp_path, hand_outcome(GRID)))
    assert set(found) == {"learning_curves", "residuals", "x", "follower", "payments"}
    sampled = dataclasses.replace(hand_outcome(), exact=None)
    folder = hand_folder(tmp_path / "sampled", sampled, metric_rows=[row | {"is_sampled": 1} for row in rows()])
    assert set(drawn(figures.draw_outcome, folder)) == {"x"}
    with pytest.raises(RunFolderError, match=r"has no outcome\.json"):
        figures.draw_outcome(hand_folder(tmp_path / "none"))


def test_curves_without_an_optimum_have_no_gap(tmp_path, drawn):
    outcome = dataclasses.replace(hand_outcome(), optimum=None)
    (axes,) = drawn(figures.draw_outcome, hand_folder(tmp_path, outcome))["learning_curves"].axes
    assert [line.get_label() for line in axes.lines] == [
        "Φ(x), the follower having optimized",
        "f(x, π), the policy learned so far",
    ]


def test_dumbbells_go_from_start_to_the_median_seed(tmp_path, drawn):
    (axes,) = drawn(figures.draw_outcome, hand_folder(tmp_path, hand_outcome()))["x"].axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["start"].get_xdata().tolist() == [0, 0]
    np.testing.assert_allclose(lines["end, median of seeds"].get_xdata(), [0.4, 0.1])
    assert lines["optimum"].get_xdata().tolist() == [0.5, 0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["subsidy", "toll"]
    spread = next(c for c in axes.collections if c.get_label() == "range of seeds")
    assert [tuple(path.vertices[:, 0]) for path in spread.get_paths()] == [(0.3, 0.6), (-0.2, 0.1)]


def test_many_entries_are_cut_to_those_that_moved_most():
    outcome = hand_outcome()
    ends = np.arange(30.0)[None] * np.where(np.arange(30) % 2, 1, -1)
    assert outcomes.ranked_entries(Outcome(brl.Names(), 0.1, np.zeros(30), ends)).tolist() == list(range(29, 9, -1))
    assert outcomes.ranked_entries(outcome).tolist() == [0, 1]


def test_x_with_an_entry_for_each_cell_is_a_heat_map(tmp_path, drawn):
    outcome = hand_outcome(GRID)
    start, ends = np.array([1.0, 2, 3]), np.array([[4.0, 5, 6], [6.0, 7, 8]])
    outcome = dataclasses.replace(
        outcome, names=brl.Names(layout=GRID), initial_x=start, final_x=ends, optimum=None, exact=None
    )
    left, right, _ = drawn(figures.draw_outcome, hand_folder(tmp_path, outcome))["x"].axes
    nan = np.nan
    np.testing.assert_array_equal(left.images[0].get_array().filled(nan), [[1, 2], [nan, 3]])
    np.testing.assert_array_equal(right.images[0].get_array().filled(nan), [[5, 6], [nan, 7]])


def test_a_grid_shows_time_and_mean_steps(tmp_path, drawn):
    before, after, _ = drawn(figures.draw_outcome, hand_folder(tmp_path, hand_outcome(GRID)))["follower"].axes
    for axes, visits in ((before, [0.6, 0.3]), (after, [0.2, 0.3])):
        shown = axes.images[0].get_array().filled(np.nan)
        np.testing.assert_allclose(shown, [visits, [np.nan, 0.0]])
        assert axes.images[0].get_clim() == (0, 0.6)
        (arrows,) = [c for c in axes.collections if isinstance(c, Quiver)]
        np.testing.assert_allclose(arrows.XY, [(0, 0), (1, 0)])
        np.testing.assert_allclose(np.stack([arrows.U, arrows.V], 1), [(0.8, 0), (0, 0.8)])
        ends = [
            tuple(map(float, (*line.get_xdata(), *line.get_ydata()))) for line in axes.lines if line.get_marker() == "s"
        ]
        assert ends == [(1, 1)]


def test_moves_are_arrows_in_shares_of_the_longest_and_rests_are_dots():
    axes = Figure().subplots()
    draw_moves(
        axes, np.array([[0.0, 0.0], [3.0, 1.0], [2.0, 2.0], [5.0, 0.0]]), np.array([[0, 2], [-1, 0], [0.1, 0], [0, 0]])
    )
    (arrows,) = [c for c in axes.collections if isinstance(c, Quiver)]
    np.testing.assert_allclose(arrows.XY, [(0, 0), (3, 1)])
    np.testing.assert_allclose(np.stack([arrows.U, arrows.V], 1), [(0, 0.8), (-0.4, 0)])
    (dots,) = [line for line in axes.lines if line.get_marker() == "."]
    np.testing.assert_allclose(dots.get_xydata(), [(2, 2), (5, 0)])


def test_states_that_share_a_cell_are_taken_together(tmp_path, drawn):
    """Home and park in one cell: the time adds up, and the step is that of the time spent."""
    layout = brl.GridLayout([(0, 0), (0, 0), None])
    before, *_ = drawn(figures.draw_outcome, hand_folder(tmp_path, hand_outcome(layout)))["follower"].axes
    np.testing.assert_allclose(before.images[0].get_array(), [[0.9]])
    (arrows,) = [c for c in before.collections if isinstance(c, Quiver)]
    step = np.array([arrows.U[0], arrows.V[0]])
    np.testing.assert_allclose(step / np.linalg.norm(step), np.array([2, 1]) / 5**0.5)


def test_a_graph_shows_nodes_and_flows(tmp_path, drawn):
    before, *_ = drawn(figures.draw_outcome, hand_folder(tmp_path, hand_outcome(GRAPH)))["follower"].axes
    (nodes,) = [c for c in before.collections if isinstance(c, PathCollection)]
    np.testing.assert_allclose(nodes.get_offsets(), [(0, 0), (2, 0), (1, -1)])
    np.testing.assert_allclose(nodes.get_array(), [0.6, 0.3, 0.0])
    widths = [c.get_linewidths() for c in before.collections if isinstance(c, LineCollection)][1]
    np.testing.assert_allclose(widths, [5, 1.25, 2.5])
    assert {text.get_text() for text in before.texts} == {"home", "park", "office"}


def test_without_a_layout_states_are_ranked(tmp_path, drawn):
    bars, *policies, _ = drawn(figures.draw_outcome, hand_folder(tmp_path, hand_outcome()))["follower"].axes
    assert [label.get_text() for label in bars.get_yticklabels()] == ["home", "office", "park"]
    np.testing.assert_allclose([bar.get_width() for bar in bars.patches], [0.6, 0.1, 0.3, 0.2, 0.5, 0.3])
    for axes in policies:
        np.testing.assert_array_equal(axes.images[0].get_array(), np.full((3, 2), 0.5))


def test_payments_show_parts_and_the_states_that_matter(tmp_path, drawn):
    parts, states = drawn(figures.draw_outcome, hand_folder(tmp_path, hand_outcome()))["payments"].axes
    # Of the median seed, 1, the second of three.
    np.testing.assert_allclose([bar.get_height() for bar in parts.patches], [0.9, 0.5, 0.0, 0.1])
    (total,) = [line for line in parts.lines if line.get_label() == "Φ"]
    assert total.get_ydata().tolist() == [0.9, 0.6]
    assert [label.get_text() for label in states.get_yticklabels()] == ["home", "park", "office"]
    np.testing.assert_allclose([bar.get_width() for bar in states.patches], [0.6, 0.3, 0, 0.2, 0.3, 0])


def test_runs_side_by_side(tmp_path, drawn):
    folders = [hand_folder(tmp_path / name, hand_outcome()) for name in ("one", "two")]
    left, right = drawn(figures.draw_side_by_side, folders, tmp_path / "both")["both"].axes
    assert [line.get_label() for line in left.lines] == ["one", "two", "optimum Φ*"]
    assert len(right.lines) == 3
    without = [folders[0], hand_folder(tmp_path / "curves")]
    assert len(drawn(figures.draw_side_by_side, without, tmp_path / "both")["both"].axes) == 1
    with pytest.raises(ValueError, match="folders must hold at least one run"):
        figures.draw_side_by_side([], tmp_path / "none")


def test_a_figure_is_saved_where_it_is_asked_for(tmp_path):
    figures.draw_side_by_side([hand_folder(tmp_path / "a.b")], tmp_path / "x.y")
    assert (tmp_path / "x.y.png").read_bytes().startswith(b"\x89PNG")
