"""What figures of designed rewards have in common: the designer's cost before and after, and the animation."""

from collections.abc import Iterable, Mapping

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from bilevel_rl.plots.style import Style
from bilevel_rl.results import RunFolder

WHENS = ("before", "after")
TITLES = ("before: the first reward", "after: the reward that the leader drew")

OVERSAMPLING = 2
"""Pictures are drawn larger than shown, so that edges are smooth."""


def draw_costs(axes: Axes, data: Mapping[str, np.ndarray], style: Style):
    """The designer's cost of every seed: followers from scratch at the first and the last x, and the run's own."""
    columns = ["first reward", "last reward", "last policy\nof the run"]
    for values in zip(data["before"], data["after"], data["learned"], strict=True):
        axes.plot(columns, values, "o-", color=style.path, alpha=0.6, linewidth=0.8)
    axes.set(ylabel="designer's cost", ylim=(0, 1.02), title=f"Designer's cost ({len(data['after'])} seeds)")


def save_animation(folder: RunFolder, pictures: Iterable[list[Image.Image]], duration: int, *, abreast: bool = False):
    """`figures/follower.gif` from pictures that are shown together, for so many milliseconds each."""
    frames = [_frame(together, abreast) for together in pictures]
    frames[0].save(
        folder.figures() / "follower.gif",
        save_all=True,
        append_images=frames[1:],
        duration=duration,
        loop=0,
        optimize=True,
    )


def _frame(pictures: list[Image.Image], abreast: bool) -> Image.Image:
    """Pictures below or beside each other, in few colours."""
    width, height = pictures[0].size
    size = (width * len(pictures), height) if abreast else (width, height * len(pictures))
    frame = Image.new("RGB", size, "white")
    for i, picture in enumerate(pictures):
        frame.paste(picture, (i * width, 0) if abreast else (0, i * height))
    return frame.quantize(64, dither=Image.Dither.NONE)
