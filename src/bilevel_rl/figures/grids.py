"""Pictures of a grid: its cells, walls and hazards, and what the follower does there."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from bilevel_rl.problems.grid import MOVES, Cell

ARROWS = "#44566c"


def prepare_grid(axes: Axes, size: int, walls: Sequence[Cell] = (), hazards: Sequence[Cell] = ()):
    """Cells as unit squares, row 0 on top; walls dark, hazards hatched."""
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal", xlabel="column", ylabel="row")
    axes.grid(visible=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    for row, column in walls:
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="#3d4451", linewidth=0, zorder=3))
    for row, column in hazards:
        patch = Rectangle(
            (column - 0.5, row - 0.5), 1, 1, facecolor="none", edgecolor="#a33", hatch="xxxx", linewidth=0
        )
        axes.add_patch(patch)


def draw_policy(axes: Axes, policy: Float[np.ndarray, "S A"], size: int, no_choice: Sequence[Cell] = ()):
    """The mean move in every cell, as an arrow; a dot where the follower stays. Nothing in cells without a choice."""
    rows, columns = np.divmod(np.arange(size**2), size)
    has_choice = ~np.isin(np.arange(size**2), [row * size + column for row, column in no_choice])
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
        color=ARROWS,
        zorder=2,
    )
    rests = has_choice & ~moves
    axes.plot(columns[rests], rows[rests], ".", color=ARROWS, markersize=4, zorder=2)
