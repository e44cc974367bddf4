"""Which step sizes are best? A search on seeds of its own; every trial is a task, as in a comparison."""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bilevel_rl.comparison import search, tuning
from bilevel_rl.comparison.compare import TUNING
from bilevel_rl.comparison.methods import HOLDING_SHARE, METHODS, NUM_CHAINS, Method, Parameters
from bilevel_rl.comparison.tasks import Task, WorkedProblem
from bilevel_rl.comparison.tune_figures import draw_tuning, summarize_tuning, write_trials
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies import wind_design
from bilevel_rl.studies.config import check_search
from bilevel_rl.studies.goal_placement import GoalPlacementOptions
from bilevel_rl.studies.goal_position import GoalPositionOptions
from bilevel_rl.studies.wind_design import WindDesignOptions

FLAGS = {"upper": "upper", "actor": "actor", "critic": "critic", "penalty": "penalty", "entropy": "entropy-weight"}
"""Parameters of the single loop to the options of its experiments."""

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
        """Raises `ValueError` for settings that cannot be run with."""
        if self.method not in METHODS:
            raise ValueError(f"--method does not know {self.method}; it knows {', '.join(METHODS)}")
        counts = {name: getattr(self, name) for name in ("trials", "batch_size", "num_seeds")}
        check_search(self.budget, self.seed, self.evaluation_entropy_weight, counts)


@dataclass(frozen=True)
class TuneGoalPosition:
    """Tune a method on goal-position."""

    problem: GoalPositionOptions = field(default_factory=GoalPositionOptions)
    tuning: TuningConfig = field(default_factory=TuningConfig)


@dataclass(frozen=True)
class TuneGoalPlacement:
    """Tune a method on goal-placement."""

    problem: GoalPlacementOptions = field(default_factory=GoalPlacementOptions)
    tuning: TuningConfig = field(default_factory=TuningConfig)


@dataclass(frozen=True)
class TuneWindDesign:
    """Tune the single loop, or exact descent, on wind-design."""

    problem: WindDesignOptions = field(default_factory=WindDesignOptions)
    tuning: TuningConfig = field(default_factory=lambda: TuningConfig(evaluation_entropy_weight=0.1))


Tuning = TuneGoalPosition | TuneGoalPlacement | TuneWindDesign

EXPERIMENTS = {
    TuneGoalPosition: "goal-position",
    TuneGoalPlacement: "goal-placement",
    TuneWindDesign: "wind-design",
}
"""The experiment that runs what was found."""


def check(config: Tuning):
    """Raises `ValueError` for bad options, and `ModuleNotFoundError` where Optuna is not installed."""
    config.tuning.check()
    search.check_installed()
    method = _method(config)
    lows = {name: low for name, (low, _) in method.ranges.items()}
    for values in itertools.product(*method.choices.values()):
        task = _task(config, Path(), 0, lows | dict(zip(method.choices, values, strict=True)))
        if task.num_iterations() < 1:
            raise ValueError(
                f"--budget {config.tuning.budget:g} does not pay for one iteration of {config.tuning.method}, which "
                f"takes up to {task.algorithm().num_transitions_per_iteration:,} transitions"
            )


def main(config: Tuning, folder: RunFolder, *, progress: bool = True):
    """Searches, and writes the protocol, the best parameters with the command that uses them, table and figures.

    Trials that the folder holds already are not run again. The workers are those of `Workers.connected`.
    """
    settings, method = config.tuning, _method(config)
    tasks = search.search(
        folder.path / "study.log",
        method,
        lambda number, parameters: _task(config, folder.path, number, parameters),
        num_trials=settings.trials,
        batch_size=settings.batch_size,
        seed=settings.seed,
        progress=progress,
    )
    chosen, record = tuning.choose(settings.method, tasks)
    optimum = config.problem.optimum(config.problem.problem(), settings.evaluation_entropy_weight)
    objectives = np.array([tuning.score(task) for task in tasks])
    command = _command(config, chosen) if settings.method == "single-loop" else None
    record |= {"best": tuning.score(chosen), "optimal_objective": optimum.objective, "command": command}
    folder.write_text("protocol.json", json.dumps(dataclasses.asdict(config) | {"result": record}, indent=2) + "\n")
    folder.write_arrays(
        "tuning",
        objectives=objectives,
        transitions=np.array([_num_transitions(task) for task in tasks]),
        optimal_objective=np.array(optimum.objective),
        names=np.array(list(chosen.parameters)),
        parameters=np.array([[task.parameters[name] for name in chosen.parameters] for task in tasks]),
    )
    folder.write_text("best.md", _best(chosen, record))
    plot(folder)


def _method(config: Tuning) -> Method:
    """As compared; but what runs on wind-design is the single loop of that experiment."""
    method = METHODS[config.tuning.method]
    if isinstance(config, TuneWindDesign) and config.tuning.method == "single-loop":
        build = lambda problem, step_sizes, _: wind_design.single_loop(problem, step_sizes, NUM_CHAINS)  # noqa: E731
        return dataclasses.replace(method, algorithm=build)
    return method


def _task(config: Tuning, path: Path, number: int, parameters: Parameters) -> Task:
    """A trial; all have the same seeds, which are not those of `bilevel-rl run`."""
    settings, method = config.tuning, _method(config)
    return Task(
        folder=path / "trials" / f"trial-{number}",
        problem=config.problem,
        method=method,
        parameters=parameters,
        key=(settings.seed, TUNING),
        num_seeds=1 if method.is_deterministic else settings.num_seeds,
        budget=int(settings.budget),
        num_log_points=1,
        evaluation_entropy_weight=settings.evaluation_entropy_weight,
    )


def _num_transitions(task: Task) -> int:
    """What a trial is charged: all seeds to the end, also where one diverged before."""
    return task.num_seeds * task.num_iterations() * task.algorithm().num_transitions_per_iteration


def _command(config: Tuning, chosen: Task) -> str:
    """Runs the chosen parameters on other seeds, with the same algorithm to the last digit."""
    num_iterations = chosen.num_iterations()
    options = {FLAGS[name]: value for name, value in chosen.parameters.items()}
    options |= {"offset": HOLDING_SHARE * num_iterations, "num-chains": NUM_CHAINS, "num-iterations": num_iterations}
    options |= {"log-every": math.ceil(num_iterations / NUM_LOG_POINTS)}
    options |= {"evaluation-entropy-weight": config.tuning.evaluation_entropy_weight}
    words = [f"--{name} {value}" for name, value in options.items()]
    if not chosen.algorithm().followers.coupled:  # pyright: ignore[reportAttributeAccessIssue]
        words.append("--no-coupled")
    experiment = EXPERIMENTS[type(config)]
    return " ".join(["bilevel-rl run", experiment, *_changed_options(config.problem), "--schedule decaying", *words])


def _changed_options(problem: WorkedProblem) -> Iterator[str]:
    """Options of a problem that are not its defaults."""
    for option in dataclasses.fields(problem):  # pyright: ignore[reportArgumentType]
        value = getattr(problem, option.name)
        if value != option.default:
            numbers = np.ravel(value).tolist()
            yield " ".join([f"--{option.name.replace('_', '-')}", *map(str, numbers)])


def _best(chosen: Task, record: dict) -> str:
    """The chosen parameters, and how to use them."""
    searched = {name: f"{low:g} … {high:g}" for name, (low, high) in chosen.method.ranges.items()}
    searched |= {name: ", ".join(f"{value:g}" for value in values) for name, values in chosen.method.choices.items()}
    lines = ["| parameter | best | searched | at the edge |", "| --- | --- | --- | --- |"]
    for name, value in chosen.parameters.items():
        lines.append(f"| {name} | {value:g} | {searched[name]} | {'yes' if name in record['at_edge'] else '–'} |")
    if record["command"] is not None:
        lines += ["", "On other seeds:", "", f"    {record['command']}"]
    return "\n".join(lines) + "\n"


def plot(folder: RunFolder):
    """Draws figures and the table of the trials again."""
    draw_tuning(folder)
    write_trials(folder)


def summarize(folder: RunFolder) -> str:
    """One line about the outcome."""
    return summarize_tuning(folder)
