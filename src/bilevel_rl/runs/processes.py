"""Several processes as one job: who writes, what each holds, and what happens when one is lost.

A job of one process takes the same way; every function here is then trivial.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

HEARTBEAT_SECONDS = 30
"""A process that is silent for so long counts as lost."""


class LostProcessError(RuntimeError):
    """Another process of the job stopped answering."""


def connect(coordinator: str, num_processes: int, process_id: int):
    """Joins the job; blocks until all processes have. Call before anything is computed.

    Args:
        coordinator: HOST:PORT that process 0 opens and all others reach.
        num_processes: processes of the job.
        process_id: this one, 0 … num_processes − 1.

    Raises:
        ValueError: an argument is not of that form.
        LostProcessError: not all processes came within five minutes.
    """
    if not is_address(coordinator):
        raise ValueError(f"--coordinator must be HOST:PORT with a port of 1..65535, got {coordinator!r}")
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process-id must lie in 0..{num_processes - 1} for {num_processes} processes, got {process_id}"
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except RuntimeError as error:
        raise LostProcessError(f"process {process_id} could not join the job at {coordinator}: {error}") from error


def is_address(text: str) -> bool:
    """Whether a text is HOST:PORT, with a port that can be reached."""
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 2**16


def is_writer() -> bool:
    """Whether this process writes the run folder and speaks on the terminal."""
    return jax.process_index() == 0


def local(tree: PyTree) -> PyTree:
    """This process's seeds of arrays that are sharded by seed, copied to NumPy, in the order of the seeds."""

    def of_leaf(leaf: Any) -> np.ndarray:
        pieces = {shard.index[0].start or 0: shard.data for shard in leaf.addressable_shards}
        return np.concatenate([np.array(pieces[begin]) for begin in sorted(pieces)])

    return jax.tree.map(of_leaf, tree)


def whole(tree: PyTree) -> PyTree:
    """All seeds of arrays that are sharded by seed, as NumPy arrays, on every process."""
    if jax.process_count() == 1:
        return jax.tree.map(np.array, tree)
    return jax.tree.map(np.asarray, multihost_utils.process_allgather(tree, tiled=True))


def gather(columns: dict[str, np.ndarray], mesh: Mesh, axis: str) -> dict[str, np.ndarray]:
    """All seeds of columns of which every process has those of its devices along a mesh axis."""
    if jax.process_count() == 1:
        return columns
    # In one exchange, as doubles, which hold every number of a metric row exactly.
    table = np.stack([column.astype(np.float64) for column in columns.values()], axis=1)
    with jax.enable_x64(True):
        table = whole(jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec(axis)), table))
    return {name: table[:, i].astype(column.dtype) for i, (name, column) in enumerate(columns.items())}


def agree(value: int) -> int:
    """Process 0's value, on every process."""
    return int(multihost_utils.broadcast_one_to_all(np.int64(value))) if jax.process_count() > 1 else value


SIGNS_OF_LOSS = ("Gloo", "NCCL", "heartbeat", "barrier", "coordination", "DEADLINE_EXCEEDED", "UNAVAILABLE")


@contextlib.contextmanager
def stop_together(saved_in: Any) -> Iterator[None]:
    """Turns the failure of an exchange with another process into a `LostProcessError` that says how to go on."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # JAX raises either, with XLA's text.
        if jax.process_count() == 1 or not any(sign in str(error) for sign in SIGNS_OF_LOSS):
            raise
        remedy = "nothing was saved" if saved_in is None else f"continue with `bilevel-rl resume {saved_in.path}`"
        raise LostProcessError(
            f"process {jax.process_index()} of {jax.process_count()} stops: another process of the job is lost. "
            f"Checkpoints are intact; {remedy} on all processes ({error})"
        ) from error


class JaxProcesses:
    """The processes of a JAX job, as the run loop asks for them (`loop.Crew`). Each saves its part of a checkpoint."""

    saves_together = True

    @property
    def is_writer(self) -> bool:
        """As the function `is_writer`."""
        return is_writer()

    def agree(self, value: int) -> int:
        """As the function `agree`."""
        return agree(value)

    def stop_together(self, saved_in: Any) -> contextlib.AbstractContextManager[None]:
        """As the function `stop_together`."""
        return stop_together(saved_in)


def leave(status: int):
    """Ends this process with an exit status; at once where it belongs to a job, whose other processes may be gone."""
    if jax.distributed.is_initialized():
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
