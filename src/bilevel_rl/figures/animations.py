"""Animations of followers: pictures in few colours, so that a GIF is small."""

from collections.abc import Iterable, Sequence

from PIL import Image

from bilevel_rl.runs.folder import RunFolder

OVERSAMPLING = 2
"""Pictures are drawn larger than shown, so that edges are smooth."""


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
