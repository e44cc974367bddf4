"""How figures look: `LIGHT` for the screen (PNG), `PRINT` for paper (PDF, readable in black and white)."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bilevel_rl.runs.folder import RunFolder

COLOURS = ("#0b6e99", "#e09f3e", "#4f772d", "#7b4fa3", "#5c677d", "#8c564b")
"""Told apart also by readers with a colour-vision deficiency, in this order."""

DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))


class Style(NamedTuple):
    """One look.

    Attributes:
        suffix: of the file name.
        parameters: matplotlib's rc parameters.
        landscape: colour map of Φ, low is dark.
        placement: colour map of shares, much is dark.
        accent: what the eye should find first: the optimum.
        path: trajectories of x.
    """

    suffix: str
    parameters: dict[str, Any]
    landscape: str
    placement: str
    accent: str
    path: str


_COMMON: dict[str, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "grid.linewidth": 0.6,
    "grid.color": "#e3e6ea",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "pdf.fonttype": 42,
}

LIGHT = Style(
    suffix=".png",
    parameters=_COMMON | {"axes.prop_cycle": cycler(color=COLOURS), "font.size": 10.5},
    landscape="YlGnBu_r",
    placement="YlOrBr",
    accent="#d1495b",
    path="#1f2d3d",
)
PRINT = Style(
    suffix="-print.pdf",
    parameters=_COMMON
    | {
        "axes.prop_cycle": cycler(color=["black", "#555555", "#888888", "black", "#555555", "#888888"])
        + cycler(linestyle=DASHES),
        "font.size": 9,
        "font.family": "serif",
        "lines.linewidth": 1.2,
    },
    landscape="Greys_r",
    placement="Greys",
    accent="black",
    path="black",
)


_styles: ContextVar[tuple[Style, ...]] = ContextVar("styles", default=(LIGHT,))


@contextlib.contextmanager
def also_for_print() -> Iterator[None]:
    """While it is open, `save_figure` draws every figure for paper too."""
    token = _styles.set((LIGHT, PRINT))
    try:
        yield
    finally:
        _styles.reset(token)


def save_figure(folder: RunFolder, name: str, draw: Callable[[Style], Figure]):
    """Draws a figure and saves it as `figures/name.png`, within `also_for_print` as `figures/name-print.pdf` too."""
    save_figure_at(folder.figures() / name, draw)


def save_figure_at(path: Path, draw: Callable[[Style], Figure]):
    """As `save_figure`, at a path without its suffix."""
    for style in _styles.get():
        with mpl.rc_context(rc=style.parameters):  # pyright: ignore[reportArgumentType]
            figure = draw(style)
            # A fixed date keeps the bytes of a PDF the same when the data are.
            metadata = {"CreationDate": None} if style.suffix.endswith("pdf") else None
            figure.savefig(path.with_name(f"{path.name}{style.suffix}"), metadata=metadata)


def label_transitions(axes: Axes):
    """The horizontal axis of every learning curve."""
    axes.set_xlabel("environment transitions per seed")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M" if value >= 1e5 else f"{value:g}")
