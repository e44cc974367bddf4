"""What comparisons and searches came to, in figures."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from bilevel_rl.comparison.outcomes import Trials, read_outcomes, read_trials
from bilevel_rl.figures.curves import SMALLEST_SHOWN
from bilevel_rl.figures.style import COLOURS, Style, label_transitions, save_figure
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.statistics import bootstrap_interval, interquartile_mean

COLUMNS = 3
"""Parameters of a search side by side."""


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
                shown = cost > 0 if axes is not objective else cost >= 0  # A logarithmic axis has no start.
                (line,) = axes.plot(cost[shown], mean[shown], label=name, **marks)
                axes.fill_between(cost[shown], low[shown], high[shown], color=line.get_color(), alpha=0.2, linewidth=0)
        gap.set(xscale="log", yscale="log")  # Some methods are done before others have begun.
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
        gap.set_xlabel("environment transitions per seed")
        against_time.set(
            xscale="log", yscale="log", xlabel="seconds of the compiled loop per seed", title="The same against time"
        )
        label_transitions(objective)
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


def draw_trials(folder: RunFolder):
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
            label_transitions(axes[1])
            axes[1].set(xlabel="environment transitions spent, all trials and seeds", title="The same against its cost")
            axes[1].set_xlim(left=0)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
        return figure

    def draw_parameters(style: Style) -> Figure:
        rows = -(-len(trials.parameters) // COLUMNS)
        figure = Figure(figsize=(9.5, 0.4 + 2.7 * rows))
        panels = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False)
        for axes, (name, values) in zip(panels.flat, trials.parameters.items(), strict=False):
            _mark_trials(axes, values, trials, style)
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


def _mark_trials(axes: Axes, places: np.ndarray, trials: Trials, style: Style):
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
    _mark_trials(axes, places, trials, style)
