"""The one run loop: log points, metric rows, checkpoints, resume, divergence and progress.

What runs is an `Engine`: seeds of a compiled algorithm (`run`), an algorithm whose environment is stepped on the host
(`host`), or a trainer of a language model (`bilevel_rl.lm`). Engines differ in how iterations are done and in what is
measured of them, and in nothing else.
"""

import abc
import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Bool, PyTree

from bilevel_rl.runs import lock, processes
from bilevel_rl.runs.divergence import Divergence
from bilevel_rl.runs.folder import Row, RunFolder
from bilevel_rl.runs.identity import find_checkpoint
from bilevel_rl.runs.interruption import SIGNALS, Interrupted, abandoned_on_error, asked, heeded, saving
from bilevel_rl.runs.log_points import LogPoints
from bilevel_rl.runs.progress import Progress
from bilevel_rl.runs.trackers import Report


@dataclass(frozen=True)
class Point:
    """All seeds between two stretches of iterations. Stopped ones stay what they were when they stopped.

    Attributes:
        num_iterations: done by every seed that is running.
        states: whatever the engine goes on from.
        is_stopped: which seeds have diverged.
        divergences: why.
        info_totals: sums of what the iterations since the last log point said of themselves.
        num_steps: how many iterations these were.
        is_between: whether it lies between two log points, where the run was interrupted.
    """

    num_iterations: int
    states: PyTree
    is_stopped: Bool[np.ndarray, " seeds"]
    divergences: tuple[Divergence, ...] = ()
    info_totals: PyTree = None
    num_steps: int = 0
    is_between: bool = False

    def is_last(self, num_iterations: int) -> bool:
        """Whether a run of so many iterations is over."""
        return self.num_iterations >= num_iterations or bool(self.is_stopped.all())


@runtime_checkable
class Crew(Protocol):
    """The processes of one job."""

    @property
    def is_writer(self) -> bool:
        """Whether this process writes the folder and speaks on the terminal."""
        ...

    @property
    def saves_together(self) -> bool:
        """Whether every process saves its part of a checkpoint; otherwise the writer saves all of it."""
        ...

    def agree(self, value: int) -> int:
        """The writer's value, on every process."""
        ...

    def stop_together(self, saved_in: RunFolder | None) -> contextlib.AbstractContextManager[None]:
        """What turns the loss of another process into an error that says how to go on."""
        ...


class Engine(abc.ABC):
    """How iterations are done, and what is measured of them."""

    call: ClassVar[str] = "bilevel_rl.run"
    """what starts it from Python"""

    packages: ClassVar[Sequence[str]] = ()
    """whose versions are noted with a run, besides those of the core"""

    shows_start: ClassVar[bool] = True
    """whether there is a metric row of iteration 0, which shows the first iteration's Info"""

    @property
    def is_alone(self) -> bool:
        """Whether one process runs it, which may stop when it is told to; several would have to agree."""
        return jax.process_count() == 1

    saves_between: ClassVar[bool] = False
    """whether a point between two log points can be saved and gone on from"""

    @property
    def crew(self) -> Crew:
        """The processes that run it together."""
        return processes.JaxProcesses()

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What must not change between the parts of an interrupted run, as JSON."""

    @abc.abstractmethod
    def start(self) -> Point:
        """Iteration 0, with the first iteration's Info where `shows_start`."""

    @abc.abstractmethod
    def begin(self, point: Point):
        """Called once, with the point that the run goes on from."""

    @abc.abstractmethod
    def advances_in_place(self, point: Point) -> bool:
        """Whether `advance` takes the point's states, so that all that is to be known of them must be known before."""

    @abc.abstractmethod
    def advance(self, point: Point, last: int) -> Callable[[], Any]:
        """The work of the iterations up to `last`, to be called once; a thread may do it beside `rows`.

        It may end before, once `interruption.asked` says so.
        """

    @abc.abstractmethod
    def settle(self, point: Point, advanced: Any, saved: Callable[[], Point]) -> Point:
        """The next point: seeds that left the finite numbers are stopped at their last finite state.

        Args:
            point: the one before.
            advanced: what `advance` made of it.
            saved: an earlier point, from the newest checkpoint or the start.
        """

    @abc.abstractmethod
    def rows(self, point: Point) -> list[Row]:
        """The metric rows of a point's running seeds."""

    @abc.abstractmethod
    def checkpoint(self, point: Point) -> PyTree:
        """The arrays from which `restored` makes the point again."""

    @abc.abstractmethod
    def restored(self, folder: RunFolder, num_iterations: int) -> Point:
        """The point of a checkpoint, without what the iterations before it said of themselves."""

    @abc.abstractmethod
    def num_transitions(self, point: Point) -> int:
        """Environment transitions of all seeds so far."""

    def stops_early(self) -> bool:
        """Whether the run is to end at the present point, before all its iterations are done."""
        return False

    def logged(self, rows: Sequence[Row]):  # noqa: B027
        """Told of metric rows, once they are in the folder and a checkpoint is not yet; on every process."""

    def saved(self):  # noqa: B027
        """Told of a checkpoint, once it is there; on every process."""

    def texts(self) -> Sequence[str]:
        """Examples of what policies write at the moment, for the progress bar."""
        return ()


class _Record:
    """The rows of a run, its files, and its tracker."""

    def __init__(self, engine: Engine, folder: RunFolder | None, checkpoint_every: float):
        self._engine, self._folder, self._checkpoint_every = engine, folder, checkpoint_every
        self._started = self._saved_at = time.perf_counter()
        self._checkpoint: int | None = None
        self._report: Report | None = None
        self._logged = -1 if engine.shows_start else 0
        self.rows: list[Row] = []

    def begin(self, num_iterations: int) -> Point:
        """Where the run goes on from, or starts."""
        if self._folder is not None:
            engine = self._engine
            self._checkpoint = find_checkpoint(
                self._folder, engine.identity(), num_iterations, engine.crew, engine.packages
            )
            self.rows = list(self._folder.read_rows("metrics"))
            if self._checkpoint is not None:
                self._logged = self._checkpoint
            if engine.crew.is_writer:
                config = self._folder.note_call(engine.call, num_iterations)
                self._report = Report(self._folder.path, self._folder.report_to, config)
                self._report.log(self.rows)
        return self.saved()

    def close(self):
        """Says to the tracker that no more will come."""
        if self._report is not None:
            self._report.close()

    def saved(self) -> Point:
        """The point of the checkpoint that the run began from, or the start."""
        if self._folder is None or self._checkpoint is None:
            return self._engine.start()
        return self._engine.restored(self._folder, self._checkpoint)

    def log(self, point: Point, *, saves: bool) -> list[Row] | None:
        """Measures a point, writes what is known of it, and returns its rows; None where that was done before.

        Args:
            point: to be measured.
            saves: a checkpoint, also where its time has not come.
        """
        if point.num_iterations <= self._logged:
            return None
        self._logged = point.num_iterations
        engine, folder = self._engine, self._folder
        rows, now = engine.rows(point), time.perf_counter()
        self.rows.extend(rows)
        if folder is not None:
            if engine.crew.is_writer:
                folder.append_rows("metrics", rows)
                if self._report is not None:
                    self._report.log(rows)
                timing = {"num_iterations": point.num_iterations, "seconds": now - self._started}
                folder.append_rows("timing", [timing])
                folder.write_divergences([asdict(divergence) for divergence in point.divergences])
            engine.logged(rows)
            if engine.crew.agree(now - self._saved_at >= self._checkpoint_every) or saves:
                self._save(folder, point)
        return rows

    def leave(self, point: Point, num_iterations: int, number: int):
        """Saves a point where that can be, and raises `Interrupted`, which says from where to go on."""
        is_saved = point.num_iterations <= self._logged
        if not is_saved and not point.is_between:
            is_saved = self.log(point, saves=True) is not None
        elif self._folder is not None and point.is_between and self._engine.saves_between:
            self._save(self._folder, point)
            is_saved = True
        if self._folder is None:
            raise Interrupted(number, f"stopped after iteration {point.num_iterations:,} of {num_iterations:,}")
        last = point.num_iterations if is_saved else self._folder.latest_checkpoint() or 0
        raise Interrupted(number, f"stopped and saved after iteration {last:,} of {num_iterations:,}")

    def _save(self, folder: RunFolder, point: Point):
        engine = self._engine
        with saving():
            if engine.crew.is_writer or engine.crew.saves_together:
                folder.save_checkpoint(point.num_iterations, engine.checkpoint(point))
        engine.saved()
        self._saved_at = time.perf_counter()


def follow(
    engine: Engine,
    num_iterations: int,
    log_points: LogPoints,
    *,
    folder: RunFolder | None,
    checkpoint_every: float,
    progress: bool,
) -> tuple[Point, list[Row]]:
    """Runs an engine to an iteration, from its start or from what the folder holds.

    Args:
        engine: what runs.
        num_iterations: iterations of every seed.
        log_points: when it is measured.
        folder: where rows and checkpoints are kept; None for nowhere.
        checkpoint_every: seconds between two checkpoints; 0 saves one at every log point.
        progress: show a progress bar.

    Returns:
        The last point, and all metric rows.

    Raises:
        RunFolderError: the folder holds another run, one that has gone further, or one whose files are damaged; or
            another process works in it.
        Interrupted: Ctrl-C was pressed, or SIGTERM came where there is a folder; the state was saved before.
    """
    signals = () if not engine.is_alone else SIGNALS if folder is not None else (signal.SIGINT,)
    record = _Record(engine, folder, checkpoint_every)
    with (
        Progress(num_iterations, is_shown=progress and engine.crew.is_writer) as bar,
        heeded(*signals),
        ThreadPoolExecutor(max_workers=1) as background,
        engine.crew.stop_together(folder),
        contextlib.nullcontext() if folder is None else lock.hold_together(folder.path, engine.crew),
        abandoned_on_error(),
        contextlib.closing(record),
    ):

        def is_over(point: Point) -> bool:
            return point.is_last(num_iterations) or engine.stops_early()

        def log(point: Point):
            rows = record.log(point, saves=is_over(point))
            if rows is not None:
                bar.update(point.num_iterations, engine.num_transitions(point), rows, engine.texts())

        point = record.begin(num_iterations)
        engine.begin(point)
        while not is_over(point):
            last = min(log_points.after(point.num_iterations), num_iterations)
            if engine.advances_in_place(point):
                log(point)
                advanced = engine.advance(point, last)()
            else:
                future = background.submit(engine.advance(point, last))
                log(point)  # While the devices are at work.
                advanced = future.result()
            point = engine.settle(point, advanced, record.saved)
            if (number := asked()) is not None:
                record.leave(replace(point, is_between=point.num_iterations < last), num_iterations, number)
        log(point)
    return point, record.rows
