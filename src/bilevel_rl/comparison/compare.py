"""Which method comes how far, for the same number of environment transitions?"""

import dataclasses
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bilevel_rl import checks
from bilevel_rl.comparison.figures import draw_comparison
from bilevel_rl.comparison.methods import METHODS
from bilevel_rl.comparison.outcomes import decimals, gaps, ranked, read_outcome, read_outcomes
from bilevel_rl.comparison.search import check_search, choose
from bilevel_rl.comparison.tables import answer, write_tables
from bilevel_rl.comparison.tasks import FINAL, TUNING, Task, seconds_of_loop
from bilevel_rl.comparison.workers import run_tasks
from bilevel_rl.problems import FrozenLake, GoalPlacement, GoalPosition, WorkedProblem
from bilevel_rl.references import ReferencedProblem
from bilevel_rl.report.page import write_report_of_study
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.study import Command, Sharing, Study
from bilevel_rl.studies.referenced import OfReference, default_problem, evaluated_at

QUESTION = "Which method comes how far, for the same number of environment transitions?"

NUM_HALVINGS = 8
"""Log points before the first of the even ones, for methods that are done by then."""


@dataclass(frozen=True)
class ComparisonConfig:
    """What is compared, and with how much care."""

    methods: tuple[str, ...] = tuple(METHODS)
    """which methods"""
    budget: float = 2e6
    """environment transitions of each seed of each method, all chains and inner loops included"""
    num_seeds: int = 10
    """seeds of the final runs"""
    trials: int = 24
    """parameters that random search tries for each method that has any"""
    tuning_seeds: int = 3
    """seeds of each trial, none of which is a seed of the final runs"""
    seed: int = 0
    """root of all randomness: the same seed gives the same table"""
    num_log_points: int = 40
    """even points of each curve; eight more come before the first"""
    evaluation_entropy_weight: float = 0.01
    """entropy weight at which the upper objective is measured exactly"""

    def check(self):
        """Raises `ValueError` for options that cannot be run with."""
        for name in checks.instance("--methods", self.methods, tuple, list):
            checks.instance("--methods", name, str)
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise ValueError(f"--methods does not know {', '.join(unknown)}; it knows {', '.join(METHODS)}")
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"--methods must name at least one method, and none twice, got {self.methods}")
        counts = {name: getattr(self, name) for name in ("num_seeds", "trials", "tuning_seeds", "num_log_points")}
        check_search(self.budget, self.seed, self.evaluation_entropy_weight, counts)


@dataclass(frozen=True)
class Comparison(Study):
    """Methods compared on a problem, all tuned in the same way. Subclasses say on which problem."""

    command: ClassVar[Command | None] = "compare"
    shared_by: ClassVar[Sharing] = "workers"

    problem: WorkedProblem
    comparison: ComparisonConfig = field(default_factory=ComparisonConfig)

    def check(self):
        """Raises `ValueError` for bad options of the problem, of a method, or of the comparison."""
        self.comparison.check()
        for name in self.comparison.methods:
            for task in self._tuning_tasks(name, Path()):
                task.check()

    def main(self, folder: RunFolder, *, progress: bool = True):
        """Tunes every method, runs it with what was found, and writes protocol, tables and figures.

        Tasks that the folder holds already are not run again. The workers are those of `Workers.connected`.
        """
        names, records, final_tasks = self.comparison.methods, {}, {}
        tuning_tasks = {name: self._tuning_tasks(name, folder.path) for name in names}
        run_tasks([task for name in names for task in tuning_tasks[name]], "tuning", progress=progress)
        for name, tasks in tuning_tasks.items():
            chosen, records[name] = choose(tasks)
            final_tasks[name] = list(self._final_tasks(chosen, folder.path))
        protocol = dataclasses.asdict(self) | {"methods": records}
        folder.write_text("protocol.json", json.dumps(protocol, indent=2) + "\n")

        run_tasks([task for name in names for task in final_tasks[name]], "final runs", progress=progress)
        optimum = self.problem.optimum(self.problem.problem(), self.comparison.evaluation_entropy_weight)
        arrays = {"methods": np.array(names), "optimal_objective": np.array(optimum.objective)}
        for name, tasks in final_tasks.items():
            outcome = read_outcome([RunFolder(task.folder) for task in tasks], seconds_of_loop(tasks[0]))
            arrays |= {f"{name} {column}": np.asarray(value) for column, value in outcome._asdict().items()}
        folder.write_arrays("comparison", **arrays)
        self.plot(folder)

    def plot(self, folder: RunFolder):
        """Draws figures, tables and report of a run folder again."""
        draw_comparison(folder)
        write_tables(folder)
        write_report_of_study(folder, QUESTION, answer(*read_outcomes(folder)))

    def outcome(self, folder: RunFolder) -> dict[str, Any]:
        """The outcome as data: final Φ of every seed of every method, the best first."""
        outcomes, optimum = read_outcomes(folder)
        finals = {name: outcomes[name].final_objectives.tolist() for name in ranked(outcomes)}
        return {"summary": self.summarize(folder), "optimal_objective": optimum, "final_objectives": finals}

    def summarize(self, folder: RunFolder) -> str:
        """One line about the outcome; `RunFolderError` where the comparison has not come that far."""
        outcomes, optimum = read_outcomes(folder)
        digits = decimals(outcomes, optimum)
        listed = ", ".join(f"{name} {gap:z.{digits}f}" for name, gap in gaps(outcomes, optimum).items())
        return f"Φ* = {optimum:.{digits}f}; final Φ − Φ*, interquartile mean: {listed}"

    def _tuning_tasks(self, name: str, path: Path) -> list[Task]:
        """A task for each trial of a method, all with the same seeds."""
        config, method = self.comparison, METHODS[name]
        return [
            Task(
                folder=path / "tuning" / name / f"trial-{trial}",
                problem=self.problem,
                method=method,
                parameters=method.draw(config.seed, trial),
                key=(config.seed, TUNING),
                num_seeds=1 if method.is_deterministic else config.tuning_seeds,
                budget=int(config.budget),
                num_log_points=1,
                num_halvings=0,
                evaluation_entropy_weight=config.evaluation_entropy_weight,
            )
            for trial in range(config.trials if method.has_parameters else 1)
        ]

    def _final_tasks(self, chosen: Task, path: Path) -> Iterator[Task]:
        """A task for each seed, with the parameters of the chosen trial; seed i of every method has the same key."""
        config, method = self.comparison, chosen.method
        for seed in range(1 if method.is_deterministic else config.num_seeds):
            yield replace(
                chosen,
                folder=path / "final" / method.name / f"seed-{seed}",
                key=(config.seed, FINAL, seed),
                num_seeds=1,
                num_log_points=config.num_log_points,
                num_halvings=NUM_HALVINGS,
            )


@dataclass(frozen=True)
class CompareGoalPosition(Comparison):
    """Compare methods on goal-position."""

    name: ClassVar[str] = "compare-goal-position"
    problem: GoalPosition = field(default_factory=GoalPosition)


@dataclass(frozen=True)
class CompareGoalPlacement(Comparison):
    """Compare methods on goal-placement."""

    name: ClassVar[str] = "compare-goal-placement"
    problem: GoalPlacement = field(default_factory=GoalPlacement)


@dataclass(frozen=True)
class CompareFrozenLake(Comparison):
    """Compare methods on frozen-lake."""

    name: ClassVar[str] = "compare-frozen-lake"
    problem: FrozenLake = field(default_factory=FrozenLake)
    comparison: ComparisonConfig = field(default_factory=lambda: ComparisonConfig(evaluation_entropy_weight=0.05))


@dataclass(frozen=True)
class CompareOwnProblem(OfReference, Comparison):
    """Compare methods on your own problem: `bilevel-rl compare path/to/file.py:name`."""

    name: ClassVar[str] = "compare-own-problem"

    @classmethod
    def of(cls, problem: ReferencedProblem) -> "CompareOwnProblem":
        """With the entropy weight that suits the problem."""
        return cls(problem, ComparisonConfig(evaluation_entropy_weight=evaluated_at(default_problem(problem))))

    def settled(self) -> "CompareOwnProblem":
        """Without the methods that cannot solve this problem, unless they were named; a line says why.

        Raises:
            ValueError: there are no tables, or no method can solve it.
        """
        self.problem.problem().mdp  # noqa: B018 - raises where the environment has no tables
        if self.comparison.methods != ComparisonConfig().methods:
            return self
        self.comparison.check()
        able, refusals = [], []
        for name in self.comparison.methods:
            try:
                for task in self._tuning_tasks(name, Path()):
                    task.check()
                able.append(name)
            except ValueError as error:
                refusals.append(f"{name} is left out: {error}")
        for refusal in refusals:
            warnings.warn(refusal, stacklevel=2)
        if not able:
            raise ValueError(f"no method can solve {self.problem.title}; {refusals[0]}")
        return replace(self, comparison=replace(self.comparison, methods=tuple(able)))

    def main(self, folder: RunFolder, *, progress: bool = True):
        """As `Comparison.main`, with a copy of the source file beside it."""
        self.problem.problem()  # Raises where the file is another one by now.
        self.keep_source(folder)
        super().main(folder, progress=progress)
