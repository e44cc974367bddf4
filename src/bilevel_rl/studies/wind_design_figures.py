"""A wind field and where the follower spends its time in it."""

import numpy as np
from matplotlib.figure import Figure

from bilevel_rl.figures.grids import prepare_grid
from bilevel_rl.figures.style import Style, save_figure
from bilevel_rl.runs.folder import RunFolder

TITLES = {"start": "Wind at the start", "end": "Wind at the end (seed 0)", "optimum": "Wind of exact descent"}


def draw_wind_design(folder: RunFolder):
    """Mean push in every cell, over the share of the time that the best answer to it spends there."""
    options, data = folder.config()["options"] | {"hazards": []}, folder.read_arrays("wind")
    size = options["size"]
    rows, columns = np.divmod(np.arange(size**2), size)
    most = max(data[f"{name} visits"].max() for name in TITLES)

    def draw(style: Style) -> Figure:
        figure = Figure(figsize=(13, 4.3))
        for axes, (name, title) in zip(figure.subplots(1, 3), TITLES.items(), strict=True):
            shares = axes.imshow(
                data[f"{name} visits"].reshape(size, size), vmin=0, vmax=most, cmap=style.placement, alpha=0.8
            )
            prepare_grid(axes, options)
            down, right = data[f"{name} wind"].T
            axes.quiver(
                columns, rows, right, down, angles="xy", scale_units="xy", scale=1.3, color=style.path, width=0.008
            )
            for cell, marker in (("goal", "o"), ("target", "x")):
                row, column = options[cell]
                axes.plot(
                    column, row, marker, markersize=11, markerfacecolor="none", markeredgewidth=2.2, color=style.accent
                )
            axes.set_title(title)
            axes.set_xlabel("column    o goal   × target")
            figure.colorbar(shares, ax=axes, label="share of the follower's time", shrink=0.85)
        return figure

    save_figure(folder, "wind", draw)
