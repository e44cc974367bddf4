"""Goal placement: does the leader find the best of 100 cells, with only samples to go by?"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from matplotlib.figure import Figure

from bilevel_rl import problems
from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.figures.grids import draw_best, draw_cells, mark_cells
from bilevel_rl.figures.style import Style, save_figure
from bilevel_rl.problems import GoalPlacement
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.run import RunResult
from bilevel_rl.studies.experiment import WorkedRun


@dataclass(frozen=True)
class GoalPlacementStudy(GoalPlacement, WorkedRun):
    """Spread a reward over the cells of a walled, hazardous grid, and pay for the ground (about 15 s)."""

    name: ClassVar[str] = "goal-placement"
    results: ClassVar[str] = "placement"

    def measure_run(self, algorithm: SingleLoopActorCritic, result: RunResult) -> dict[str, np.ndarray]:
        """Where the reward lies at the end, and where it should."""
        problem, τ = algorithm.problem, self.run.evaluation_entropy_weight
        optimum, cells = self.optimum(problem, τ), np.arange(self.size**2)

        def shares(x: np.ndarray) -> np.ndarray:
            return np.asarray(problem.rewards(x, cells, np.zeros_like(cells))) / self.scale

        return {
            "final": np.stack([shares(x) for x in np.asarray(result.x)]),
            "one_cell_objectives": problems.one_cell_objectives(problem, entropy_weight=τ),
            "optimal": shares(optimum.x),
            "optimal_objective": np.array(optimum.objective),
            "optimum": np.asarray(optimum.x),
        }

    def draw(self, folder: RunFolder):
        """What each cell alone would be worth, and where the reward lies at the end."""
        data, blocks = folder.read_arrays(self.results), {"walls": self.walls, "hazards": self.hazards}

        def draw(style: Style) -> Figure:
            figure = Figure(figsize=(9.5, 4.3))
            left, right = figure.subplots(1, 2)
            draw_cells(left, data["one_cell_objectives"], "Φ", cmap=style.landscape, **blocks)
            draw_best(left, np.divmod(data["optimal"].argmax(), self.size), style, "best placement")
            left.set_title("Φ with the whole reward in one cell")
            shares = {"vmin": 0, "vmax": 1, "cmap": style.placement}
            draw_cells(right, data["final"].mean(0), "share of the reward", **shares, **blocks)
            mark_cells(right, {"x": self.delivery, "s": self.home}, style.accent)
            right.set_title(f"Placement at the end (mean of {len(data['final'])} seeds)")
            right.set_xlabel("column    × delivery  □ home")
            return figure

        save_figure(folder, "placement", draw)
