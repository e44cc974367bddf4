"""The run folder: what a run was, what it measured, and where it can go on. This module knows only files.

RUN/config.json        experiment and every option
RUN/run.json           key and what else identifies the run
RUN/environment.json   versions, commit, device
RUN/metrics.csv        one row a seed and log point (docs/reference/metrics.md); the same bytes after a kill and resume
RUN/timing.csv         wall-clock seconds of each log point; not reproducible, so not in metrics.csv
RUN/divergences.json   seeds that stopped early, and why
RUN/checkpoints/       the newest two, each with digests of its files
RUN/lock               who is at work here, while somebody is
RUN/result.npz         x, metrics and tables of policies, once the run is over (`RunResult.load`)
RUN/*.npz, RUN/figures/
RUN/answers.db         questions to people and their answers (docs/how_to/rating.md); pictures are in RUN/rating/
RUN/TRACKER/           with `report_to`: how far the tracker has come, and what it keeps (docs/how_to/trackers.md)
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from bilevel_rl.files.atomic import write_atomically
from bilevel_rl.runs import lock
from bilevel_rl.runs.checkpoints import Checkpoints
from bilevel_rl.runs.divergence import Divergence
from bilevel_rl.runs.errors import DamagedFileError as DamagedFileError, RunFolderError as RunFolderError
from bilevel_rl.runs.json_files import FieldError, from_json, read_json, read_object
from bilevel_rl.runs.tables import Mark, Row as Row, Table
from bilevel_rl.runs.trackers import ReportTo, check_tracker

PACKAGES = ("bilevel-rl", "jax", "jaxlib", "equinox", "numpy", "orbax-checkpoint")

BORN = "config.json"
"""The file whose presence makes a folder a run folder."""

PYTHON_RUN = "python-run"
"""The experiment of a run that Python code began: no file holds its problem."""


class RunFolder:
    """Files of one run. Every file is complete at any moment, except that a table's last line may be torn by a kill.

    Args:
        path: the folder; made if it does not exist.
        report_to: where metric rows of a run go besides `metrics.csv`.

    Raises:
        ValueError: there is no such tracker.
        ModuleNotFoundError: its package is not installed; the message names the extra.
    """

    def __init__(self, path: Path | str, *, report_to: ReportTo = "none"):
        check_tracker(report_to)
        self.report_to: ReportTo = report_to
        self.path = Path(path).absolute()
        self.path.mkdir(parents=True, exist_ok=True)
        self._tables: dict[str, Table] = {}
        self._checkpoints = Checkpoints(self.path / "checkpoints")

    @classmethod
    def open(cls, path: Path | str, *, report_to: ReportTo = "none") -> "RunFolder":
        """An existing run folder.

        Raises:
            RunFolderError: there is no `config.json`.
        """
        if not (Path(path) / BORN).is_file():
            raise RunFolderError(f"{path} is not a run folder: it has no config.json")
        return cls(path, report_to=report_to)

    def write_config(self, config: Mapping[str, Any]):
        """Writes `config.json`."""
        write_atomically(self.path / BORN, json.dumps(config, indent=2) + "\n")

    def config(self) -> dict[str, Any]:
        """What `write_config` wrote.

        Raises:
            DamagedFileError: it is no JSON object.
        """
        return read_object(self.path / BORN)

    def note_call(self, call: str, num_iterations: int) -> dict[str, Any]:
        """Writes `config.json` of a run that Python code began, unless a command has; returns what stands there.

        Args:
            call: what began it, such as `bilevel_rl.run`.
            num_iterations: to which it goes.

        Raises:
            DamagedFileError: what stands there is no JSON object.
        """
        if not (self.path / BORN).is_file() or self.config().get("experiment") == PYTHON_RUN:
            options = {"call": call, "iterations": num_iterations}
            self.write_config({"experiment": PYTHON_RUN, "options": options})
        return self.config()

    def write_text(self, name: str, text: str):
        """Writes a file of this name."""
        write_atomically(self.path / name, text)

    def note_identity(self, identity: Mapping[str, Any], packages: Sequence[str] = ()) -> dict[str, Any]:
        """Writes `run.json` and `environment.json` unless they exist; returns the identity that stands there.

        Args:
            identity: what decides the run's numbers.
            packages: whose versions do so too, besides `PACKAGES`.

        Raises:
            DamagedFileError: what stands there is no JSON object.
        """
        path = self.path / "run.json"
        if not path.is_file():
            environment = describe_environment()
            versions = environment["versions"] | {name: importlib.metadata.version(name) for name in packages}
            text = json.dumps(environment | {"versions": versions}, indent=2)
            write_atomically(self.path / "environment.json", text + "\n")
            write_atomically(path, json.dumps(identity, indent=2) + "\n")
        return read_object(path)

    def changed_versions(self) -> dict[str, tuple[str, str]]:
        """Packages whose version is not the one that the run started with: name to (then, now).

        Raises:
            DamagedFileError: `environment.json` does not say which these were.
        """
        path = self.path / "environment.json"
        then = read_object(path).get("versions") if path.is_file() else {}
        if not isinstance(then, dict):
            raise DamagedFileError(path, f"versions must be a JSON object, got {then!r}")
        now = {name: importlib.metadata.version(name) for name in then if _is_installed(name)}
        return {name: (then[name], now[name]) for name in now if then[name] != now[name]}

    def append_rows(self, table: str, rows: Sequence[Row]):
        """Appends rows to `table`.csv and waits until they are on disk. Numbers read back exactly."""
        self._table(table).append(rows)

    def read_rows(self, table: str) -> list[dict[str, float]]:
        """The complete rows of `table`.csv; none where the file does not exist.

        Raises:
            DamagedFileError: a row is not one of numbers, or metric rows are not those that the newest checkpoint saw.
        """
        if table == "metrics" and (mark := self._newest_mark()) and (flaw := self._table(table).flaw(mark)):
            raise DamagedFileError(self.path / "metrics.csv", f"{flaw}; `bilevel-rl resume` goes back to what is sound")
        return self._table(table).rows()

    def truncate_rows(self, table: str, num_iterations: int):
        """Drops a torn last line and the rows beyond an iteration, which a resumed run will write again."""
        self._table(table).cut_at(num_iterations)

    def write_divergences(self, divergences: Sequence[Mapping[str, Any]]):
        """Writes `divergences.json`."""
        write_atomically(self.path / "divergences.json", json.dumps(list(divergences), indent=2) + "\n")

    def read_divergences(self) -> list[dict[str, Any]]:
        """What `write_divergences` wrote; none where it never did.

        Raises:
            DamagedFileError: it is no list of divergences.
        """
        path = self.path / "divergences.json"
        entries = read_json(path) if path.is_file() else []
        if not isinstance(entries, list):
            raise DamagedFileError(path, "it must be a JSON list")
        try:
            return [asdict(from_json(Divergence, entry, name=f"[{i}]")) for i, entry in enumerate(entries)]
        except FieldError as error:
            raise DamagedFileError(path, str(error)) from error

    def write_arrays(self, name: str, **arrays: np.ndarray):
        """Writes `name`.npz."""
        temporary = self.path / f"{name}.tmp.npz"
        np.savez(temporary, **arrays)  # pyright: ignore[reportArgumentType]
        temporary.replace(self.path / f"{name}.npz")

    def read_arrays(self, name: str) -> dict[str, np.ndarray]:
        """What `write_arrays` wrote.

        Raises:
            RunFolderError: the run has not come that far.
            DamagedFileError: the file is not what was written.
        """
        path = self.path / f"{name}.npz"
        if not path.is_file():
            raise RunFolderError(
                f"{self.path} has no {path.name}: the run has not come that far; `bilevel-rl resume` it"
            )
        try:
            with np.load(path) as file:
                return dict(file)
        except Exception as error:  # What NumPy and zipfile raise for arbitrary bytes is of a dozen kinds.
            raise DamagedFileError(path, f"NumPy cannot read it, {error}") from error

    def save_checkpoint(self, num_iterations: int, tree: PyTree):
        """Saves a pytree of arrays, of which every process of a job has its part.

        A kill leaves either the whole checkpoint or none that counts.
        """
        self._checkpoints.save(num_iterations, tree)
        if jax.process_index() == 0:
            seal = {
                "parts": list(tree),
                "metrics": self._table("metrics").mark()._asdict(),
                "files": self._checkpoints.digests(num_iterations),
            }
            write_atomically(self._checkpoints.seal_of(num_iterations), json.dumps(seal, indent=2) + "\n")

    def latest_checkpoint(self) -> int | None:
        """Iteration of the newest complete checkpoint."""
        return next(filter(self._checkpoints.is_sealed, self._checkpoints.iterations()), None)

    def restore_checkpoint(self, num_iterations: int, like: PyTree = None) -> PyTree:
        """As `Checkpoints.restore`."""
        return self._checkpoints.restore(num_iterations, like)

    def parts_of_checkpoint(self, num_iterations: int) -> list[str]:
        """The keys of the tree that was saved."""
        return self._checkpoints.sealed(num_iterations)["parts"]

    def sound_checkpoint(self) -> int | None:
        """Iteration of the newest checkpoint whose files and metric rows are what was written; warns of newer ones.

        Raises:
            RunFolderError: there are checkpoints, and none of them is.
        """
        flaws: list[str] = []
        for num_iterations in self._checkpoints.iterations():
            if not self._checkpoints.is_sealed(num_iterations):
                warnings.warn(f"checkpoint {num_iterations} of {self.path} was not saved completely", stacklevel=5)
                continue
            flaw = self._flaw(num_iterations)
            if flaw is None:
                if flaws:
                    warnings.warn(f"{'; '.join(flaws)}: going on from iteration {num_iterations}", stacklevel=5)
                return num_iterations
            flaws.append(f"checkpoint {num_iterations} of {self.path} cannot be used, since {flaw}")
        if flaws:
            raise RunFolderError(
                f"{'; '.join(flaws)}: put back a copy of what is damaged, or remove {self._checkpoints.path} to run "
                "from the start again"
            )
        return None

    def _newest_mark(self) -> Mark | None:
        """How far the metric rows had come at the newest checkpoint whose seal can be read."""
        for num_iterations in filter(self._checkpoints.is_sealed, self._checkpoints.iterations()):
            with contextlib.suppress(DamagedFileError):
                return self._checkpoints.rows(num_iterations)
        return None

    def _flaw(self, num_iterations: int) -> str | None:
        try:
            self._checkpoints.check(num_iterations)
            return self._table("metrics").flaw(self._checkpoints.rows(num_iterations))
        except DamagedFileError as error:
            return f"{error.path.relative_to(self._checkpoints.path.parent)} is damaged ({error.flaw})"

    def cut_back(self, num_iterations: int | None):
        """Drops all that was written after a checkpoint; None: after the start."""
        if num_iterations is None:
            self.truncate_rows("metrics", -1)
        else:
            self._table("metrics").cut_to(self._checkpoints.rows(num_iterations))
        self.truncate_rows("timing", -1 if num_iterations is None else num_iterations)
        self._checkpoints.drop_after(-1 if num_iterations is None else num_iterations)

    def figures(self) -> Path:
        """The folder of the figures; made if it does not exist."""
        path = self.path / "figures"
        path.mkdir(exist_ok=True)
        return path

    def _table(self, name: str) -> Table:
        return self._tables.setdefault(name, Table(self.path / f"{name}.csv"))


def is_vacant(path: Path | str) -> bool:
    """Whether a folder has nothing that is a run's: it is empty, or a kill came before `config.json` was there."""
    leftovers = {lock.NAME, f"{BORN}.tmp"}
    return Path(path).is_dir() and {entry.name for entry in Path(path).iterdir()} <= leftovers


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def describe_environment() -> dict[str, Any]:
    """Versions, commit and device of this process, as written to `environment.json`."""
    return {
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": _commit(),
        "devices": [str(device) for device in jax.devices()],
        "num_cpus": os.cpu_count(),
    }


def _commit() -> str | None:
    """Commit of the source tree that this package runs from, with `+changes` where files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
