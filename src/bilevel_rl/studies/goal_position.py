"""Goal position: does the leader's goal walk to the known optimum?"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from matplotlib.figure import Figure

from bilevel_rl import figures
from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.figures.grids import draw_best, prepare_grid
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
        }

    def draw(self, folder: RunFolder):
        """Contours of Φ with every seed's path to the optimum."""
        data, paths = folder.read_arrays(self.results), figures.read_paths(folder)[1]
        start, optimum, axis, last = self.initial_x, data["optimum"], data["axis"], self.size - 1

        def draw(style: Style) -> Figure:
            figure = Figure(figsize=(5.4, 4.4))
            axes = figure.subplots()
            prepare_grid(axes, self.size, self.walls)
            contours = axes.contourf(axis, axis, data["objective"], levels=18, cmap=style.landscape, alpha=0.9)
            figure.colorbar(contours, ax=axes, label="Φ(x)", shrink=0.85)
            for path in paths:
                axes.plot(*path.T[::-1], color="white", linewidth=2.2, alpha=0.9)
                axes.plot(*path.T[::-1], color=style.path, linewidth=1)
            axes.plot(start[1], start[0], "o", color="white", markeredgecolor="black", markersize=8, label="start")
            axes.plot(*paths[:, -1].T[::-1], ".", color="black", markersize=5, label="end of each seed")
            draw_best(axes, optimum, style, "optimum")
            axes.set(xlim=(0, last), ylim=(last, 0), title=f"The goal walks to the optimum ({len(paths)} seeds)")
            return figure

        save_figure(folder, "landscape", draw)
