"""The command `bilevel-rl`: run, resume, plot, list."""

import dataclasses
import datetime
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from bilevel_rl import compiler, processes
from bilevel_rl.experiments import entropy_schedules, four_rooms, goal_placement, goal_position
from bilevel_rl.experiments.settings import from_json, to_json
from bilevel_rl.results import RunFolder, RunFolderError

EXPERIMENTS: dict[str, tuple[type, ModuleType]] = {
    "goal-position": (goal_position.GoalPosition, goal_position),
    "goal-placement": (goal_placement.GoalPlacement, goal_placement),
    "entropy-schedules": (entropy_schedules.EntropySchedules, entropy_schedules),
    "four-rooms": (four_rooms.FourRooms, four_rooms),
}

AnyExperiment = (
    Annotated[goal_position.GoalPosition, tyro.conf.subcommand("goal-position")]
    | Annotated[goal_placement.GoalPlacement, tyro.conf.subcommand("goal-placement")]
    | Annotated[entropy_schedules.EntropySchedules, tyro.conf.subcommand("entropy-schedules")]
    | Annotated[four_rooms.FourRooms, tyro.conf.subcommand("four-rooms")]
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
class Resume:
    """Continue an interrupted run from its newest checkpoint; it ends with the same bits as if never interrupted."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder"""
    job: Job = dataclasses.field(default_factory=Job)
    progress: bool = True
    """show a progress bar"""


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draw the figures of a run folder again, without running anything."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder"""


@dataclasses.dataclass(frozen=True)
class List:
    """List the experiments, and the runs in a folder."""

    runs: Annotated[Path, tyro.conf.Positional] = RUNS
    """folder that holds run folders"""


Command = (
    Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Resume, tyro.conf.subcommand("resume")]
    | Annotated[Plot, tyro.conf.subcommand("plot")]
    | Annotated[List, tyro.conf.subcommand("list")]
)


def main(arguments: Sequence[str] | None = None):
    """Entry point. Exits with 2 and a message for bad input, before anything is computed."""
    warnings.showwarning = _show_warning
    console = Console(highlight=False, soft_wrap=True)
    try:
        command = tyro.cli(
            Command,  # pyright: ignore[reportArgumentType]
            args=arguments,
            prog="bilevel-rl",
            description="Bi-level reinforcement learning.",
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.CascadeSubcommandArgs),
        )
        match command:
            case Run():
                _run(command, console)
            case Resume():
                _resume(command, console)
            case Plot():
                name, _, module = _open(folder := RunFolder.open(command.run))
                module.plot(folder)
                console.print(f"{name}: figures in {_shown(folder.figures())}")
            case List():
                _list(command.runs, console)
    except (ValueError, RunFolderError) as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        processes.leave(2)
    except processes.LostProcessError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        processes.leave(3)


def _run(command: Run, console: Console):
    config = command.experiment
    name, module = next((name, module) for name, (kind, module) in EXPERIMENTS.items() if isinstance(config, kind))
    config.run.check()
    path = command.folder or RUNS / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    if command.job.process_id == 0 and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"--folder {path} is not empty; name a new folder, or `bilevel-rl resume {path}`")
    command.job.join(command.folder)
    config.algorithm()  # Raises for every bad option, before a folder is made or anything runs.
    folder = RunFolder(path, tensorboard=config.run.tensorboard)
    if processes.is_writer():
        folder.write_config(to_json(name, config))
    _finish(name, module, config, folder, console, progress=command.progress)


def _resume(command: Resume, console: Console):
    name, config, module = _open(RunFolder.open(command.run))
    folder = RunFolder.open(command.run, tensorboard=config.run.tensorboard)
    command.job.join(command.run)
    _finish(name, module, config, folder, console, progress=command.progress)


def _open(folder: RunFolder) -> tuple[str, Any, ModuleType]:
    config = folder.config()
    name = config.get("experiment")
    if name not in EXPERIMENTS:
        raise RunFolderError(f"{folder.path} holds a run of {name!r}, which this version does not know")
    kind, module = EXPERIMENTS[name]
    return name, from_json(kind, config["options"]), module


def _finish(name: str, module: ModuleType, config: Any, folder: RunFolder, console: Console, *, progress: bool):
    if not processes.is_writer():
        console.quiet = True
    console.print(f"{name} → {_shown(folder.path)}")
    module.main(config, folder, progress=progress)
    if not processes.is_writer():
        return
    console.print(module.summarize(folder))
    for divergence in folder.read_divergences():
        console.print(
            f"seed {divergence['seed']} stopped at iteration {divergence['num_iterations']}", style="bold red"
        )
    for figure in sorted(folder.figures().glob("*.png")):
        console.print(f"figure  {_shown(figure)}")


def _list(runs: Path, console: Console):
    table = Table("experiment", "what it shows", box=None, title="bilevel-rl run EXPERIMENT", title_justify="left")
    for name, (kind, _) in EXPERIMENTS.items():
        table.add_row(name, (kind.__doc__ or "").strip())
    console.print(table)
    folders = [RunFolder.open(path.parent) for path in sorted(runs.glob("*/config.json"))]
    if not folders:
        console.print(f"\nno runs in {runs}")
        return
    table = Table("run", "iterations", "outcome", box=None, title="\nruns", title_justify="left")
    for folder in folders:
        try:
            _, config, module = _open(folder)
        except RunFolderError as error:
            table.add_row(folder.path.name, "?", str(error))
            continue
        rows = folder.read_rows("metrics")
        done = f"{rows[-1]['num_iterations']:,} of {config.run.num_iterations:,}" if rows else "–"
        try:
            outcome = module.summarize(folder)
        except RunFolderError:
            outcome = f"unfinished: bilevel-rl resume {_shown(folder.path)}"
        table.add_row(folder.path.name, done, outcome)
    console.print(table)


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _show_warning(message: Warning | str, *_: Any, **__: Any):
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"warning: {message}", markup=False)
