"""transformers' callbacks are told what happens, in order, and may end a run; they do not make it another run."""

import pytest
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState

from lm.tiny_trainers import PREFERENCES, trainer


class Notes(TrainerCallback):
    """Notes every event with the step."""

    def __init__(self, stops_at=None):
        self.seen, self.stops_at, self.given = [], stops_at, {}

    def note(self, event, state, control, given):
        assert isinstance(state, TrainerState)
        assert isinstance(control, TrainerControl)
        self.seen.append((event, state.global_step))
        self.given[event] = given

    def on_train_begin(self, args, state, control, **given):
        self.note("train_begin", state, control, given)
        self.history = list(state.log_history)

    def on_step_begin(self, args, state, control, **given):
        self.note("step_begin", state, control, given)

    def on_step_end(self, args, state, control, **given):
        self.note("step_end", state, control, given)
        if state.global_step == self.stops_at:
            control.should_training_stop = True
            return control
        return None

    def on_log(self, args, state, control, logs, **given):
        self.note("log", state, control, given | {"logs": logs})

    def on_save(self, args, state, control, **given):
        self.note("save", state, control, given)

    def on_train_end(self, args, state, control, **given):
        self.note("train_end", state, control, given)
        self.end = state


def steps(*numbers):
    return [(event, k + (event == "step_end")) for k in numbers for event in ("step_begin", "step_end")]


def test_callbacks_are_told_of_steps_rows_and_checkpoints_in_order(tmp_path):
    notes = Notes()
    options = {"max_steps": 3, "logging_steps": 2, "checkpoint_every": 0.0, "preferences": PREFERENCES}
    options |= {"callbacks": [notes]}
    built = trainer(tmp_path, **options)
    rows = built.train(progress=False).rows
    expected = [("train_begin", 0), *steps(0, 1), ("log", 2), ("save", 2), *steps(2), ("log", 3), ("save", 3)]
    assert notes.seen == [*expected, ("train_end", 3)]
    assert notes.given["log"]["logs"] == rows[-1]
    assert notes.given["step_end"]["model"] is built.followers.base
    assert notes.given["step_end"]["processing_class"] is built.tokenizer
    assert notes.end.log_history == [row | {"step": row["num_iterations"]} for row in rows]
    assert (notes.end.max_steps, notes.end.num_input_tokens_seen) == (3, built.num_transitions)


@pytest.mark.variants
@pytest.mark.parametrize("logging_steps", [1, 2])
def test_a_run_that_a_callback_ended_is_saved_and_goes_on_with_the_same_bits(tmp_path, logging_steps):
    options = {"max_steps": 6, "logging_steps": logging_steps, "preferences": PREFERENCES}
    stopped = trainer(tmp_path / "stopped", callbacks=[Notes(), Notes(stops_at=3)], **options)
    rows = stopped.train(progress=False).rows
    assert [row["num_iterations"] for row in rows] == ([1, 2, 3] if logging_steps == 1 else [2, 3])
    later = Notes()
    found = trainer(tmp_path / "stopped", callbacks=[later], **options).train(progress=False)
    assert later.seen[0] == ("train_begin", 3)
    assert [entry["step"] for entry in later.history] == [row["num_iterations"] for row in rows]
    whole = trainer(tmp_path / "whole", **options).train(progress=False)
    assert found.x["table"].tolist() == whole.x["table"].tolist()
    if logging_steps == 1:
        assert found.rows == whole.rows


def test_a_callback_may_end_a_run_before_it_starts(tmp_path):
    class Never(TrainerCallback):
        def on_train_begin(self, args, state, control, **given):
            control.should_training_stop = True

    built = trainer(tmp_path, callbacks=[Never])
    assert built.train(progress=False).rows == []
    assert built.num_iterations == 0


def test_callbacks_of_transformers_work(tmp_path, capsys):
    trainer(tmp_path, max_steps=1, callbacks=[PrinterCallback]).train(progress=False)
    assert "lower_mean_reward" in capsys.readouterr().out
