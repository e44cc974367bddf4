"""Four Rooms: maps of the penalties and of the follower's visits, and the values beside published ones."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from bilevel_rl.figures.grids import prepare_grid
from bilevel_rl.figures.style import COLOURS, Style, save_figure
from bilevel_rl.problems.four_rooms import FREE_CELLS, GOALS, ROOMS, START, TARGET
from bilevel_rl.runs.folder import RunFolder


class Cell(NamedTuple):
    """One setting of the benchmark."""

    entropy_weight: float
    beta: float

    @property
    def name(self) -> str:
        """For folders."""
        return f"lambda-{self.entropy_weight:g}-beta-{self.beta:g}"

    @property
    def label(self) -> str:
        """For figures."""
        return f"λ = {self.entropy_weight:g}, β = {self.beta:g}"


def best_values(folder: RunFolder) -> Float[np.ndarray, "cells seeds"]:
    """F of every seed, at the best of its starts."""
    return folder.read_arrays("four_rooms")["values"].max(axis=1)


def mean_and_error(values: Float[np.ndarray, " seeds"]) -> tuple[float, float]:
    """Mean over the seeds and its standard error; 0 for a single seed."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean()), float(error)


def draw_four_rooms(folder: RunFolder, cells: Sequence[Cell]):
    """Of the first β: the penalties of the best seed above, and below where the follower then walks."""
    data = folder.read_arrays("four_rooms")
    shown = [i for i, cell in enumerate(cells) if cell.beta == cells[0].beta]

    def draw(style: Style) -> Figure:
        figure = Figure(figsize=(4.2 * len(shown), 7.6))
        rows = figure.subplots(2, len(shown), squeeze=False)
        for row, (name, label) in enumerate((("penalties", "penalty per step"), ("visits", "discounted visits"))):
            for axes, i in zip(rows[row], shown, strict=True):
                image = _draw_map(axes, data[name][i], style)
                figure.colorbar(image, ax=axes, label=label, shrink=0.85)
                value = f", F = {data['values'][i].max():.2f}" if row == 0 else ""
                axes.set_title(cells[i].label + value)
                axes.set(xlabel="S start   G goals   × the leader's cell" if row == 1 else "", ylabel="")
        return figure

    save_figure(folder, "four_rooms", draw)


def _draw_map(axes: Axes, values: Float[np.ndarray, " 104"], style: Style) -> AxesImage:
    size = len(ROOMS)
    walls = [(row, column) for row in range(size) for column in range(size) if (row, column) not in FREE_CELLS]
    picture = np.full((size, size), np.nan)
    picture[tuple(np.transpose(FREE_CELLS))] = values
    image = axes.imshow(picture, cmap=style.placement, vmin=0)
    prepare_grid(axes, {"size": size, "walls": walls})
    axes.set_xticks(range(0, size, 2))
    axes.set_yticks(range(0, size, 2))
    paper = {"boxstyle": "circle,pad=0.1", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
    letter: dict[str, Any] = {"ha": "center", "va": "center", "color": style.path, "fontweight": "bold", "bbox": paper}
    for text, (row, column) in (("S", START), *(("G", goal) for goal in GOALS)):
        axes.text(column, row, text, **letter)
    for width, colour in ((5, "white"), (2.2, style.accent)):
        axes.plot(TARGET[1], TARGET[0], "x", markersize=9, markeredgewidth=width, color=colour)
    return image


def draw_four_rooms_comparison(
    folder: RunFolder,
    cells: Sequence[Cell],
    methods: Sequence[str],
    published: Mapping[tuple[float, float], Sequence[tuple[float, float | None]]],
):
    """Mean F of every cell with its standard error, ours and published, and our single seeds."""
    values = best_values(folder)

    def draw(style: Style) -> Figure:
        figure = Figure(figsize=(11, 4.2))
        axes = figure.subplots()
        width = 0.7 / len(methods)
        for i, (cell, of_seeds) in enumerate(zip(cells, values, strict=True)):
            axes.plot(np.full(len(of_seeds), i - 0.34), of_seeds, ".", color="#9aa3ad", markersize=4)
            bars = [mean_and_error(of_seeds), *published.get(cell, ())]
            for k, (mean, error) in enumerate(bars):
                colour = style.accent if k == 0 else COLOURS[k - 1]
                place = i - 0.25 + width * k
                axes.errorbar(place, mean, error, fmt="os^D"[k], capsize=3, color=colour, markersize=5)
        for k, label in enumerate(("Exact, annealed (ours)", *methods)):
            axes.plot([], [], "os^D"[k], color=style.accent if k == 0 else COLOURS[k - 1], label=label)
        axes.set_xticks(np.arange(len(cells)), [cell.label.replace(", ", "\n") for cell in cells])
        axes.set(ylabel="F: the leader's return")
        axes.set_title(f"Mean ± standard error ({values.shape[1]} seeds); grey: our single seeds")
        axes.legend(ncols=4, loc="upper left")
        axes.set_ylim(0, 1.15 * max(axes.get_ylim()[1], 0.1))
        return figure

    save_figure(folder, "comparison", draw)
