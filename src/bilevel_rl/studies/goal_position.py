"""Goal position: does the leader's goal walk to the known optimum?"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np
from matplotlib.figure import Figure

from bilevel_rl import exact, figures
from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.figures.grids import draw_policy, prepare_grid
from bilevel_rl.figures.style import Style, save_figure
from bilevel_rl.problems import GoalPosition
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.run import RunResult
from bilevel_rl.studies.experiment import WorkedRun


@dataclass(frozen=True)
class GoalPositionStudy(GoalPosition, WorkedRun):
    """Move a goal across a slippery grid so that the follower ends up at the target (about 10 s)."""

    name: ClassVar[str] = "goal-position"
    results: ClassVar[str] = "landscape"

    def measure_run(self, algorithm: SingleLoopActorCritic, result: RunResult) -> dict[str, np.ndarray]:
        """The landscape of Φ around the run."""
        problem, τ = algorithm.problem, self.run.evaluation_entropy_weight
        landscape = self.landscape(problem, τ)
        return {
            "axis": landscape.axis,
            "objective": landscape.objectives,
            "optimum": landscape.optimum.x,
            "optimal_objective": np.array(landscape.optimum.objective),
            "start_policy": np.asarray(exact.lower_policy(problem, problem.initial_x, entropy_weight=τ)),
            "end_policy": np.exp(algorithm.log_policies(jax.tree.map(lambda leaf: leaf[0], result.states))[0]),
        }

    def summarize(self, folder: RunFolder) -> str:
        """One line about the outcome."""
        if figures.is_sampled(folder):
            return figures.summarize_samples(folder)
        optimal = self.optimal_objective(folder)
        gaps = figures.final_values(folder, "upper_objective") - optimal
        return (
            f"Φ* = {optimal:.4f}; final Φ − Φ*: largest {gaps.max():.4f}, median {np.median(gaps):.4f} of "
            f"{len(gaps)} seeds"
        )

    def draw(self, folder: RunFolder):
        """Contours of Φ with every seed's path to the optimum, and the follower's policy at the start and the end."""
        data = folder.read_arrays(self.results)
        rows, columns = (figures.read_curves(folder, f"x{i}").values for i in range(2))
        start, optimum, target, last = self.initial_x, data["optimum"], self.target, self.size - 1

        def draw(style: Style) -> Figure:
            figure = Figure(figsize=(13, 4.4))
            left, middle, right = figure.subplots(1, 3)
            prepare_grid(left, self.size, self.walls)
            axis = data["axis"]
            contours = left.contourf(axis, axis, data["objective"], levels=18, cmap=style.landscape, alpha=0.9)
            figure.colorbar(contours, ax=left, label="Φ(x)", shrink=0.85)
            for seed_rows, seed_columns in zip(rows, columns, strict=True):
                left.plot(seed_columns, seed_rows, color="white", linewidth=2.2, alpha=0.9)
                left.plot(seed_columns, seed_rows, color=style.path, linewidth=1)
            left.plot(start[1], start[0], "o", color="white", markeredgecolor="black", markersize=8, label="start")
            left.plot(columns[:, -1], rows[:, -1], ".", color="black", markersize=5, label="end of each seed")
            best = {"color": style.accent, "markeredgecolor": "white", "markersize": 17, "label": "optimum"}
            left.plot(optimum[1], optimum[0], "*", **best)
            left.set(xlim=(0, last), ylim=(last, 0), title=f"The goal walks to the optimum ({len(rows)} seeds)")
            left.legend(loc="upper left", frameon=True, framealpha=0.85, fontsize="small")
            ring = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 2.2, "color": "#e09f3e"}
            for axes, policy, goal, title in (
                (middle, data["start_policy"], start, "Follower's answer to the first goal (exact)"),
                (right, data["end_policy"], (rows[0, -1], columns[0, -1]), "Policy learned by the end (seed 0)"),
            ):
                prepare_grid(axes, self.size, self.walls)
                draw_policy(axes, policy, self.size, self.walls)
                axes.plot(goal[1], goal[0], "o", **ring)
                axes.plot(target[1], target[0], "x", markersize=9, markeredgewidth=2.2, color=style.accent)
                axes.set(title=title, xlabel="column      o goal   × target")
            return figure

        save_figure(folder, "landscape", draw)
