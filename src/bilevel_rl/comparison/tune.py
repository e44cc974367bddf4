"""Which step sizes are best? A search on seeds of its own; every trial is a task, as in a comparison."""

import dataclasses
import itertools
import json
import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from bilevel_rl import checks
from bilevel_rl.comparison.figures import draw_trials
from bilevel_rl.comparison.methods import HOLDING_SHARE, METHODS, NUM_CHAINS, Method, Parameters
from bilevel_rl.comparison.outcomes import read_trials
from bilevel_rl.comparison.search import check_installed, check_search, choose, search
from bilevel_rl.comparison.tables import markdown, write_trials
from bilevel_rl.comparison.tasks import TUNING, Task
from bilevel_rl.problems import GoalPlacement, GoalPosition, WorkedProblem
from bilevel_rl.references import ReferencedProblem
from bilevel_rl.report.page import write_report_of_study
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.study import Command, Sharing, Study
from bilevel_rl.studies.reference import averaged_adam
from bilevel_rl.studies.referenced import OfReference, default_problem, evaluated_at
from bilevel_rl.studies.wind_design import WorkedWindDesign

FLAGS = {"upper": "upper", "actor": "actor", "critic": "critic", "penalty": "penalty", "entropy": "entropy-weight"}
"""Parameters of the single loop to the options of `bilevel-rl run`."""

NUM_LOG_POINTS = 40
"""Of the run that is proposed."""


@dataclass(frozen=True)
class TuningConfig:
    """What is tuned, and with how much care."""

    method: str = "single-loop"
    """which method"""
    budget: float = 5e5
    """environment transitions of each seed of each trial, all chains and inner loops included"""
    trials: int = 40
    """parameters that are tried"""
    batch_size: int = 4
    """trials that are proposed together, from those before them; more processes than these have nothing to do"""
    num_seeds: int = 8
    """seeds of each trial; with few of them the best trial is the luckiest"""
    seed: int = 0
    """root of all randomness: the same seed gives the same trials"""
    evaluation_entropy_weight: float = 0.01
    """entropy weight at which the upper objective is measured exactly"""

    def check(self):
        """Raises `ValueError` for options that cannot be run with."""
        if checks.instance("--method", self.method, str) not in METHODS:
            raise ValueError(f"--method does not know {self.method}; it knows {', '.join(METHODS)}")
        counts = {name: getattr(self, name) for name in ("trials", "batch_size", "num_seeds")}
        check_search(self.budget, self.seed, self.evaluation_entropy_weight, counts)


@dataclass(frozen=True)
class Tuning(Study):
    """A method tuned on a problem. Subclasses say on which; that problem's own study runs what was found."""

    command: ClassVar[Command | None] = "tune"
    shared_by: ClassVar[Sharing] = "workers"

    run_by: ClassVar[str]
    """the study that `bilevel-rl run` runs the single loop with"""

    methods: ClassVar[Mapping[str, Method]] = MappingProxyType(METHODS)
    """every method by its name; the single loop is built as `run_by` builds it"""

    problem: WorkedProblem
    tuning: TuningConfig = field(default_factory=TuningConfig)

    def check(self):
        """Raises `ValueError` for bad options, and `ModuleNotFoundError` where Optuna is not installed."""
        self.tuning.check()
        check_installed()
        lows = {name: low for name, (low, _) in self.method.ranges.items()}
        for values in itertools.product(*self.method.choices.values()):
            self.trial(0, lows | dict(zip(self.method.choices, values, strict=True)), Path()).check()

    def main(self, folder: RunFolder, *, progress: bool = True):
        """Searches, and writes the protocol, the best parameters with the command that uses them, table and figures.

        Trials that the folder holds already are not run again. The workers are those of `Workers.connected`.
        """
        config = self.tuning
        tasks = search(
            folder.path / "study.log",
            self.method,
            lambda number, parameters: self.trial(number, parameters, folder.path),
            num_trials=config.trials,
            batch_size=config.batch_size,
            seed=config.seed,
            progress=progress,
        )
        chosen, record = choose(tasks)
        optimum = self.problem.optimum(self.problem.problem(), config.evaluation_entropy_weight)
        command = self._command(chosen) if config.method == "single-loop" else None
        record |= {"best": chosen.score(), "optimal_objective": optimum.objective, "command": command}
        folder.write_text("protocol.json", json.dumps(dataclasses.asdict(self) | {"result": record}, indent=2) + "\n")
        folder.write_arrays(
            "tuning",
            objectives=np.array([task.score() for task in tasks]),
            transitions=np.array([_num_transitions(task) for task in tasks]),
            optimal_objective=np.array(optimum.objective),
            names=np.array(list(chosen.parameters)),
            parameters=np.array([[task.parameters[name] for name in chosen.parameters] for task in tasks]),
        )
        folder.write_text("best.md", _best(chosen, command))
        self.plot(folder)

    def plot(self, folder: RunFolder):
        """Draws figures, the table of the trials and the report again."""
        draw_trials(folder)
        write_trials(folder)
        question = f"Which step sizes suit {self.tuning.method}?"
        write_report_of_study(folder, question, f"{self.summarize(folder)}.")

    def outcome(self, folder: RunFolder) -> dict[str, Any]:
        """The outcome as data."""
        trials = read_trials(folder)
        best = {name: float(column[trials.best]) for name, column in trials.parameters.items()}
        numbers = {"objective": float(trials.objectives[trials.best]), "optimal_objective": trials.optimal_objective}
        command = json.loads((folder.path / "protocol.json").read_text())["result"]["command"]
        return {"summary": self.summarize(folder), "parameters": best, **numbers, "command": command}

    def summarize(self, folder: RunFolder) -> str:
        """One line about the outcome; `RunFolderError` where the search has not come to its end."""
        trials = read_trials(folder)
        best, digits = trials.objectives[trials.best], trials.decimals
        return (
            f"best of {len(trials.objectives)} trials: trial {trials.best}, final Φ {best:.{digits}f}, Φ − Φ* "
            f"{best - trials.optimal_objective:z.{digits}f}; {np.isinf(trials.objectives).sum()} diverged; "
            f"{trials.transitions.sum():,} transitions spent"
        )

    @property
    def method(self) -> Method:
        """What is tuned."""
        return self.methods[self.tuning.method]

    def trial(self, number: int, parameters: Parameters, path: Path) -> Task:
        """A trial, in a folder of this search; all have the same seeds, none of which is a seed of `bilevel-rl run`."""
        config = self.tuning
        return Task(
            folder=path / "trials" / f"trial-{number}",
            problem=self.problem,
            method=self.method,
            parameters=parameters,
            key=(config.seed, TUNING),
            num_seeds=1 if self.method.is_deterministic else config.num_seeds,
            budget=int(config.budget),
            num_log_points=1,
            num_halvings=0,
            evaluation_entropy_weight=config.evaluation_entropy_weight,
        )

    def _command(self, chosen: Task) -> str:
        """Runs the chosen parameters on other seeds, with the same algorithm to the last digit."""
        num_iterations = chosen.num_iterations()
        options = {FLAGS[name]: value for name, value in chosen.parameters.items()}
        options |= {"offset": HOLDING_SHARE * num_iterations, "num-chains": NUM_CHAINS}
        options |= {"num-iterations": num_iterations, "log-every": math.ceil(num_iterations / NUM_LOG_POINTS)}
        options |= {"evaluation-entropy-weight": self.tuning.evaluation_entropy_weight}
        words = [f"--{name} {value}" for name, value in options.items()]
        if not chosen.algorithm().followers.coupled:  # pyright: ignore[reportAttributeAccessIssue]
            words.append("--no-coupled")
        return " ".join(["bilevel-rl run", *self.run_words(), "--schedule decaying", *words])

    def run_words(self) -> list[str]:
        """What follows `bilevel-rl run` for this problem."""
        return [self.run_by, *_changed_options(self.problem)]


def _num_transitions(task: Task) -> int:
    """What a trial is charged: all seeds to the end, also where one diverged before."""
    return task.num_seeds * task.num_iterations() * task.algorithm().num_transitions_per_iteration


def _changed_options(problem: WorkedProblem) -> Iterator[str]:
    """Options of a problem that are not its defaults."""
    for option in dataclasses.fields(problem):  # pyright: ignore[reportArgumentType]
        value = getattr(problem, option.name)
        if value != option.default:
            numbers = np.ravel(value).tolist()
            yield " ".join([f"--{option.name.replace('_', '-')}", *map(str, numbers)])


def _best(chosen: Task, command: str | None) -> str:
    """The chosen parameters, and how to use them."""
    method = chosen.method
    searched = {name: f"{low:g} … {high:g}" for name, (low, high) in method.ranges.items()}
    searched |= {name: ", ".join(f"{value:g}" for value in values) for name, values in method.choices.items()}
    at_edge = method.at_edge(chosen.parameters)
    rows = [
        [name, f"{value:g}", searched[name], "yes" if name in at_edge else "–"]
        for name, value in chosen.parameters.items()
    ]
    table = markdown(("parameter", "best", "searched", "at the edge"), rows)
    return table if command is None else f"{table}\nOn other seeds:\n\n    {command}\n"


@dataclass(frozen=True)
class TuneGoalPosition(Tuning):
    """Tune a method on goal-position."""

    name: ClassVar[str] = "tune-goal-position"
    run_by: ClassVar[str] = "goal-position"
    problem: GoalPosition = field(default_factory=GoalPosition)


@dataclass(frozen=True)
class TuneGoalPlacement(Tuning):
    """Tune a method on goal-placement."""

    name: ClassVar[str] = "tune-goal-placement"
    run_by: ClassVar[str] = "goal-placement"
    problem: GoalPlacement = field(default_factory=GoalPlacement)


@dataclass(frozen=True)
class TuneWindDesign(Tuning):
    """Tune the single loop, or exact descent, on wind-design."""

    name: ClassVar[str] = "tune-wind-design"
    run_by: ClassVar[str] = "wind-design"
    methods: ClassVar[Mapping[str, Method]] = MappingProxyType(
        METHODS | {"single-loop": replace(METHODS["single-loop"], algorithm=averaged_adam)}
    )
    problem: WorkedWindDesign = field(default_factory=WorkedWindDesign)
    tuning: TuningConfig = field(default_factory=lambda: TuningConfig(evaluation_entropy_weight=0.1))


@dataclass(frozen=True)
class TuneOwnProblem(OfReference, Tuning):
    """Tune a method on your own problem: `bilevel-rl tune path/to/file.py:name`."""

    name: ClassVar[str] = "tune-own-problem"
    run_by: ClassVar[str] = "own-problem"

    @classmethod
    def of(cls, problem: ReferencedProblem) -> "TuneOwnProblem":
        """With the entropy weight that suits the problem."""
        return cls(problem, TuningConfig(evaluation_entropy_weight=evaluated_at(default_problem(problem))))

    def run_words(self) -> list[str]:
        """The reference, its arguments, and the method."""
        return [shlex.join(self.problem.flags()), "--method single-loop"]

    def main(self, folder: RunFolder, *, progress: bool = True):
        """As `Tuning.main`, with a copy of the source file beside it."""
        self.problem.problem()  # Raises where the file is another one by now.
        self.keep_source(folder)
        super().main(folder, progress=progress)
