"""Runs an algorithm: metric rows, checkpoints, exact resume, divergence as a result. The iterations are in `loop`."""

import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from bilevel_rl.algorithms import Algorithm
from bilevel_rl.runs import processes
from bilevel_rl.runs.compiled import Layout, Loop, choose
from bilevel_rl.runs.divergence import Divergence, locate
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.identity import find_checkpoint, identity_of
from bilevel_rl.runs.metrics import Diagnostics, are_exact, distances, metric_columns, metric_rows
from bilevel_rl.runs.progress import Progress

SNAPSHOT_BYTES = 2**26
"""States that take less are copied at every log point, so that a divergence is found without going far back."""


@dataclass(frozen=True)
class RunResult:
    """What a run ended with. Leading axis of every array: the seed.

    Attributes:
        x: final upper variables.
        states: final states of the algorithm.
        metrics: columns of equal length, one entry a seed and log point, ordered by iteration and then seed
            (docs/metrics.md).
        divergences: seeds that stopped early.
    """

    x: PyTree
    states: Any
    metrics: dict[str, np.ndarray]
    divergences: Sequence[Divergence]


@dataclass(frozen=True)
class _LogPoint:
    """All seeds between two chunks of iterations. Stopped ones stay what they were when they stopped."""

    num_iterations: int
    states: PyTree
    info_totals: PyTree
    num_steps: int
    is_stopped: Bool[np.ndarray, " seeds"]
    divergences: tuple[Divergence, ...]

    def is_last(self, num_iterations: int) -> bool:
        return self.num_iterations >= num_iterations or bool(self.is_stopped.all())

    def next(self, states: PyTree, info_totals: PyTree, num_iterations: int) -> "_LogPoint":
        if self.is_stopped.any():
            states = choose(self.is_stopped, self.states, states)
        num_steps = num_iterations - self.num_iterations
        return replace(self, num_iterations=num_iterations, states=states, info_totals=info_totals, num_steps=num_steps)

    def checkpoint(self) -> dict[str, PyTree]:
        return {"states": self.states, "is_stopped": self.is_stopped}

    def restored(self, folder: RunFolder, num_iterations: int) -> "_LogPoint":
        saved = folder.restore_checkpoint(num_iterations, self.checkpoint())
        divergences = [Divergence(**e) for e in folder.read_divergences() if e["num_iterations"] < num_iterations]
        return _LogPoint(num_iterations, saved["states"], None, 0, np.array(saved["is_stopped"]), tuple(divergences))


def run(
    algorithm: Algorithm,
    key: Array,
    num_seeds: int,
    num_iterations: int,
    log_every: int = 1_000,
    *,
    folder: RunFolder | Path | str | None = None,
    checkpoint_every: float = 10.0,
    evaluation_entropy_weight: float = 0.01,
    diagnostics: Diagnostics = "auto",
    seeds_per_group: int | None = None,
    progress: bool = True,
) -> RunResult:
    """Runs `num_seeds` independent copies of an algorithm on all devices of all processes.

    With a folder, every log point appends the metric rows, and checkpoints are saved now and then. A folder that holds
    a checkpoint of the same run is continued from it (also to more iterations than first asked for, and on another
    number of devices), and ends with the same bits as if it had never been interrupted.

    Args:
        algorithm: what runs.
        key: from `jax.random.key`; its implementation generates all random numbers.
        num_seeds: independent copies, run side by side.
        num_iterations: iterations of each.
        log_every: iterations between two log points.
        folder: where to keep metrics and checkpoints; nothing is written by default. Processes share it.
        checkpoint_every: seconds between two checkpoints; 0 saves one at every log point.
        evaluation_entropy_weight: τ at which the `upper_objective` Φ_τ(x_k) is measured.
        diagnostics: whether metric rows are measured exactly on the known model, or from the algorithm's samples;
            "auto" is exact for tabular models with at most 1,500 states.
        seeds_per_group: seeds that are compiled together; they decide the last bits. By default as many as fill the
            vector units, whatever the number of devices.
        progress: show a progress bar.

    Raises:
        ValueError: a count is not positive, `evaluation_entropy_weight` is not, `checkpoint_every` is negative, exact
            diagnostics are asked for where there are no tables, or the devices cannot share the seeds evenly.
        RunFolderError: the folder holds another run, or one that has gone further.
        LostProcessError: another process of the job stopped answering.

    Example:
        >>> import jax, bilevel_rl as brl
        >>> problem = brl.problems.goal_position(size=3, target=(2, 0), initial_x=(0, 2), width=2.0)
        >>> algorithm = brl.SingleLoopActorCritic(problem)
        >>> result = brl.run(algorithm, jax.random.key(0), 2, 200, log_every=100, progress=False)
        >>> result.x.shape, result.metrics["num_iterations"].tolist()
        ((2, 2), [0, 0, 100, 100, 200, 200])
    """
    check_run_arguments(num_seeds, num_iterations, log_every, evaluation_entropy_weight)
    if not checkpoint_every >= 0:
        raise ValueError(f"checkpoint_every must be a number of seconds, got {checkpoint_every}")
    if diagnostics not in get_args(Diagnostics):
        raise ValueError(f"diagnostics must be one of {', '.join(get_args(Diagnostics))}, got {diagnostics!r}")
    are_exact(diagnostics, algorithm.problem)
    layout = Layout.plan(algorithm, num_seeds, seeds_per_group)
    loop = Loop(algorithm, key, layout)
    folder = RunFolder(folder) if isinstance(folder, Path | str) else folder
    started = saved_at = time.perf_counter()
    rows: list[dict[str, float]] = []

    def log(point: _LogPoint):
        nonlocal saved_at, logged_x
        states, totals = processes.local((point.states, point.info_totals))
        info = jax.tree.map(lambda total: total / np.float32(point.num_steps), totals)
        columns = metric_columns(algorithm, states, info, evaluation_entropy_weight, diagnostics)
        columns = loop.gather(columns | {"x_movement": distances(algorithm.recommend(states), logged_x)})
        logged_x = algorithm.recommend(states)
        new_rows, now = metric_rows(columns, ~point.is_stopped), time.perf_counter()
        rows.extend(new_rows)
        if folder is not None:
            if processes.is_writer():
                folder.append_rows("metrics", new_rows)
                folder.append_rows("timing", [{"num_iterations": point.num_iterations, "seconds": now - started}])
                folder.write_divergences([asdict(divergence) for divergence in point.divergences])
            if processes.agree(now - saved_at >= checkpoint_every) or point.is_last(num_iterations):
                folder.save_checkpoint(point.num_iterations, point.checkpoint())
                saved_at = time.perf_counter()
        num_transitions = point.num_iterations * algorithm.num_transitions_per_iteration * num_seeds
        bar.update(point.num_iterations, num_transitions, new_rows)

    def restored(checkpoint: int | None) -> _LogPoint:
        point = _LogPoint(0, loop.start(), None, 0, np.zeros(num_seeds, bool), ())
        return point if folder is None or checkpoint is None else point.restored(folder, checkpoint)

    with (
        Progress(num_iterations, is_shown=progress and processes.is_writer()) as bar,
        ThreadPoolExecutor(max_workers=1) as background,
        processes.stop_together(folder),
    ):
        checkpoint = None
        if folder is not None:
            identity = identity_of(algorithm, key, log_every) | {
                "num_seeds": layout.num_seeds,
                "seeds_per_group": layout.seeds_per_group,
                "iterations_per_block": layout.iterations_per_block,
                "evaluation_entropy_weight": evaluation_entropy_weight,
                "diagnostics": diagnostics,
            }
            checkpoint = find_checkpoint(folder, identity, num_iterations)
            rows = folder.read_rows("metrics")
        point, is_logged = restored(checkpoint), bool(rows)
        logged_x = processes.local(algorithm.recommend(point.states))
        if not is_logged:
            # The first row shows the first iteration's Info, from a step that is taken again below.
            point = replace(point, info_totals=loop.advance(_copy(point.states), 0, 1)[1], num_steps=1)
        while not point.is_last(num_iterations):
            first = point.num_iterations
            last = min(first - first % log_every + log_every, num_iterations)
            is_kept = _num_bytes(point.states) <= SNAPSHOT_BYTES or bool(point.is_stopped.any())
            if not is_kept and not is_logged:
                log(point)
            taken = _copy(point.states) if is_kept else point.states
            future = background.submit(loop.advance, taken, first, last)
            if layout.exchanges:
                jax.block_until_ready(future.result())  # Two exchanges at a time could be mistaken for each other.
            if is_kept and not is_logged:
                log(point)  # While the devices are at work.
            states, info_totals, is_finite = future.result()
            is_bad = ~_all_finite(is_finite) & ~point.is_stopped
            if is_bad.any() and not is_kept:
                origin = restored(checkpoint)
                point = replace(point, states=loop.advance(origin.states, origin.num_iterations, first)[0])
            previous, is_logged = point, False
            point = previous.next(states, info_totals, last)
            for seed in np.flatnonzero(is_bad):
                point = _stop_seed(loop, previous, point, int(seed))
        if not is_logged:
            log(point)
        states = processes.whole(point.states)
    metrics = {name: np.array([row[name] for row in rows]) for name in rows[-1]}
    return RunResult(algorithm.recommend(states), states, metrics, point.divergences)


def _stop_seed(loop: Loop, previous: _LogPoint, point: _LogPoint, seed: int) -> _LogPoint:
    """The log point with a seed, which left the finite numbers since the previous one, as it was just before."""

    def advanced(num_iterations: int) -> tuple[PyTree, PyTree]:
        states, _, is_finite = loop.advance(_copy(previous.states), previous.num_iterations, num_iterations)
        return states, processes.whole(is_finite)

    divergence = locate(lambda k: advanced(k)[1], seed, previous.num_iterations, point.num_iterations)
    warnings.warn(str(divergence), RuntimeWarning, stacklevel=3)
    is_seed = np.arange(len(point.is_stopped)) == seed
    return replace(
        point,
        states=choose(is_seed, advanced(divergence.num_iterations)[0], point.states),
        is_stopped=point.is_stopped | is_seed,
        divergences=(*point.divergences, divergence),
    )


def _all_finite(is_finite: PyTree[Bool[Array, " seeds"]]) -> Bool[np.ndarray, " seeds"]:
    return np.logical_and.reduce(processes.whole(jnp.stack(jax.tree.leaves(is_finite))))


def _copy(states: PyTree) -> PyTree:
    """The same states in buffers of their own, which `advance` may then take."""
    return jax.tree.map(jnp.copy, states)


def _num_bytes(states: PyTree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(states))


def check_run_arguments(num_seeds: int, num_iterations: int, log_every: int, evaluation_entropy_weight: float):
    """Raises `ValueError` for numbers that `run` cannot work with."""
    for name, count in (("num_seeds", num_seeds), ("num_iterations", num_iterations), ("log_every", log_every)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if not 0 < evaluation_entropy_weight < float("inf"):
        raise ValueError(
            f"evaluation_entropy_weight must be finite and positive, got {evaluation_entropy_weight}; use 0.01 to be "
            "close to the unregularized objective"
        )
