"""Curves over the run: objective, step sizes, residuals."""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bilevel_rl.figures.style import Style, label_transitions, save_figure
from bilevel_rl.figures.tables import Curves, columns_of, is_sampled, read_curves, seeds_of
from bilevel_rl.runs.folder import RunFolder

SMALLEST_SHOWN = 1e-6
"""Gaps and residuals below this are rounding error of the reference; logarithmic axes end here."""

STEP_SIZES = {
    "upper_step": "ζ upper",
    "actor_step": "α actor",
    "critic_step": "β critic",
    "penalty": "w penalty",
    "entropy_weight": "τ entropy",
}

OBJECTIVES = {
    "upper_objective": "Φ(x), the follower having optimized",
    "upper_value": "f(x, π), the policy learned so far",
}
"""What the leader pays, the exact one first."""

RESIDUALS = {"lower_residual": "lower policy, to π*(x)", "penalized_residual": "penalized policy, to π$^L$(x)"}

TD_ERRORS = {f"{role}_mean_squared_td_error": f"{role} critic" for role in ("lower", "penalized")}

HALF_AND_ALL = ((0, 100, 0.12), (25, 75, 0.22))
"""Percentiles between which a band is drawn, and how opaque."""


PANELS = {
    "What the leader pays": OBJECTIVES,
    "Return that the policies miss": {"lower_residual": "lower policy", "penalized_residual": "penalized policy"},
    "The leader's variable": {f"x{i}": f"x{i}" for i in range(16)},
}
"""What is drawn of a run, where it has these columns."""


def draw_band(
    axes: Axes,
    curves: Curves,
    label: str,
    levels: Sequence[tuple[float, float, float]] = HALF_AND_ALL,
    *,
    is_log: bool = False,
):
    """Median over the seeds, and by default the range of the middle half and of all of them; may be logarithmic."""
    values = np.maximum(curves.values, SMALLEST_SHOWN) if is_log else curves.values
    if is_log:
        axes.set_yscale("log")
    (line,) = axes.plot(curves.num_transitions, np.median(values, axis=0), label=label)
    for low, high, alpha in levels:
        lower, upper = np.percentile(values, [low, high], axis=0)
        axes.fill_between(curves.num_transitions, lower, upper, color=line.get_color(), alpha=alpha, linewidth=0)


def draw_curves(folder: RunFolder, optimal_objective: float | None = None):
    """Every figure of this file whose columns a run has measured."""
    columns = columns_of(folder)
    if is_sampled(folder):
        if columns >= TD_ERRORS.keys():
            draw_sampled_curves(folder)
    else:
        if "upper_objective" in columns:
            draw_learning_curves(folder, optimal_objective)
        if columns >= RESIDUALS.keys():
            draw_residuals(folder)
    if columns >= STEP_SIZES.keys():
        draw_step_sizes(folder)


def draw_learning_curves(folder: RunFolder, optimal_objective: float | None = None):
    """Φ(x_k) against transitions; where the optimum is known with it, and with the gap to it on a logarithmic scale."""
    curves = {metric: read_curves(folder, metric) for metric in OBJECTIVES}
    objective = curves["upper_objective"]

    def draw(style: Style) -> Figure:
        figure = Figure(figsize=(9.5 if optimal_objective is not None else 6, 3.8))
        left, *others = figure.subplots(1, 1 if optimal_objective is None else 2, squeeze=False)[0]
        for metric, label in OBJECTIVES.items():
            draw_band(left, curves[metric], label)
        left.set(ylabel="upper objective", title=f"What the leader pays ({seeds_of(len(objective.values))})")
        if optimal_objective is not None:
            left.axhline(optimal_objective, color=style.accent, linestyle="--", linewidth=1.2, label="optimum Φ*")
            draw_band(others[0], objective.above(optimal_objective), "Φ(x) − Φ*", is_log=True)
            others[0].set(ylabel="Φ(x) − Φ*", title="Gap to the optimum: median, half and all of the seeds")
        left.legend()
        for axes in (left, *others):
            label_transitions(axes)
        return figure

    save_figure(folder, "learning_curves", draw)


def draw_sampled_curves(folder: RunFolder):
    """What the chains showed of the leader's cost, and the critics' errors: for models too large to measure exactly."""
    value = read_curves(folder, "upper_value")
    errors = {label: read_curves(folder, metric) for metric, label in TD_ERRORS.items()}

    def draw(style: Style) -> Figure:
        figure = Figure(figsize=(9.5, 3.8))
        left, right = figure.subplots(1, 2)
        draw_band(left, value, "f(x, π), estimated by the chains")
        left.set(ylabel="upper objective", title=f"What the leader pays, sampled ({seeds_of(len(value.values))})")
        for label, error in errors.items():
            draw_band(right, error, label, is_log=True)
        right.set(ylabel="mean δ²", title="Squared temporal-difference errors")
        for axes in (left, right):
            axes.legend()
            label_transitions(axes)
        return figure

    save_figure(folder, "sampled_curves", draw)


def draw_step_sizes(folder: RunFolder):
    """The five step-size sequences, and the ratios that the method keeps small."""
    curves = {name: read_curves(folder, name) for name in STEP_SIZES}

    def draw(style: Style) -> Figure:
        figure = Figure(figsize=(9.5, 3.8))
        left, right = figure.subplots(1, 2)
        for name, label in STEP_SIZES.items():
            left.plot(curves[name].num_iterations, curves[name].values[0], label=label)
        left.set(yscale="log", ylabel="step size", title="The five sequences")
        left.set_ylim(bottom=left.get_ylim()[0] / 8)
        names = list(STEP_SIZES)
        for fast, slow in itertools.pairwise(names):
            ratio = curves[fast].values[0] / curves[slow].values[0]
            label = f"{STEP_SIZES[fast].split()[0]} / {STEP_SIZES[slow].split()[0]}"
            right.plot(curves[fast].num_iterations, ratio / ratio[0], label=label)
        right.set(ylim=(0, None), ylabel="ratio relative to its start", title="Their ratios: none may grow")
        for axes in (left, right):
            axes.set_xlabel("iteration")
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.legend(loc="lower left", ncols=3)
        return figure

    save_figure(folder, "step_sizes", draw)


def draw_residuals(folder: RunFolder):
    """How far both policies are from the optimal answer to the current x."""
    curves = {metric: read_curves(folder, metric) for metric in RESIDUALS}

    def draw(style: Style) -> Figure:
        figure = Figure(figsize=(6, 3.8))
        axes = figure.subplots()
        for metric, label in RESIDUALS.items():
            draw_band(axes, curves[metric], label, is_log=True)
        axes.set(ylabel="regularized return missed", title="Lower-level residuals")
        axes.legend()
        label_transitions(axes)
        return figure

    save_figure(folder, "residuals", draw)


def draw_panels(folder: RunFolder):
    """`figures/curves`, all that was measured of x and of the leader side by side."""
    columns = columns_of(folder)
    measured = {title: {name: of[name] for name in of if name in columns} for title, of in PANELS.items()}
    panels = {title: of for title, of in measured.items() if of}

    def draw(style: Style) -> Figure:
        figure = Figure(figsize=(5 * len(panels), 3.8))
        for axes, (title, labels) in zip(np.ravel(figure.subplots(1, len(panels))), panels.items(), strict=True):
            for name, label in labels.items():
                draw_band(axes, read_curves(folder, name), label)
            axes.set(title=title)
            axes.legend(fontsize="small")
            label_transitions(axes)
        return figure

    save_figure(folder, "curves", draw)
