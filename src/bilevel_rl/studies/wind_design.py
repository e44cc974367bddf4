"""Wind design: can the leader steer by the dynamics alone, and does a sampled run find what exact descent finds?"""

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float
from matplotlib.figure import Figure

from bilevel_rl import exact
from bilevel_rl.algorithms import Followers, SingleLoopActorCritic, UpperSteps
from bilevel_rl.algorithms.step_sizes import StepSizes
from bilevel_rl.figures.grids import prepare_grid
from bilevel_rl.figures.style import Style, save_figure
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.problems import WindDesign
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.run import RunResult
from bilevel_rl.studies.config import RunConfig, ScheduleConfig
from bilevel_rl.studies.experiment import BesideOptimum
from bilevel_rl.studies.reference import exact_descent

EXACT_ITERATIONS = 1_500
"""Of the reference; its gradient is then 1e-4 of what it is at the start."""

TITLES = {"start": "Wind at the start", "end": "Wind at the end (seed 0)", "optimum": "Wind of exact descent"}


def single_loop(problem: BilevelProblem, step_sizes: StepSizes, num_chains: int) -> SingleLoopActorCritic:
    """Coupled chains, Adam on x, averaged iterates."""
    upper_steps = UpperSteps(optax.adam(1.0), averaging=3.0)
    return SingleLoopActorCritic(problem, step_sizes, Followers(num_chains), upper_steps=upper_steps)


@dataclass(frozen=True)
class WorkedWindDesign(WindDesign):
    """The problem with what exact descent by Adam finds, the reference of all numbers in the documentation.

    The descent is a run, so it is not beside the problem. `exact.solve` ends lower, by 0.0012 at the defaults, τ = 0.1.
    """

    def optimum(self, problem: BilevelProblem, entropy_weight: float) -> exact.Solution:
        """What exact descent from the start finds."""
        reference = exact_descent(problem, entropy_weight, entropy_weight, upper=0.1, num_iterations=EXACT_ITERATIONS)
        x, metrics = reference.x[0], reference.metrics
        objective, slope = metrics["upper_objective"][-1], metrics["hyper_gradient_norm"][-1]
        x = np.asarray(x, np.float64)
        return exact.Solution(x, float(objective), float(slope), EXACT_ITERATIONS, status="iteration limit")


@dataclass(frozen=True)
class WindDesignStudy(BesideOptimum, WorkedWindDesign):
    """Blow a follower off its way to where the leader wants it, and pay for the energy (a minute)."""

    name: ClassVar[str] = "wind-design"
    results: ClassVar[str] = "wind"
    reference: ClassVar[str] = "Φ of exact descent"

    run: RunConfig = field(
        default_factory=lambda: RunConfig(num_iterations=100_000, log_every=2_500, evaluation_entropy_weight=0.1)
    )
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(schedule="constant-entropy", upper=0.02, penalty=0.2)
    )

    def algorithm(self) -> SingleLoopActorCritic:
        """What runs; building it checks every option."""
        return single_loop(self.problem(), self.schedule.step_sizes(), self.schedule.num_chains)

    def measure_run(self, algorithm: SingleLoopActorCritic, result: RunResult) -> dict[str, np.ndarray]:
        """What exact descent finds; winds, and where the follower spends its time in them."""
        τ, problem = self.run.evaluation_entropy_weight, algorithm.problem
        reference = exact_descent(problem, self.schedule.entropy_weight, τ, upper=0.1, num_iterations=EXACT_ITERATIONS)
        x = np.asarray(result.x)[0]
        arrays = {"optimal_objective": np.array(reference.metrics["upper_objective"][-1]), "final": x}
        for name, value in (("start", problem.initial_x), ("end", x), ("optimum", reference.x[0])):
            arrays[f"{name} wind"] = _wind(np.asarray(value, np.float64))
            policy = exact.lower_policy(problem, value, entropy_weight=τ)
            with jax.enable_x64(True):
                mdp = problem.environment_at(np.asarray(value, np.float64))
                arrays[f"{name} visits"] = np.asarray(exact.occupancy(mdp, jnp.asarray(policy))).sum(1)
        return arrays

    def draw(self, folder: RunFolder):
        """Mean push in every cell, over the share of the time that the best answer to it spends there."""
        data, size = folder.read_arrays(self.results), self.size
        rows, columns = np.divmod(np.arange(size**2), size)
        most = max(data[f"{name} visits"].max() for name in TITLES)

        def draw(style: Style) -> Figure:
            figure = Figure(figsize=(13, 4.3))
            arrows = {"angles": "xy", "scale_units": "xy", "scale": 1.3, "color": style.path, "width": 0.008}
            outline = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 2.2, "color": style.accent}
            for axes, (name, title) in zip(figure.subplots(1, 3), TITLES.items(), strict=True):
                visits = data[f"{name} visits"].reshape(size, size)
                shares = axes.imshow(visits, vmin=0, vmax=most, cmap=style.placement, alpha=0.8)
                prepare_grid(axes, size, self.walls)
                down, right = data[f"{name} wind"].T
                axes.quiver(columns, rows, right, down, **arrows)
                for (row, column), marker in ((self.goal, "o"), (self.target, "x")):
                    axes.plot(column, row, marker, **outline)
                axes.set(title=title, xlabel="column    o goal   × target")
                figure.colorbar(shares, ax=axes, label="share of the follower's time", shrink=0.85)
            return figure

        save_figure(folder, "wind", draw)


def _wind(x: Float[np.ndarray, "cells 4"]) -> Float[np.ndarray, "cells 2"]:
    """(row, column) of the mean push in every cell, in shares of a full wind."""
    shares = np.exp(x) / (1 + np.exp(x).sum(1, keepdims=True))
    up, down, left, right = shares.T
    return np.stack([down - up, right - left], axis=1)
