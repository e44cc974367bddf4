"""transformers' callbacks: told of what happens, with transformers' own state and control.

They are not part of what makes a run the same run: a run goes on with others, or without. Of `control`,
`should_training_stop` counts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import PartialState
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState

from bilevel_rl import checks
from bilevel_rl.lm.config import BilevelRLHFConfig

Callbacks = Sequence[TrainerCallback | type[TrainerCallback]]
"""Callbacks, or classes of such, which are made without arguments."""


class Events:
    """Tells callbacks of a trainer's events.

    Args:
        callbacks: who is told, in this order, on every process; None for nobody.
        args: of the trainer, which the callbacks are given as it is.
        model: the language model with its adapters, for them to look at.
        tokenizer: of the model.

    Raises:
        TypeError: one of them is no `TrainerCallback`.
    """

    def __init__(
        self,
        callbacks: Callbacks | None,
        args: BilevelRLHFConfig,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
    ):
        given = checks.instance("callbacks", [] if callbacks is None else callbacks, list, tuple)
        made = [callback() if isinstance(callback, type) else callback for callback in given]
        self._callbacks = [checks.instance(f"callbacks[{i}]", each, TrainerCallback) for i, each in enumerate(made)]
        self._args, self._given = args, {"model": model, "processing_class": tokenizer}
        processes = PartialState()
        self.state = TrainerState(
            max_steps=args.max_steps,
            logging_steps=args.logging_steps,
            train_batch_size=args.per_device_train_batch_size,
            is_local_process_zero=processes.is_local_main_process,
            is_world_process_zero=processes.is_main_process,
        )
        self.control = TrainerControl()

    def __len__(self) -> int:
        return len(self._callbacks)

    def begin(self, num_iterations: int, rows: Sequence[Mapping[str, float]]):
        """A run starts, or goes on after so many iterations, of which there are these metric rows."""
        self.state.global_step = num_iterations
        self.state.log_history = [_entry(row) for row in rows]
        self.control.should_training_stop = False
        self._tell("on_train_begin")

    def begin_step(self):
        """An iteration starts."""
        self._tell("on_step_begin")

    def end_step(self, num_iterations: int, num_tokens: int):
        """So many iterations are done, and so many tokens written."""
        self.state.global_step, self.state.num_input_tokens_seen = num_iterations, num_tokens
        self._tell("on_step_end")

    def log(self, row: Mapping[str, float]):
        """A metric row was written."""
        self.state.log_history.append(_entry(row))
        self._tell("on_log", logs=dict(row))

    def save(self):
        """A checkpoint was saved."""
        self._tell("on_save")

    def end(self):
        """The run is over, and what was learned is saved."""
        self._tell("on_train_end")

    def _tell(self, event: str, **more: Any):
        for callback in self._callbacks:
            answer = getattr(callback, event)(self._args, self.state, self.control, **self._given, **more)
            self.control = self.control if answer is None else answer


def _entry(row: Mapping[str, float]) -> dict[str, float]:
    """A row as transformers' log history has it."""
    return {**row, "step": int(row["num_iterations"])}
