"""Pictures of a grid: its cells, walls and hazards, and what the follower does there."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from bilevel_rl.figures.style import Style
from bilevel_rl.problems.grid import Cell

ARROWS = "#44566c"

RESTS = 0.1
"""Mean steps shorter than this share of the longest are drawn as dots."""


def prepare_grid(axes: Axes, size: int, walls: Sequence[Cell] = (), hazards: Sequence[Cell] = ()):
    """Cells as unit squares, row 0 on top; walls dark, hazards hatched."""
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal", xlabel="column", ylabel="row")
    label_cells(axes)
    for row, column in walls:
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="#3d4451", linewidth=0, zorder=3))
    for row, column in hazards:
        look = {"facecolor": "none", "edgecolor": "#a33", "hatch": "xxxx", "linewidth": 0}
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **look))


def label_cells(axes: Axes):
    """Numbers rows and columns of a grid."""
    axes.grid(visible=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))


def draw_cells(
    axes: Axes,
    values: Float[np.ndarray, "*cells"],
    label: str,
    *,
    walls: Sequence[Cell] = (),
    hazards: Sequence[Cell] = (),
    **shades: Any,
) -> AxesImage:
    """A number for each cell of a square grid as shades, with their bar.

    Args:
        axes: to draw on.
        values: row by row, flat or square; NaN for cells without one.
        label: of the bar.
        walls: cells that are dark.
        hazards: cells that are hatched.
        shades: colour map and limits, as in `Axes.imshow`.
    """
    size = math.isqrt(values.size)
    image = axes.imshow(values.reshape(size, size), **shades)
    axes.figure.colorbar(image, ax=axes, label=label, shrink=0.85)
    prepare_grid(axes, size, walls, hazards)
    return image


def mark_cells(axes: Axes, cells: Mapping[str, Sequence[float]], colour: str):
    """Outlines of markers on cells (row, column), by the name of the marker."""
    for marker, (row, column) in cells.items():
        axes.plot(column, row, marker, markersize=10, markerfacecolor="none", markeredgewidth=2.2, color=colour)


def draw_best(axes: Axes, place: Sequence[Any] | np.ndarray, style: Style, label: str):
    """A star at the best place (row, column), with the legend of the picture."""
    row, column = place
    axes.plot(column, row, "*", color=style.accent, markeredgecolor="white", markersize=17, label=label)
    axes.legend(loc="upper left", frameon=True, framealpha=0.85, fontsize="small")


def draw_moves(axes: Axes, places: Float[np.ndarray, "places 2"], moves: Float[np.ndarray, "places 2"]):
    """The mean step (x, y) from each place as an arrow, in shares of the longest; a dot where the follower stays."""
    lengths = np.hypot(*moves.T)
    longest = lengths.max(initial=0.0)
    goes = lengths > RESTS * longest if longest > 0 else np.zeros(len(lengths), bool)
    # In shares of the longest, so that slippery cells show their direction too.
    steps = 0.8 * moves[goes] / max(longest, 1e-12)
    look = {"angles": "xy", "scale_units": "xy", "scale": 1, "pivot": "mid", "width": 0.006, "zorder": 3}
    axes.quiver(*places[goes].T, *steps.T, color=ARROWS, **look)
    axes.plot(*places[~goes].T, ".", color=ARROWS, markersize=4, zorder=3)
