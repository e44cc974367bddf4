"""The command `bilevel-rl`: run, compare, tune, resume, plot, diagnose, list. Every option is a field of a dataclass.

Which experiments there are is found by `studies.registry`; nothing here names one.
"""

import contextlib
import datetime
import functools
import operator
import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args

import tyro
from rich.console import Console
from rich.errors import MarkupError
from rich.table import Table

from bilevel_rl import figures
from bilevel_rl.comparison.workers import Workers
from bilevel_rl.exact.oracle import OracleError
from bilevel_rl.runs import diagnosis, interruption, lock, processes
from bilevel_rl.runs.folder import DamagedFileError, RunFolder, RunFolderError, is_vacant
from bilevel_rl.runs.job import Job
from bilevel_rl.runs.study import Command, Study
from bilevel_rl.studies.registry import UnknownStudyError, find_studies, open_study

RUNS = Path("runs")

EXPECTED = (ValueError, OverflowError, MemoryError, RunFolderError, ModuleNotFoundError, OracleError, MarkupError)
"""Errors that say what is wrong with what was asked for, or with what is there; all others are mistakes of the code."""

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
    console = Console(highlight=False, soft_wrap=True, markup=False)
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
    except processes.LostProcessError as error:
        _fail(str(error), 3)
    except OSError as error:
        named = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        _fail(named, 2)
    except EXPECTED as error:
        _fail(str(error), 2)


def _fail(message: str, status: int):
    """Ends the process with one line on standard error."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"error: {' '.join(message.split())}", markup=False)
    processes.leave(status)


def _start(study: Study, path: Path | None, job: Job, workers: Workers, console: Console, *, progress: bool):
    new = path or RUNS / f"{study.name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    if job.process_id == 0:
        _check_vacant(new)
    with _shared(study, path, job, workers):
        study.check()
        folder = RunFolder(new, report_to=study.report_to)
        with _alone_in(folder, study):
            if processes.is_writer():
                _check_vacant(new)  # Again, since another command may have come first.
                folder.write_config(study.to_json())
            _finish(study, folder, console, progress=progress)


def _check_vacant(path: Path):
    if path.exists() and not is_vacant(path):
        raise ValueError(f"--folder {path} is not empty; name a new folder, or `bilevel-rl resume {path}`")


def _resume(command: Resume, console: Console):
    study = open_study(RunFolder.open(command.run))
    if command.cache is not None:
        study = study.with_cache(command.cache)
    with _shared(study, command.run, command.job, command.workers):
        folder = RunFolder.open(command.run, report_to=study.report_to)
        with _alone_in(folder, study):
            _finish(study, folder, console, progress=command.progress)


def _alone_in(folder: RunFolder, study: Study) -> contextlib.AbstractContextManager[None]:
    """While it is open, no other command works in the folder."""
    # What is no JAX program may be several processes of which JAX knows nothing; its run holds the folder by itself.
    if study.shared_by == "nothing":
        return contextlib.nullcontext()
    return lock.hold_together(folder.path, processes.JaxProcesses())


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
    farewell = f"interrupted; go on with `bilevel-rl resume {_shown(folder.path)}`"
    # Workers are given the time to end in their own way.
    in_time = contextlib.nullcontext() if study.shared_by == "workers" else interruption.bounded(farewell)
    try:
        with interruption.terminated(), in_time:
            study.main(folder, progress=progress)
    except KeyboardInterrupt as interrupt:
        said = f"{farewell} ({interrupt})" if str(interrupt) else farewell
        Console(stderr=True, highlight=False, soft_wrap=True).print(said, markup=False)
        processes.leave(128 + getattr(interrupt, "number", signal.SIGINT))
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
                table.add_row(_title(kind), kind.__doc__ or "")
        console.print(table, "")
    folders = [path.parent for path in sorted(runs.glob("*/config.json"))]
    if not folders:
        console.print(f"no runs in {runs}")
        return
    table = Table("run", "iterations", "outcome", box=None, title="runs", title_justify="left")
    for path in folders:
        table.add_row(path.name, *_state(path))
    console.print(table)


def _state(path: Path) -> tuple[str, str]:
    """How far a run has come, and its outcome; or what is wrong with its folder."""
    done = "?"
    try:
        study = open_study(folder := RunFolder.open(path))
        rows = folder.read_rows("metrics")
        done = f"{rows[-1]['num_iterations']:,} of {study.num_iterations:,}" if rows else "–"
        return done, study.summarize(folder)
    except (DamagedFileError, UnknownStudyError, OSError, ValueError) as error:
        return done, str(error)
    except RunFolderError:
        return done, f"unfinished: bilevel-rl resume {_shown(path)}"
    except KeyError as error:
        return done, f"{path} is damaged: a file lacks {error}"


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _show_warning(message: Warning | str, *_: Any, **__: Any):
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"warning: {message}", markup=False)
