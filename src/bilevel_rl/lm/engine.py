"""A trainer of a language model as the run loop sees it: rows, checkpoints, resume and divergence as everywhere."""

import contextlib
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from jaxtyping import PyTree
from torch import Tensor

from bilevel_rl.lm.rows import mean_columns
from bilevel_rl.runs.divergence import Divergence
from bilevel_rl.runs.folder import Row, RunFolder
from bilevel_rl.runs.interruption import asked
from bilevel_rl.runs.loop import Engine, Point

if TYPE_CHECKING:
    from bilevel_rl.lm.training import RLHFTrainer

LIKELY_CAUSE = "the steps are too large: lower learning_rate or upper_learning_rate, or raise penalty"

NOT_A_NUMBER_WITHOUT_PREFERENCES = "preference_loss"
"""The one column that is NaN where there is nothing to measure."""


class AccelerateProcesses:
    """The processes of accelerate, as the run loop asks for them (`loop.Crew`). The first one saves everything."""

    saves_together = False

    @property
    def is_writer(self) -> bool:
        """Whether this is the first process."""
        return PartialState().is_main_process

    def agree(self, value: int) -> int:
        """The first process's value, on every process."""
        return int(broadcast_object_list([value])[0])

    def stop_together(self, saved_in: RunFolder | None) -> contextlib.AbstractContextManager[None]:
        """Nothing: torch.distributed ends the processes of a job by itself."""
        return contextlib.nullcontext()


class Stretch(NamedTuple):
    """Iterations that were asked for: up to which, the columns of those done, and what the next one would have spoiled.

    `spoiled` is empty where all are done.
    """

    last: int
    columns: list[dict[str, float]]
    spoiled: tuple[str, ...] = ()


class TrainerEngine(Engine):
    """Iterations of a trainer, which holds all state itself.

    Args:
        trainer: what runs.
    """

    call = "bilevel_rl.lm.BilevelRLHFTrainer.train"

    packages = ("torch", "transformers", "peft", "accelerate", "safetensors")

    shows_start = False
    """An iteration is not taken twice, since it may ask people."""

    def __init__(self, trainer: "RLHFTrainer"):
        self._trainer = trainer
        self._stops = False

    @property
    def crew(self) -> AccelerateProcesses:
        """As `Engine.crew`."""
        return AccelerateProcesses()

    @property
    def is_alone(self) -> bool:
        """As `Engine.is_alone`."""
        return PartialState().num_processes == 1

    def identity(self) -> dict[str, Any]:
        """As `Engine.identity`."""
        return self._trainer.identity()

    def start(self) -> Point:
        """As `Engine.start`.

        Raises:
            RuntimeError: the trainer has already moved, and its folder does not say from where to go on.
        """
        if self._trainer.has_moved:
            raise RuntimeError(
                "this trainer was interrupted, and its folder holds no checkpoint to go back to: load the model and "
                "build the trainer again"
            )
        return Point(0, None, np.zeros(1, bool))

    def begin(self, point: Point):
        """As `Engine.begin`."""
        self._kept = self._snapshot()
        trainer = self._trainer
        if trainer.completion_log is not None:
            trainer.completion_log.begin(point.num_iterations)
        trainer.events.begin(point.num_iterations, list(trainer.folder.read_rows("metrics")))
        self._stops = self._is_told_to_stop()

    def stops_early(self) -> bool:
        """As `Engine.stops_early`: a callback asked for it."""
        return self._stops

    def logged(self, rows: Sequence[Row]):
        """As `Engine.logged`."""
        for row in rows:
            if self._trainer.completion_log is not None:
                self._trainer.completion_log.write(int(row["num_iterations"]))
            self._trainer.events.log(row)

    def saved(self):
        """As `Engine.saved`."""
        self._trainer.events.save()

    def advances_in_place(self, point: Point) -> bool:
        """Always: the trainer's weights are the state."""
        return True

    def advance(self, point: Point, last: int) -> Callable[[], Stretch]:
        """As `Engine.advance`; ends before the first iteration that would leave the finite numbers."""
        return lambda: self._advanced(point, last)

    def _advanced(self, point: Point, last: int) -> Stretch:
        rows: list[dict[str, float]] = []
        for k in range(point.num_iterations, last):
            if asked() and rows:
                return Stretch(k, rows)
            self._trainer.events.begin_step()
            columns = self._trainer.iterate(k)
            spoiled = (*_not_finite(columns), *self._trainer.parts_not_finite())
            if spoiled:
                return Stretch(last, rows, spoiled)
            self._kept = self._snapshot()
            rows.append(columns)
            self._trainer.events.end_step(k + 1, self._trainer.num_transitions)
            self._stops = self._is_told_to_stop()
            if self._stops:
                return Stretch(k + 1, rows)
        return Stretch(last, rows)

    def _is_told_to_stop(self) -> bool:
        """Whether a callback of the first process asks for the end."""
        events = self._trainer.events
        return len(events) > 0 and bool(self.crew.agree(int(events.control.should_training_stop)))

    def settle(self, point: Point, advanced: Stretch, saved: Callable[[], Point]) -> Point:
        """As `Engine.settle`."""
        last, columns, spoiled = advanced
        if not spoiled:
            return Point(last, None, point.is_stopped, point.divergences, mean_columns(columns), len(columns))
        self._trainer.restore(*self._kept)
        num_iterations = point.num_iterations + len(columns)
        divergence = Divergence(self._trainer.args.seed, num_iterations, " and ".join(spoiled), LIKELY_CAUSE)
        warnings.warn(str(divergence), RuntimeWarning, stacklevel=4)
        return Point(last, None, np.ones(1, bool), (*point.divergences, divergence))

    def rows(self, point: Point) -> list[Row]:
        """As `Engine.rows`."""
        return [] if point.is_stopped[0] else [self._trainer.row(point.info_totals)]

    def checkpoint(self, point: Point) -> PyTree:
        """As `Engine.checkpoint`; counters are JSON, as bytes."""
        counters = np.frombuffer(json.dumps(self._trainer.counters()).encode(), np.uint8)
        tensors = {name: tensor.cpu().numpy() for name, tensor in self._trainer.tensors().items()}
        return {"tensors": tensors, "counters": counters}

    def restored(self, folder: RunFolder, num_iterations: int) -> Point:
        """As `Engine.restored`."""
        self._trainer.restore(*read_checkpoint(folder, num_iterations))
        divergences = tuple(Divergence(**entry) for entry in folder.read_divergences())
        return Point(num_iterations, None, np.array([bool(divergences)]), divergences)

    def num_transitions(self, point: Point) -> int:
        """As `Engine.num_transitions`: tokens written."""
        return self._trainer.num_transitions

    def texts(self) -> Sequence[str]:
        """As `Engine.texts`."""
        return self._trainer.shown_texts

    def _snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {name: tensor.clone() for name, tensor in self._trainer.tensors().items()}, self._trainer.counters()


def read_checkpoint(folder: RunFolder, num_iterations: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A trainer's tensors and counters, from a checkpoint."""
    saved = folder.restore_checkpoint(num_iterations)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in saved["tensors"].items()}
    return tensors, json.loads(np.asarray(saved["counters"]).tobytes())


def _not_finite(columns: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(
        name
        for name, value in columns.items()
        if not math.isfinite(value) and not (name == NOT_A_NUMBER_WITHOUT_PREFERENCES and math.isnan(value))
    )
