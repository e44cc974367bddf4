"""Figures of any problem's outcome: what became of x, where the follower is and what it does, what the leader pays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bilevel_rl.figures.curves import draw_band, draw_curves
from bilevel_rl.figures.grids import label_cells
from bilevel_rl.figures.maps import draw_map, heat_of_x, label_nodes, panel_height
from bilevel_rl.figures.style import Style, label_transitions, save_figure, save_figure_at
from bilevel_rl.figures.tables import columns_of, read_curves, seeds_of
from bilevel_rl.formulation import GraphLayout, GridLayout
from bilevel_rl.outcome import Answer, Exact, Outcome, find_outcome, read_outcome
from bilevel_rl.runs.folder import RunFolder

MOST_BARS = 20
"""Entries of x, or states, that are drawn; those that matter most."""


def draw_outcome(folder: RunFolder):
    """Draws all that the files of a run folder allow, from `outcome.npz`, `outcome.json` and `metrics.csv`.

    Of a run whose outcome was not measured, such as one from Python, curves and x.

    Raises:
        RunFolderError: the run has not ended.
    """
    outcome = find_outcome(folder) or read_outcome(folder)
    if folder.read_rows("metrics"):
        draw_curves(folder, None if outcome.optimum is None else outcome.optimum.objective)
    save_figure(folder, "x", lambda style: _figure_of_x(outcome, style))
    exact = outcome.exact
    if exact is not None:
        save_figure(folder, "follower", lambda style: _figure_of_follower(outcome, exact, style))
        save_figure(folder, "payments", lambda style: _figure_of_payments(outcome, exact, style))


def ranked_entries(outcome: Outcome, most: int = MOST_BARS) -> np.ndarray:
    """Entries of x in their order; of many those that moved furthest, the furthest first."""
    n = len(outcome.initial_x)
    moved = np.abs(np.median(outcome.final_x, axis=0) - outcome.initial_x)
    return np.arange(n) if n <= most else np.argsort(-moved, kind="stable")[:most]


def _figure_of_x(outcome: Outcome, style: Style) -> Figure:
    """A dumbbell for each entry, or heat maps where x has an entry for each cell of a grid."""
    maps = heat_of_x(outcome)
    if maps is not None:
        layout = outcome.names.layout
        assert isinstance(layout, GridLayout)  # Else there are no maps.
        figure = Figure(figsize=(9.5, panel_height(layout, 3.6)))
        end = np.median(outcome.final_x, axis=0)
        limits = min(outcome.initial_x.min(), end.min()), max(outcome.initial_x.max(), end.max())
        titles = "x at the start", f"x at the end (median of {seeds_of(len(outcome.final_x))})"
        for axes, values, title in zip(figure.subplots(1, 2), maps, titles, strict=True):
            axes.imshow(values, cmap=style.placement, vmin=limits[0], vmax=limits[1] + 1e-12)
            axes.set(title=title, xlabel="column", ylabel="row")
            label_cells(axes)
        figure.colorbar(figure.axes[0].images[0], ax=figure.axes, shrink=0.85, label="x")
        return figure
    shown = ranked_entries(outcome)
    figure = Figure(figsize=(7.5, 1.9 + 0.34 * len(shown)))
    axes = figure.subplots()
    draw_dumbbells(axes, outcome, shown, style)
    figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    total = len(outcome.initial_x)
    axes.set_title(
        "What x became" if len(shown) == total else f"What x became: the {len(shown)} of {total} that moved most"
    )
    return figure


def draw_dumbbells(axes: Axes, outcome: Outcome, shown: Sequence[int] | np.ndarray, style: Style):
    """Start and median end of entries of x, the range of the seeds' ends, and the optimum."""
    rows = np.arange(len(shown))
    start, ends = outcome.initial_x[shown], outcome.final_x[:, shown]
    end = np.median(ends, axis=0)
    axes.hlines(rows, start, end, color="#b8c0ca", linewidth=2, zorder=1)
    axes.hlines(
        rows, ends.min(axis=0), ends.max(axis=0), color="C0", alpha=0.35, linewidth=8, zorder=2, label="range of seeds"
    )
    axes.plot(start, rows, "o", color="white", markeredgecolor=style.path, markersize=7, zorder=3, label="start")
    axes.plot(end, rows, "o", color="C0", markersize=7, zorder=4, label="end, median of seeds")
    if outcome.optimum is not None and outcome.optimum.x is not None:
        best = np.asarray(outcome.optimum.x)[shown]
        axes.plot(best, rows, "|", color=style.accent, markersize=15, markeredgewidth=2, zorder=5, label="optimum")
    axes.set_yticks(rows, [outcome.x_names[i] for i in shown])
    axes.set(ylim=(len(shown) - 0.5, -0.5), xlabel="x")
    axes.grid(visible=False, axis="y")


def answers_of(exact: Exact) -> list[tuple[str, Answer]]:
    """The follower's answers, with their titles."""
    titles = "before: the answer to the first x", f"after: the answer to the last x (seed {exact.shown_seed})"
    return list(zip(titles, (exact.before, exact.after), strict=True))


def _figure_of_follower(outcome: Outcome, exact: Exact, style: Style) -> Figure:
    """A map with occupancies and mean moves, or without a layout ranked bars and the policy in these states."""
    answers, layout = answers_of(exact), outcome.names.layout
    if layout is not None:
        figure = Figure(figsize=(10.5, panel_height(layout, 4.0) if isinstance(layout, GridLayout) else 4.9))
        most = max(exact.visits(answer).max() for _, answer in answers)
        shades = []
        for axes, (title, answer) in zip(figure.subplots(1, 2), answers, strict=True):
            shades.append(draw_map(axes, layout, exact, answer, most, style))
            axes.set_title(title)
            if isinstance(layout, GraphLayout):
                label_nodes(axes, layout, outcome.state_names)
        figure.colorbar(shades[0], ax=figure.axes, shrink=0.8, label="share of its time,\nwhere it can act")
        return figure
    visits = np.stack([answer.occupancy.sum(1) for _, answer in answers])
    shown = np.argsort(-visits.max(axis=0), kind="stable")[:MOST_BARS]
    figure = Figure(figsize=(12, max(3.6, 1.6 + 0.3 * len(shown))))
    left, *others = figure.subplots(1, 3, width_ratios=(2, 1, 1), sharey=True)
    _paired_bars(left, visits[:, shown], [outcome.state_names[s] for s in shown])
    left.set(xlabel="share of the follower's time", title="Where the follower is")
    for axes, (title, answer) in zip(others, answers, strict=True):
        axes.imshow(answer.policy[shown], aspect="auto", cmap=style.placement, vmin=0, vmax=1)
        axes.set_xticks(range(answer.policy.shape[1]), outcome.action_names, rotation=40, ha="right")
        axes.set_title(f"What it does {title.partition(':')[0]}")
        axes.grid(visible=False)
    figure.colorbar(others[0].images[0], ax=others, label="π(a|s)", shrink=0.9)
    return figure


def _figure_of_payments(outcome: Outcome, exact: Exact, style: Style) -> Figure:
    """Φ in its parts, and the states that contribute most to the expected cost."""
    payments = exact.before.payments, exact.after.payments
    if payments[0] is None or payments[1] is None:
        figure = Figure(figsize=(5.5, 3.6))
        _draw_parts(figure.subplots(), outcome, exact, style)
        return figure
    paid = np.stack([payments[0].sum(1), payments[1].sum(1)])
    shown = np.argsort(-np.abs(paid).max(axis=0), kind="stable")[: MOST_BARS // 2]
    figure = Figure(figsize=(10.5, max(4.2, 1.8 + 0.3 * len(shown))))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
    _draw_parts(left, outcome, exact, style)
    _paired_bars(right, paid[:, shown], [outcome.state_names[s] for s in shown])
    right.set(xlabel="share of time × cost", title="Where the leader pays (largest first)")
    return figure


def _draw_parts(axes: Axes, outcome: Outcome, exact: Exact, style: Style):
    costs, points = exact.costs, [0, 1 + exact.shown_seed]
    labels = ["before", "after"]
    parts = {"for what the follower does": costs.expected[points], "for x itself": costs.regularizer[points]}
    below = np.zeros((2, len(points)))  # Positive parts upwards, negative ones downwards.
    for i, (label, values) in enumerate(parts.items()):
        if np.any(values != 0):
            base = np.where(values >= 0, below[0], below[1])
            axes.bar(labels, values, bottom=base, width=0.55, color=f"C{i}", label=label)
            below += np.stack([np.maximum(values, 0), np.minimum(values, 0)])
    axes.plot(labels, costs.objective[points], "D", color=style.path, markersize=5, label="Φ")
    if outcome.optimum is not None:
        axes.axhline(outcome.optimum.objective, color=style.accent, linestyle="--", linewidth=1.2, label="optimum Φ*")
    axes.axhline(0, color=style.path, linewidth=0.8)
    axes.set(title="What the leader pays", ylabel="per step", xlim=(-0.6, 1.6))
    axes.grid(visible=False, axis="x")
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)


def _paired_bars(axes: Axes, values: Float[np.ndarray, "2 n"], names: Sequence[str]):
    rows = np.arange(len(names))
    axes.barh(rows - 0.19, values[0], 0.38, color="#b8c0ca", label="before")
    axes.barh(rows + 0.19, values[1], 0.38, color="C0", label="after")
    axes.set_yticks(rows, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.legend(fontsize="small", loc="best")


def draw_side_by_side(folders: Sequence[RunFolder], path: Path):
    """Φ against transitions and the last x of several runs; of runs without exact Φ what was sampled.

    Args:
        folders: of the runs.
        path: of the picture, without its suffix.

    Raises:
        ValueError: there are no folders.
        RunFolderError: one has no metric rows.
    """
    if not folders:
        raise ValueError("folders must hold at least one run, got none")
    save_figure_at(path, lambda style: _side_by_side(folders, style))


def _side_by_side(folders: Sequence[RunFolder], style: Style) -> Figure:
    outcomes = [find_outcome(folder) for folder in folders]
    names = {outcome.x_names for outcome in outcomes if outcome is not None}
    compares_x = len(names) == 1 and None not in outcomes
    figure = Figure(figsize=(11.5, 4.2) if compares_x else (6.5, 4.2))
    left, *others = figure.subplots(1, 2 if compares_x else 1, squeeze=False)[0]
    for folder in folders:
        metric = "upper_objective" if "upper_objective" in columns_of(folder) else "upper_value"
        draw_band(left, read_curves(folder, metric), folder.path.name)
    known = {outcome.optimum.objective for outcome in outcomes if outcome is not None and outcome.optimum is not None}
    for objective in known:
        left.axhline(objective, color=style.accent, linestyle="--", linewidth=1.2, label="optimum Φ*")
    left.set(ylabel="upper objective", title="What the leader pays")
    left.legend(fontsize="small")
    label_transitions(left)
    for axes in others:
        _draw_last_x(axes, [outcome for outcome in outcomes if outcome is not None], style)
    return figure


def _draw_last_x(axes: Axes, outcomes: Sequence[Outcome], style: Style):
    shown = ranked_entries(outcomes[0])
    rows, spread = np.arange(len(shown)), np.linspace(-0.25, 0.25, len(outcomes)) if len(outcomes) > 1 else [0.0]
    axes.plot(outcomes[0].initial_x[shown], rows, "o", color="white", markeredgecolor=style.path, label="start")
    for i, (outcome, offset) in enumerate(zip(outcomes, spread, strict=True)):
        ends = outcome.final_x[:, shown]
        axes.hlines(rows + offset, ends.min(axis=0), ends.max(axis=0), color=f"C{i}", alpha=0.4, linewidth=4)
        axes.plot(np.median(ends, axis=0), rows + offset, "o", color=f"C{i}", markersize=5)
    axes.set_yticks(rows, [outcomes[0].x_names[i] for i in shown])
    axes.set(ylim=(len(shown) - 0.5, -0.5), xlabel="x", title="What x became: median and range of the seeds")
    axes.grid(visible=False, axis="y")
