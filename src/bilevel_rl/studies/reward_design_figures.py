"""What figures of designed rewards have in common."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from bilevel_rl.figures.style import Style

WHENS = ("before", "after")
TITLES = ("before: the first reward", "after: the reward that the leader drew")


def draw_costs(axes: Axes, data: Mapping[str, np.ndarray], style: Style):
    """The designer's cost of every seed: followers from scratch at the first and the last x, and the run's own."""
    columns = ["first reward", "last reward", "last policy\nof the run"]
    for values in zip(data["before"], data["after"], data["learned"], strict=True):
        axes.plot(columns, values, "o-", color=style.path, alpha=0.6, linewidth=0.8)
    highest = max(1.0, *(data[name].max() for name in (*WHENS, "learned")))
    axes.set(ylabel="designer's cost", ylim=(0, 1.02 * highest), title=f"Designer's cost ({len(data['after'])} seeds)")
