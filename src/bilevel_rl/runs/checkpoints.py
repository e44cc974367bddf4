"""Checkpoints: arrays from which a run goes on, each with a seal that tells whether they are what was saved.

CHECKPOINTS/ITERATION/           what orbax writes; complete, or under another name
CHECKPOINTS/ITERATION/seal.json  digests of all of its files, and how far the metric rows had come
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from bilevel_rl.runs.errors import DamagedFileError, RunFolderError
from bilevel_rl.runs.json_files import read_object
from bilevel_rl.runs.tables import Mark

SEAL = "seal.json"

NUM_KEPT = 2


class Checkpoints:
    """The newest checkpoints of a run.

    Args:
        path: of the folder that holds them; made when the first is saved.
    """

    def __init__(self, path: Path):
        self.path = path

    def save(self, num_iterations: int, tree: PyTree):
        """Saves a pytree of arrays, of which every process of a job has its part. It counts once it is sealed."""
        import orbax.checkpoint as ocp

        with self._manager() as manager:
            manager.save(num_iterations, args=ocp.args.StandardSave(tree))

    def digests(self, num_iterations: int) -> dict[str, str]:
        """Digests of the files of a checkpoint that was saved."""
        return _digests(self.path / str(num_iterations))

    def iterations(self) -> list[int]:
        """Of all checkpoints, the newest first, sealed or not."""
        if not self.path.is_dir():
            return []
        return sorted((int(entry.name) for entry in self.path.iterdir() if entry.name.isdigit()), reverse=True)

    def is_sealed(self, num_iterations: int) -> bool:
        """Whether it was saved completely; a kill may come in between."""
        return self.seal_of(num_iterations).is_file()

    def seal_of(self, num_iterations: int) -> Path:
        """The file of a checkpoint's seal."""
        return self.path / str(num_iterations) / SEAL

    def rows(self, num_iterations: int) -> Mark:
        """How far the metric rows had come when it was saved.

        Raises:
            DamagedFileError: its seal does not say so.
        """
        return Mark(**self.sealed(num_iterations)["metrics"])

    def check(self, num_iterations: int):
        """Raises `DamagedFileError`, naming the file, unless all files are those that were saved."""
        expected = self.sealed(num_iterations)["files"]
        path = self.path / str(num_iterations)
        found = _digests(path)
        for name in sorted(expected.keys() | found.keys()):
            if name not in found:
                raise DamagedFileError(path / name, "it is missing")
            if name not in expected:
                raise DamagedFileError(path / name, "it was not there when the checkpoint was saved")
            if found[name] != expected[name]:
                raise DamagedFileError(path / name, "its bytes have changed since it was written")

    def restore(self, num_iterations: int, like: PyTree = None) -> PyTree:
        """Restores the arrays of a checkpoint into the structure, shapes and types of `like`; None: as NumPy arrays.

        Raises:
            DamagedFileError: a file of the checkpoint is not what was saved.
            RunFolderError: the checkpoint has another structure.
        """
        import orbax.checkpoint as ocp

        self.check(num_iterations)
        abstract = None if like is None else jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            with self._manager() as manager:
                return manager.restore(num_iterations, args=ocp.args.StandardRestore(abstract))
        except (ValueError, KeyError) as error:
            raise RunFolderError(
                f"the checkpoint in {self.path.parent} is that of another problem or algorithm: {error}"
            ) from error

    def drop_after(self, num_iterations: int):
        """Removes newer checkpoints, whose place a run that goes on from an older one will need."""
        for newer in self.iterations():
            if newer > num_iterations:
                shutil.rmtree(self.path / str(newer))

    def sealed(self, num_iterations: int) -> dict[str, Any]:
        """What the seal of a checkpoint says.

        Raises:
            DamagedFileError: it does not say what a seal says.
        """
        path = self.seal_of(num_iterations)
        match said := read_object(path):
            case {"parts": list(), "files": dict(), "metrics": {"num_bytes": int(), "sha256": str()}}:
                return said
        raise DamagedFileError(path, "it lacks parts, files or metrics")

    def _manager(self) -> Any:
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=NUM_KEPT, create=True, enable_async_checkpointing=False)
        return ocp.CheckpointManager(self.path, options=options)


def _digests(path: Path) -> dict[str, str]:
    """Of all files below a folder, but for the seal."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file != path / SEAL)
    return {file.relative_to(path).as_posix(): _digest(file) for file in files}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
