"""Animations of followers: pictures in few colours, so that a GIF is small."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from bilevel_rl.figures.style import LIGHT
from bilevel_rl.runs.folder import RunFolder

Point = tuple[float, float]
"""Column and row, in pixels as shown."""

OVERSAMPLING = 2
"""Pictures are drawn larger than shown, so that edges are smooth."""


class Canvas:
    """A white picture to draw on; all lengths are in pixels as shown.

    Args:
        width: of the picture.
        height: of the picture.
    """

    def __init__(self, width: int, height: int):
        self._size = width, height
        self._image = Image.new("RGB", (width * OVERSAMPLING, height * OVERSAMPLING), "white")
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: Sequence[Point], colour: Any, width: int = 1):
        """From point to point."""
        self._draw.line(_finer(points), fill=colour, width=width * OVERSAMPLING)

    def polygon(self, points: Sequence[Point], colour: Any):
        """Filled, without an outline."""
        self._draw.polygon(_finer(points), fill=colour)

    def disc(self, centre: Point, radius: float, colour: Any):
        """Filled."""
        self._draw.ellipse(_box(centre, radius), fill=colour)

    def arc(self, centre: Point, radius: float, degrees: Point, colour: Any, width: int):
        """From the first to the second angle, clockwise from three o'clock."""
        self._draw.arc(_box(centre, radius), *degrees, fill=colour, width=width * OVERSAMPLING)

    def text(self, text: str, row: float = 4):
        """At the left."""
        self._draw.text(_finer([(8, row)])[0], text, fill=LIGHT.path, font_size=12 * OVERSAMPLING)

    def picture(self) -> Image.Image:
        """What was drawn."""
        return self._image.resize(self._size, Image.Resampling.LANCZOS)


def _finer(points: Sequence[Point]) -> list[Point]:
    return [(column * OVERSAMPLING, row * OVERSAMPLING) for column, row in np.asarray(points, float).tolist()]


def _box(centre: Point, radius: float) -> list[Point]:
    (column, row) = centre
    return _finer([(column - radius, row - radius), (column + radius, row + radius)])


def save_animation(
    folder: RunFolder,
    name: str,
    pictures: Iterable[Sequence[Image.Image]],
    milliseconds: int,
    *,
    abreast: bool = False,
):
    """Writes `figures/name.gif`, a loop through moments, each one or more pictures of one size.

    Args:
        folder: of the run.
        name: of the file.
        pictures: of every moment.
        milliseconds: that a moment takes.
        abreast: the pictures stand beside and not below each other.
    """
    frames = [_frame(together, abreast) for together in pictures]
    frames[0].save(
        folder.figures() / f"{name}.gif",
        save_all=True,
        append_images=frames[1:],
        duration=milliseconds,
        loop=0,
        optimize=True,
    )


def _frame(pictures: Sequence[Image.Image], abreast: bool) -> Image.Image:
    width, height = pictures[0].size
    size = (width * len(pictures), height) if abreast else (width, height * len(pictures))
    frame = Image.new("RGB", size, "white")
    for i, picture in enumerate(pictures):
        frame.paste(picture, (i * width, 0) if abreast else (0, i * height))
    return frame.quantize(64, dither=Image.Dither.NONE)
