"""What experiments have in common: one run or several, then what is measured of them, then figures."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bilevel_rl import checks, figures
from bilevel_rl.algorithms import Algorithm, Followers, SingleLoopActorCritic
from bilevel_rl.followers import LearnedReward, write_reward
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.outcome import Optimum, measure_outcome, write_outcome
from bilevel_rl.report import outcome_lines, write_report
from bilevel_rl.runs import processes
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.run import RunResult
from bilevel_rl.studies.config import OfRuns, RunConfig, ScheduleConfig

WHOLE = "."
"""The subfolder of a single run: none."""


class Finished(NamedTuple):
    """A run that has come to its end: what ran, where, and with which result."""

    algorithm: Any
    folder: RunFolder
    result: RunResult


@dataclass(frozen=True)
class Experiment(OfRuns):
    """A study that runs algorithms, measures what came out, writes that to `RESULTS.npz`, and draws it."""

    results: ClassVar[str]
    """name of the file with what `measure` returned"""

    run: RunConfig = RunConfig()

    @abc.abstractmethod
    def algorithms(self) -> Mapping[str, Algorithm]:
        """What runs, by the subfolder that it runs in; building it checks its options."""

    @abc.abstractmethod
    def measure(self, finished: Mapping[str, Finished]) -> dict[str, np.ndarray]:
        """What is worked out after the runs, by the names of the arrays in the file; nothing for no file."""

    def settings(self, algorithm: Algorithm) -> RunConfig:
        """How one of `algorithms` is run."""
        return self.run

    def check(self):
        """Raises `ValueError` for options that cannot be run with."""
        checks.instance("run", self.run, RunConfig)
        self.run.check()
        self.algorithms()

    def main(self, folder: RunFolder, *, progress: bool = True):
        """Runs what the folder does not hold yet, measures, and draws the figures."""
        finished = {}
        for name, algorithm in self.algorithms().items():
            of_run = RunFolder(folder.path / name, report_to=self.report_to)
            result = self.settings(algorithm).run(algorithm, of_run, progress=progress)
            finished[name] = Finished(algorithm, of_run, result)
        if processes.is_writer():
            if measured := self.measure(finished):
                folder.write_arrays(self.results, **measured)
            if single := finished.get(WHOLE):
                self.keep(folder, single, progress=progress)
            self.plot(folder)
            write_report([folder.path])

    def keep(self, folder: RunFolder, single: Finished, *, progress: bool) -> LearnedReward:
        """Keeps what became of a single run, and the reward that it learned, so that nothing later needs the problem.

        Args:
            folder: of the experiment.
            single: the run.
            progress: whether to say how far it is.
        """
        problem, x = single.algorithm.problem, single.result.x
        optimum = self.best_known(folder, single, progress=progress)
        weight = self.settings(single.algorithm).evaluation_entropy_weight
        write_outcome(folder, measure_outcome(problem, x, entropy_weight=weight, optimum=optimum))
        return write_reward(folder, problem, single.result, reference=self.reference_name)

    @property
    def reference_name(self) -> str:
        """By which others find the problem."""
        return self.name

    def best_known(self, folder: RunFolder, single: Finished, *, progress: bool) -> Optimum | None:
        """The best that is known of a single run's problem; None where nothing is."""
        return None


@dataclass(frozen=True)
class SingleRun(Experiment):
    """An experiment that is one run, of Algorithm 1 unless it says otherwise."""

    schedule: ScheduleConfig = ScheduleConfig()

    @abc.abstractmethod
    def algorithm(self) -> Algorithm:
        """What runs; building it checks every option."""

    def measure_run(self, algorithm: Any, result: RunResult) -> dict[str, np.ndarray]:
        """What is worked out after the run; nothing by default."""
        return {}

    def algorithms(self) -> Mapping[str, Algorithm]:
        """The only one."""
        checks.instance("schedule", self.schedule, ScheduleConfig)
        return {WHOLE: self.algorithm()}

    def measure(self, finished: Mapping[str, Finished]) -> dict[str, np.ndarray]:
        """What is worked out after the run."""
        return self.measure_run(finished[WHOLE].algorithm, finished[WHOLE].result)

    def plot(self, folder: RunFolder):
        """Draws the figures that any run has, from its files."""
        figures.draw_outcome(folder)

    def outcome(self, folder: RunFolder) -> dict[str, Any]:
        """The outcome as data."""
        found = outcome_lines.read(folder).as_json()
        return {"summary": self.summarize(folder), **found, "findings": outcome_lines.findings(folder)}


@dataclass(frozen=True)
class BesideOptimum(SingleRun):
    """A run beside the problem's known optimum: `optimum` in the file, whose objective is `optimal_objective`.

    Where the model is too large to be measured exactly at every log point, only what was sampled is drawn.
    """

    reference: ClassVar[str] = "Φ*"
    """how the objective of the optimum is called"""

    @abc.abstractmethod
    def draw(self, folder: RunFolder):
        """Draws the figure of the experiment, beside those that all have."""

    def measure(self, finished: Mapping[str, Finished]) -> dict[str, np.ndarray]:
        """What is worked out after a run that was measured exactly."""
        return {} if figures.is_sampled(finished[WHOLE].folder) else super().measure(finished)

    def plot(self, folder: RunFolder):
        """Draws the figure of the experiment, and those that any run has."""
        if not figures.is_sampled(folder):
            self.draw(folder)
        super().plot(folder)

    def best_known(self, folder: RunFolder, single: Finished, *, progress: bool) -> Optimum | None:
        """That of the file."""
        if figures.is_sampled(folder):
            return None
        data = folder.read_arrays(self.results)
        return Optimum(float(data["optimal_objective"]), data.get("optimum"), how=self.reference)

    def summarize(self, folder: RunFolder) -> str:
        """One line about the outcome."""
        if figures.is_sampled(folder):
            return figures.summarize_samples(folder)
        optimal = float(folder.read_arrays(self.results)["optimal_objective"])
        initial = figures.initial_values(folder, "upper_objective") - optimal
        shares = 100 * (figures.final_values(folder, "upper_objective") - optimal) / initial
        return (
            f"{self.reference} = {optimal:.4f}; final gap to it in percent of the initial one: largest "
            f"{shares.max():.2f} %, median {np.median(shares):.2f} % of {len(shares)} seeds"
        )


@dataclass(frozen=True)
class WorkedRun(BesideOptimum):
    """Algorithm 1, with plain steps of x, on a problem of `bilevel_rl.problems` whose optimum is known."""

    coupled: bool = True
    """both policies' chains share their random numbers; without it they are the paper's"""

    @abc.abstractmethod
    def problem(self) -> BilevelProblem:
        """The problem, which the other base class makes."""

    def algorithm(self) -> SingleLoopActorCritic:
        """What runs; building it checks every option."""
        schedule = self.schedule
        checks.flag("coupled", self.coupled)
        return SingleLoopActorCritic(
            self.problem(), schedule.step_sizes(), Followers(schedule.num_chains, coupled=self.coupled)
        )
