"""Which method comes how far, for the same number of environment transitions?"""

import dataclasses
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bilevel_rl.comparison import tuning
from bilevel_rl.comparison.figures import draw_comparison, read_outcome
from bilevel_rl.comparison.methods import METHODS
from bilevel_rl.comparison.tables import summarize_comparison, write_tables
from bilevel_rl.comparison.tasks import Task, seconds_of_loop
from bilevel_rl.comparison.workers import run_tasks
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import check_search
from bilevel_rl.studies.goal_placement import GoalPlacementOptions
from bilevel_rl.studies.goal_position import GoalPositionOptions

TUNING, FINAL = 0, 1
"""Folded into the root key: seeds that parameters were tuned on are never those that are reported."""


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
    """parameters that random search tries for each method"""
    tuning_seeds: int = 3
    """seeds of each trial; others than those of the final runs"""
    seed: int = 0
    """root of all randomness: the same seed gives the same table"""
    num_log_points: int = 40
    """points of each curve"""
    evaluation_entropy_weight: float = 0.01
    """entropy weight at which the upper objective is measured exactly"""

    def check(self):
        """Raises `ValueError` for settings that cannot be run with."""
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise ValueError(f"--methods does not know {', '.join(unknown)}; it knows {', '.join(METHODS)}")
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"--methods must name at least one method, and none twice, got {self.methods}")
        counts = {name: getattr(self, name) for name in ("num_seeds", "trials", "tuning_seeds", "num_log_points")}
        check_search(self.budget, self.seed, self.evaluation_entropy_weight, counts)


@dataclass(frozen=True)
class CompareGoalPosition:
    """Compare methods on goal-position."""

    problem: GoalPositionOptions = field(default_factory=GoalPositionOptions)
    comparison: ComparisonConfig = field(default_factory=ComparisonConfig)


@dataclass(frozen=True)
class CompareGoalPlacement:
    """Compare methods on goal-placement."""

    problem: GoalPlacementOptions = field(default_factory=GoalPlacementOptions)
    comparison: ComparisonConfig = field(default_factory=ComparisonConfig)


Comparison = CompareGoalPosition | CompareGoalPlacement


def check(config: Comparison):
    """Raises `ValueError` for bad options of the problem, of a method, or of the comparison."""
    config.comparison.check()
    for name in config.comparison.methods:
        for task in _tuning_tasks(config, Path(), name):
            if task.num_iterations() < 1:
                raise ValueError(
                    f"--budget {config.comparison.budget:g} does not pay for one iteration of {name}, which takes "
                    f"{task.algorithm().num_transitions_per_iteration:,} transitions"
                )


def main(config: Comparison, folder: RunFolder, *, progress: bool = True):
    """Tunes every method, runs it with what was found, and writes protocol, tables and figures.

    Tasks that the folder holds already are not run again. The workers are those of `Workers.connected`.
    """
    names, records, final_tasks = config.comparison.methods, {}, {}
    tuning_tasks = {name: _tuning_tasks(config, folder.path, name) for name in names}
    run_tasks([task for name in names for task in tuning_tasks[name]], "tuning", progress=progress)
    for name, tasks in tuning_tasks.items():
        chosen, records[name] = tuning.choose(name, tasks)
        final_tasks[name] = _final_tasks(config, folder.path, name, chosen)
    folder.write_text("protocol.json", json.dumps(dataclasses.asdict(config) | {"methods": records}, indent=2) + "\n")

    run_tasks([task for name in names for task in final_tasks[name]], "final runs", progress=progress)
    optimum = config.problem.optimum(config.problem.problem(), config.comparison.evaluation_entropy_weight)
    arrays = {"methods": np.array(names), "optimal_objective": np.array(optimum.objective)}
    for name, tasks in final_tasks.items():
        outcome = read_outcome([RunFolder(task.folder) for task in tasks], seconds_of_loop(tasks[0]))
        arrays |= {f"{name} {field}": np.asarray(value) for field, value in outcome._asdict().items()}
    folder.write_arrays("comparison", **arrays)
    plot(folder)


def _tuning_tasks(config: Comparison, path: Path, name: str) -> list[Task]:
    """A task for each trial, all with the same seeds."""
    settings, method = config.comparison, METHODS[name]
    return [
        Task(
            folder=path / "tuning" / name / f"trial-{trial}",
            problem=config.problem,
            method=method,
            parameters=method.draw(settings.seed, trial),
            key=(settings.seed, TUNING),
            num_seeds=1 if method.is_deterministic else settings.tuning_seeds,
            budget=int(settings.budget),
            num_log_points=1,
            evaluation_entropy_weight=settings.evaluation_entropy_weight,
        )
        for trial in range(settings.trials)
    ]


def _final_tasks(config: Comparison, path: Path, name: str, chosen: Task) -> list[Task]:
    """A task for each seed, with the parameters of the chosen trial; seed i of every method has the same key."""
    settings = config.comparison
    return [
        replace(
            chosen,
            folder=path / "final" / name / f"seed-{seed}",
            key=(settings.seed, FINAL, seed),
            num_seeds=1,
            num_log_points=settings.num_log_points,
        )
        for seed in range(1 if METHODS[name].is_deterministic else settings.num_seeds)
    ]


def plot(folder: RunFolder):
    """Draws figures and tables of a run folder again."""
    draw_comparison(folder)
    write_tables(folder)


def summarize(folder: RunFolder) -> str:
    """One line about the outcome."""
    return summarize_comparison(folder)
