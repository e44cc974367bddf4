"""Goal placement: does the leader find the best of 100 cells, with only samples to go by?"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from bilevel_rl import problems
from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.figures.grids import draw_policy, prepare_grid
from bilevel_rl.figures.style import Style, save_figure
from bilevel_rl.formulation import BilevelProblem
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
        optimum = self.optimum(problem, τ)
        return {
            "final": np.stack([_placement(problem, x) for x in np.asarray(result.x)]) / self.scale,
            "one_cell_objectives": problems.one_cell_objectives(problem, entropy_weight=τ),
            "optimal": _placement(problem, optimum.x) / self.scale,
            "optimal_objective": np.array(optimum.objective),
            "end_policy": np.exp(algorithm.log_policies(jax.tree.map(lambda leaf: leaf[0], result.states))[0]),
        }

    def draw(self, folder: RunFolder):
        """What each cell alone would be worth, where the reward lies at the end, and what the follower does."""
        data, size = folder.read_arrays(self.results), self.size
        best_row, best_column = divmod(int(data["optimal"].argmax()), size)

        def draw(style: Style) -> Figure:
            figure = Figure(figsize=(13, 4.2))
            left, middle, right = figure.subplots(1, 3)
            objectives = left.imshow(data["one_cell_objectives"].reshape(size, size), cmap=style.landscape)
            figure.colorbar(objectives, ax=left, label="Φ", shrink=0.85)
            left.set_title("Φ with the whole reward in one cell")
            shares = middle.imshow(data["final"].mean(0).reshape(size, size), vmin=0, vmax=1, cmap=style.placement)
            figure.colorbar(shares, ax=middle, label="share of the reward", shrink=0.85)
            middle.set_title(f"Placement at the end (mean of {len(data['final'])} seeds)")
            for axes in (left, middle, right):
                prepare_grid(axes, size, self.walls, self.hazards)
            best = {"color": style.accent, "markeredgecolor": "white", "markersize": 17, "label": "best placement"}
            left.plot(best_column, best_row, "*", **best)
            left.legend(loc="upper left", frameon=True, framealpha=0.85, fontsize="small")
            draw_policy(right, data["end_policy"], size, (*self.walls, *self.hazards))
            right.set_title("Policy learned by the end (seed 0)")
            outline = {"markersize": 10, "markerfacecolor": "none", "markeredgewidth": 2, "color": style.accent}
            for axes in (middle, right):
                for (row, column), marker in ((self.delivery, "x"), (self.home, "s")):
                    axes.plot(column, row, marker, **outline)
                axes.set_xlabel("column    × delivery  □ home")
            return figure

        save_figure(folder, "placement", draw)


def _placement(problem: BilevelProblem, x: Float[np.ndarray, " cells"]) -> Float[np.ndarray, " cells"]:
    """Reward per step in every cell."""
    cells = np.arange(len(x))
    return np.asarray(problem.rewards(x, cells, np.zeros_like(cells)))
