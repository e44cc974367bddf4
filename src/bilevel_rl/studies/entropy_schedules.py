"""Constant against decaying entropy weight: which optimum does each schedule reach, and how fast?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from matplotlib.figure import Figure

from bilevel_rl import checks, exact, figures
from bilevel_rl.algorithms import Followers, SingleLoopActorCritic
from bilevel_rl.algorithms.step_sizes import StepSizes
from bilevel_rl.figures.curves import draw_band
from bilevel_rl.figures.style import Style, label_transitions, save_figure
from bilevel_rl.figures.tables import Curves
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.problems import goal_position
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import RunConfig
from bilevel_rl.studies.experiment import Experiment, Finished
from bilevel_rl.studies.reference import annealed_optimum, objectives_along

SCHEDULES = ("constant", "decaying")


@dataclass(frozen=True)
class EntropySchedules(Experiment):
    """Constant against decaying entropy weight, where the two lead to different optima (about 15 s)."""

    name: ClassVar[str] = "entropy-schedules"
    results: ClassVar[str] = "trade_off"

    run: RunConfig = RunConfig(num_iterations=100_000, log_every=2_000)
    entropy_weight: float = 1.0
    """entropy weight τ at the start of both schedules; large, so that its bias shows"""
    entropy_exponent: float = 0.1
    """how fast the decaying schedule lowers it; the paper's is 1/20"""
    penalty_exponent: float = 0.21
    """how fast the decaying schedule lowers the penalty parameter; above twice the entropy exponent"""
    upper: float = 0.05
    """initial step size ζ of the upper variable"""
    offset: float = 2_000.0
    """iterations that the initial values last"""
    num_chains: int = 16
    """parallel Markov chains per policy"""
    installation_cost: float = 0.3
    """price of placing the goal away from home: it makes the optimum depend on the entropy weight"""

    def problem(self) -> BilevelProblem:
        """What is solved."""
        return goal_position(installation_cost=self.installation_cost)

    def algorithms(self) -> dict[str, SingleLoopActorCritic]:
        """One algorithm for each schedule; building them checks every option."""
        checks.number("entropy_weight", self.entropy_weight, above=0)
        for name in ("entropy_exponent", "penalty_exponent"):
            checks.number(name, getattr(self, name), at_least=0)
        problem = self.problem()
        exponents = (0.95, 0.5, 0.5, self.penalty_exponent, self.entropy_exponent)
        constant = StepSizes.constant_entropy(upper=self.upper, entropy=self.entropy_weight, offset=self.offset)
        decaying = StepSizes.decaying(
            upper=self.upper, entropy=self.entropy_weight, offset=self.offset, exponents=exponents
        )
        return {
            name: SingleLoopActorCritic(problem, step_sizes, Followers(self.num_chains, coupled=False))
            for name, step_sizes in zip(SCHEDULES, (constant, decaying), strict=True)
        }

    def measure(self, finished: Mapping[str, Finished]) -> dict[str, np.ndarray]:
        """Both objectives along both paths, beside their optima."""
        problem, evaluation = self.problem(), self.run.evaluation_entropy_weight
        weights = {"regularized": self.entropy_weight, "unregularized": evaluation}
        start = np.array([5.0, 3.0])
        optima = {
            "regularized": exact.solve(problem, entropy_weight=self.entropy_weight, starts=[start]),
            "unregularized": annealed_optimum(problem, self.entropy_weight, evaluation, start),
        }
        bias = exact.hyper_objective(problem, optima["regularized"].x, entropy_weight=evaluation)
        arrays: dict[str, np.ndarray] = {"bias": np.array(bias - optima["unregularized"].objective)}
        for name, run in finished.items():
            arrays["transitions"], paths = figures.read_paths(run.folder)
            arrays[f"{name} entropy weight"] = figures.read_curves(run.folder, "entropy_weight").values[0]
            for objective, τ in weights.items():
                objectives = objectives_along(problem, paths, τ)
                arrays[f"{name} {objective} gap"] = objectives - optima[objective].objective
        return arrays

    def summarize(self, folder: RunFolder) -> str:
        """One line about the outcome."""
        data = folder.read_arrays(self.results)
        gaps = {name: np.median(data[f"{name} unregularized gap"][:, -1]) for name in SCHEDULES}
        return (
            "final Φ(x) − Φ*, median: "
            + ", ".join(f"{name} {gap:.4f}" for name, gap in gaps.items())
            + f"; at the regularized optimum it is {float(data['bias']):.4f}"
        )

    def plot(self, folder: RunFolder):
        """Constant against decaying entropy weight: gap to the regularized and to the unregularized optimum."""
        data = folder.read_arrays(self.results)

        def draw(style: Style) -> Figure:
            figure = Figure(figsize=(13, 3.9))
            regularized, unregularized, weight = figure.subplots(1, 3)
            for axes, objective in ((regularized, "regularized"), (unregularized, "unregularized")):
                for name in SCHEDULES:
                    gaps = Curves(data["transitions"], data["transitions"], data[f"{name} {objective} gap"])
                    draw_band(axes, gaps, f"{name} τ", is_log=True)
            for name in SCHEDULES:
                weight.plot(data["transitions"], data[f"{name} entropy weight"], label=f"{name} τ")
            bias = {"color": style.accent, "linestyle": "--", "linewidth": 1.2, "label": "at the minimizer of Φ$_τ$"}
            unregularized.axhline(float(data["bias"]), **bias)
            regularized.set(ylabel="Φ$_τ$(x) − min Φ$_τ$", title="To the regularized optimum (τ of the start)")
            unregularized.set(ylabel="Φ(x) − Φ*", title="To the unregularized optimum")
            weight.set(ylabel="τ", title="Entropy weight", ylim=(0, None))
            for axes in (regularized, unregularized, weight):
                label_transitions(axes)
                axes.legend()
            return figure

        save_figure(folder, "trade_off", draw)
