"""Where a follower was meant to be, where it went at first and goes now, and the reward that does it."""

import numpy as np
from matplotlib.figure import Figure

from bilevel_rl.figures.grids import prepare_grid
from bilevel_rl.figures.style import Style, save_figure
from bilevel_rl.runs.folder import RunFolder

WANTED = {
    "target-visitation": "Wanted visitation",
    "inverse-rl": "Expert's visitation",
    "preferences": "Answer to the true reward",
}


def draw_reward_learning(folder: RunFolder):
    """Four maps: three shares of the follower's time on one scale, and the learned reward."""
    config = folder.config()
    options, data = {"walls": [], "hazards": []} | config["options"], folder.read_arrays("reward_learning")
    size, title = options["size"], WANTED[config["experiment"]]
    maps = {"wanted": title, "start": "Visitation without a reward", "learned": "Visitation in the end (seed 0)"}
    most = max(data[name].max() for name in maps)

    def draw(style: Style) -> Figure:
        figure = Figure(figsize=(15, 3.9))
        axes = figure.subplots(1, 4)
        for ax, (name, title) in zip(axes, maps.items(), strict=False):
            shares = ax.imshow(data[name].reshape(size, size), vmin=0, vmax=most, cmap=style.placement)
            ax.set_title(title)
            figure.colorbar(shares, ax=ax, label="share of the time", shrink=0.85)
        largest = np.abs(data["reward"]).max()
        colours = "RdBu" if style.suffix == ".png" else "Greys"
        rewards = axes[3].imshow(data["reward"].reshape(size, size), vmin=-largest, vmax=largest, cmap=colours)
        axes[3].set_title("Learned reward (seed 0)")
        figure.colorbar(rewards, ax=axes[3], label="x", shrink=0.85)
        for ax in axes:
            prepare_grid(ax, options)
        return figure

    save_figure(folder, "maps", draw)
