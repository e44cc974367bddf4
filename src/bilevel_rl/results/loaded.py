"""What runs leave behind, read as data: nothing is run, and nothing of a folder is changed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bilevel_rl.runs.folder import RunFolder, RunFolderError
from bilevel_rl.runs.result import NAME, columns_of

OWN_FORM = NAME, "reward.npz"
"""Files that are read by `RunResult.load` and `LearnedReward.load`."""


@dataclass(frozen=True)
class Results:
    """The files of a run folder (docs/reference/metrics.md).

    Attributes:
        config: experiment and options, as `config.json` has them: `python-run` for a run from Python.
        identity: what made the run the run that it is; empty where it never began.
        metrics: columns of equal length, one entry a seed and log point, ordered by iteration and then seed.
        divergences: seeds that stopped early, and why.
        arrays: those of every other `.npz` file, by the file's name and their own.
    """

    config: Mapping[str, Any] | None
    identity: Mapping[str, Any]
    metrics: Mapping[str, np.ndarray]
    divergences: Sequence[Mapping[str, Any]]
    arrays: Mapping[str, Mapping[str, np.ndarray]]


def load(path: Path | str) -> Results:
    """Reads a run folder, also one that is being written: rows that are not complete yet are left out.

    Raises:
        RunFolderError: there is no run in it.

    Example:
        >>> import jax, tempfile, bilevel_rl as brl
        >>> problem = brl.problems.goal_position(size=3, target=(2, 0), initial_x=(0, 2), width=2.0)
        >>> with tempfile.TemporaryDirectory() as path:
        ...     key, algorithm = jax.random.key(0), brl.SingleLoopActorCritic(problem)
        ...     _ = brl.run(algorithm, key, 2, 200, log_every=100, folder=path, progress=False)
        ...     results = brl.results.load(path)
        >>> results.identity["num_seeds"], results.metrics["num_iterations"].tolist()
        (2, [0, 0, 100, 100, 200, 200])
    """
    path = Path(path)
    notes = {name: path / f"{name}.json" for name in ("config", "run")}
    if not any(file.is_file() for file in notes.values()):
        raise RunFolderError(f"{path} holds no run: it has neither run.json nor config.json")
    config, identity = (json.loads(file.read_text()) if file.is_file() else None for file in notes.values())
    folder = RunFolder(path)
    rows = folder.read_rows("metrics")
    arrays = {
        file.stem: folder.read_arrays(file.stem) for file in sorted(path.glob("*.npz")) if file.name not in OWN_FORM
    }
    return Results(config, identity or {}, columns_of(rows) if rows else {}, folder.read_divergences(), arrays)
