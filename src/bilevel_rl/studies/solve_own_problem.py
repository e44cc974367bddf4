"""A problem of the user's, solved exactly."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from bilevel_rl import checks, exact
from bilevel_rl.references import ReferencedProblem
from bilevel_rl.references.problem import descend
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.study import Command, Study
from bilevel_rl.studies import outcomes
from bilevel_rl.studies.referenced import (
    EVALUATED,
    default_problem,
    described,
    evaluated_at,
    found,
    keep_source,
    with_digest_of_now,
)


@dataclass(frozen=True)
class SolveOwnProblem(Study):
    """Solve your own problem by exact descent, where it has tables: `bilevel-rl solve path/to/file.py:name`."""

    name: ClassVar[str] = "solve-own-problem"
    command: ClassVar[Command] = "solve"
    takes_reference: ClassVar[bool] = True

    problem: ReferencedProblem
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

    @property
    def label(self) -> str:
        """What the file is called."""
        return f"solve-{self.problem.short_name}"

    def check(self):
        """Raises `ValueError` for options that cannot be run with, and where there are no tables."""
        checks.number("evaluation_entropy_weight", self.evaluation_entropy_weight, above=0)
        checks.integer("max_iterations", self.max_iterations, at_least=1)
        checks.number("tolerance", self.tolerance, above=0)
        self.problem.problem().mdp  # noqa: B018 - raises where the environment has no tables

    def main(self, folder: RunFolder, *, progress: bool = True):
        """Descends, and writes `outcome.npz`."""
        with_digest_of_now(self, folder)._solve(folder, progress=progress)

    def _solve(self, folder: RunFolder, *, progress: bool):
        keep_source(self.problem, folder)
        problem, τ = self.problem.problem(), self.evaluation_entropy_weight
        before = exact.hyper_objective(problem, problem.initial_x, entropy_weight=τ)
        options = {"max_iterations": self.max_iterations, "tolerance": self.tolerance, "progress": progress}
        solution = descend(problem, τ, **options)
        arrays = described(problem) | found(solution, f"found by exact descent, {solution.status}")
        folder.write_arrays("outcome", **arrays, initial_objective=np.array(before))

    def plot(self, folder: RunFolder):
        """Draws nothing: there is no course to show."""

    def outcome(self, folder: RunFolder) -> dict[str, Any]:
        """The outcome as data."""
        data = folder.read_arrays("outcome")
        named = dict(zip(data["labels"].tolist(), data["optimal_x"].tolist(), strict=True))
        numbers = {name: float(data[name]) for name in ("initial_objective", "optimal_objective", "residual")}
        return {"summary": self.summarize(folder), **numbers, "x": named, "status": str(data["optimum_is"])}

    def summarize(self, folder: RunFolder) -> str:
        """Φ before and after, x, and how stationary it is."""
        data = folder.read_arrays("outcome")
        x = outcomes.named(data["labels"].tolist(), data["optimal_x"])
        return (
            f"Φ {data['initial_objective']:.5g} → {data['optimal_objective']:.5g} at entropy weight "
            f"{self.evaluation_entropy_weight:g} ({data['optimum_is']}, residual {data['residual']:.1e}); {x}"
        )
