"""Figures: what is drawn is what the run folder holds, also where a seed stopped early."""

import matplotlib as mpl
import numpy as np
import pytest

from bilevel_rl import figures
from bilevel_rl.figures import curves, outcomes
from bilevel_rl.figures.curves import SMALLEST_SHOWN, STEP_SIZES
from bilevel_rl.figures.style import COLOURS, LIGHT, PRINT
from bilevel_rl.outcome import write_outcome
from bilevel_rl.runs.folder import RunFolder, RunFolderError
from bilevel_rl.studies import ablations, entropy_schedules, goal_placement, goal_position
from bilevel_rl.studies.ablations import Panel, draw_ablation
from bilevel_rl.studies.entropy_schedules import EntropySchedules
from bilevel_rl.studies.goal_placement import GoalPlacementStudy
from bilevel_rl.studies.goal_position import GoalPositionStudy
from hand_outcomes import GRID, hand_outcome

ITERATIONS = (0, 50, 100, 150)
STOPPED, LAST = 1, 50
"""This seed has no rows after this iteration."""
SIZE = 3


def value(seed, k, column):
    """A number of its own for each cell of the table."""
    return 0.01 + abs(np.sin(1 + seed + 10 * k + 100 * column)).item()


COLUMNS = ("upper_objective", "upper_value", *STEP_SIZES, "lower_residual", "penalized_residual", "x0", "x1")


def rows_until(last_of_stopped=LAST, last_of_others=ITERATIONS[-1]):
    return [
        {"seed": seed, "num_iterations": k, "num_transitions": 8 * k}
        | {name: value(seed, k, i) for i, name in enumerate(COLUMNS)}
        for k in ITERATIONS
        for seed in range(3)
        if k <= (last_of_stopped if seed == STOPPED else last_of_others)
    ]


def expected(metric):
    """Values of all seeds, the stopped one's held."""
    i = COLUMNS.index(metric)
    return np.array([[value(s, min(k, LAST) if s == STOPPED else k, i) for k in ITERATIONS] for s in range(3)])


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.append_rows("metrics", rows_until())
    return folder


POSITION = GoalPositionStudy(size=SIZE, walls=((1, 1),), initial_x=(0.0, 2.0), target=(2.0, 0.0))
PLACEMENT = GoalPlacementStudy(size=SIZE, walls=((1, 1),), hazards=((2, 0),), delivery=(2, 1), home=(0, 2))


@pytest.fixture
def position_folder(folder):
    folder.write_arrays(
        "landscape",
        axis=np.linspace(0, SIZE - 1, 5),
        objective=np.arange(25.0).reshape(5, 5),
        optimum=np.array([1.75, 0.25]),
        optimal_objective=np.array(0.001),
    )
    return folder


@pytest.fixture
def placement_folder(folder):
    final = np.random.default_rng(0).dirichlet(np.ones(9), size=3)
    folder.write_arrays(
        "placement",
        final=final,
        one_cell_objectives=np.arange(9.0),
        optimal=np.eye(9)[5],
        optimal_objective=np.array(0.001),
    )
    return folder


@pytest.fixture
def drawn(monkeypatch):
    """Calls a drawing function and returns its figure, instead of saving it."""

    def call(draw, *arguments, style=LIGHT):
        figures = {}
        for module in (ablations, curves, entropy_schedules, goal_placement, goal_position, outcomes):
            monkeypatch.setattr(module, "save_figure", lambda _, name, make: figures.setdefault(name, make(style)))
        with mpl.rc_context(rc=style.parameters):
            draw(*arguments)
        (figure,) = figures.values()
        return figure

    return call


def data_of(line):
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def labelled(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return data_of(line)


# Reading.


def test_curves_hold_the_last_value_of_a_stopped_seed(folder):
    for metric in ("upper_objective", "x1"):
        read = figures.read_curves(folder, metric)
        np.testing.assert_array_equal(read.values, expected(metric))
        assert read.num_iterations.tolist() == list(ITERATIONS)
        assert read.num_transitions.tolist() == [8 * k for k in ITERATIONS]
        np.testing.assert_array_equal(figures.initial_values(folder, metric), expected(metric)[:, 0])
        np.testing.assert_array_equal(figures.final_values(folder, metric), expected(metric)[:, -1])


def test_curves_leave_out_a_torn_line(folder):
    with (folder.path / "metrics.csv").open("a") as file:
        file.write("0,200,1600,0.")
    assert figures.read_curves(folder, "x0").num_iterations[-1] == 150


def test_a_metric_that_is_not_there_is_named_with_those_that_are(folder):
    with pytest.raises(RunFolderError, match=r"has no metric 'x9'; it has seed, num_iterations, .*, x0, x1$"):
        figures.read_curves(folder, "x9")


def test_a_folder_without_metrics_says_how_to_go_on(tmp_path):
    with pytest.raises(RunFolderError, match="has no metrics yet; `bilevel-rl resume` it"):
        figures.final_values(RunFolder(tmp_path), "x0")


# Curves.


def test_learning_curves_show_medians_the_optimum_and_the_gap(folder, drawn):
    optimum = 0.4
    left, right = drawn(figures.draw_learning_curves, folder, optimum).axes
    transitions = np.array(ITERATIONS) * 8

    for label, metric in (
        ("Φ(x), the follower having optimized", "upper_objective"),
        ("f(x, π), the policy learned so far", "upper_value"),
    ):
        xs, ys = labelled(left, label)
        np.testing.assert_array_equal(xs, transitions)
        np.testing.assert_allclose(ys, np.median(expected(metric), axis=0))
    assert set(labelled(left, "optimum Φ*")[1]) == {optimum}
    assert "3 seeds" in left.get_title(loc="left")
    gaps = np.maximum(expected("upper_objective") - optimum, SMALLEST_SHOWN)
    assert np.any(gaps == SMALLEST_SHOWN)
    np.testing.assert_allclose(data_of(right.lines[0])[1], np.median(gaps, axis=0))
    assert right.get_yscale() == "log"
    # The bands reach from the lowest to the highest seed.
    outer = right.collections[0].get_datalim(right.transData)
    assert (outer.y0, outer.y1) == pytest.approx((gaps.min(), gaps.max()))


def test_step_sizes_and_their_ratios(folder, drawn):
    left, right = drawn(figures.draw_step_sizes, folder).axes
    values = {name: expected(name)[0] for name in STEP_SIZES}
    for line, name in zip(left.lines, STEP_SIZES, strict=True):
        assert line.get_label() == STEP_SIZES[name]
        np.testing.assert_array_equal(line.get_ydata(), values[name])
        np.testing.assert_array_equal(line.get_xdata(), ITERATIONS)
    assert [line.get_label() for line in right.lines] == ["ζ / α", "α / β", "β / w", "w / τ"]
    pairs = list(zip(list(values)[:-1], list(values)[1:], strict=True))
    for line, (fast, slow) in zip(right.lines, pairs, strict=True):
        ratio = values[fast] / values[slow]
        np.testing.assert_allclose(line.get_ydata(), ratio / ratio[0])
        assert line.get_ydata()[0] == 1


def test_residuals_of_both_policies(folder, drawn):
    (axes,) = drawn(figures.draw_residuals, folder).axes
    for line, metric in zip(axes.lines, ("lower_residual", "penalized_residual"), strict=True):
        assert line.get_label().startswith(metric.split("_")[0])
        np.testing.assert_allclose(line.get_ydata(), np.median(expected(metric), axis=0))
    assert axes.get_yscale() == "log"


def test_trade_off_puts_each_gap_in_its_panel(tmp_path, drawn):
    folder = RunFolder(tmp_path)
    rng = np.random.default_rng(0)
    names = entropy_schedules.SCHEDULES
    arrays = {
        f"{name} {gap} gap": rng.uniform(0.1, 1, (3, 4)) for name in names for gap in ("regularized", "unregularized")
    }
    weights = {f"{name} entropy weight": rng.uniform(0.1, 1, 4) for name in names}
    transitions = np.array(ITERATIONS) * 8
    folder.write_arrays("trade_off", **arrays, **weights, transitions=transitions, bias=np.array(0.03))

    regularized, unregularized, weight = drawn(EntropySchedules().plot, folder).axes

    for name in names:
        for axes, gap in ((regularized, "regularized"), (unregularized, "unregularized")):
            xs, ys = labelled(axes, f"{name} τ")
            np.testing.assert_array_equal(xs, transitions)
            np.testing.assert_allclose(ys, np.median(arrays[f"{name} {gap} gap"], axis=0))
        np.testing.assert_array_equal(labelled(weight, f"{name} τ")[1], weights[f"{name} entropy weight"])
    assert set(labelled(unregularized, "at the minimizer of Φ$_τ$")[1]) == {0.03}
    assert len(regularized.lines) == 2


# Grids.


def marked(axes, marker):
    """(row, column) of everything drawn with a marker."""
    lines = [data_of(line) for line in axes.lines if line.get_marker() == marker]
    return [(y, x) for xs, ys in lines for x, y in zip(xs, ys, strict=True)]


def test_goal_position_shows_paths_and_optimum(position_folder, drawn):
    axes, _ = drawn(POSITION.draw, position_folder).axes
    rows, columns = expected("x0"), expected("x1")

    paths = [data_of(line) for line in axes.lines if line.get_color() == LIGHT.path]
    assert len(paths) == 3
    for seed, (xs, ys) in enumerate(paths):
        np.testing.assert_array_equal(xs, columns[seed])
        np.testing.assert_array_equal(ys, rows[seed])
    assert marked(axes, "*") == [(1.75, 0.25)]
    assert marked(axes, "o") == [(0.0, 2.0)]
    assert sorted(marked(axes, ".")) == sorted(zip(rows[:, -1], columns[:, -1], strict=True))
    assert axes.get_ylim() == (SIZE - 1, 0)  # row 0 on top
    assert "3 seeds" in axes.get_title(loc="left")


def test_goal_placement_shows_objectives_and_placement(placement_folder, drawn):
    left, right, *_ = drawn(PLACEMENT.draw, placement_folder).axes
    data = placement_folder.read_arrays("placement")

    np.testing.assert_array_equal(left.images[0].get_array(), np.arange(9.0).reshape(3, 3))
    np.testing.assert_allclose(right.images[0].get_array(), data["final"].mean(0).reshape(3, 3))
    assert marked(left, "*") == [(1.0, 2.0)]
    assert marked(right, "x") == [(2.0, 1.0)]
    assert marked(right, "s") == [(0.0, 2.0)]
    for axes in (left, right):
        walls = [patch for patch in axes.patches if not patch.get_hatch()]
        hazards = [patch for patch in axes.patches if patch.get_hatch()]
        assert [patch.get_xy() for patch in walls] == [(0.5, 0.5)]
        assert [patch.get_xy() for patch in hazards] == [(-0.5, 1.5)]
        low, high = axes.get_ylim()
        assert low > high  # row 0 on top


# Files.


@pytest.mark.slow
def test_figures_of_a_run_with_a_stopped_seed_are_written_in_both_styles(position_folder):
    write_outcome(position_folder, hand_outcome(GRID))
    with figures.also_for_print():
        POSITION.plot(position_folder)

    written = {path.name: path.read_bytes() for path in position_folder.figures().iterdir()}
    names = ("landscape", "learning_curves", "step_sizes", "residuals", "x", "follower", "payments")
    assert set(written) == {f"{name}{style.suffix}" for name in names for style in (LIGHT, PRINT)}
    for name, content in written.items():
        assert content.startswith(b"\x89PNG" if name.endswith("png") else b"%PDF"), name


@pytest.mark.parametrize("style", [LIGHT, PRINT], ids=["light", "print"])
def test_figures_of_a_run_whose_seeds_all_stopped_at_once(tmp_path, drawn, style):
    folder = RunFolder(tmp_path)
    folder.append_rows("metrics", rows_until(0, 0))
    left, _ = drawn(figures.draw_learning_curves, folder, 0.4, style=style).axes
    assert data_of(left.lines[0])[0].tolist() == [0.0]
    drawn(figures.draw_step_sizes, folder, style=style).canvas.draw()
    drawn(figures.draw_residuals, folder, style=style).canvas.draw()


def test_transitions_are_counted_in_millions(folder, drawn):
    left, _ = drawn(figures.draw_learning_curves, folder, 0.4).axes
    label = left.xaxis.get_major_formatter()
    assert [label(number, 0) for number in (0, 400, 2.5e6)] == ["0", "400", "2.5 M"]


# Ablations.


def test_an_ablation_shows_each_variant_in_each_panel(tmp_path, drawn):
    folder = RunFolder(tmp_path)
    folder.write_arrays("reference", optimum=np.array([1.5, 0.25]), optimal_objective=np.array(0.05))
    for name in "abc":
        shift = 0.1 * "abc".index(name)
        shifted = [row | {c: row[c] + shift for c in ("upper_objective", "x0")} for row in rows_until()]
        RunFolder(tmp_path / name).append_rows("metrics", shifted)
    panels = [
        Panel("gap", "how far"),
        Panel("lower_residual", "what is missed", ("c",), is_log=False),
        Panel("path", "where x goes", ("c", "a")),
    ]

    gap, residual, path = drawn(draw_ablation, folder, ("a", "b", "c"), panels).axes

    assert [axes.get_title(loc="left") for axes in (gap, residual, path)] == [panel.title for panel in panels]
    for i, name in enumerate("abc"):
        gaps = np.maximum(expected("upper_objective") + 0.1 * i - 0.05, SMALLEST_SHOWN)
        np.testing.assert_allclose(labelled(gap, name)[1], np.median(gaps, axis=0))
    assert (gap.get_yscale(), residual.get_yscale()) == ("log", "linear")
    assert [line.get_label() for line in residual.lines] == ["c"]
    np.testing.assert_allclose(labelled(residual, "c")[1], np.median(expected("lower_residual"), axis=0))
    np.testing.assert_allclose(labelled(path, "c"), [expected("x1")[0], expected("x0")[0] + 0.2])
    assert marked(path, "*") == [(1.5, 0.25)]
    with mpl.rc_context(rc=LIGHT.parameters):
        colours = {line.get_label(): mpl.colors.to_hex(line.get_color()) for line in path.lines}
    assert [colours[name] for name in "ca"] == [COLOURS[2], COLOURS[0]]
