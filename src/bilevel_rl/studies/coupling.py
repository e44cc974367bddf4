"""Coupled against independent chains: how noisy is (U), and where does x end for the same steps?"""

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from matplotlib.figure import Figure

from bilevel_rl import checks, exact, figures
from bilevel_rl.algorithms import Followers, SingleLoopActorCritic
from bilevel_rl.algorithms.step_sizes import PowerDecay, ScheduleWarning
from bilevel_rl.figures.curves import draw_band
from bilevel_rl.figures.style import Style, label_transitions, save_figure
from bilevel_rl.figures.tables import Curves
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.problems import Grid, goal_position
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import RunConfig, ScheduleConfig
from bilevel_rl.studies.experiment import Experiment, Finished

CHAINS = ("independent", "coupled")
PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01)
ENTROPY_WEIGHTS = (0.1, 0.03)
"""w and τ at whose fixed points the variance of (U) is worked out."""


@dataclass(frozen=True)
class Coupling(Experiment):
    """Coupled against independent chains at a hard penalty that is held: noise of (U), and where x ends (a minute)."""

    name: ClassVar[str] = "coupling"
    results: ClassVar[str] = "coupling"

    run: RunConfig = RunConfig(num_seeds=10, num_iterations=62_500, log_every=1_250)
    schedule: ScheduleConfig = ScheduleConfig(upper=0.005, penalty=0.1)
    size: int = 10
    """cells on a side of the grid; its pairs of state and action, squared, are worked with"""
    target: tuple[float, float] = (7.0, 3.0)
    """cell (row, column) where the leader wants the follower"""
    initial_x: tuple[float, float] = (2.0, 7.0)
    """where the goal is placed at the start"""
    measured_at: tuple[float, float] = (5.0, 5.0)
    """x at which the variances are worked out, half way from the start to the target"""

    def problem(self) -> BilevelProblem:
        """What is solved."""
        return goal_position(size=self.size, target=self.target, initial_x=self.initial_x)

    def algorithms(self) -> dict[str, SingleLoopActorCritic]:
        """Both ways of sampling, with the same steps; building them checks every option."""
        schedule = checks.instance("schedule", self.schedule, ScheduleConfig)
        Grid(self.size).check_position("measured_at", self.measured_at)
        held = dataclasses.replace(schedule.step_sizes(), penalty=PowerDecay(schedule.penalty, 0.0))
        problem = self.problem()
        # That w does not decay is what is studied.
        with warnings.catch_warnings(action="ignore", category=ScheduleWarning):
            return {
                name: SingleLoopActorCritic(problem, held, Followers(schedule.num_chains, coupled=name == "coupled"))
                for name in CHAINS
            }

    def measure(self, finished: Mapping[str, Finished]) -> dict[str, np.ndarray]:
        """The variances, and how far both ways of sampling came."""
        problem, evaluation = finished[CHAINS[0]].algorithm.problem, self.run.evaluation_entropy_weight
        optimum = exact.solve(problem, entropy_weight=evaluation, starts=[np.array(self.target)])
        arrays = {"penalties": np.array(PENALTIES), "entropy weights": np.array(ENTROPY_WEIGHTS)}
        x = np.array(self.measured_at)
        for name, run in finished.items():
            curves = figures.read_curves(run.folder, "upper_objective")
            arrays["transitions"] = curves.num_transitions
            arrays[f"{name} gap"] = curves.values - optimum.objective
            arrays[f"{name} variance in the run"] = figures.read_curves(run.folder, "upper_variance").values
            coupled = name == "coupled"
            variances = [[variance(problem, x, w, τ, coupled=coupled) for w in PENALTIES] for τ in ENTROPY_WEIGHTS]
            arrays[f"{name} variance"] = np.array(variances)
        return arrays

    def summarize(self, folder: RunFolder) -> str:
        """One line about the outcome."""
        data = folder.read_arrays(self.results)
        ends = [f"{name} {data[f'{name} gap'][:, -1].max():.4f}" for name in CHAINS]
        ratios = data["independent variance"] / data["coupled variance"]
        return f"largest final Φ(x) − Φ*: {', '.join(ends)}; variance of (U), independent ÷ coupled, " + "; ".join(
            f"τ = {τ:g}: " + ", ".join(f"{ratio:.1f} (w = {w:g})" for w, ratio in zip(PENALTIES, row, strict=True))
            for τ, row in zip(ENTROPY_WEIGHTS, ratios, strict=True)
        )

    def plot(self, folder: RunFolder):
        """Left: variance of (U) at fixed policies; right: how far x is from the optimum, for the same steps."""
        data, fitted = folder.read_arrays(self.results), exponents(folder)

        def draw(style: Style) -> Figure:
            figure = Figure(figsize=(10, 3.9))
            left, right = figure.subplots(1, 2)
            for name in CHAINS:
                for i, τ in enumerate(data["entropy weights"]):
                    label = f"{name}, τ = {τ:g}: w$^{{−{fitted[name][i]:.2f}}}$"
                    left.plot(data["penalties"], data[f"{name} variance"][i], marker="o", markersize=4, label=label)
                gaps = Curves(data["transitions"], data["transitions"], data[f"{name} gap"])
                draw_band(right, gaps, name, is_log=True)
            left.set(xscale="log", yscale="log", xlabel="penalty parameter w", ylabel="variance of (U)")
            left.set_title("Noise of the upper gradient, one pair of chains")
            right.set(ylabel="Φ(x) − Φ*", title="The same steps on goal position")
            label_transitions(right)
            left.legend(fontsize="small")
            right.legend()
            return figure

        save_figure(folder, "coupling", draw)


def variance(problem: BilevelProblem, x: np.ndarray, w: float, τ: float, *, coupled: bool) -> float:
    """Of (U) over time, from one pair of chains, both policies at their fixed points for this x."""
    policies = (
        exact.lower_policy(problem, x, entropy_weight=τ),
        exact.penalized_policy(problem, x, entropy_weight=τ, penalty=w),
    )
    return exact.upper_variance(problem, x, policies, penalty=w, coupled=coupled, over_time=True)


def exponents(folder: RunFolder) -> dict[str, np.ndarray]:
    """p of the law variance ∝ w^−p, fitted for each entropy weight."""
    data = folder.read_arrays(Coupling.results)
    log_w = np.log(data["penalties"])
    return {name: -np.polyfit(log_w, np.log(data[f"{name} variance"]).T, 1)[0] for name in CHAINS}
