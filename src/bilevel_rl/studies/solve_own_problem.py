"""A problem of the user's, solved exactly."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from bilevel_rl import checks, exact, figures
from bilevel_rl.outcome import Optimum, Outcome, measure_outcome, read_outcome, write_outcome
from bilevel_rl.references import ReferencedProblem
from bilevel_rl.references.problem import descend
from bilevel_rl.report import outcome_lines
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.study import Command
from bilevel_rl.studies.referenced import EVALUATED, OfReference, default_problem, evaluated_at


@dataclass(frozen=True)
class SolveOwnProblem(OfReference):
    """Solve your own problem by exact descent, where it has tables: `bilevel-rl solve path/to/file.py:name`."""

    name: ClassVar[str] = "solve-own-problem"
    command: ClassVar[Command | None] = "solve"

    evaluation_entropy_weight: float = EVALUATED
    """entropy weight τ at which Φ is minimized; descent comes from larger ones"""
    max_iterations: int = 500
    """accepted steps for each entropy weight"""
    tolerance: float = 1e-7
    """residual at which x counts as stationary"""

    @classmethod
    def of(cls, problem: ReferencedProblem) -> "SolveOwnProblem":
        """With defaults that suit the problem."""
        return cls(problem, evaluated_at(default_problem(problem)))

    def check(self):
        """Raises `ValueError` for options that cannot be run with, and where there are no tables."""
        checks.number("evaluation_entropy_weight", self.evaluation_entropy_weight, above=0)
        checks.integer("max_iterations", self.max_iterations, at_least=1)
        checks.number("tolerance", self.tolerance, above=0)
        self.problem.problem().mdp  # noqa: B018 - raises where the environment has no tables

    def main(self, folder: RunFolder, *, progress: bool = True):
        """Descends, and writes `outcome.npz`."""
        study = self.of_now(folder)
        study.keep_source(folder)
        problem, τ = study.problem.problem(), self.evaluation_entropy_weight
        options = {"max_iterations": self.max_iterations, "tolerance": self.tolerance, "progress": progress}
        solution = descend(problem, τ, **options)
        ends = jax.tree.map(lambda leaf: np.asarray(leaf)[None], solution.x)
        optimum = Optimum(solution.objective, solution.x, f"found by exact descent, {solution.status}")
        write_outcome(folder, measure_outcome(problem, ends, entropy_weight=τ, optimum=optimum))
        before = exact.hyper_objective(problem, problem.initial_x, entropy_weight=τ)
        objectives = np.array([before, solution.objective])
        folder.write_arrays("solution", objectives=objectives, residual=np.array(solution.residual))
        self.plot(folder)

    def plot(self, folder: RunFolder):
        """Draws x and the follower; there is no course to show."""
        figures.draw_outcome(folder)

    def outcome(self, folder: RunFolder) -> dict[str, Any]:
        """The outcome as data."""
        found, objectives, residual = self._read(folder)
        named = dict(zip(found.x_names, found.final_x[0].tolist(), strict=True))
        numbers = {"initial_objective": objectives[0], "optimal_objective": objectives[1], "residual": residual}
        return {"summary": self.summarize(folder), **numbers, "x": named, "status": found.optimum and found.optimum.how}

    def summarize(self, folder: RunFolder) -> str:
        """Φ before and after, x, and how stationary it is."""
        found, (before, after), residual = self._read(folder)
        how = found.optimum and found.optimum.how
        return (
            f"Φ {before:.5g} → {after:.5g} at entropy weight {self.evaluation_entropy_weight:g} "
            f"({how}, residual {residual:.1e}); {outcome_lines.named(found.x_names, found.final_x[0])}"
        )

    def _read(self, folder: RunFolder) -> tuple[Outcome, list[float], float]:
        """What was found, Φ before and after, and the residual."""
        found, solution = read_outcome(folder), folder.read_arrays("solution")
        return found, solution["objectives"].tolist(), float(solution["residual"])
