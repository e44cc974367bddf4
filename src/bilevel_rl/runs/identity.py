"""What makes a run the same run, and where a folder lets it go on."""

import dataclasses
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from bilevel_rl.algorithms import Algorithm, Followers
from bilevel_rl.runs.folder import RunFolder, RunFolderError

NO_CHECKPOINT, REFUSED = -1, -2


def identity_of(algorithm: Algorithm, key: Array, log_every: int) -> dict[str, Any]:
    """What must not change between the parts of an interrupted run, whatever runs it."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(eqx.filter(algorithm, eqx.is_array_like)):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode() + array.tobytes())
    return {
        "algorithm": type(algorithm).__name__,
        **_options(algorithm),
        "arrays_of_algorithm_and_problem": digest.hexdigest(),
        "generator": str(jax.random.key_impl(key)),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "discount": algorithm.problem.environment.discount,
        "initial_spread": algorithm.problem.initial_spread,
        "num_transitions_per_iteration": algorithm.num_transitions_per_iteration,
        "log_every": log_every,
    }


def _options(part: Any) -> dict[str, Any]:
    """Numbers and switches that are not arrays, of an algorithm and of its followers."""
    options: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Followers):
            options |= _options(value)
        elif isinstance(value, bool | int | float | str):
            options[field.name] = value
    return options


def find_checkpoint(
    folder: RunFolder, identity: Mapping[str, Any], num_iterations: int, crew: Any, packages: Sequence[str] = ()
) -> int | None:
    """Iteration to continue from; files are cut back to it. None for a new run, whose identity is noted.

    Args:
        folder: of the run.
        identity: what decides the run's numbers.
        num_iterations: to which the run shall go.
        crew: the processes that run it together, a `loop.Crew`; the writer looks, and all learn what it found.
        packages: whose versions are noted besides those of the core.

    Raises:
        RunFolderError: the folder holds another run, one that has gone further, or one whose files are damaged.
    """
    if not crew.is_writer:
        checkpoint = crew.agree(NO_CHECKPOINT)
        if checkpoint == REFUSED:
            raise RunFolderError(f"process 0 cannot continue {folder.path}; it says why")
        return None if checkpoint == NO_CHECKPOINT else checkpoint
    try:
        checkpoint = _cut_back(folder, identity, num_iterations, packages)
    except (RunFolderError, OSError):
        crew.agree(REFUSED)
        raise
    crew.agree(NO_CHECKPOINT if checkpoint is None else checkpoint)
    return checkpoint


def _cut_back(
    folder: RunFolder, identity: Mapping[str, Any], num_iterations: int, packages: Sequence[str]
) -> int | None:
    noted = folder.note_identity(identity, packages)
    differences = [
        f"its {name} is {noted.get(name)}, not {value}" for name, value in identity.items() if noted.get(name) != value
    ]
    if differences:
        raise RunFolderError(f"{folder.path} holds another run: {', '.join(differences)}; use another folder")
    checkpoint = folder.sound_checkpoint()
    if checkpoint is not None and checkpoint > num_iterations:
        raise RunFolderError(f"{folder.path} has already done {checkpoint} iterations, more than {num_iterations}")
    for name, (then, now) in folder.changed_versions().items():
        warnings.warn(f"{name} is now {now}, was {then}: results may differ in the last bits", stacklevel=4)
    folder.cut_back(checkpoint)
    return checkpoint
