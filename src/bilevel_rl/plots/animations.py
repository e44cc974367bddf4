"""Animations of followers: pictures in few colours, so that a GIF is small."""

from collections.abc import Sequence

from PIL import Image

from bilevel_rl.results import RunFolder

OVERSAMPLING = 2
"""Pictures are drawn larger than shown, so that edges are smooth."""


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width below each other, as a frame."""
    frame = Image.new("RGB", (pictures[0].width, sum(picture.height for picture in pictures)), "white")
    top = 0
    for picture in pictures:
        frame.paste(picture, (0, top))
        top += picture.height
    return frame.quantize(64, dither=Image.Dither.NONE)


def save_animation(folder: RunFolder, name: str, frames: Sequence[Image.Image], milliseconds: int):
    """Writes `figures/name.gif`, which shows every frame for so long, again and again."""
    frames[0].save(
        folder.figures() / f"{name}.gif",
        save_all=True,
        append_images=frames[1:],
        duration=milliseconds,
        loop=0,
        optimize=True,
    )
