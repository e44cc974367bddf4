"""Wind design: can the leader steer by the dynamics alone, and does a sampled run find what exact descent finds?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from bilevel_rl import exact
from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.figures.grids import draw_cells, mark_cells
from bilevel_rl.figures.style import Style, save_figure
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.problems import WindDesign
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.run import RunResult
from bilevel_rl.studies.config import RunConfig, ScheduleConfig
from bilevel_rl.studies.reference import BesideDescent, exact_descent, visits

DESCENT = {"upper": 0.1, "num_iterations": 1_500}
"""Of the reference; its gradient is then 1e-4 of what it is at the start."""

TITLES = {"start": "Wind at the start", "end": "Wind at the end (seed 0)", "optimum": "Wind of exact descent"}


@dataclass(frozen=True)
class WorkedWindDesign(WindDesign):
    """The problem with what exact descent by Adam finds, the reference of all numbers in the documentation.

    `exact.solve` ends lower, by 0.0012 at the defaults, τ = 0.1.
    """

    def optimum(self, problem: BilevelProblem, entropy_weight: float) -> exact.Solution:
        """What exact descent from the start finds."""
        return exact_descent(problem, entropy_weight, entropy_weight, **DESCENT)


@dataclass(frozen=True)
class WindDesignStudy(WorkedWindDesign, BesideDescent):
    """Blow a follower off its way to where the leader wants it, and pay for the energy (a minute)."""

    name: ClassVar[str] = "wind-design"
    results: ClassVar[str] = "wind"
    descent: ClassVar[Mapping[str, Any]] = DESCENT

    run: RunConfig = RunConfig(num_iterations=100_000, log_every=2_500, evaluation_entropy_weight=0.1)
    schedule: ScheduleConfig = ScheduleConfig(schedule="constant-entropy", upper=0.02, penalty=0.2)

    def measure_run(self, algorithm: SingleLoopActorCritic, result: RunResult) -> dict[str, np.ndarray]:
        """What exact descent finds; winds, and where the follower spends its time in them."""
        τ, problem = self.run.evaluation_entropy_weight, algorithm.problem
        arrays, x = self.descended(problem), np.asarray(result.x)[0]
        arrays["final"] = x
        for name, value in (("start", problem.initial_x), ("end", x), ("optimum", arrays["optimum"])):
            arrays[f"{name} wind"] = _wind(np.asarray(value, np.float64))
            arrays[f"{name} visits"] = visits(problem, value, τ)
        return arrays

    def draw(self, folder: RunFolder):
        """Mean push in every cell, over the share of the time that the best answer to it spends there."""
        data, size = folder.read_arrays(self.results), self.size
        rows, columns = np.divmod(np.arange(size**2), size)
        shades = {"vmin": 0, "vmax": max(data[f"{name} visits"].max() for name in TITLES), "alpha": 0.8}

        def draw(style: Style) -> Figure:
            figure = Figure(figsize=(13, 4.3))
            arrows = {"angles": "xy", "scale_units": "xy", "scale": 1.3, "color": style.path, "width": 0.008}
            for axes, (name, title) in zip(figure.subplots(1, 3), TITLES.items(), strict=True):
                shown = {"cmap": style.placement, "walls": self.walls, **shades}
                draw_cells(axes, data[f"{name} visits"], "share of the follower's time", **shown)
                down, right = data[f"{name} wind"].T
                axes.quiver(columns, rows, right, down, **arrows)
                mark_cells(axes, {"o": self.goal, "x": self.target}, style.accent)
                axes.set(title=title, xlabel="column    o goal   × target")
            return figure

        save_figure(folder, "wind", draw)


def _wind(x: Float[np.ndarray, "cells 4"]) -> Float[np.ndarray, "cells 2"]:
    """(row, column) of the mean push in every cell, in shares of a full wind."""
    shares = np.exp(x) / (1 + np.exp(x).sum(1, keepdims=True))
    up, down, left, right = shares.T
    return np.stack([down - up, right - left], axis=1)
