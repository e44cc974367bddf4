"""Pictures of the grid: where the leader's variable went, and what the follower does there."""

from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from bilevel_rl.figures.style import Style, save_figure
from bilevel_rl.figures.tables import read_curves
from bilevel_rl.problems.grid import MOVES
from bilevel_rl.runs.folder import RunFolder


def prepare_grid(axes: Axes, options: dict[str, Any]):
    """Cells as unit squares, row 0 on top; walls dark, hazards hatched."""
    size = options["size"]
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal", xlabel="column", ylabel="row")
    axes.grid(visible=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    for row, column in options["walls"]:
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="#3d4451", linewidth=0, zorder=3))
    for row, column in options.get("hazards", ()):
        patch = Rectangle(
            (column - 0.5, row - 0.5), 1, 1, facecolor="none", edgecolor="#a33", hatch="xxxx", linewidth=0
        )
        axes.add_patch(patch)


def _draw_policy(axes: Axes, policy: Float[np.ndarray, "S A"], options: dict[str, Any], colour: str):
    """The mean move in every cell, as an arrow; a dot where the follower stays."""
    size = options["size"]
    rows, columns = np.divmod(np.arange(size**2), size)
    no_choice = [row * size + column for row, column in (*options["walls"], *options.get("hazards", ()))]
    has_choice = ~np.isin(np.arange(size**2), no_choice)
    row_step, column_step = (policy @ np.array(MOVES)).T
    moves = has_choice & (np.hypot(row_step, column_step) > 0.15)
    axes.quiver(
        columns[moves],
        rows[moves],
        column_step[moves],
        row_step[moves],
        angles="xy",
        scale_units="xy",
        scale=1.4,
        pivot="mid",
        width=0.006,
        color=colour,
        zorder=2,
    )
    rests = has_choice & ~moves
    axes.plot(columns[rests], rows[rests], ".", color=colour, markersize=4, zorder=2)


def draw_goal_position(folder: RunFolder):
    """Contours of Φ with every seed's path to the optimum, and the follower's policy at the start and at the end."""
    options = folder.config()["options"]
    data = folder.read_arrays("landscape")
    rows, columns = read_curves(folder, "x0").values, read_curves(folder, "x1").values
    start, optimum, target = options["initial_x"], data["optimum"], options["target"]

    def draw(style: Style) -> Figure:
        figure = Figure(figsize=(13, 4.4))
        left, middle, right = figure.subplots(1, 3)
        prepare_grid(left, options)
        axis = data["axis"]
        contours = left.contourf(axis, axis, data["objective"], levels=18, cmap=style.landscape, alpha=0.9)
        figure.colorbar(contours, ax=left, label="Φ(x)", shrink=0.85)
        for seed_rows, seed_columns in zip(rows, columns, strict=True):
            left.plot(seed_columns, seed_rows, color="white", linewidth=2.2, alpha=0.9)
            left.plot(seed_columns, seed_rows, color=style.path, linewidth=1)
        left.plot(start[1], start[0], "o", color="white", markeredgecolor="black", markersize=8, label="start")
        left.plot(columns[:, -1], rows[:, -1], ".", color="black", markersize=5, label="end of each seed")
        left.plot(
            optimum[1], optimum[0], "*", color=style.accent, markeredgecolor="white", markersize=17, label="optimum"
        )
        left.set(xlim=(0, options["size"] - 1), ylim=(options["size"] - 1, 0))
        left.set_title(f"The goal walks to the optimum ({len(rows)} seeds)")
        left.legend(loc="upper left", frameon=True, framealpha=0.85, fontsize="small")
        for axes, policy, goal, title in (
            (middle, data["start_policy"], start, "Follower's answer to the first goal (exact)"),
            (right, data["end_policy"], (rows[0, -1], columns[0, -1]), "Policy learned by the end (seed 0)"),
        ):
            prepare_grid(axes, options)
            _draw_policy(axes, policy, options, "#44566c")
            axes.plot(
                goal[1], goal[0], "o", markersize=11, markerfacecolor="none", markeredgewidth=2.2, color="#e09f3e"
            )
            axes.plot(target[1], target[0], "x", markersize=9, markeredgewidth=2.2, color=style.accent)
            axes.set_title(title)
            axes.set_xlabel("column      o goal   × target")
        return figure

    save_figure(folder, "landscape", draw)


def draw_goal_placement(folder: RunFolder):
    """What each cell alone would be worth, where the reward lies at the end, and what the follower does."""
    options = folder.config()["options"]
    data = folder.read_arrays("placement")
    size = options["size"]
    best_row, best_column = divmod(int(data["optimal"].argmax()), size)

    def draw(style: Style) -> Figure:
        figure = Figure(figsize=(13, 4.2))
        left, middle, right = figure.subplots(1, 3)
        objectives = left.imshow(data["one_cell_objectives"].reshape(size, size), cmap=style.landscape)
        figure.colorbar(objectives, ax=left, label="Φ", shrink=0.85)
        left.set_title("Φ with the whole reward in one cell")
        shares = middle.imshow(data["final"].mean(0).reshape(size, size), vmin=0, vmax=1, cmap=style.placement)
        figure.colorbar(shares, ax=middle, label="share of the reward", shrink=0.85)
        middle.set_title(f"Placement at the end (mean of {len(data['final'])} seeds)")
        for axes in (left, middle):
            prepare_grid(axes, options)
        left.plot(
            best_column,
            best_row,
            "*",
            color=style.accent,
            markeredgecolor="white",
            markersize=17,
            label="best placement",
        )
        left.legend(loc="upper left", frameon=True, framealpha=0.85, fontsize="small")
        prepare_grid(right, options)
        _draw_policy(right, data["end_policy"], options, "#44566c")
        right.set_title("Policy learned by the end (seed 0)")
        for axes in (middle, right):
            for name, marker in (("delivery", "x"), ("home", "s")):
                row, column = options[name]
                axes.plot(
                    column, row, marker, markersize=10, markerfacecolor="none", markeredgewidth=2, color=style.accent
                )
            axes.set_xlabel("column    × delivery  □ home")
        return figure

    save_figure(folder, "placement", draw)
