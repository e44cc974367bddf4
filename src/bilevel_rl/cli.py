"""The command `bilevel-rl`: run, compare, tune, rates, resume, plot, diagnose, list. Its options are in `commands`."""

import contextlib
import datetime
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from bilevel_rl.commands import (
    COMPARISONS,
    EXPERIMENTS,
    RUNS,
    TUNINGS,
    Command,
    Compare,
    Diagnose,
    Job,
    List,
    Plot,
    Resume,
    Run,
    Tune,
)
from bilevel_rl.comparison.workers import Workers
from bilevel_rl.runs import diagnosis as failure_signatures, processes
from bilevel_rl.runs.folder import RunFolder, RunFolderError
from bilevel_rl.runs.study import Study
from bilevel_rl.studies.config import from_json, to_json
from bilevel_rl.studies.happy_tweets.study import HappyTweets

SHARED = COMPARISONS | TUNINGS
"""Made of many runs, which workers share."""


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
            case Compare() | Tune():
                _share(command, console)
            case Resume():
                _resume(command, console)
            case Plot():
                name, _, module = _open(folder := RunFolder.open(command.run))
                module.plot(folder)
                console.print(f"{name}: figures in {_shown(folder.figures())}")
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


def _run(command: Run, console: Console):
    config = command.experiment
    name, module = _named(config, EXPERIMENTS)
    config.run.check()
    if isinstance(config, HappyTweets) and command.job != Job():
        raise ValueError(
            "happy-tweets is no JAX program: --coordinator, --num-processes, --process-id and --cpu-devices do not "
            "apply; for several processes see docs/language_models.md"
        )
    path = _new_path(command.folder, name, is_checked=command.job.process_id == 0)
    command.job.join(command.folder)
    config.algorithm()  # Raises for every bad option, before a folder is made or anything runs.
    folder = RunFolder(path, tensorboard=config.run.tensorboard)
    if processes.is_writer():
        folder.write_config(to_json(name, config))
    _finish(name, module, config, folder, console, progress=command.progress)


def _share(command: Compare | Tune, console: Console):
    study = command.experiment
    study.check()
    path = _new_path(command.folder, study.name)
    with _at_work(command.workers, path):
        folder = RunFolder(path)
        folder.write_config(study.to_json())
        _finish(study.name, _as_module(study), study, folder, console, progress=command.progress)


def _resume(command: Resume, console: Console):
    name, config, module = _open(RunFolder.open(command.run))
    if name in SHARED:
        if command.job != Job():
            raise ValueError(f"{command.run} is many runs: they are shared by --jobs or by --backend and --address")
        with _at_work(command.workers, command.run):
            _finish(name, module, config, RunFolder(command.run), console, progress=command.progress)
        return
    if command.workers != Workers():
        raise ValueError(f"{command.run} is one run: --jobs, --backend and --address do not apply")
    folder = RunFolder.open(command.run, tensorboard=config.run.tensorboard)
    command.job.join(command.run)
    _finish(name, module, config, folder, console, progress=command.progress)


@contextlib.contextmanager
def _at_work(workers: Workers, path: Path) -> Iterator[None]:
    """While workers share many runs; Ctrl-C leaves it in a state to go on from."""
    try:
        with workers.connected():
            yield
    except KeyboardInterrupt as interrupt:
        raise SystemExit(f"interrupted; go on with `bilevel-rl resume {_shown(path)}`") from interrupt


def _named(config: Any, experiments: dict[str, tuple[type, ModuleType]]) -> tuple[str, ModuleType]:
    return next((name, module) for name, (kind, module) in experiments.items() if isinstance(config, kind))


def _new_path(path: Path | None, name: str, *, is_checked: bool = True) -> Path:
    """The run folder to make."""
    path = path or RUNS / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    if is_checked and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"--folder {path} is not empty; name a new folder, or `bilevel-rl resume {path}`")
    return path


def _open(folder: RunFolder) -> tuple[str, Any, Any]:
    config = folder.config()
    name = config.get("experiment")
    if name in SHARED:
        study = SHARED[name].from_json(config["options"])
        return name, study, _as_module(study)
    if name not in EXPERIMENTS:
        raise RunFolderError(f"{folder.path} holds a run of {name!r}, which this version does not know")
    kind, module = EXPERIMENTS[name]
    return name, from_json(kind, config["options"]), module


def _as_module(study: Study) -> Any:
    """A study with the functions of the modules of the experiments."""
    return SimpleNamespace(
        main=lambda _, folder, progress: study.main(folder, progress=progress),
        plot=study.plot,
        summarize=study.summarize,
    )


def _finish(name: str, module: Any, config: Any, folder: RunFolder, console: Console, *, progress: bool):
    if not processes.is_writer():
        console.quiet = True
    console.print(f"{name} → {_shown(folder.path)}")
    module.main(config, folder, progress=progress)
    if not processes.is_writer():
        return
    console.print(module.summarize(folder))
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
    for folder in failure_signatures.find_runs(path):
        findings = failure_signatures.diagnose(folder)
        num_seeds = sum(len(finding.seeds) for finding in findings)
        for finding in findings:
            count = f"{len(finding.seeds)} of {num_seeds}"
            table.add_row(folder.path.name, count, finding.name, finding.evidence, finding.remedy)
    console.print(table)


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
