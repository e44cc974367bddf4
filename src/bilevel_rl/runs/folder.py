"""The run folder: what a run was, what it measured, and where it can go on. This module knows only files.

RUN/config.json        experiment and every option
RUN/run.json           key and what else identifies the run
RUN/environment.json   versions, commit, device
RUN/metrics.csv        one row a seed and log point (docs/metrics.md); the same bytes after a kill and resume
RUN/timing.csv         wall-clock seconds of each log point; not reproducible, so not in metrics.csv
RUN/divergences.json   seeds that stopped early, and why
RUN/checkpoints/       orbax checkpoints; the newest two
RUN/*.npz, RUN/figures/
RUN/tensorboard/       with `tensorboard=True`
"""

import csv
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

PACKAGES = ("bilevel-rl", "jax", "jaxlib", "equinox", "numpy", "orbax-checkpoint")

Row = Mapping[str, float]
"""One metric row: column name to number."""


class RunFolderError(RuntimeError):
    """A folder is not what a run folder has to be."""


def _write_atomically(path: Path, text: str):
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class RunFolder:
    """Files of one run. Every file is complete at any moment, except that a table's last line may be torn by a kill.

    Args:
        path: the folder; made if it does not exist.
        tensorboard: also write metric rows as TensorBoard scalars.
    """

    def __init__(self, path: Path | str, *, tensorboard: bool = False):
        self.path = Path(path).absolute()
        self.path.mkdir(parents=True, exist_ok=True)
        self._tensorboard = tensorboard
        self._writers: dict[int, Any] = {}

    @classmethod
    def open(cls, path: Path | str, *, tensorboard: bool = False) -> "RunFolder":
        """An existing run folder.

        Raises:
            RunFolderError: there is no `config.json`.
        """
        if not (Path(path) / "config.json").is_file():
            raise RunFolderError(f"{path} is not a run folder: it has no config.json")
        return cls(path, tensorboard=tensorboard)

    def write_config(self, config: Mapping[str, Any]):
        """Writes `config.json`."""
        _write_atomically(self.path / "config.json", json.dumps(config, indent=2) + "\n")

    def config(self) -> dict[str, Any]:
        """What `write_config` wrote."""
        return json.loads((self.path / "config.json").read_text())

    def write_text(self, name: str, text: str):
        """Writes a file of this name."""
        _write_atomically(self.path / name, text)

    def note_identity(self, identity: Mapping[str, Any], packages: Sequence[str] = ()) -> dict[str, Any]:
        """Writes `run.json` and `environment.json` unless they exist; returns the identity that stands there.

        Args:
            identity: what decides the run's numbers.
            packages: whose versions do so too, besides `PACKAGES`.
        """
        path = self.path / "run.json"
        if not path.is_file():
            environment = describe_environment()
            versions = environment["versions"] | {name: importlib.metadata.version(name) for name in packages}
            text = json.dumps(environment | {"versions": versions}, indent=2)
            _write_atomically(self.path / "environment.json", text + "\n")
            _write_atomically(path, json.dumps(identity, indent=2) + "\n")
        return json.loads(path.read_text())

    def changed_versions(self) -> dict[str, tuple[str, str]]:
        """Packages whose version is not the one that the run started with: name to (then, now)."""
        path = self.path / "environment.json"
        then = json.loads(path.read_text())["versions"] if path.is_file() else {}
        now = {name: importlib.metadata.version(name) for name in then if _is_installed(name)}
        return {name: (then[name], now[name]) for name in now if then[name] != now[name]}

    def append_rows(self, table: str, rows: Sequence[Row]):
        """Appends rows to `table`.csv and waits until they are on disk. Numbers read back exactly."""
        if not rows:
            return
        path = self.path / f"{table}.csv"
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if is_new:
                writer.writerow(rows[0])
            writer.writerows([_format(value) for value in row.values()] for row in rows)
            file.flush()
            os.fsync(file.fileno())
        if self._tensorboard and table == "metrics":
            self._write_scalars(rows)

    def read_rows(self, table: str) -> list[dict[str, float]]:
        """The complete rows of `table`.csv; none where the file does not exist."""
        path = self.path / f"{table}.csv"
        if not path.exists():
            return []
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [{name: _parse(value) for name, value in row.items()} for row in csv.DictReader(lines)]

    def truncate_rows(self, table: str, num_iterations: int):
        """Drops a torn last line and the rows beyond an iteration, which a resumed run will write again."""
        rows = [row for row in self.read_rows(table) if row["num_iterations"] <= num_iterations]
        path = self.path / f"{table}.csv"
        if not rows:
            path.unlink(missing_ok=True)
            return
        lines = [",".join(rows[0]), *(",".join(_format(value) for value in row.values()) for row in rows)]
        _write_atomically(path, "\n".join(lines) + "\n")

    def write_divergences(self, divergences: Sequence[Mapping[str, Any]]):
        """Writes `divergences.json`."""
        _write_atomically(self.path / "divergences.json", json.dumps(list(divergences), indent=2) + "\n")

    def read_divergences(self) -> list[dict[str, Any]]:
        """What `write_divergences` wrote; none where it never did."""
        path = self.path / "divergences.json"
        return json.loads(path.read_text()) if path.is_file() else []

    def write_arrays(self, name: str, **arrays: np.ndarray):
        """Writes `name`.npz."""
        temporary = self.path / f"{name}.tmp.npz"
        np.savez(temporary, **arrays)  # pyright: ignore[reportArgumentType]
        temporary.replace(self.path / f"{name}.npz")

    def read_arrays(self, name: str) -> dict[str, np.ndarray]:
        """What `write_arrays` wrote.

        Raises:
            RunFolderError: the run has not come that far.
        """
        path = self.path / f"{name}.npz"
        if not path.is_file():
            raise RunFolderError(
                f"{self.path} has no {path.name}: the run has not come that far; `bilevel-rl resume` it"
            )
        with np.load(path) as file:
            return dict(file)

    def save_checkpoint(self, num_iterations: int, tree: PyTree):
        """Saves a pytree of arrays; atomic: a kill leaves either the whole checkpoint or none."""
        import orbax.checkpoint as ocp

        with self._checkpoint_manager() as manager:
            manager.save(num_iterations, args=ocp.args.StandardSave(tree))

    def latest_checkpoint(self) -> int | None:
        """Iteration of the newest complete checkpoint."""
        if not (self.path / "checkpoints").is_dir():
            return None
        with self._checkpoint_manager() as manager:
            return manager.latest_step()

    def restore_checkpoint(self, num_iterations: int, like: PyTree = None) -> PyTree:
        """Restores the arrays of a checkpoint into the structure, shapes and types of `like`; None: as NumPy arrays.

        Raises:
            RunFolderError: the checkpoint has another structure.
        """
        import orbax.checkpoint as ocp

        abstract = None if like is None else jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            with self._checkpoint_manager() as manager:
                restored = manager.restore(num_iterations, args=ocp.args.StandardRestore(abstract))
        except (ValueError, KeyError) as error:
            raise RunFolderError(
                f"the checkpoint in {self.path} is that of another problem or algorithm: {error}"
            ) from error
        return restored

    def figures(self) -> Path:
        """The folder of the figures; made if it does not exist."""
        path = self.path / "figures"
        path.mkdir(exist_ok=True)
        return path

    def _checkpoint_manager(self) -> Any:
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=False)
        return ocp.CheckpointManager(self.path / "checkpoints", options=options)

    def _write_scalars(self, rows: Sequence[Row]):
        # Not the SummaryWriter: its flush does not wait for the thread that writes what it was given.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.summary import scalar

        for row in rows:
            seed = int(row["seed"])
            if seed not in self._writers:
                path = self.path / "tensorboard" / f"seed-{seed}"
                path.mkdir(parents=True, exist_ok=True)
                self._writers[seed] = EventsWriter(str(path / "events"))
            for name, value in row.items():
                if name not in ("seed", "num_iterations"):
                    event = Event(wall_time=time.time(), step=int(row["num_iterations"]), summary=scalar(name, value))
                    self._writers[seed].write_event(event)
        for writer in self._writers.values():
            writer.flush()


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


def _format(value: float) -> str:
    return str(int(value)) if isinstance(value, int | np.integer) else repr(float(value))


def _parse(text: str) -> float:
    return int(text) if text.lstrip("-").isdigit() else float(text)
