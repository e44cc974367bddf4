"""A run that Python code began: what can be said and drawn of it from its files alone, whatever its problem was."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from matplotlib.figure import Figure

from bilevel_rl import figures
from bilevel_rl.figures.curves import STEP_SIZES, draw_band
from bilevel_rl.figures.style import Style, label_transitions, save_figure
from bilevel_rl.followers import write_reward
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.outcome import Optimum, find_outcome
from bilevel_rl.runs import diagnosis
from bilevel_rl.runs.folder import PYTHON_RUN, RunFolder, RunFolderError
from bilevel_rl.runs.json_files import read_object
from bilevel_rl.runs.result import RunResult
from bilevel_rl.runs.study import Command, Sharing, Study
from bilevel_rl.studies import outcomes
from bilevel_rl.studies.config import RunConfig

PANELS = {
    "What the leader pays": {
        "upper_objective": "Φ(x), the follower having optimized",
        "upper_value": "f(x, π), the policy learned so far",
    },
    "Return that the policies miss": {"lower_residual": "lower policy", "penalized_residual": "penalized policy"},
    "The leader's variable": {f"x{i}": f"x{i}" for i in range(16)},
}
"""What is drawn of a run, where it has these columns."""


@dataclass(frozen=True)
class PythonRun(Study):
    """A run that Python code began."""

    name: ClassVar[str] = PYTHON_RUN
    command: ClassVar[Command | None] = None
    shared_by: ClassVar[Sharing] = "nothing"

    call: str = "bilevel_rl.run"
    """what began it"""
    iterations: int = 1
    """to which it goes"""

    @property
    def num_iterations(self) -> int:
        """Iterations of the run."""
        return self.iterations

    def check(self):
        """Nothing can be wrong with what Python has begun."""

    def main(self, folder: RunFolder, *, progress: bool = True):
        """Says which call goes on.

        Raises:
            RunFolderError: always; the problem is in the code that began the run.
        """
        raise RunFolderError(
            f"{folder.path} was begun by {self.call}, and its problem is in the code that called it: call that again "
            f"with num_iterations={self.iterations} (of a trainer, max_steps) and this folder, or, of bilevel_rl.run, "
            f"bilevel_rl.open_run({str(folder.path)!r}).continue_({self.iterations}, algorithm)"
        )

    def plot(self, folder: RunFolder):
        """Draws curves of what was measured, and what became of x."""
        columns = _columns(folder)
        if find_outcome(folder) is not None:
            figures.draw_outcome(folder)
        if columns >= STEP_SIZES.keys():
            figures.draw_step_sizes(folder)
        panels = {title: {name: of[name] for name in of if name in columns} for title, of in PANELS.items()}
        draw_panels(folder, {title: of for title, of in panels.items() if of})

    def measure(self, folder: RunFolder, problem: BilevelProblem, result: RunResult, optimum: Optimum | None):
        """Writes what became of x and of the follower, and the learned reward, and draws them."""
        noted = read_object(folder.path / "run.json").get("evaluation_entropy_weight")
        outcomes.keep(
            folder, problem, result.x, RunConfig().evaluation_entropy_weight if noted is None else noted, optimum
        )
        write_reward(folder, problem, result, reference=folder.path.name)
        self.plot(folder)

    def summarize(self, folder: RunFolder) -> str:
        """One line about the outcome."""
        columns, outcome = _columns(folder), find_outcome(folder)
        if outcome is not None:
            return f"{outcomes.read(folder, outcome).sentence()}; {outcomes.verdict(diagnosis.diagnose(folder))}"
        metric = "upper_objective" if "upper_objective" in columns else "upper_value"
        if metric not in columns:
            return f"{len(folder.read_rows('metrics')):,} metric rows"
        curves = figures.read_curves(folder, metric)
        before, after = np.median(curves.values[:, [0, -1]], axis=0)
        return f"{metric}, median of {len(curves.values)} seeds: {before:.4g} at the start, {after:.4g} at the end"


def _columns(folder: RunFolder) -> set[str]:
    """What was measured; `RunFolderError` where nothing was yet."""
    rows = folder.read_rows("metrics")
    if not rows:
        raise RunFolderError(f"{folder.path} has no metrics yet; let it run until its first log point")
    return set(rows[0])


def draw_panels(folder: RunFolder, panels: dict[str, dict[str, str]]):
    """`figures/curves`: columns of `metrics.csv` with their labels, side by side under their titles."""

    def draw(style: Style) -> Figure:
        figure = Figure(figsize=(5 * len(panels), 3.8))
        for axes, (title, labels) in zip(np.ravel(figure.subplots(1, len(panels))), panels.items(), strict=True):
            for name, label in labels.items():
                draw_band(axes, figures.read_curves(folder, name), label)
            axes.set(title=title)
            axes.legend(fontsize="small")
            label_transitions(axes)
        return figure

    save_figure(folder, "curves", draw)
