"""Checkpoints as safetensors: whole or not there at all."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

NUM_KEPT = 2


class Checkpoints:
    """The newest checkpoints of a run, one folder each, named by their iteration.

    Args:
        path: the folder that holds them; made with the first one.
    """

    def __init__(self, path: Path):
        self.path = path

    def save(self, num_iterations: int, tensors: dict[str, Tensor], counters: dict[str, Any]):
        """Writes a checkpoint and drops those before the one before it; a kill leaves the whole checkpoint or none."""
        temporary = self.path / f"writing-{num_iterations}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(
            {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, temporary / "state.safetensors"
        )
        (temporary / "counters.json").write_text(json.dumps(counters))
        for file in temporary.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        target = self.path / str(num_iterations)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        for old in self._saved()[:-NUM_KEPT]:
            shutil.rmtree(self.path / str(old))

    def latest(self) -> int | None:
        """Iteration of the newest checkpoint."""
        return max(self._saved(), default=None)

    def load(self, num_iterations: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What `save` was given."""
        folder = self.path / str(num_iterations)
        return load_file(folder / "state.safetensors"), json.loads((folder / "counters.json").read_text())

    def _saved(self) -> list[int]:
        if not self.path.is_dir():
            return []
        return sorted(int(folder.name) for folder in self.path.iterdir() if folder.name.isdigit())
