"""plot, rate, diagnose, list and runs: what looks at run folders, and executes nothing of what was run."""

import contextlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from bilevel_rl import figures
from bilevel_rl.cli.commands import Plot, Rate, Report, Runs
from bilevel_rl.cli.output import print_json, row, shown
from bilevel_rl.cli.running import PRUNED
from bilevel_rl.rating import RatingPage
from bilevel_rl.references import registered
from bilevel_rl.report import write_report
from bilevel_rl.runs import diagnosis, lock
from bilevel_rl.runs.folder import DamagedFileError, RunFolder, RunFolderError
from bilevel_rl.runs.study import Command, Study
from bilevel_rl.studies.registry import UnknownStudyError, find_studies, open_study


def title(kind: type[Study]) -> str:
    """What a study is called after its command."""
    return kind.name.removeprefix(f"{kind.command}-")


def plot(command: Plot, console: Console):
    """Draws figures again, or those of several runs in one."""
    folders = [RunFolder.open(run) for run in (command.run, *command.beside)]
    with figures.also_for_print() if command.pdf else contextlib.nullcontext():
        if len(folders) > 1:
            figures.draw_side_by_side(folders, command.output)
            console.print(f"figure  {shown(command.output.with_name(f'{command.output.name}.png'))}")
            return
        study = open_study(folders[0])
        study.plot(folders[0])
    console.print(f"{study.label}: figures in {shown(folders[0].figures())}")


def report(command: Report, console: Console):
    """Writes a report."""
    console.print(f"report  {shown(write_report([command.run, *command.beside], command.output))}")


def rate(command: Rate, console: Console):
    """Serves the rating page until it is told to stop."""
    page = RatingPage(command.run, host=command.host, port=command.port, token=command.token)
    console.print(f"rate {shown(command.run)} at  {page.url}")
    page.serve()


def diagnose(path: Path, console: Console, *, as_json: bool):
    """A line for each finding."""
    table = Table("run", "seeds", "finding", "evidence, from the first of these seeds", "remedy", show_lines=True)
    found = []
    for folder in diagnosis.find_runs(path):
        findings = diagnosis.diagnose(folder)
        num_seeds = sum(len(finding.seeds) for finding in findings)
        for finding in findings:
            count = f"{len(finding.seeds)} of {num_seeds}"
            row(table, folder.path.name, count, finding.name, finding.evidence, finding.remedy)
            found.append({"run": str(folder.path), **asdict(finding)})
    if as_json:
        print_json(found)
    else:
        console.print(table)


def list_all(runs: Path, console: Console, *, as_json: bool):
    """Experiments, registered problems and runs."""
    states = [_state(path.parent) for path in sorted(runs.glob("*/config.json"))]
    if as_json:
        print_json(states)
        return
    for command in get_args(Command):
        kinds = [kind for kind in find_studies().values() if kind.command == command and not kind.takes_reference]
        table = Table("experiment", "what it shows", box=None, title=f"bilevel-rl {command} …", title_justify="left")
        for kind in kinds:
            row(table, title(kind), kind.__doc__ or "")
        for name, reference in sorted(registered().items()):
            row(table, name, reference)
        row(table, "path/to/file.py:name", "your own problem")
        console.print(table, "")
    if not states:
        console.print(f"no runs in {runs}")
        return
    table = Table("run", "iterations", "outcome", box=None, title="runs", title_justify="left")
    for state in states:
        row(table, state["run"], state["iterations"], state["outcome"])
    console.print(table)


def _state(path: Path) -> dict[str, Any]:
    """How far a run has come, and its outcome; or what is wrong with its folder."""
    state: dict[str, Any] = {"run": path.name, "folder": str(path), "experiment": None, "iterations": "?"}
    state["is_finished"] = False
    try:
        study = open_study(folder := RunFolder.open(path))
        state["experiment"] = study.name
        rows = folder.read_rows("metrics")
        total = study.num_iterations
        done = rows[-1]["num_iterations"] if rows else None
        state["iterations"] = "–" if done is None else f"{done:,} of {total:,}"
        outcome = study.summarize(folder)
        return state | {"outcome": outcome, "is_finished": done is None or total is None or done >= total}
    except (DamagedFileError, UnknownStudyError, OSError, ValueError) as error:
        return state | {"outcome": str(error)}
    except RunFolderError:
        return state | {"outcome": f"unfinished: bilevel-rl resume {shown(path)}"}
    except KeyError as error:
        return state | {"outcome": f"{path} is damaged: a file lacks {error}"}


def runs(command: Runs, console: Console):
    """Sizes of run folders; removes the checkpoints of finished ones where that is asked for twice.

    Raises:
        ValueError: --yes without --prune.
    """
    if command.yes and not command.prune:
        raise ValueError("--yes is for --prune, and removes what that names")
    table = Table("run", "size", "checkpoints", "state", box=None, title_justify="left")
    found, freed = [], 0
    for path in sorted(file.parent for file in command.runs.glob("*/config.json")):
        state, checkpoints = _state(path), sorted(folder for folder in path.rglob("checkpoints") if folder.is_dir())
        size, of_checkpoints = _size(path), sum(map(_size, checkpoints))
        is_pruned = (path / PRUNED).is_file()
        said = "pruned" if is_pruned else "finished" if state["is_finished"] else "unfinished"
        if command.prune and state["is_finished"] and checkpoints:
            freed += of_checkpoints
            said = "would be pruned"
            if command.yes:
                _prune(path, checkpoints)
                said = "pruned"
        row(table, path.name, shown_size(size), shown_size(of_checkpoints), said)
        numbers = {"bytes": size, "bytes_of_checkpoints": of_checkpoints}
        found.append({"run": path.name, "folder": str(path), "state": said} | numbers)
    if command.json:
        print_json(found)
        return
    console.print(table if found else f"no runs in {command.runs}")
    if command.prune and found:
        did = "removed" if command.yes else "can be removed: add --yes"
        console.print(f"{shown_size(freed)} of checkpoints {did}")


def _prune(path: Path, checkpoints: list[Path]):
    with lock.hold(path):
        (path / PRUNED).write_text(json.dumps({"removed": [str(folder.relative_to(path)) for folder in checkpoints]}))
        for folder in checkpoints:
            shutil.rmtree(folder)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def shown_size(num_bytes: float) -> str:
    """For people, three digits."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1_000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1_000
    return f"{num_bytes:.3g} GB"
