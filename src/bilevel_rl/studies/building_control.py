"""Building control: can the leader design a building whose dynamics its heating controller has to live with?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bilevel_rl import checks
from bilevel_rl.algorithms import Followers, SingleLoopActorCritic, UpperSteps
from bilevel_rl.exact import lqr
from bilevel_rl.figures.style import COLOURS, Style, label_transitions, save_figure
from bilevel_rl.outcome import Optimum
from bilevel_rl.policies import NeuralActorCritic, linear_quadratic
from bilevel_rl.problems import BuildingControl
from bilevel_rl.problems.building import POWER
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.run import RunResult
from bilevel_rl.studies.config import RunConfig, ScheduleConfig
from bilevel_rl.studies.experiment import Finished, SingleRun

AVERAGING = 3.0
"""The answer is the mean of all x_k, weighted as k to this power."""

STD = 0.7
"""Spread of the first actions; that of the best answer is 0.77 at the start and 0.63 at the optimum."""

NUMBERS = ("insulation\nnorth", "insulation\nsouth", "airflow\nnorth", "airflow\nsouth")
PLACES = ("zone 0", "zone 1", "zone 2", "zone 3", "unit 0", "unit 1")


@dataclass(frozen=True)
class BuildingControlStudy(BuildingControl, SingleRun):
    """Insulate and ventilate a building, whose heating learns to live with it (a minute)."""

    name: ClassVar[str] = "building-control"
    results: ClassVar[str] = "building"

    width: int = 0
    """of both hidden layers of networks; 0: actions linear in what is seen and values quadratic, all that is needed"""
    run: RunConfig = RunConfig(num_iterations=20_000, log_every=400, evaluation_entropy_weight=0.1)
    schedule: ScheduleConfig = ScheduleConfig(
        schedule="constant-entropy", upper=1e-3, actor=3e-3, critic=0.03, penalty=0.1, offset=5_000.0, num_chains=32
    )

    def algorithm(self) -> SingleLoopActorCritic:
        """What runs; building it checks every option."""
        problem = self.problem()
        if checks.integer("width", self.width, at_least=0):
            policies = NeuralActorCritic.mlp(problem.environment, width=self.width)
        else:
            policies = linear_quadratic(problem.environment, std=STD)
        followers = Followers(self.schedule.num_chains, policies=policies)
        steps = UpperSteps(optax.adam(1.0), averaging=AVERAGING)
        return SingleLoopActorCritic(problem, self.schedule.step_sizes(), followers, upper_steps=steps)

    def measure_run(self, algorithm: SingleLoopActorCritic, result: RunResult) -> dict[str, np.ndarray]:
        """What the x of the metric rows are worth."""
        return self.measure_rows(result.metrics)

    def measure_rows(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Φ at every log point of every seed, the optimum, and the best answers at start, end and optimum."""
        τ, problem = self.run.evaluation_entropy_weight, self.linear_quadratic()
        best = lqr.solve(problem, entropy_weight=τ)
        paths = np.stack([rows[f"x{i}"] for i in range(4)], axis=-1).reshape(-1, self.run.num_seeds, 4)
        objectives = [[lqr.hyper_objective(problem, x, entropy_weight=τ) for x in xs] for xs in paths]
        arrays = {
            "num_transitions": np.unique(rows["num_transitions"]),
            "paths": paths,
            "objectives": np.array(objectives),
            "optimum": best.x,
            "optimal_objective": np.array(best.objective),
        }
        for name, x in (("start", problem.initial_x), ("end", paths[-1, 0]), ("optimum", best.x)):
            moments = lqr.lower_policy(problem, x, entropy_weight=τ).moments
            arrays[f"{name} means"] = moments[-1, :-1] * np.array([1.0] * 4 + [POWER] * 2)
        return arrays

    def best_known(self, folder: RunFolder, single: Finished, *, progress: bool) -> Optimum | None:
        """That of the oracle."""
        data = folder.read_arrays(self.results)
        return Optimum(float(data["optimal_objective"]), data["optimum"], how="exact descent of a linear system")

    def plot(self, folder: RunFolder):
        """Draws the figures of a run folder."""
        super().plot(folder)
        self.draw(folder)

    def draw(self, folder: RunFolder):
        """Draws Φ over transitions, x, and the follower's best answer to it."""
        data = folder.read_arrays(self.results)

        def draw(style: Style) -> Figure:
            figure = Figure(figsize=(13, 4))
            curves, numbers, means = figure.subplots(1, 3)
            _draw_curves(curves, data, style)
            _draw_numbers(numbers, data, style)
            _draw_means(means, data)
            return figure

        save_figure(folder, "building_control", draw)

    def summarize(self, folder: RunFolder) -> str:
        """One line about the outcome."""
        data = folder.read_arrays(self.results)
        best, final = float(data["optimal_objective"]), data["objectives"][-1]
        above = 100 * (final / best - 1)
        return (
            f"Φ = {data['objectives'][0, 0]:.3f} at the start, {best:.4f} at the optimum; the seeds end at most "
            f"{above.max():.2f} % above it, median {np.median(above):.2f} % of {len(above)} seeds"
        )


def _draw_curves(axes: Axes, data: Mapping[str, np.ndarray], style: Style):
    """Φ, worked out exactly at the x of every log point."""
    axes.plot(data["num_transitions"], data["objectives"], color=style.path, linewidth=0.9, alpha=0.6)
    axes.axhline(float(data["optimal_objective"]), color=style.accent, linestyle="--", label="optimum")
    axes.set(ylim=(0, None), ylabel="Φ, exact", title=f"The owner's cost ({data['objectives'].shape[1]} seeds)")
    label_transitions(axes)
    axes.legend()


def _draw_numbers(axes: Axes, data: Mapping[str, np.ndarray], style: Style):
    """x at the start, at the end of every seed, and at the optimum."""
    start, ends = data["paths"][0, 0], data["paths"][-1]
    look: dict[str, Any] = {"linestyle": "none", "color": style.path}
    axes.plot(NUMBERS, start, marker="o", fillstyle="none", label="start", **look)
    for seed, end in enumerate(ends):
        axes.plot(NUMBERS, end, marker="o", alpha=0.5, label=None if seed else "end of each seed", **look)
    axes.plot(NUMBERS, data["optimum"], "x", markersize=11, color=style.accent, label="optimum")
    axes.set(ylim=(-0.03, 1.03), ylabel="share of the most", title="The building")
    axes.tick_params(axis="x", labelsize="small")
    axes.legend(fontsize="small")


def _draw_means(axes: Axes, data: Mapping[str, np.ndarray]):
    """Mean temperature of the zones and mean heat of the units, under the best answer to an x."""
    for i, name in enumerate(("start", "end", "optimum")):
        places = np.arange(len(PLACES)) + 0.27 * (i - 1)
        label = {"end": "end of seed 0"}.get(name, name)
        axes.bar(places, data[f"{name} means"], 0.25, color=COLOURS[(1, 0, 2)[i]], label=label)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xticks(range(len(PLACES)), PLACES, fontsize="small")
    axes.set(ylabel="K above the set point | kW", title="The follower's best answer, in the mean")
    axes.legend(fontsize="small")
