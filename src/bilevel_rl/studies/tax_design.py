"""Tax design: which taxes are best for welfare, once households have changed how they work, spend and save?"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from matplotlib.figure import Figure

from bilevel_rl import exact
from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.figures.style import Style, save_figure
from bilevel_rl.problems import TaxDesign
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.run import RunResult
from bilevel_rl.studies.config import RunConfig, ScheduleConfig
from bilevel_rl.studies.experiment import BesideOptimum
from bilevel_rl.studies.reference import averaged_adam, occupancy

NUM_RATES = 31
"""Rates on income at which Φ is drawn, for each of three rates on goods."""
BOTH = ("start", "end")


@dataclass(frozen=True)
class TaxDesignStudy(TaxDesign, BesideOptimum):
    """Tax income and three goods, where two groups of households answer (a minute)."""

    name: ClassVar[str] = "tax-design"
    results: ClassVar[str] = "taxes"

    preferences: tuple[tuple[float, float, float], ...] = TaxDesign.preferences  # pyright: ignore
    """of each group, one number for each good"""

    run: RunConfig = RunConfig(num_iterations=30_000, log_every=1_000, evaluation_entropy_weight=0.1)
    schedule: ScheduleConfig = ScheduleConfig(
        schedule="constant-entropy", upper=0.003, actor=0.5, critic=2.0, penalty=0.05, num_chains=32
    )

    def algorithm(self) -> SingleLoopActorCritic:
        """What runs; building it checks every option."""
        return averaged_adam(self.problem(), self.schedule.step_sizes(), self.schedule.num_chains)

    def measure_run(self, algorithm: SingleLoopActorCritic, result: RunResult) -> dict[str, np.ndarray]:
        """The optimum, Φ along the rate on income, and how households live before and after."""
        problem, τ = algorithm.problem, self.run.evaluation_entropy_weight
        optimum, finals = self.optimum(problem, τ), np.asarray(result.x, np.float64)
        incomes, goods = np.linspace(0, self.largest, NUM_RATES), np.linspace(0, self.largest, 3)
        curves = [[[income, *[good] * self.num_goods] for income in incomes] for good in goods]
        flat = np.array(curves).reshape(-1, 1 + self.num_goods)
        objectives = exact.hyper_objectives(problem, flat, entropy_weight=τ).reshape(len(goods), NUM_RATES)
        arrays = {
            "optimum": np.asarray(optimum.x),
            "optimal_objective": np.array(optimum.objective),
            "finals": finals,
            "final objectives": exact.hyper_objectives(problem, finals, entropy_weight=τ),
            "incomes": incomes,
            "goods": goods,
            "objectives": objectives,
        }
        hours, spent = self.choices()
        for name, x in zip(BOTH, (problem.initial_x, np.median(finals, axis=0)), strict=True):
            d = occupancy(problem, x, τ).reshape(len(self.preferences), -1, len(hours)).sum(1)
            arrays[name] = d @ np.column_stack([hours, spent]) / d.sum(1, keepdims=True)
        return arrays

    def draw(self, folder: RunFolder):
        """Φ along the rate on income, the rates, and what households do before and after."""
        data, num_goods = folder.read_arrays(self.results), self.num_goods
        rates = ["income", *(f"good {i + 1}" for i in range(num_goods))]

        def draw(style: Style) -> Figure:
            figure = Figure(figsize=(13, 3.8))
            curve, bars, lives = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
            for good, objectives in zip(data["goods"], data["objectives"], strict=True):
                curve.plot(100 * data["incomes"], objectives, label=f"{100 * good:.0f} % on each good")
            look = {"color": style.accent, "markeredgecolor": "white", "zorder": 3}
            curve.plot(100 * data["finals"][:, 0], data["final objectives"], "o", label="seeds", **look)
            curve.set(title="Φ, lower is better", xlabel="tax on income in percent")
            curve.margins(y=0.25)
            curve.legend(fontsize="small", loc="upper left", ncols=2)
            places = np.arange(1 + num_goods)
            ends = np.median(data["finals"], axis=0)
            shown = {"start": np.full(1 + num_goods, self.initial), "learned": ends, "optimum": data["optimum"]}
            for i, (label, x) in enumerate(shown.items()):
                drawn = bars.bar(places + 0.27 * (i - 1), 100 * x, 0.25, label=label, color=f"C{(4, 0, 1)[i]}")
                bars.bar_label(drawn, fmt="%.0f", fontsize="small")
            bars.set(title="Tax rates in percent", xticks=places, xticklabels=rates)
            bars.margins(y=0.2)
            bars.legend(fontsize="small", loc="upper right", ncols=3)
            labels = ["hours", *(f"spent on\ngood {i + 1}" for i in range(num_goods))]
            for group in range(len(self.preferences)):
                for i, name in enumerate(BOTH):
                    offset = 0.2 * (2 * group + i) - 0.3
                    look = {"color": f"C{group}", "alpha": (0.4, 1.0)[i]}
                    label = f"group {group + 1}, {('before', 'after')[i]}"
                    lives.bar(places + offset, data[name][group], 0.18, label=label, **look)
            lives.set(title="What households do, per step", xticks=places, xticklabels=labels)
            lives.margins(y=0.3)
            lives.legend(fontsize="small", loc="upper right", ncols=2)
            for axes in (bars, lives):
                axes.grid(visible=False, axis="x")
            return figure

        save_figure(folder, "taxes", draw)
