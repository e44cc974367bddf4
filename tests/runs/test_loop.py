"""The run loop, on an engine of a few numbers: what is called when, what is written, and where it goes on."""

import contextlib

import numpy as np
import pytest

from bilevel_rl.runs.divergence import Divergence
from bilevel_rl.runs.folder import RunFolder, RunFolderError
from bilevel_rl.runs.log_points import LogPoints
from bilevel_rl.runs.loop import Engine, Point, follow

CAUSE = "the test says so"


class OneProcess:
    """A crew that notes what is asked of it."""

    saves_together = True

    def __init__(self, *, is_writer=True, hears=()):
        self.is_writer, self._hears, self.asked = is_writer, list(hears), []

    def agree(self, value):
        self.asked.append(value)
        return self._hears.pop(0) if self._hears else value

    def stop_together(self, saved_in):
        return contextlib.nullcontext()


class Counter(Engine):
    """Two seeds whose states are x_k = k and 10 k; the second one can diverge."""

    def __init__(self, *, in_place=False, diverges_at=None, shows_start=True, crew=None, step=1):
        self.in_place, self.diverges_at, self.step = in_place, diverges_at, step
        self.shows_start = shows_start  # pyright: ignore[reportIncompatibleVariableOverride]
        self.own_crew, self.calls = crew or OneProcess(), []

    @property
    def crew(self):
        return self.own_crew

    def identity(self):
        return {"step": self.step}

    def start(self):
        self.calls.append("start")
        return Point(0, np.array([0, 0]), np.zeros(2, bool), info_totals=1, num_steps=1)

    def begin(self, point):
        self.calls.append(f"begin {point.num_iterations}")

    def advances_in_place(self, point):
        return self.in_place

    def advance(self, point, last):
        self.calls.append(f"advance {point.num_iterations} {last}")
        return lambda: last

    def settle(self, point, advanced, saved):
        states = np.where(point.is_stopped, point.states, [advanced, 10 * advanced])
        is_stopped, divergences = point.is_stopped, point.divergences
        if self.diverges_at is not None and advanced > self.diverges_at and not is_stopped[1]:
            states[1] = 10 * self.diverges_at
            is_stopped = np.array([False, True])
            divergences = (*divergences, Divergence(1, self.diverges_at, "x", CAUSE))
        return Point(advanced, states, is_stopped, divergences, 1, advanced - point.num_iterations)

    def rows(self, point):
        self.calls.append(f"rows {point.num_iterations}")
        running = np.flatnonzero(~point.is_stopped)
        return [{"seed": int(s), "num_iterations": point.num_iterations, "x0": float(point.states[s])} for s in running]

    def checkpoint(self, point):
        return {"states": point.states, "is_stopped": point.is_stopped}

    def restored(self, folder, num_iterations):
        saved = folder.restore_checkpoint(num_iterations)
        divergences = tuple(Divergence(**entry) for entry in folder.read_divergences())
        return Point(num_iterations, np.array(saved["states"]), np.array(saved["is_stopped"]), divergences)

    def num_transitions(self, point):
        return 2 * point.num_iterations


def run(engine, num_iterations=7, log_every=3, *, folder=None, checkpoint_every=0.0):
    return follow(
        engine, num_iterations, LogPoints(log_every), folder=folder, checkpoint_every=checkpoint_every, progress=False
    )


def logged(rows):
    return [(row["seed"], row["num_iterations"], row["x0"]) for row in rows]


EVERYTHING = [(0, 0, 0), (1, 0, 0), (0, 3, 3), (1, 3, 30), (0, 6, 6), (1, 6, 60), (0, 7, 7), (1, 7, 70)]


def test_log_points_are_multiples_and_the_end():
    point, rows = run(Counter())
    assert logged(rows) == EVERYTHING
    assert point.states.tolist() == [7, 70]


@pytest.mark.parametrize("in_place", [False, True])
def test_states_that_advance_takes_are_measured_before(in_place):
    engine = Counter(in_place=in_place)
    run(engine, 6)
    pairs = [["rows 0", "advance 0 3"], ["rows 3", "advance 3 6"]]
    expected = [call for pair in pairs for call in (pair if in_place else pair[::-1])]
    assert engine.calls == ["start", "begin 0", *expected, "rows 6"]


def test_an_engine_may_have_nothing_to_say_at_its_start():
    _, rows = run(Counter(shows_start=False))
    assert logged(rows) == EVERYTHING[2:]


def test_a_folder_holds_rows_times_and_checkpoints_and_goes_on_to_the_same(tmp_path):
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    run(Counter(), folder=whole)
    run(Counter(), 3, folder=parts)
    engine = Counter()
    point, rows = run(engine, folder=parts)
    assert engine.calls[:2] == ["begin 3", "advance 3 6"], "neither started nor measured again"
    assert logged(rows) == EVERYTHING
    assert point.states.tolist() == [7, 70]
    for name in ("metrics.csv", "divergences.json"):
        assert (parts.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert [row["num_iterations"] for row in parts.read_rows("timing")] == [0, 3, 6, 7]
    assert parts.latest_checkpoint() == 7
    finished = Counter()
    assert logged(run(finished, folder=parts)[1]) == EVERYTHING
    assert finished.calls == ["begin 7"]


def test_without_a_checkpoint_rows_are_dropped_and_the_run_starts_anew(tmp_path):
    folder = RunFolder(tmp_path)
    folder.note_identity({"step": 1})
    folder.append_rows("metrics", [{"seed": 0, "num_iterations": 0, "x0": 5.0}])
    assert logged(run(Counter(), folder=folder)[1]) == EVERYTHING


def test_another_run_is_refused_with_all_that_differs(tmp_path):
    run(Counter(), folder=RunFolder(tmp_path))
    with pytest.raises(RunFolderError, match=r"holds another run: its step is 1, not 2; use another folder"):
        run(Counter(step=2), folder=RunFolder(tmp_path))
    with pytest.raises(RunFolderError, match="has already done 7 iterations, more than 5"):
        run(Counter(), 5, folder=RunFolder(tmp_path))


def test_between_the_first_and_the_last_point_checkpoints_wait_for_their_time(tmp_path):
    folder = RunFolder(tmp_path)
    run(Counter(), folder=folder, checkpoint_every=1e9)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()) == ["7"]


@pytest.mark.parametrize("cut", [None, 6])
def test_a_stopped_seed_is_written_once_and_stays_stopped(tmp_path, cut):
    folder = RunFolder(tmp_path)
    if cut is not None:
        run(Counter(diverges_at=4), cut, folder=folder)
    point, rows = run(Counter(diverges_at=4), folder=folder)
    assert logged(rows) == [*EVERYTHING[:4], (0, 6, 6), (0, 7, 7)]
    assert point.states.tolist() == [7, 40]
    assert point.divergences == (Divergence(1, 4, "x", CAUSE),)
    assert [entry["num_iterations"] for entry in folder.read_divergences()] == [4]


def test_a_run_ends_when_all_seeds_have_stopped(tmp_path):
    class Lost(Counter):
        def settle(self, point, advanced, saved):
            settled = super().settle(point, advanced, saved)
            everybody = tuple(Divergence(seed, 1, "x", CAUSE) for seed in range(2))
            return Point(advanced, settled.states, np.ones(2, bool), everybody, 1, 3)

    folder = RunFolder(tmp_path)
    point, rows = run(Lost(), folder=folder, checkpoint_every=1e9)
    assert point.num_iterations == 3
    assert logged(rows) == EVERYTHING[:2]
    assert len(folder.read_divergences()) == 2
    assert folder.latest_checkpoint() == 3


def test_a_process_that_does_not_write_does_what_the_writer_says(tmp_path):
    NO_CHECKPOINT, not_yet = -1, 0
    crew = OneProcess(is_writer=False, hears=[True, NO_CHECKPOINT, not_yet, not_yet, not_yet])
    _, rows = run(Counter(crew=crew), folder=RunFolder(tmp_path))
    assert logged(rows) == EVERYTHING
    assert len(crew.asked) == 2 + 4, "once whether the folder is free and where to begin, then whether to save"
    assert not (tmp_path / "metrics.csv").exists()
    assert not (tmp_path / "run.json").exists()
