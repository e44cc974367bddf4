"""Variants of one run side by side: the gap to the optimum, and the quantities that tell a failure."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bilevel_rl.figures.curves import SMALLEST_SHOWN, draw_band
from bilevel_rl.figures.style import Style, label_transitions, save_figure
from bilevel_rl.figures.tables import Curves, read_curves
from bilevel_rl.runs.folder import RunFolder

PANELS_PER_ROW = 3


class Panel(NamedTuple):
    """One panel of the figure.

    Attributes:
        column: a column of metrics.csv, or "gap" for Φ(x) − Φ*, or "path" for (x0, x1) of the first seed.
        title: what it says above.
        variants: which to show; all by default.
        is_log: whether the vertical axis is logarithmic.
    """

    column: str
    title: str
    variants: tuple[str, ...] = ()
    is_log: bool = True


def draw_ablation(folder: RunFolder, variants: Sequence[str], panels: Sequence[Panel]):
    """One panel after the other; a variant has one colour in all panels that show all variants.

    Args:
        folder: of an experiment, with `reference.npz` and a subfolder a variant.
        variants: names of the subfolders.
        panels: what to show.
    """
    reference = folder.read_arrays("reference")
    folders = {name: RunFolder(folder.path / name) for name in variants}

    def draw(style: Style) -> Figure:
        num_columns = len(panels) if len(panels) <= PANELS_PER_ROW + 1 else PANELS_PER_ROW
        num_rows = -(-len(panels) // num_columns)
        figure = Figure(figsize=(4.2 * num_columns, 3.7 * num_rows))
        for axes, panel in zip(figure.subplots(num_rows, num_columns).flat, panels, strict=False):
            shown = {name: folders[name] for name in panel.variants or variants}
            if panel.column == "path":
                colours = {name: f"C{variants.index(name)}" for name in shown}
                _draw_paths(axes, shown, colours, reference["optimum"], style)
            else:
                _draw_curves(axes, panel, shown, float(reference["optimal_objective"]))
            axes.set_title(panel.title)
            axes.legend(fontsize="small")
        return figure

    save_figure(folder, "ablation", draw)


def _draw_curves(axes: Axes, panel: Panel, folders: dict[str, RunFolder], optimal_objective: float):
    for name, folder in folders.items():
        curves = _gap(folder, optimal_objective) if panel.column == "gap" else read_curves(folder, panel.column)
        if panel.is_log:
            curves = curves._replace(values=np.maximum(curves.values, SMALLEST_SHOWN))
        draw_band(axes, curves, name, levels=((25, 75, 0.18),))
    if panel.is_log:
        axes.set_yscale("log")
    label_transitions(axes)


def _gap(folder: RunFolder, optimal_objective: float) -> Curves:
    objective = read_curves(folder, "upper_objective")
    return objective._replace(values=objective.values - optimal_objective)


def _draw_paths(axes: Axes, folders: dict[str, RunFolder], colours: dict[str, str], optimum: np.ndarray, style: Style):
    for name, folder in folders.items():
        first, second = (read_curves(folder, f"x{i}").values[0] for i in range(2))
        axes.plot(second, first, color=colours[name], marker=".", linewidth=1, markersize=3, label=name)
    axes.plot(optimum[1], optimum[0], "*", color=style.accent, markersize=13, label="optimum")
    axes.set(xlabel="x1", ylabel="x0", aspect="equal")
    axes.invert_yaxis()  # As on the grid: row 0 on top.
