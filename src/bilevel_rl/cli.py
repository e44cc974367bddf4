"""The command `bilevel-rl`: run, compare, tune, resume, plot, diagnose, list. Every option is a field of a dataclass.

Which experiments there are is found by `studies.registry`; nothing here names one.
"""

import contextlib
import datetime
import functools
import operator
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bilevel_rl import figures
from bilevel_rl.comparison.workers import Workers
from bilevel_rl.runs import diagnosis, processes
from bilevel_rl.runs.folder import RunFolder, RunFolderError
from bilevel_rl.runs.job import Job
from bilevel_rl.runs.study import Command, Study
from bilevel_rl.studies.registry import find_studies, open_study

RUNS = Path("runs")

AnyStudy = TypeVar("AnyStudy")
"""The union of the studies of a command."""


@dataclass(frozen=True)
class Run(Generic[AnyStudy]):
    """Run an experiment into a new run folder, and draw its figures."""

    study: AnyStudy
    folder: Path | None = None
    """run folder, new or empty; by default runs/EXPERIMENT-DATE-TIME"""
    job: Job = field(default_factory=Job)
    progress: bool = True
    """show a progress bar"""


@dataclass(frozen=True)
class Compare(Generic[AnyStudy]):
    """Tune several methods in the same way, run them at the same budget, and write tables and figures."""

    study: AnyStudy
    folder: Path | None = None
    """run folder, new or empty; by default runs/compare-PROBLEM-DATE-TIME"""
    workers: Workers = field(default_factory=Workers)
    progress: bool = True
    """show a progress bar"""


@dataclass(frozen=True)
class Tune(Generic[AnyStudy]):
    """Search the step sizes of a method with Optuna, and print the best and the command that uses them."""

    study: AnyStudy
    folder: Path | None = None
    """run folder, new or empty; by default runs/tune-PROBLEM-DATE-TIME"""
    workers: Workers = field(default_factory=Workers)
    progress: bool = True
    """show a progress bar"""


@dataclass(frozen=True)
class Resume:
    """Continue an interrupted run from its newest checkpoint; it ends with the same bits as if never interrupted."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder"""
    job: Job = field(default_factory=Job)
    workers: Workers = field(default_factory=Workers)
    cache: str | None = None
    """where an experiment that has them keeps downloads and prepared models; by default in the user's cache folder"""
    progress: bool = True
    """show a progress bar"""


@dataclass(frozen=True)
class Plot:
    """Draw the figures of a run folder again, without running anything."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder"""
    pdf: bool = False
    """also for paper: as PDF, readable in black and white"""


@dataclass(frozen=True)
class Diagnose:
    """Say which failure a run shows, if any, with numbers and a remedy; from its files alone."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder"""


@dataclass(frozen=True)
class List:
    """List the experiments, and the runs in a folder."""

    runs: Annotated[Path, tyro.conf.Positional] = RUNS
    """folder that holds run folders"""


def _commands() -> Any:
    """The union of all commands, with a subcommand for every study."""
    of_studies: dict[Command, Any] = {"run": Run, "compare": Compare, "tune": Tune}
    kinds = {command: kind[_studies_of(command)] for command, kind in of_studies.items()}
    kinds |= {"resume": Resume, "plot": Plot, "diagnose": Diagnose, "list": List}
    return functools.reduce(
        operator.or_, [Annotated[kind, tyro.conf.subcommand(command)] for command, kind in kinds.items()]
    )


def _studies_of(command: Command) -> Any:
    studies = [kind for kind in find_studies().values() if kind.command == command]
    return functools.reduce(operator.or_, [Annotated[kind, tyro.conf.subcommand(_title(kind))] for kind in studies])


def _title(kind: type[Study]) -> str:
    """What a study is called after its command."""
    return kind.name.removeprefix(f"{kind.command}-")


def main(arguments: Sequence[str] | None = None):
    """Entry point. Exits with 2 and a message for bad input, before anything is computed."""
    warnings.showwarning = _show_warning
    console = Console(highlight=False, soft_wrap=True)
    try:
        command = tyro.cli(
            _commands(),
            args=arguments,
            prog="bilevel-rl",
            description="Bi-level reinforcement learning.",
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.CascadeSubcommandArgs),
        )
        match command:
            case Run(study, folder, job, progress):
                _start(study, folder, job, Workers(), console, progress=progress)
            case Compare(study, folder, workers, progress) | Tune(study, folder, workers, progress):
                _start(study, folder, Job(), workers, console, progress=progress)
            case Resume():
                _resume(command, console)
            case Plot():
                study = open_study(folder := RunFolder.open(command.run))
                with figures.also_for_print() if command.pdf else contextlib.nullcontext():
                    study.plot(folder)
                console.print(f"{study.name}: figures in {_shown(folder.figures())}")
            case Diagnose():
                _diagnose(command.run, console)
            case List():
                _list(command.runs, console)
    except (ValueError, RunFolderError, ModuleNotFoundError) as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        processes.leave(2)
    except processes.LostProcessError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        processes.leave(3)


def _start(study: Study, path: Path | None, job: Job, workers: Workers, console: Console, *, progress: bool):
    new = path or RUNS / f"{study.name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    if job.process_id == 0 and new.exists() and (not new.is_dir() or any(new.iterdir())):
        raise ValueError(f"--folder {new} is not empty; name a new folder, or `bilevel-rl resume {new}`")
    with _shared(study, path, job, workers):
        study.check()
        folder = RunFolder(new, tensorboard=study.tensorboard)
        if processes.is_writer():
            folder.write_config(study.to_json())
        _finish(study, folder, console, progress=progress)


def _resume(command: Resume, console: Console):
    study = open_study(RunFolder.open(command.run))
    if command.cache is not None:
        study = study.with_cache(command.cache)
    with _shared(study, command.run, command.job, command.workers):
        folder = RunFolder.open(command.run, tensorboard=study.tensorboard)
        _finish(study, folder, console, progress=command.progress)


@contextlib.contextmanager
def _shared(study: Study, path: Path | None, job: Job, workers: Workers) -> Iterator[None]:
    """While devices, processes or workers share the work, those that can.

    Raises:
        ValueError: options of those that cannot.
    """
    if study.shared_by != "devices" and job != Job():
        flags = "--coordinator, --num-processes, --process-id and --cpu-devices do not apply"
        how = "is many runs, shared by --jobs or by --backend and --address" if study.shared_by == "workers" else ""
        raise ValueError(f"{study.name} {how or 'is not a JAX program'}: {flags}")
    if study.shared_by != "workers" and workers != Workers():
        raise ValueError(f"{study.name} is one run: --jobs, --backend and --address do not apply")
    if study.shared_by == "devices":
        job.join(path)
    with workers.connected() if study.shared_by == "workers" else contextlib.nullcontext():
        yield


def _finish(study: Study, folder: RunFolder, console: Console, *, progress: bool):
    if not processes.is_writer():
        console.quiet = True
    console.print(f"{study.name} → {_shown(folder.path)}")
    try:
        study.main(folder, progress=progress)
    except KeyboardInterrupt as interrupt:
        raise SystemExit(f"interrupted; go on with `bilevel-rl resume {_shown(folder.path)}`") from interrupt
    if not processes.is_writer():
        return
    console.print(study.summarize(folder))
    for table in sorted(folder.path.glob("*.md")):
        console.print(f"\n{table.read_text()}", markup=False)
    for divergence in folder.read_divergences():
        console.print(
            f"seed {divergence['seed']} stopped at iteration {divergence['num_iterations']}", style="bold red"
        )
    for figure in sorted(folder.figures().glob("*.png")):
        console.print(f"figure  {_shown(figure)}")


def _diagnose(path: Path, console: Console):
    table = Table("run", "seeds", "finding", "evidence, from the first of these seeds", "remedy", show_lines=True)
    for folder in diagnosis.find_runs(path):
        findings = diagnosis.diagnose(folder)
        num_seeds = sum(len(finding.seeds) for finding in findings)
        for finding in findings:
            count = f"{len(finding.seeds)} of {num_seeds}"
            table.add_row(folder.path.name, count, finding.name, finding.evidence, finding.remedy)
    console.print(table)


def _list(runs: Path, console: Console):
    for command in get_args(Command):
        title = f"bilevel-rl {command} EXPERIMENT"
        table = Table("experiment", "what it shows", box=None, title=title, title_justify="left")
        for kind in find_studies().values():
            if kind.command == command:
                table.add_row(_title(kind), escape(kind.__doc__ or ""))
        console.print(table, "")
    folders = [RunFolder.open(path.parent) for path in sorted(runs.glob("*/config.json"))]
    if not folders:
        console.print(f"no runs in {runs}")
        return
    table = Table("run", "iterations", "outcome", box=None, title="runs", title_justify="left")
    for folder in folders:
        table.add_row(folder.path.name, *_state(folder))
    console.print(table)


def _state(folder: RunFolder) -> tuple[str, str]:
    """How far a run has come, and its outcome."""
    try:
        study = open_study(folder)
    except RunFolderError as error:
        return "?", str(error)
    rows = folder.read_rows("metrics")
    done = f"{rows[-1]['num_iterations']:,} of {study.num_iterations:,}" if rows else "–"
    try:
        return done, study.summarize(folder)
    except RunFolderError:
        return done, f"unfinished: bilevel-rl resume {_shown(folder.path)}"


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _show_warning(message: Warning | str, *_: Any, **__: Any):
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"warning: {message}", markup=False)
