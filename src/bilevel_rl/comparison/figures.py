"""Comparison of methods: what their runs came to, in figures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure

from bilevel_rl.figures.curves import SMALLEST_SHOWN
from bilevel_rl.figures.style import COLOURS, Style, label_transitions, save_figure
from bilevel_rl.figures.tables import read_curves
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.statistics import bootstrap_interval, interquartile_mean


class Outcome(NamedTuple):
    """The final runs of a method."""

    transitions: Int[np.ndarray, " points"]
    objectives: Float[np.ndarray, "seeds points"]
    has_diverged: Bool[np.ndarray, " seeds"]
    seconds: float

    @property
    def is_reference(self) -> bool:
        """Whether the method takes no transitions, so that it is a line to compare with."""
        return not self.transitions.any()

    @property
    def final_objectives(self) -> Float[np.ndarray, " seeds"]:
        """Φ at the end. A seed that diverged has nothing to show: it counts as its start, or as its end where worse."""
        first, last = self.objectives[:, 0], self.objectives[:, -1]
        return np.where(self.has_diverged, np.maximum(first, last), last)


def read_outcome(folders: Sequence[RunFolder], seconds: float) -> Outcome:
    """The outcome of a method from the run folders of its seeds, one each.

    Args:
        folders: of finished runs.
        seconds: that the iterations of a seed take.

    Raises:
        RunFolderError: a run has no metrics.
    """
    curves = [read_curves(folder, "upper_objective") for folder in folders]
    longest = max(curves, key=lambda curve: len(curve.num_transitions))
    objectives = [np.pad(c.values[0], (0, len(longest.num_transitions) - c.values.shape[1]), "edge") for c in curves]
    has_diverged = np.array([bool(folder.read_divergences()) for folder in folders])
    return Outcome(longest.num_transitions, np.stack(objectives), has_diverged, seconds)


def read_outcomes(folder: RunFolder) -> tuple[dict[str, Outcome], float]:
    """The outcome of every method of a comparison, and Φ at the known optimum.

    Raises:
        RunFolderError: the comparison has not come that far.
    """
    data = folder.read_arrays("comparison")
    outcomes = {
        str(name): Outcome(
            data[f"{name} transitions"],
            data[f"{name} objectives"],
            data[f"{name} has_diverged"],
            float(data[f"{name} seconds"]),
        )
        for name in data["methods"]
    }
    return outcomes, float(data["optimal_objective"])


def draw_comparison(folder: RunFolder):
    """Φ against transitions and against time, and the final gap of every seed."""
    outcomes, optimum = read_outcomes(folder)
    sampled = {name: outcome for name, outcome in outcomes.items() if not outcome.is_reference}
    bands = {
        name: (interquartile_mean(outcome.objectives), *bootstrap_interval(outcome.objectives))
        for name, outcome in sampled.items()
    }

    def draw_curves(style: Style) -> Figure:
        figure = Figure(figsize=(14, 4.4))
        objective, gap, against_time = figure.subplots(1, 3)
        for place, (name, band) in enumerate(bands.items()):
            outcome = sampled[name]
            seconds = outcome.seconds * outcome.transitions / outcome.transitions[-1]
            gaps = [np.maximum(curve - optimum, SMALLEST_SHOWN) for curve in band]
            # Colours repeat after six methods; dots then tell them apart.
            marks = {"marker": "o", "markersize": 4, "markevery": 6} if place >= len(COLOURS) else {}
            for axes, cost, (mean, low, high) in (
                (objective, outcome.transitions, band),
                (gap, outcome.transitions, gaps),
                (against_time, seconds, gaps),
            ):
                (line,) = axes.plot(cost, mean, label=name, **marks)
                axes.fill_between(cost, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        gap.set_yscale("log")
        lowest_shown = gap.get_ylim()[0]
        objective.axhline(optimum, color=style.accent, linestyle="--", linewidth=1.2, label="optimum Φ*")
        for name, outcome in outcomes.items():
            if outcome.is_reference:
                final = float(outcome.final_objectives[0])
                label = f"{name} (no transitions)"
                for axes, level in ((objective, final), (gap, max(final - optimum, SMALLEST_SHOWN))):
                    axes.axhline(level, color="#888888", linestyle=":", linewidth=1.4, label=label)
        objective.set(ylabel="Φ(x)", title="What the leader pays: interquartile mean, 95 %")
        gap.set(ylabel="Φ(x) − Φ*", title="Gap to the optimum", ylim=(lowest_shown, None))
        against_time.set(yscale="log", xlabel="seconds of the compiled loop per seed", title="The same against time")
        for axes in (objective, gap):
            label_transitions(axes)
        figure.legend(*objective.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
        return figure

    def draw_gaps(style: Style) -> Figure:
        figure = Figure(figsize=(7, 1.2 + 0.42 * len(outcomes)))
        axes = figure.subplots()
        for place, outcome in enumerate(outcomes.values()):
            gaps = np.maximum(outcome.final_objectives - optimum, SMALLEST_SHOWN)
            spread = np.linspace(-0.22, 0.22, len(gaps)) if len(gaps) > 1 else np.zeros(1)
            axes.plot(gaps, place + spread, "o", markersize=4, alpha=0.7, markeredgewidth=0)
            mean = max(float(interquartile_mean(outcome.final_objectives)) - optimum, SMALLEST_SHOWN)
            axes.plot([mean, mean], [place - 0.32, place + 0.32], color=style.path, linestyle="-", linewidth=2)
        axes.set_yticks(range(len(outcomes)), list(outcomes))
        axes.invert_yaxis()
        axes.set(xscale="log", xlabel="final Φ(x) − Φ*", title="Every seed, and the interquartile mean")
        return figure

    save_figure(folder, "comparison", draw_curves)
    save_figure(folder, "final_gaps", draw_gaps)
