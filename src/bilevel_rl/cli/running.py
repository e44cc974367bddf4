"""run, compare, tune, solve and resume: whatever computes, in a run folder."""

import contextlib
import datetime
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bilevel_rl.cli.commands import RUNS, Resume
from bilevel_rl.cli.output import print_json, shown, standard_error
from bilevel_rl.comparison.workers import Workers
from bilevel_rl.report import REPORT
from bilevel_rl.runs import interruption, lock, processes
from bilevel_rl.runs.folder import RunFolder, RunFolderError, is_vacant
from bilevel_rl.runs.job import Job
from bilevel_rl.runs.study import Study
from bilevel_rl.studies.registry import open_study

PRUNED = "pruned.json"
"""Says in a run folder that its checkpoints were removed."""


def start(
    study: Study,
    path: Path | None,
    job: Job,
    workers: Workers,
    console: Console,
    words: Sequence[str],
    *,
    progress: bool,
) -> dict[str, Any] | None:
    """Runs a study in a new folder, which keeps the words of the command; the outcome as data, None on the processes
    that do not write.

    Raises:
        ValueError: bad options, or the folder is not empty.
    """
    new = path or RUNS / f"{study.label}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    if job.process_id == 0:
        _check_vacant(new)
    with _shared(study, path, job, workers):
        study = study.settled()
        study.check()
        folder = RunFolder(new, report_to=study.report_to)
        with _alone_in(folder, study):
            if processes.is_writer():
                _check_vacant(new)  # Again, since another command may have come first.
                folder.write_config(study.to_json() | {"command": ["bilevel-rl", *_without_folder(words)]})
            return _finish(study, folder, console, progress=progress)


def _without_folder(words: Sequence[str]) -> list[str]:
    """The words that make the run again, elsewhere."""
    kept, rest = [], iter(words)
    for word in rest:
        if word == "--folder":
            next(rest, None)
        elif not word.startswith("--folder="):
            kept.append(word)
    return kept


def _check_vacant(path: Path):
    if path.exists() and not is_vacant(path):
        raise ValueError(f"--folder {path} is not empty; name a new folder, or `bilevel-rl resume {path}`")


def resume(command: Resume, console: Console) -> dict[str, Any] | None:
    """Goes on with a run.

    Raises:
        RunFolderError: there is none, or its checkpoints were removed.
    """
    study = open_study(RunFolder.open(command.run))
    if (command.run / PRUNED).is_file():
        raise RunFolderError(
            f"{command.run} is finished and was pruned: it has no checkpoints to go on from; begin a new run"
        )
    if command.cache is not None:
        study = study.with_cache(command.cache)
    with _shared(study, command.run, command.job, command.workers):
        folder = RunFolder.open(command.run, report_to=study.report_to)
        with _alone_in(folder, study):
            return _finish(study, folder, console, progress=command.progress)


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


def _finish(study: Study, folder: RunFolder, console: Console, *, progress: bool) -> dict[str, Any] | None:
    if not processes.is_writer():
        console.quiet = True
    console.print(f"{study.label} → {shown(folder.path)}")
    farewell = f"interrupted; go on with `bilevel-rl resume {shown(folder.path)}`"
    # Workers are given the time to end in their own way.
    in_time = contextlib.nullcontext() if study.shared_by == "workers" else interruption.bounded(farewell)
    try:
        with interruption.terminated(), in_time:
            study.main(folder, progress=progress)
    except KeyboardInterrupt as interrupt:
        said = f"{farewell} ({interrupt})" if str(interrupt) else farewell
        standard_error().print(said)
        processes.leave(128 + getattr(interrupt, "number", signal.SIGINT))
    if not processes.is_writer():
        return None
    console.print(study.summarize(folder))
    for table in sorted(folder.path.glob("*.md")):
        console.print(f"\n{table.read_text()}")
    divergences = folder.read_divergences()
    for divergence in divergences:
        console.print(
            f"seed {divergence['seed']} stopped at iteration {divergence['num_iterations']}", style="bold red"
        )
    for figure in sorted(folder.figures().glob("*.png")):
        console.print(f"figure  {shown(figure)}")
    if (page := folder.path / REPORT).is_file():
        console.print(f"report  {shown(page)}")
    return {"experiment": study.name, "folder": str(folder.path), "divergences": divergences} | (
        {"outcome": study.outcome(folder)}
    )


def report(outcome: dict[str, Any] | None, *, json: bool):
    """Prints the outcome as JSON where that is asked for; the process that writes does."""
    if json and outcome is not None:
        print_json(outcome)
