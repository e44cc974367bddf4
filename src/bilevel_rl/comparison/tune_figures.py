"""A search of parameters: what was tried, how the best so far fell, and what that cost."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from bilevel_rl.figures.curves import SMALLEST_SHOWN
from bilevel_rl.figures.style import Style, save_figure
from bilevel_rl.runs.folder import RunFolder

COLUMNS = 3
"""Parameters side by side."""


class Trials(NamedTuple):
    """What a search tried, in order. Φ is infinite where a seed diverged."""

    objectives: Float[np.ndarray, " trials"]
    transitions: Int[np.ndarray, " trials"]
    optimal_objective: float
    parameters: dict[str, Float[np.ndarray, " trials"]]

    @property
    def best(self) -> int:
        """Number of the best trial, the first of equals."""
        return int(np.argmin(self.objectives))

    @property
    def gaps(self) -> Float[np.ndarray, " trials"]:
        """Φ − Φ*, not below what is shown."""
        return np.maximum(self.objectives - self.optimal_objective, SMALLEST_SHOWN)


def read_trials(folder: RunFolder) -> Trials:
    """The trials of a search.

    Raises:
        RunFolderError: the search has not come to its end.
    """
    data = folder.read_arrays("tuning")
    parameters = {str(name): column for name, column in zip(data["names"], data["parameters"].T, strict=True)}
    return Trials(data["objectives"], data["transitions"], float(data["optimal_objective"]), parameters)


def draw_tuning(folder: RunFolder):
    """Gaps against trials and against all transitions spent, and against each parameter."""
    trials = read_trials(folder)
    numbers, spent = np.arange(len(trials.gaps)), np.cumsum(trials.transitions)
    is_free = not spent.any()

    def draw_history(style: Style) -> Figure:
        figure = Figure(figsize=(5.2 if is_free else 9.5, 3.8))
        axes = np.atleast_1d(figure.subplots(1, 1 if is_free else 2, sharey=True))
        _draw_history(axes[0], numbers, trials, style)
        axes[0].set(xlabel="trial", ylabel="final Φ(x) − Φ*, mean over the seeds", title="What each trial came to")
        axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
        if not is_free:
            _draw_history(axes[1], spent, trials, style)
            axes[1].set(xlabel="environment transitions spent, all trials and seeds", title="The same against its cost")
            axes[1].set_xlim(left=0)
            axes[1].xaxis.set_major_locator(MaxNLocator(5))
            axes[1].xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M" if value >= 1e5 else f"{value:g}")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
        return figure

    def draw_parameters(style: Style) -> Figure:
        rows = -(-len(trials.parameters) // COLUMNS)
        figure = Figure(figsize=(9.5, 0.4 + 2.7 * rows))
        panels = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False)
        for axes, (name, values) in zip(panels.flat, trials.parameters.items(), strict=False):
            _draw_trials(axes, values, trials, style)
            axes.set_xlabel(name)
            if values.min() > 0:
                _scale_logarithmically(axes, values)
        for axes in panels.flat[len(trials.parameters) :]:
            axes.axis("off")
        for axes in panels[:, 0]:
            axes.set_ylabel("final Φ(x) − Φ*")
        figure.legend(
            *panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small"
        )
        return figure

    save_figure(folder, "tuning", draw_history)
    save_figure(folder, "parameters", draw_parameters)


def _draw_trials(axes: Axes, places: np.ndarray, trials: Trials, style: Style):
    """A dot for each trial, a cross at the top where a seed diverged, a ring around the best."""
    gaps, is_finite = trials.gaps, np.isfinite(trials.gaps)
    axes.plot(places[is_finite], gaps[is_finite], "o", markersize=5, alpha=0.75, markeredgewidth=0, label="trial")
    if not is_finite.all():
        top = np.full((~is_finite).sum(), 0.97)
        axes.plot(
            places[~is_finite],
            top,
            "x",
            color=style.path,
            transform=axes.get_xaxis_transform(),
            label="trial with a seed that diverged",
        )
    axes.plot(
        places[trials.best],
        gaps[trials.best],
        "o",
        markersize=11,
        markerfacecolor="none",
        markeredgewidth=1.8,
        color=style.accent,
        label="best trial",
    )
    axes.set_yscale("log")


def _scale_logarithmically(axes: Axes, values: np.ndarray):
    """A logarithmic horizontal axis with three to six plain numbers on it."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if values.max() < 20 * values.min() else (1,)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_history(axes: Axes, places: np.ndarray, trials: Trials, style: Style):
    best = np.minimum.accumulate(trials.gaps)
    axes.step(places, np.where(np.isfinite(best), best, np.nan), where="post", color=style.path, label="best so far")
    _draw_trials(axes, places, trials, style)


def write_trials(folder: RunFolder):
    """Writes `trials.md`: all trials, best first."""
    trials = read_trials(folder)
    header = ["trial", "final Φ", "final Φ − Φ*", *trials.parameters]
    lines = [header, ["---"] * len(header)]
    for number in np.argsort(trials.objectives, kind="stable"):
        objective = trials.objectives[number]
        results = [f"{objective:.4f}", f"{objective - trials.optimal_objective:.4f}"]
        values = [f"{column[number]:g}" for column in trials.parameters.values()]
        lines.append([str(number), *(results if np.isfinite(objective) else ["diverged", "–"]), *values])
    folder.write_text("trials.md", "".join(f"| {' | '.join(line)} |\n" for line in lines))


def summarize_tuning(folder: RunFolder) -> str:
    """One line about the outcome."""
    trials = read_trials(folder)
    best = trials.objectives[trials.best]
    diverged = np.isinf(trials.objectives).sum()
    return (
        f"best of {len(trials.objectives)} trials: trial {trials.best}, final Φ {best:.4f}, Φ − Φ* "
        f"{best - trials.optimal_objective:.4f}; {diverged} diverged; {trials.transitions.sum():,} transitions spent"
    )
