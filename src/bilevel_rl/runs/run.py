"""Runs an algorithm whose iterations are compiled: metric rows, checkpoints, exact resume, divergence as a result."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from bilevel_rl import checks
from bilevel_rl.algorithms import Algorithm
from bilevel_rl.runs import processes
from bilevel_rl.runs.compiled import Layout, Loop, Stretch, choose
from bilevel_rl.runs.divergence import Divergence, Health, locate
from bilevel_rl.runs.folder import DamagedFileError, Row, RunFolder
from bilevel_rl.runs.identity import identity_of
from bilevel_rl.runs.interruption import Pieces
from bilevel_rl.runs.log_points import LogPoints
from bilevel_rl.runs.loop import Engine, Point, follow
from bilevel_rl.runs.metrics import Diagnostics, Meter, are_exact
from bilevel_rl.runs.result import NAME as RESULT, RunResult as RunResult, columns_of
from bilevel_rl.runs.start import check_algorithm, check_run_arguments, check_start, check_storage

SUMS, SINCE = "sums", "since_log_point"
"""Parts of a checkpoint between two log points."""

SNAPSHOT_BYTES = 2**26
"""States that take less are copied at every log point, so that a divergence is found without going far back."""


def run(
    algorithm: Algorithm,
    key: Array,
    num_seeds: int,
    num_iterations: int,
    log_every: int | LogPoints = 1_000,
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
        log_every: iterations between two log points, or `LogPoints`.
        folder: where to keep metrics and checkpoints; nothing is written by default. Processes share it.
        checkpoint_every: seconds between two checkpoints; 0 saves one at every log point.
        evaluation_entropy_weight: τ at which the `upper_objective` Φ_τ(x_k) is measured.
        diagnostics: whether metric rows are measured exactly on the known model, or from the algorithm's samples;
            "auto" is exact for tabular models with at most 1,500 states.
        seeds_per_group: seeds that are compiled together; they decide the last bits. By default as many as fill the
            vector units, whatever the number of devices.
        progress: show a progress bar.

    Raises:
        TypeError: an argument is of another type, for instance a problem where an algorithm is asked for.
        ValueError: a count is not positive or too large, `evaluation_entropy_weight` is not positive,
            `checkpoint_every` is negative, reward, cost or regularizer is not finite at `initial_x` or exceeds its
            bound there, exact diagnostics are asked for where there are no tables, or the devices cannot share the
            seeds evenly.
        RunFolderError: the folder holds another run, one that has gone further, or one whose files are damaged; or
            another process works in it.
        Interrupted: Ctrl-C was pressed, or SIGTERM came where there is a folder; the state was saved before.
        LostProcessError: another process of the job stopped answering.

    Example:
        >>> import jax, bilevel_rl as brl
        >>> problem = brl.problems.goal_position(size=3, target=(2, 0), initial_x=(0, 2), width=2.0)
        >>> algorithm = brl.SingleLoopActorCritic(problem)
        >>> result = brl.run(algorithm, jax.random.key(0), 2, 200, log_every=100, progress=False)
        >>> result.x.shape, result.metrics["num_iterations"].tolist()
        ((2, 2), [0, 0, 100, 100, 200, 200])
    """
    check_algorithm(algorithm)
    checks.key(key)
    log_points = check_run_arguments(num_seeds, num_iterations, log_every, evaluation_entropy_weight)
    check_storage(folder, checkpoint_every, progress)
    checks.one_of("diagnostics", diagnostics, get_args(Diagnostics))
    if seeds_per_group is not None:
        checks.integer("seeds_per_group", seeds_per_group, remedy="None chooses as many as fill the vector units")
    check_start(algorithm.problem)
    are_exact(diagnostics, algorithm.problem)
    engine = CompiledEngine(
        Loop(algorithm, key, Layout.plan(algorithm, num_seeds, seeds_per_group)),
        Meter(algorithm, evaluation_entropy_weight, diagnostics),
        lambda: {
            **identity_of(algorithm, key, log_points),
            "evaluation_entropy_weight": evaluation_entropy_weight,
            "diagnostics": diagnostics,
        },
    )
    kept = RunFolder(folder) if isinstance(folder, Path | str) else folder
    point, rows = follow(
        engine,
        num_iterations,
        log_points,
        folder=kept,
        checkpoint_every=checkpoint_every,
        progress=progress,
    )
    states = processes.whole(point.states)
    result = RunResult(algorithm.recommend(states), states, columns_of(rows), point.divergences, algorithm=algorithm)
    if kept is not None and processes.is_writer():
        result.save(kept.path / RESULT)
    return result


class CompiledEngine(Engine):
    """Seeds of an algorithm on the devices of a layout.

    Args:
        loop: the compiled iterations.
        meter: of the metric rows.
        identity: gives that of the run, but for its layout; called where there is a folder.
    """

    def __init__(self, loop: Loop, meter: Meter, identity: Callable[[], dict[str, Any]]):
        self._loop, self._meter, self._identity, self._pieces = loop, meter, identity, Pieces()

    def identity(self) -> dict[str, Any]:
        """As `Engine.identity`."""
        layout = self._loop.layout
        return self._identity() | {
            "num_seeds": layout.num_seeds,
            "seeds_per_group": layout.seeds_per_group,
            "iterations_per_block": layout.iterations_per_block,
        }

    def start(self) -> Point:
        """As `Engine.start`; the first iteration, whose Info it has, is taken again by `advance`."""
        num_seeds, states = self._loop.layout.num_seeds, self._loop.start()
        sums = self._loop.stretch(_copy(states), self._loop.no_sums, 0, 0, 1).sums
        return Point(0, states, np.zeros(num_seeds, bool), info_totals=sums, num_steps=1)

    def begin(self, point: Point):
        """As `Engine.begin`."""
        if not point.is_between:
            self._meter.begin(processes.local(point.states))

    def advances_in_place(self, point: Point) -> bool:
        """Large states are not copied, unless a stopped seed's have to be kept."""
        return _num_bytes(point.states) > SNAPSHOT_BYTES and not point.is_stopped.any()

    def advance(self, point: Point, last: int) -> Callable[[], tuple[int, int, Stretch]]:
        """Gives the iteration reached, how many the sums are of, and where they led to."""
        # Copied here, since programs of several processes must be launched in one order.
        states = point.states if self.advances_in_place(point) else _copy(point.states)
        first, sums = point.num_iterations, point.info_totals if point.is_between else self._loop.no_sums
        since = first - point.num_steps if point.is_between else first

        def work() -> tuple[int, int, Stretch]:
            done = Stretch(states, sums, Health(()))

            def piece(first: int, last: int):
                nonlocal done
                done = jax.block_until_ready(self._loop.stretch(done.states, done.sums, since, first, last))

            reached = self._pieces.run(piece, first, last)
            return reached, reached - since, done

        return work

    def settle(self, point: Point, advanced: tuple[int, int, Stretch], saved: Callable[[], Point]) -> Point:
        """As `Engine.settle`."""
        last, num_steps, (states, sums, health) = advanced
        is_bad = ~_all_finite(health) & ~point.is_stopped
        if is_bad.any() and self.advances_in_place(point):
            origin = saved()
            states_again, *_ = self._loop.advance(origin.states, origin.num_iterations, point.num_iterations)
            point = replace(point, states=states_again)
        if point.is_stopped.any():
            states = choose(point.is_stopped, point.states, states)
        settled = replace(
            point, num_iterations=last, states=states, info_totals=sums, num_steps=num_steps, is_between=False
        )
        for seed in np.flatnonzero(is_bad):
            settled = self._stop(int(seed), point, settled)
        return settled

    def rows(self, point: Point) -> list[Row]:
        """As `Engine.rows`."""
        states, sums = processes.local((point.states, point.info_totals))
        info = jax.tree.map(lambda total: total / np.float32(point.num_steps), sums.total())
        return self._meter.rows(states, info, ~point.is_stopped, self._loop.gather)

    saves_between = True

    def checkpoint(self, point: Point) -> PyTree:
        """As `Engine.checkpoint`; between two log points with all that the next metric rows need of the last."""
        tree = {"states": point.states, "is_stopped": point.is_stopped}
        if not point.is_between:
            return tree
        last = {"num_steps": np.array(point.num_steps), "x": self._meter.last_x}
        return tree | {SUMS: point.info_totals, SINCE: last}

    def restored(self, folder: RunFolder, num_iterations: int) -> Point:
        """As `Engine.restored`."""
        like: dict[str, Any] = {"states": self._loop.start(), "is_stopped": np.zeros(self._loop.layout.num_seeds, bool)}
        if is_between := SUMS in folder.parts_of_checkpoint(num_iterations):
            x = jax.tree.map(np.asarray, self._meter.x_of(processes.local(like["states"])))
            like |= {SUMS: self._loop.no_sums, SINCE: {"num_steps": np.array(0), "x": x}}
        saved = folder.restore_checkpoint(num_iterations, like)
        is_stopped = np.array(saved["is_stopped"])
        point = Point(num_iterations, saved["states"], is_stopped, divergences_of(folder, num_iterations, is_stopped))
        if is_between:
            self._meter.last_x = jax.tree.map(np.array, saved[SINCE]["x"])
            num_steps = int(saved[SINCE]["num_steps"])
            point = replace(point, info_totals=saved[SUMS], num_steps=num_steps, is_between=True)
        return point

    def num_transitions(self, point: Point) -> int:
        """As `Engine.num_transitions`."""
        return point.num_iterations * self._meter.num_transitions_per_iteration * self._loop.layout.num_seeds

    def _stop(self, seed: int, previous: Point, point: Point) -> Point:
        """The point with a seed, which left the finite numbers since the previous one, as it was just before."""

        def advanced(num_iterations: int) -> Stretch:
            first = previous.num_iterations
            return self._loop.stretch(_copy(previous.states), self._loop.no_sums, first, first, num_iterations)

        def health_after(num_iterations: int) -> Health:
            return processes.whole(advanced(num_iterations).health)

        divergence = locate(health_after, seed, previous.num_iterations, point.num_iterations)
        warnings.warn(str(divergence), RuntimeWarning, stacklevel=5)
        is_seed = np.arange(len(point.is_stopped)) == seed
        return replace(
            point,
            states=choose(is_seed, advanced(divergence.num_iterations).states, point.states),
            is_stopped=point.is_stopped | is_seed,
            divergences=(*point.divergences, divergence),
        )


def divergences_of(
    folder: RunFolder, num_iterations: int, is_stopped: Bool[np.ndarray, " seeds"]
) -> tuple[Divergence, ...]:
    """Those that a folder has noted before a checkpoint.

    Raises:
        DamagedFileError: they are not those of the seeds that have stopped.
    """
    noted = [Divergence(**e) for e in folder.read_divergences() if e["num_iterations"] < num_iterations]
    stopped = np.flatnonzero(is_stopped).tolist()
    if sorted(divergence.seed for divergence in noted) != stopped:
        flaw = f"the seeds that stopped before iteration {num_iterations} are {stopped}, which it does not say"
        raise DamagedFileError(folder.path / "divergences.json", flaw)
    return tuple(noted)


def _all_finite(health: Health) -> Bool[np.ndarray, " seeds"]:
    return np.logical_and.reduce(processes.whole(jnp.stack(jax.tree.leaves(health))))


def _copy(states: PyTree) -> PyTree:
    """The same states in buffers of their own, which `advance` may then take."""
    return jax.tree.map(jnp.copy, states)


def _num_bytes(states: PyTree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(states))
