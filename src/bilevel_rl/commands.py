"""What can be said on the command line: every command and option as a dataclass field, from which tyro makes flags."""

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Annotated

import tyro

from bilevel_rl.comparison import compare as comparison, tune as tuning
from bilevel_rl.comparison.workers import Workers
from bilevel_rl.runs import compiler, processes
from bilevel_rl.runs.study import Study
from bilevel_rl.studies import (
    ablations,
    cartpole_design,
    coupling,
    entropy_schedules,
    four_rooms,
    goal_placement,
    goal_position,
    mountain_car_shaping,
    pendulum_design,
    rates,
    reward_learning,
    wind_design,
)
from bilevel_rl.studies.happy_tweets import study as happy_tweets

EXPERIMENTS: dict[str, tuple[type, ModuleType]] = {
    "goal-position": (goal_position.GoalPosition, goal_position),
    "goal-placement": (goal_placement.GoalPlacement, goal_placement),
    "entropy-schedules": (entropy_schedules.EntropySchedules, entropy_schedules),
    "coupling": (coupling.Coupling, coupling),
    "four-rooms": (four_rooms.FourRooms, four_rooms),
    "wind-design": (wind_design.WindDesign, wind_design),
    "target-visitation": (reward_learning.TargetVisitation, reward_learning),
    "inverse-rl": (reward_learning.InverseRL, reward_learning),
    "preferences": (reward_learning.Preferences, reward_learning),
    "ablations": (ablations.Ablations, ablations),
    "rates": (rates.Rates, rates),
    "cartpole-design": (cartpole_design.CartpoleDesign, cartpole_design),
    "mountain-car": (mountain_car_shaping.MountainCarShaping, mountain_car_shaping),
    "pendulum-design": (pendulum_design.PendulumDesign, pendulum_design),
    "happy-tweets": (happy_tweets.HappyTweets, happy_tweets),
}

COMPARISONS: dict[str, type[Study]] = {
    kind.name: kind for kind in (comparison.CompareGoalPosition, comparison.CompareGoalPlacement)
}

TUNINGS: dict[str, type[Study]] = {
    kind.name: kind for kind in (tuning.TuneGoalPosition, tuning.TuneGoalPlacement, tuning.TuneWindDesign)
}

AnyExperiment = (
    Annotated[goal_position.GoalPosition, tyro.conf.subcommand("goal-position")]
    | Annotated[goal_placement.GoalPlacement, tyro.conf.subcommand("goal-placement")]
    | Annotated[entropy_schedules.EntropySchedules, tyro.conf.subcommand("entropy-schedules")]
    | Annotated[coupling.Coupling, tyro.conf.subcommand("coupling")]
    | Annotated[four_rooms.FourRooms, tyro.conf.subcommand("four-rooms")]
    | Annotated[wind_design.WindDesign, tyro.conf.subcommand("wind-design")]
    | Annotated[reward_learning.TargetVisitation, tyro.conf.subcommand("target-visitation")]
    | Annotated[reward_learning.InverseRL, tyro.conf.subcommand("inverse-rl")]
    | Annotated[reward_learning.Preferences, tyro.conf.subcommand("preferences")]
    | Annotated[ablations.Ablations, tyro.conf.subcommand("ablations")]
    | Annotated[rates.Rates, tyro.conf.subcommand("rates")]
    | Annotated[cartpole_design.CartpoleDesign, tyro.conf.subcommand("cartpole-design")]
    | Annotated[mountain_car_shaping.MountainCarShaping, tyro.conf.subcommand("mountain-car")]
    | Annotated[pendulum_design.PendulumDesign, tyro.conf.subcommand("pendulum-design")]
    | Annotated[happy_tweets.HappyTweets, tyro.conf.subcommand("happy-tweets")]
)

AnyComparison = (
    Annotated[comparison.CompareGoalPosition, tyro.conf.subcommand("goal-position")]
    | Annotated[comparison.CompareGoalPlacement, tyro.conf.subcommand("goal-placement")]
)

AnyTuning = (
    Annotated[tuning.TuneGoalPosition, tyro.conf.subcommand("goal-position")]
    | Annotated[tuning.TuneGoalPlacement, tyro.conf.subcommand("goal-placement")]
    | Annotated[tuning.TuneWindDesign, tyro.conf.subcommand("wind-design")]
)

RUNS = Path("runs")


@dataclasses.dataclass(frozen=True)
class Job:
    """Which processes and devices share the work; one process with one device by default."""

    coordinator: str | None = None
    """HOST:PORT of process 0, where several processes of one job meet; all share the run folder"""
    num_processes: int = 1
    """processes of the job"""
    process_id: int = 0
    """this process, from 0"""
    cpu_devices: int = 1
    """CPU devices of this process; the bits of the results do not depend on them"""

    def join(self, folder: Path | None):
        """Prepares the devices, and waits for the other processes."""
        if self.cpu_devices < 1:
            raise ValueError(f"--cpu-devices must be at least 1, got {self.cpu_devices}")
        if self.coordinator is None and (self.num_processes, self.process_id) != (1, 0):
            raise ValueError("--num-processes and --process-id need --coordinator HOST:PORT, the address of process 0")
        if self.coordinator is not None and folder is None:
            raise ValueError("--coordinator needs --folder, one that all processes share")
        compiler.fuse_small_loops(None)
        compiler.cache_compilations()
        compiler.split_cpu(self.cpu_devices)
        if self.coordinator is not None:
            processes.connect(self.coordinator, self.num_processes, self.process_id)


@dataclasses.dataclass(frozen=True)
class Run:
    """Run an experiment into a new run folder, and draw its figures."""

    experiment: AnyExperiment
    folder: Path | None = None
    """run folder, new or empty; by default runs/EXPERIMENT-DATE-TIME"""
    job: Job = dataclasses.field(default_factory=Job)
    progress: bool = True
    """show a progress bar"""


@dataclasses.dataclass(frozen=True)
class RunRates(Run):
    """Short for `run rates`: fit the rate at which the exact hyper-gradient shrinks."""

    experiment: rates.Rates = dataclasses.field(default_factory=rates.Rates)


@dataclasses.dataclass(frozen=True)
class Compare:
    """Tune several methods in the same way, run them at the same budget, and write tables and figures."""

    experiment: AnyComparison
    folder: Path | None = None
    """run folder, new or empty; by default runs/compare-PROBLEM-DATE-TIME"""
    workers: Workers = dataclasses.field(default_factory=Workers)
    progress: bool = True
    """show a progress bar"""


@dataclasses.dataclass(frozen=True)
class Tune:
    """Search the step sizes of a method with Optuna, and print the best and the command that uses them."""

    experiment: AnyTuning
    folder: Path | None = None
    """run folder, new or empty; by default runs/tune-PROBLEM-DATE-TIME"""
    workers: Workers = dataclasses.field(default_factory=Workers)
    progress: bool = True
    """show a progress bar"""


@dataclasses.dataclass(frozen=True)
class Resume:
    """Continue an interrupted run from its newest checkpoint; it ends with the same bits as if never interrupted."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder"""
    job: Job = dataclasses.field(default_factory=Job)
    workers: Workers = dataclasses.field(default_factory=Workers)
    progress: bool = True
    """show a progress bar"""


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draw the figures of a run folder again, without running anything."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder"""


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """Say which failure a run shows, if any, with numbers and a remedy; from its files alone."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder"""


@dataclasses.dataclass(frozen=True)
class List:
    """List the experiments, and the runs in a folder."""

    runs: Annotated[Path, tyro.conf.Positional] = RUNS
    """folder that holds run folders"""


Command = (
    Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Tune, tyro.conf.subcommand("tune")]
    | Annotated[RunRates, tyro.conf.subcommand("rates")]
    | Annotated[Resume, tyro.conf.subcommand("resume")]
    | Annotated[Plot, tyro.conf.subcommand("plot")]
    | Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
    | Annotated[List, tyro.conf.subcommand("list")]
)
