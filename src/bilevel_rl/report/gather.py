"""What the files of a run folder say, for a report; what is not there is left out."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilevel_rl.figures.curves import OBJECTIVES
from bilevel_rl.figures.tables import Curves, first_measured, is_sampled, read_curves
from bilevel_rl.followers import Judgement, read_judgement
from bilevel_rl.outcome import Outcome, find_outcome
from bilevel_rl.runs.diagnosis import Finding, diagnose
from bilevel_rl.runs.folder import PYTHON_RUN, DamagedFileError, RunFolder
from bilevel_rl.runs.json_files import FieldError, from_json, read_json, read_object

OTHERS = {
    "lower_judge_score": "judge's score of the follower's texts",
    "lower_mean_reward": "follower's mean reward",
}
"""What is shown of runs that have none of `OBJECTIVES`."""

RESIDUALS = {"lower_residual": "lower policy, to π*(x)", "penalized_residual": "penalized policy, to πᴸ(x)"}


SUMMARY = "summary.json"
"""Of a study of many runs, which has a page for its tables and figures."""


@dataclass(frozen=True)
class Said:
    """What a study of many runs asks and answers itself."""

    question: str
    answer: str


@dataclass(frozen=True)
class Gathered:
    """One run.

    Attributes:
        folder: of the run.
        curves: by the name of the metric, of those that a report shows and the run has.
        is_sampled: whether they were estimated from samples.
        labels: of these metrics.
        outcome: what became of it; None where that was not measured.
        findings: what `diagnose` says.
        divergences: seeds that stopped early.
        confidence: of logged data, name to value; empty where there is none.
        judgement: what fresh followers make of the learned reward; None where none were trained.
        settings: every setting, dotted name to text.
        versions: of packages and machine, name to text.
        command: that makes the run again, or what is known of it.
        said: by a study of many runs; None of a run.
    """

    folder: RunFolder
    curves: Mapping[str, Curves]
    is_sampled: bool
    labels: Mapping[str, str]
    outcome: Outcome | None
    findings: Sequence[Finding]
    divergences: Sequence[Mapping[str, Any]]
    confidence: Mapping[str, str]
    judgement: Judgement | None
    settings: Mapping[str, str]
    versions: Mapping[str, str]
    command: str
    said: Said | None

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.path.name

    @property
    def objective(self) -> str | None:
        """The metric that says best what the leader pays; None where there is none."""
        return next((metric for metric in (*OBJECTIVES, *OTHERS) if metric in self.curves), None)

    @property
    def measured(self) -> Curves | None:
        """What the leader pays, from the point on that shows how the run began."""
        if self.objective is None:
            return None
        curves = self.curves[self.objective]
        first = first_measured(curves, is_sampled=self.is_sampled)
        return Curves(*(part[..., first:] for part in curves))


def gather(folder: RunFolder) -> Gathered:
    """Reads the files of a run.

    Raises:
        DamagedFileError: a file is not what was written.
    """
    rows = folder.read_rows("metrics")
    labels = OBJECTIVES | OTHERS | RESIDUALS
    found = {metric: read_curves(folder, metric) for metric in labels if rows and metric in rows[0]}
    files = {name: _object(folder.path / f"{name}.json") for name in ("config", "run", "environment")}
    confidence = folder.path / "confidence.json"
    settings = dict(_flat(files["config"])) | dict(_flat({k: v for k, v in files["run"].items() if k != "digests"}))
    return Gathered(
        folder,
        found,
        is_sampled(folder),
        {metric: labels[metric] for metric in found},
        find_outcome(folder),
        diagnose(folder) if rows else (),
        folder.read_divergences(),
        dict(_flat(read_json(confidence))) if confidence.is_file() else {},
        read_judgement(folder),
        settings,
        dict(_flat(files["environment"])),
        command_of(files["config"], files["run"]),
        _said(folder.path / SUMMARY),
    )


def _said(path: Path) -> Said | None:
    try:
        return from_json(Said, read_object(path)) if path.is_file() else None
    except FieldError as error:
        raise DamagedFileError(path, str(error)) from error


def _object(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Entries of nested objects by their dotted names."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _flat(entry, f"{name}.{key}" if name else str(key))
    else:
        yield name or "value", value if isinstance(value, str) else json.dumps(value)


def command_of(config: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """The command line that makes a run again; for a run from Python the call's name and its settings.

    A `command` in `config.json`, text or a list of words, says it itself.
    """
    match config.get("command"):
        case str(command):
            return command
        case [*words]:
            return shlex.join(map(str, words))
    name = str(config.get("experiment", ""))
    if config and name != PYTHON_RUN:
        verb = next((verb for verb in ("compare", "tune") if name.startswith(f"{verb}-")), "run")
        return shlex.join(["bilevel-rl", verb, name.removeprefix(f"{verb}-"), *_flags(config.get("options"))])
    if run:
        begun, wanted = (
            config.get("options", {}),
            ("num_seeds", "log_every", "evaluation_entropy_weight", "diagnostics"),
        )
        numbers = {"num_iterations": begun["iterations"]} if "iterations" in begun else {}
        numbers |= {name: run[name] for name in wanted if name in run}
        given = "".join(f", {name}={value!r}" for name, value in numbers.items())
        call = str(begun.get("call", "bilevel_rl.run")).replace("bilevel_rl.", "brl.")
        if "algorithm" not in run:
            return f"{call}({given.removeprefix(', ')})"
        return f"{call}({run['algorithm']}(problem, …), key{given})"
    return ""


def _flags(options: Any) -> Iterator[str]:
    """Every option as a flag; nested objects have the flags of their fields."""
    for name, value in options.items() if isinstance(options, dict) else ():
        flag = str(name).replace("_", "-")
        if isinstance(value, dict):
            yield from _flags(value)
        elif isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        elif value is not None and value != []:
            yield f"--{flag}"
            yield from _words(value)


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for entry in value:
            yield from _words(entry)
    else:
        yield str(value)
