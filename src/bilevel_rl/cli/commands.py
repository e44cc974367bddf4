"""The commands and their options."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import tyro

from bilevel_rl.comparison.workers import Workers
from bilevel_rl.runs.job import Job

RUNS = Path("runs")

AnyStudy = TypeVar("AnyStudy")
"""A study, or the union of the studies of a command."""

Kind = Literal["tables", "gymnasium", "jax", "log"]
"""What a starter file is about."""


@dataclass(frozen=True)
class Run(Generic[AnyStudy]):
    """Run an experiment, or your own problem (path/to/file.py:name), into a new run folder, and draw its figures."""

    study: AnyStudy
    folder: Path | None = None
    """run folder, new or empty; by default runs/EXPERIMENT-DATE-TIME"""
    job: Job = field(default_factory=Job)
    progress: bool = True
    """show a progress bar"""
    json: bool = False
    """print the outcome as a JSON object, and nothing else"""


@dataclass(frozen=True)
class Compare(Generic[AnyStudy]):
    """Tune several methods in the same way, run them at the same budget, and write tables and figures; also for your
    own problem (path/to/file.py:name)."""

    study: AnyStudy
    folder: Path | None = None
    """run folder, new or empty; by default runs/compare-PROBLEM-DATE-TIME"""
    workers: Workers = field(default_factory=Workers)
    progress: bool = True
    """show a progress bar"""
    json: bool = False
    """print the outcome as a JSON object, and nothing else"""


@dataclass(frozen=True)
class Tune(Generic[AnyStudy]):
    """Search the step sizes of a method with Optuna, and print the best and the command that uses them; also for your
    own problem (path/to/file.py:name)."""

    study: AnyStudy
    folder: Path | None = None
    """run folder, new or empty; by default runs/tune-PROBLEM-DATE-TIME"""
    workers: Workers = field(default_factory=Workers)
    progress: bool = True
    """show a progress bar"""
    json: bool = False
    """print the outcome as a JSON object, and nothing else"""


@dataclass(frozen=True)
class Solve(Generic[AnyStudy]):
    """Find the optimum of your own problem (path/to/file.py:name) by exact descent, where it has tables."""

    study: AnyStudy
    folder: Path | None = None
    """run folder, new or empty; by default runs/solve-PROBLEM-DATE-TIME"""
    progress: bool = True
    """say every few seconds how far it is"""
    json: bool = False
    """print the outcome as a JSON object, and nothing else"""


@dataclass(frozen=True)
class SolveAny:
    """Find the optimum of your own problem by exact descent; `--help` behind it lists its flags."""

    problem: Annotated[str, tyro.conf.Positional]
    """path/to/file.py:name, module:name, or the name of a registered problem"""


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
    json: bool = False
    """print the outcome as a JSON object, and nothing else"""


@dataclass(frozen=True)
class Plot:
    """Draw the figures of a run folder again, without running anything; of several, one figure of all side by side."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder"""
    beside: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """more run folders"""
    output: Path = Path("side_by_side")
    """figure of several runs, without its suffix"""
    pdf: bool = False
    """also for paper: as PDF, readable in black and white"""


@dataclass(frozen=True)
class Report:
    """Write one HTML file about runs, which opens without a network: question, answer, curves, settings."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder"""
    beside: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """more run folders, shown side by side"""
    output: Path | None = None
    """the file; by default report.html in the first run folder"""


@dataclass(frozen=True)
class Rate:
    """Serve a page on which people answer what a run asks them (`HumanRatings`); training runs in another process."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder"""
    host: str = "127.0.0.1"
    """address to listen at; 0.0.0.0 is reached from other machines, by the link with the token that is printed"""
    port: int = 8765
    """0 takes any that is free"""
    token: str | None = None
    """what the link must have, at least 16 letters, digits, - or _; by default a random one where others reach the
    host, and none otherwise"""


@dataclass(frozen=True)
class Diagnose:
    """Say which failure a run shows, if any, with numbers and a remedy; from its files alone."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder"""
    json: bool = False
    """print a JSON array of the findings, and nothing else"""


@dataclass(frozen=True)
class List:
    """List the experiments, registered problems, and the runs in a folder."""

    runs: Annotated[Path, tyro.conf.Positional] = RUNS
    """folder that holds run folders"""
    json: bool = False
    """print a JSON array of the runs, and nothing else"""


@dataclass(frozen=True)
class Runs:
    """How much room the runs in a folder take; with --prune, remove the checkpoints of finished ones."""

    runs: Annotated[Path, tyro.conf.Positional] = RUNS
    """folder that holds run folders"""
    prune: bool = False
    """say which checkpoints of finished runs would be removed; metrics, results and figures stay"""
    yes: bool = False
    """remove them"""
    json: bool = False
    """print a JSON array of the runs, and nothing else"""


@dataclass(frozen=True)
class Init:
    """Write a starter file for a problem of your own, with comments, which runs as it is."""

    name: Annotated[str, tyro.conf.Positional]
    """of the file, with or without .py; an existing one is not overwritten"""
    kind: Kind = "tables"
    """tables: a model that is known; gymnasium: any gymnasium.Env; jax: an environment of JAX functions; log: logged
    transitions"""
