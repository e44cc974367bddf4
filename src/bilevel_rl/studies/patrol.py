"""Patrol: does a leader that commits to a policy find a good one, and what is it worth to see where the follower is?"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bilevel_rl import exact
from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.figures.style import Style, save_figure
from bilevel_rl.problems import Patrol
from bilevel_rl.problems.patrol import Sight
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.run import RunResult
from bilevel_rl.studies.config import RunConfig, ScheduleConfig
from bilevel_rl.studies.experiment import BesideOptimum
from bilevel_rl.studies.reference import averaged_adam, occupancy

LABELS = {"start": "even chances", "nothing": "sees nothing", "position": "his position", "everything": "with an alarm"}


@dataclass(frozen=True)
class PatrolStudy(Patrol, BesideOptimum):
    """Commit to a patrol that a poacher knows, and do least badly (two minutes)."""

    name: ClassVar[str] = "patrol"
    results: ClassVar[str] = "patrols"
    reference: ClassVar[str] = "best known Φ"

    run: RunConfig = RunConfig(num_iterations=60_000, log_every=2_000, evaluation_entropy_weight=0.1)
    schedule: ScheduleConfig = ScheduleConfig(schedule="constant-entropy", upper=0.01, penalty=0.3, num_chains=32)

    def algorithm(self) -> SingleLoopActorCritic:
        """What runs; building it checks every option."""
        return averaged_adam(self.problem(), self.schedule.step_sizes(), self.schedule.num_chains)

    def measure_run(self, algorithm: SingleLoopActorCritic, result: RunResult) -> dict[str, np.ndarray]:
        """The best patrols that are known for every sight, and the harm at every site before and after."""
        problem, τ = algorithm.problem, self.run.evaluation_entropy_weight
        optimum, final = self.optimum(problem, τ), np.asarray(result.x, np.float64)[0]
        arrays: dict[str, Any] = {"optimum": optimum.x, "optimal_objective": optimum.objective}
        for name, x in (("start", problem.initial_x), ("end", final)):
            chances = self.game().commitment(self.policy(), x)
            arrays[f"{name} chances"] = chances
            arrays[f"{name} harm"] = self.harm(occupancy(problem, x, τ), chances)
            arrays[f"{name} objective"] = exact.hyper_objective(problem, x, entropy_weight=τ)
        for sees in get_args(Sight):
            other = dataclasses.replace(self, sees=sees)
            arrays[f"{sees} objective"] = other.optimum(other.problem(), τ).objective
        return {name: np.asarray(value) for name, value in arrays.items()}

    def draw(self, folder: RunFolder):
        """Where harm is done before and after, what the ranger does at an alarm, and what sight is worth."""
        data = folder.read_arrays(self.results)

        def draw(style: Style) -> Figure:
            figure = Figure(figsize=(13.5, 4))
            before, after, alarm, bars = figure.subplots(1, 4, width_ratios=(1, 1, 1, 0.9))
            most = max(data["start harm"].max(), data["end harm"].max())
            for axes, name, title in ((before, "start", "Even chances"), (after, "end", "Learned (seed 0)")):
                image = self._draw_map(axes, data[f"{name} harm"], data[f"{name} chances"], most, style)
                axes.set_title(f"{title}: Φ = {data[f'{name} objective']:.3f}")
            figure.colorbar(image, ax=[before, after], label="harm at a site, per step", location="bottom", shrink=0.6)
            self._draw_alarm(alarm, data["end chances"], style)
            objectives = {label: float(data[f"{name} objective"]) for name, label in LABELS.items()}
            bars.barh(list(objectives), list(objectives.values()), color="C0", height=0.6)
            bars.bar_label(bars.containers[0], fmt="%.3f", padding=3)  # pyright: ignore[reportArgumentType]
            bars.invert_yaxis()
            bars.margins(x=0.25)
            bars.set(title="Best known, by what he sees", xlabel="Φ")
            bars.grid(visible=False, axis="y")
            return figure

        save_figure(folder, "patrol", draw)

    def _draw_map(self, axes: Axes, harm: np.ndarray, chances: np.ndarray, most: float, style: Style) -> Any:
        """Sites by the harm done there; arrows for the ranger's moves while all is quiet, wider for likelier ones."""
        places, k = np.array(self.positions, float), self.num_sites
        quiet = chances[k :: k + 1]
        for i, j in np.argwhere(quiet > 0.2):
            if i != j:
                look = {"arrowstyle": "-|>", "color": style.path, "lw": 4 * quiet[i, j], "shrinkA": 13, "shrinkB": 13}
                look |= {"connectionstyle": "arc3,rad=0.12", "mutation_scale": 8 + 8 * quiet[i, j]}
                axes.annotate("", tuple(places[j]), tuple(places[i]), arrowprops=look, zorder=2)
        image = axes.scatter(
            *places.T, c=harm, cmap=style.placement, vmin=0, vmax=most, s=520, edgecolors=style.path, zorder=3
        )
        for site, place in enumerate(places):
            shade = "white" if harm[site] > 0.6 * most else "black"
            axes.annotate(f"{site}", tuple(place), ha="center", va="center", color=shade, zorder=4)
        axes.margins(0.15)
        axes.set(xticks=[], yticks=[], aspect="equal")
        for spine in axes.spines.values():
            spine.set_visible(False)
        return image

    def _draw_alarm(self, axes: Axes, chances: np.ndarray, style: Style):
        """How likely the ranger heads for a trap, by where he and the trap are."""
        k = self.num_sites
        of_traps = chances.reshape(k, k + 1, k)[:, :k]
        shares = np.diagonal(of_traps, axis1=1, axis2=2)
        axes.imshow(shares, cmap=style.placement, vmin=0, vmax=1)
        for (i, o), share in np.ndenumerate(shares):
            axes.text(o, i, f"{100 * share:.0f}", ha="center", va="center", color="white" if share > 0.6 else "black")
        axes.grid(visible=False)
        axes.set(title="Heads for the trap, in percent", xlabel="trap at site", ylabel="ranger at site")
        axes.set(xticks=range(k), yticks=range(k))
