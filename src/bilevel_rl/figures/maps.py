"""Maps of a follower: its occupancy and mean moves on a grid or a graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patheffects import withStroke

from bilevel_rl.figures.grids import draw_moves, label_cells
from bilevel_rl.figures.style import Style
from bilevel_rl.formulation import GraphLayout, GridLayout
from bilevel_rl.formulation.names import Layout
from bilevel_rl.outcome import Answer, Exact, Outcome

NEVER = 1e-12
"""Where the follower spends no more of its time, it is not told what it does there."""

MOST_LABELS = 40
"""Graphs with more nodes are drawn without their names."""


def heat_of_x(outcome: Outcome) -> tuple[np.ndarray, np.ndarray] | None:
    """x at the start and the median at the end as pictures, where x has an entry for each state of a grid."""
    layout = outcome.names.layout
    if not isinstance(layout, GridLayout) or layout.num_states != len(outcome.initial_x) or has_shared_cells(layout):
        return None
    start, end = (on_grid(layout, x) for x in (outcome.initial_x, np.median(outcome.final_x, axis=0)))
    return start, end


def panel_height(layout: GridLayout, width: float) -> float:
    """Of a picture of a grid that is as wide, with its labels, in inches; of tall grids no more than that."""
    rows, columns = layout.shape
    return min(max(width * rows / columns, 1.2), width) + 1.0


def has_shared_cells(layout: GridLayout) -> bool:
    """Whether several states lie in one cell."""
    placed = [tuple(cell) for cell in layout.cells if cell is not None]
    return len(set(placed)) < len(placed)


def on_grid(layout: GridLayout, values: Float[np.ndarray, " S"]) -> Float[np.ndarray, "rows columns"]:
    """Sums of values over the states of each cell; NaN where none lies."""
    picture = np.full(layout.shape, np.nan)
    for cell, value in zip(layout.cells, values, strict=True):
        if cell is not None:
            row, column = cell
            picture[row, column] = np.nansum([picture[row, column], value])
    return picture


def moves_of(layout: Layout, exact: Exact, answer: Answer) -> tuple[np.ndarray, np.ndarray]:
    """Places where the follower can be, shape (places, 2), and the mean step in each; over states that share one
    weighed by the time there."""
    places = layout.places()
    acts = np.isfinite(places[:, 0]) & ~exact.terminal & (answer.occupancy.sum(1) > NEVER)
    found, number = np.unique(places[acts], axis=0, return_inverse=True)
    weights = answer.occupancy.sum(1)[acts] + 1e-12
    sums = np.stack([np.bincount(number.ravel(), weights * step) for step in answer.drift[acts].T], axis=1)
    return found, sums / np.bincount(number.ravel(), weights)[:, None]


def draw_map(axes: Axes, layout: Layout, exact: Exact, answer: Answer, most: float, style: Style) -> Any:
    """Occupancies as shades and mean moves as arrows, on a graph as widths of its edges; returns the shades' artist.

    Args:
        axes: to draw on.
        layout: where states lie.
        exact: of the outcome.
        answer: before or after.
        most: the share of the time that is drawn darkest.
        style: of the figure.
    """
    axes.grid(visible=False)
    if not isinstance(layout, GridLayout):
        return _draw_graph(axes, layout, exact, answer, most, style)
    image = axes.imshow(on_grid(layout, exact.visits(answer)), cmap=style.placement, vmin=0, vmax=most)
    axes.set(xlabel="column", ylabel="row")
    label_cells(axes)
    for cell, is_end in zip(layout.cells, exact.terminal, strict=True):
        if cell is not None and is_end:
            axes.plot(cell[1], cell[0], "s", color="none", markeredgecolor=style.accent, markersize=11)
    draw_moves(axes, *moves_of(layout, exact, answer))
    return image


def _draw_graph(axes: Axes, layout: GraphLayout, exact: Exact, answer: Answer, most: float, style: Style) -> Any:
    places = layout.places()
    lies = np.isfinite(places[:, 0])
    drawn = lies[exact.edges].all(axis=1)
    edges, flows = exact.edges[drawn], answer.flows[drawn]
    segments = places[edges]
    axes.add_collection(LineCollection(list(segments), colors="#d5dae0", linewidths=0.8, zorder=1))
    widths = 5 * flows / max(flows.max(initial=0.0), 1e-12)
    used = widths > 0.15
    axes.add_collection(
        LineCollection(list(segments[used]), colors="C0", linewidths=list(widths[used]), alpha=0.7, zorder=2)
    )
    visits = exact.visits(answer)[lies]
    outline = np.where(exact.terminal[lies], style.accent, "#5c677d")
    image = axes.scatter(
        *places[lies].T, c=visits, cmap=style.placement, vmin=0, vmax=most, s=130, edgecolors=list(outline), zorder=4
    )
    axes.invert_yaxis()
    axes.margins(0.1)
    axes.set(xticks=[], yticks=[], aspect="equal")
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


def label_nodes(axes: Axes, layout: GraphLayout, names: Sequence[str]):
    """Writes the names of nodes below them, where there are few."""
    placed = [(place, name) for place, name in zip(layout.places(), names, strict=True) if np.isfinite(place[0])]
    for place, name in placed if len(placed) <= MOST_LABELS else ():
        text = axes.annotate(
            name, place, (0, -8), textcoords="offset points", ha="center", va="top", fontsize=7, zorder=5
        )
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])
