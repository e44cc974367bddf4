"""A run that Python code began: what can be said and drawn of it from its files alone, whatever its problem was."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bilevel_rl import figures
from bilevel_rl.followers import write_reward
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.outcome import Optimum, find_outcome, measure_outcome, write_outcome
from bilevel_rl.report import outcome_lines
from bilevel_rl.runs import diagnosis
from bilevel_rl.runs.folder import PYTHON_RUN, RunFolder, RunFolderError
from bilevel_rl.runs.json_files import read_object
from bilevel_rl.runs.result import RunResult
from bilevel_rl.runs.study import Command, Sharing, Study
from bilevel_rl.studies.config import RunConfig


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
        if find_outcome(folder) is None:
            figures.draw_curves(folder)
        else:
            figures.draw_outcome(folder)  # Which draws the curves too.
        figures.draw_panels(folder)

    def measure(self, folder: RunFolder, problem: BilevelProblem, result: RunResult, optimum: Optimum | None):
        """Writes what became of x and of the follower, and the learned reward, and draws them."""
        noted = read_object(folder.path / "run.json").get("evaluation_entropy_weight")
        weight = RunConfig().evaluation_entropy_weight if noted is None else noted
        write_outcome(folder, measure_outcome(problem, result.x, entropy_weight=weight, optimum=optimum))
        write_reward(folder, problem, result, reference=folder.path.name)
        self.plot(folder)

    def summarize(self, folder: RunFolder) -> str:
        """One line about the outcome."""
        columns, outcome = figures.columns_of(folder), find_outcome(folder)
        if outcome is not None:
            verdict = outcome_lines.verdict(diagnosis.diagnose(folder))
            return f"{outcome_lines.read(folder, outcome).sentence()}; {verdict}"
        metric = "upper_objective" if "upper_objective" in columns else "upper_value"
        if metric not in columns:
            return f"{len(folder.read_rows('metrics')):,} metric rows"
        curves = figures.read_curves(folder, metric)
        before, after = np.median(curves.values[:, [0, -1]], axis=0)
        return f"{metric}, median of {len(curves.values)} seeds: {before:.4g} at the start, {after:.4g} at the end"
