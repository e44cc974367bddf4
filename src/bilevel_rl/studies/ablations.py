"""Ablations: break the method one way at a time, and see how it looks (docs/reports/ablations.md)."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bilevel_rl import checks, exact, figures
from bilevel_rl.algorithms import Followers, SingleLoopActorCritic
from bilevel_rl.algorithms.step_sizes import PowerDecay, ScheduleWarning, StepSizes
from bilevel_rl.figures.curves import SMALLEST_SHOWN, draw_band
from bilevel_rl.figures.style import Style, label_transitions, save_figure
from bilevel_rl.figures.tables import Curves, read_curves
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.problems import Grid, goal_position
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import RunConfig
from bilevel_rl.studies.experiment import Experiment, Finished

PANELS_PER_ROW = 3

OTHER_EXPONENTS = {
    "upper": (0.6, 1.3),
    "actor": (0.3, 0.8),
    "critic": (0.3, 0.8),
    "penalty": (0.05, 0.45),
    "entropy": (0.0, 0.4),
}
"""One smaller and one larger than the paper's, which are 9/10, 1/2, 1/2, 3/20, 1/20."""

AblationName = Literal["entropy", "exponents", "penalty", "time-scales", "entropy-decay", "little-entropy"]


class Panel(NamedTuple):
    """One panel of the figure.

    Attributes:
        column: a column of metrics.csv, or "gap" for Φ(x) − Φ*, or "path" for (x0, x1) of the first seed.
        title: what it says above.
        variants: which to show; all by default.
        is_log: whether the vertical axis is logarithmic.
    """

    column: str
    title: str
    variants: tuple[str, ...] = ()
    is_log: bool = True


class Ablation(NamedTuple):
    """One way to break the method.

    Attributes:
        problem: what is solved.
        num_chains: parallel Markov chains per policy.
        variants: step sizes by name, the reference first. They differ in numbers only, so they share their compilation.
        panels: of the figure.
    """

    problem: BilevelProblem
    num_chains: int
    variants: dict[str, StepSizes]
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Ablations(Experiment):
    """Break the method one way at a time, and see how it looks (20 to 60 s a study)."""

    name: ClassVar[str] = "ablations"
    results: ClassVar[str] = "reference"

    study: AblationName = "time-scales"
    """what is varied"""
    run: RunConfig = field(default_factory=lambda: RunConfig(num_iterations=40_000, log_every=1_000))

    def check(self):
        """Also says with a single warning which variants' step sizes are out of order on purpose."""
        checks.one_of("study", self.study, ABLATIONS)
        super().check()
        broken = {
            name: ", ".join(violation.partition(":")[0] for violation in violations)
            for name, step_sizes in ABLATIONS[self.study]().variants.items()
            if (violations := step_sizes.violations())
        }
        if broken:
            listed = "; ".join(f"{name} ({conditions})" for name, conditions in broken.items())
            warnings.warn(f"variants break conditions on purpose: {listed}", ScheduleWarning, stacklevel=2)

    def algorithms(self) -> dict[str, SingleLoopActorCritic]:
        """One algorithm for each variant, the reference first."""
        ablation = ABLATIONS[self.study]()
        with warnings.catch_warnings(action="ignore", category=ScheduleWarning):
            return {
                name: SingleLoopActorCritic(ablation.problem, step_sizes, Followers(ablation.num_chains, coupled=False))
                for name, step_sizes in ablation.variants.items()
            }

    def measure(self, finished: Mapping[str, Finished]) -> dict[str, np.ndarray]:
        """The optimum of the problem."""
        problem = next(iter(finished.values())).algorithm.problem
        # At small τ several stationary points are close together; annealing from a large τ leads to the lowest.
        weights = np.geomspace(1.0, self.run.evaluation_entropy_weight, 5).tolist()
        starts = [problem.initial_x, np.array([5.0, 3.0]) * (problem.mdp.num_states**0.5 - 1) / 9]
        optimum = exact.solve(problem, entropy_weight=weights, starts=starts)
        return {"optimum": optimum.x, "optimal_objective": np.array(optimum.objective)}

    def plot(self, folder: RunFolder):
        """Draws the figure of a run folder."""
        ablation = ABLATIONS[self.study]()
        draw_ablation(folder, tuple(ablation.variants), ablation.panels)

    def summarize(self, folder: RunFolder) -> str:
        """One line about the outcome."""
        optimal = float(folder.read_arrays(self.results)["optimal_objective"])
        gaps = {
            name: np.median(figures.final_values(RunFolder(folder.path / name), "upper_objective"))
            for name in ABLATIONS[self.study]().variants
        }
        return f"Φ* = {optimal:.4f}; final Φ − Φ*, median: " + ", ".join(
            f"{name} {gap - optimal:.4f}" for name, gap in gaps.items()
        )


def _gap(*variants: str) -> Panel:
    return Panel("gap", "Gap to the optimum, Φ(x) − Φ*", variants)


def _entropy() -> Ablation:
    def constant(entropy: float) -> StepSizes:
        return StepSizes.constant_entropy(upper=0.05, entropy=entropy, offset=2_000.0)

    decaying = StepSizes.decaying(upper=0.05, entropy=1.0, offset=2_000.0, exponents=(0.95, 0.5, 0.5, 0.21, 0.1))
    variants = {"decaying-1": decaying} | {f"constant-{τ:g}": constant(τ) for τ in (1.0, 0.3, 0.1, 0.03)}
    panels = (
        _gap(),
        Panel("lower_residual", "What the follower misses"),
        Panel("x0", "x, row of the goal", is_log=False),
    )
    return Ablation(goal_position(installation_cost=0.3), 16, variants, panels)


def _exponents() -> Ablation:
    offset = 1_000.0
    paper = StepSizes.decaying(offset=offset)

    def changed(name: str, exponent: float) -> StepSizes:
        return dataclasses.replace(paper, **{name: PowerDecay(getattr(paper, name).initial, exponent, offset)})

    variants = {"paper": paper}
    panels = []
    for name, others in OTHER_EXPONENTS.items():
        varied = {f"{name}-{value:g}": changed(name, value) for value in others}
        panels.append(Panel("gap", f"Φ(x) − Φ*, {name} exponent", ("paper", *varied)))
        variants |= varied
    panels.append(
        Panel(
            "lower_residual", "What the follower misses", ("paper", *(f"actor-{p:g}" for p in OTHER_EXPONENTS["actor"]))
        )
    )
    return Ablation(goal_position(), 16, variants, tuple(panels))


def _penalty() -> Ablation:
    variants = {f"w-{w:g}": StepSizes.decaying(penalty=w) for w in (1.0, 0.3, 0.1, 0.03, 0.01)}
    panels = (
        _gap(),
        Panel("upper_noise", "Noise of one sample of (U)"),
        Panel("x_movement", "How far x moves between log points"),
        Panel("path", "Path of x (seed 0)", ("w-1", "w-0.1", "w-0.01")),
    )
    return Ablation(goal_position(), 16, variants, panels)


def _time_scales() -> Ablation:
    variants = {
        "reference": StepSizes.decaying(),
        "actor-10": StepSizes.decaying(actor=10.0),
        "actor-100": StepSizes.decaying(actor=100.0),
        "upper-1": StepSizes.decaying(upper=1.0),
        "upper-10": StepSizes.decaying(upper=10.0),
        "follower-0.01": StepSizes.decaying(actor=0.01, critic=0.04),
    }
    panels = (
        _gap(),
        Panel("lower_mean_entropy", "Entropy of the policy, nats", is_log=False),
        Panel("lower_residual", "What the follower misses"),
        Panel("path", "Path of x (seed 0)", ("reference", "actor-100", "upper-10")),
    )
    return Ablation(goal_position(), 16, variants, panels)


def _entropy_decay() -> Ablation:
    slow = StepSizes.decaying(upper=0.01, penalty=0.3)
    fast = {
        f"exponent-{p:g}": dataclasses.replace(slow, entropy=PowerDecay(0.1, p, 1_000.0)) for p in (0.5, 1.0, 2.0, 3.0)
    }
    panels = (
        _gap(),
        Panel("hyper_gradient_norm", "Slope of Φ at the current τ"),
        Panel("hyper_gradient_norm_at_first_entropy", "Slope at the same x, at the first τ"),
        Panel("path", "Path of x (seed 0)", ("reference", "exponent-3")),
    )
    return Ablation(goal_position(), 64, {"reference": slow, **fast}, panels)


def _little_entropy() -> Ablation:
    size, slip, discount = 6, 0.1, 0.95
    problem = goal_position(size, slip, discount, target=(5, 1), initial_x=(1, 4), width=3.0)
    corner = Grid(size, slip).mdp(start=[(0, 0)], discount=discount)
    problem = dataclasses.replace(problem, environment=corner)
    variants = {f"τ-{τ:g}": StepSizes.decaying(entropy=τ, offset=5_000.0) for τ in (0.3, 0.1, 0.03, 0.01, 0.003)}
    panels = (
        _gap(),
        Panel("lower_mean_entropy", "Entropy of the policy, nats", is_log=False),
        Panel("missed_occupancy", "Share of the best answer's time in unseen states", is_log=False),
        Panel("lower_residual", "What the follower misses"),
    )
    return Ablation(problem, 16, variants, panels)


ABLATIONS = {
    "entropy": _entropy,
    "exponents": _exponents,
    "penalty": _penalty,
    "time-scales": _time_scales,
    "entropy-decay": _entropy_decay,
    "little-entropy": _little_entropy,
}


def draw_ablation(folder: RunFolder, variants: Sequence[str], panels: Sequence[Panel]):
    """One panel after the other; a variant has one colour in all panels that show all variants.

    Args:
        folder: of an experiment, with `reference.npz` and a subfolder a variant.
        variants: names of the subfolders.
        panels: what to show.
    """
    reference = folder.read_arrays("reference")
    folders = {name: RunFolder(folder.path / name) for name in variants}

    def draw(style: Style) -> Figure:
        num_columns = len(panels) if len(panels) <= PANELS_PER_ROW + 1 else PANELS_PER_ROW
        num_rows = -(-len(panels) // num_columns)
        figure = Figure(figsize=(4.2 * num_columns, 3.7 * num_rows))
        for axes, panel in zip(figure.subplots(num_rows, num_columns).flat, panels, strict=False):
            shown = {name: folders[name] for name in panel.variants or variants}
            if panel.column == "path":
                colours = {name: f"C{variants.index(name)}" for name in shown}
                _draw_paths(axes, shown, colours, reference["optimum"], style)
            else:
                _draw_curves(axes, panel, shown, float(reference["optimal_objective"]))
            axes.set_title(panel.title)
            axes.legend(fontsize="small")
        return figure

    save_figure(folder, "ablation", draw)


def _draw_curves(axes: Axes, panel: Panel, folders: dict[str, RunFolder], optimal_objective: float):
    for name, folder in folders.items():
        curves = _gap_curves(folder, optimal_objective) if panel.column == "gap" else read_curves(folder, panel.column)
        if panel.is_log:
            curves = curves._replace(values=np.maximum(curves.values, SMALLEST_SHOWN))
        draw_band(axes, curves, name, levels=((25, 75, 0.18),))
    if panel.is_log:
        axes.set_yscale("log")
    label_transitions(axes)


def _gap_curves(folder: RunFolder, optimal_objective: float) -> Curves:
    objective = read_curves(folder, "upper_objective")
    return objective._replace(values=objective.values - optimal_objective)


def _draw_paths(axes: Axes, folders: dict[str, RunFolder], colours: dict[str, str], optimum: np.ndarray, style: Style):
    for name, folder in folders.items():
        first, second = (read_curves(folder, f"x{i}").values[0] for i in range(2))
        axes.plot(second, first, color=colours[name], marker=".", linewidth=1, markersize=3, label=name)
    axes.plot(optimum[1], optimum[0], "*", color=style.accent, markersize=13, label="optimum")
    axes.set(xlabel="x1", ylabel="x0", aspect="equal")
    axes.invert_yaxis()  # As on the grid: row 0 on top.
