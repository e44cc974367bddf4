"""A run that is told to stop saves its state, soon, and goes on to the same bits."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bilevel_rl.runs import interruption
from bilevel_rl.runs.compiled import Loop
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.interruption import GROWTH, SECONDS_PER_PIECE, Interrupted, Pieces
from bilevel_rl.runs.sums import ITERATIONS_PER_SUM
from small_runs import small_run

LENGTH = 3 * ITERATIONS_PER_SUM + 1_000
"""Of the one log interval: longer than what is summed at once."""


@pytest.fixture(autouse=True)
def _interrupts_are_heard():
    """Also in a test run that a shell started in the background, where they are ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def long_run(**options):
    return small_run(num_iterations=LENGTH, log_every=LENGTH, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    return long_run(folder=path), path


def assert_same(path, whole):
    assert (path / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


@pytest.mark.variants(rest="long")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("call", [3, 6])
def test_a_run_told_to_stop_within_a_log_interval_goes_on_to_the_same_bits(whole, tmp_path, monkeypatch, number, call):
    stretch, ends = Loop.stretch, []

    def signalled(*arguments):
        ends.append(arguments[-1])
        if len(ends) == call:
            os.kill(os.getpid(), number)
        return stretch(*arguments)

    monkeypatch.setattr(Loop, "stretch", signalled)
    with pytest.raises(Interrupted, match="stopped and saved after iteration") as caught:
        long_run(folder=tmp_path)
    monkeypatch.undo()
    assert caught.value.number == number
    saved = RunFolder(tmp_path).latest_checkpoint()
    assert 0 < saved < LENGTH
    assert saved == ends[-1], "no piece was begun after it"
    assert {row["num_iterations"] for row in RunFolder(tmp_path).read_rows("metrics")} == {0}

    result = long_run(folder=tmp_path)
    np.testing.assert_array_equal(result.x, whole[0].x)
    assert_same(tmp_path, whole[1])


def test_the_lengths_of_the_pieces_change_no_bit(whole, tmp_path, monkeypatch):
    lengths = iter(np.random.default_rng(0).integers(1, 9_000, size=1_000).tolist())
    monkeypatch.setattr(Pieces, "_note", lambda self, *_: setattr(self, "_length", next(lengths)))
    long_run(folder=tmp_path)
    assert_same(tmp_path, whole[1])


def test_means_of_a_long_interval_are_those_of_short_ones(whole):
    short = small_run(num_iterations=LENGTH, log_every=2_000).metrics
    weights = np.diff(np.unique(short["num_iterations"]), prepend=0)[1:]
    for name in ("lower_mean_cost", "lower_mean_reward", "lower_mean_entropy"):
        means = short[name].reshape(-1, 3)[1:]
        expected = (weights[:, None] * means).sum(0) / LENGTH
        np.testing.assert_allclose(whole[0].metrics[name].reshape(-1, 3)[-1], expected, rtol=1e-4)


def test_a_run_without_a_folder_stops_as_well(monkeypatch):
    stretch = Loop.stretch

    def signalled(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return stretch(*arguments)

    monkeypatch.setattr(Loop, "stretch", lambda *a: signalled(*a) if a[-1] > 100 else stretch(*a))
    with pytest.raises(KeyboardInterrupt, match=r"stopped after iteration [0-9,]+ of"):
        long_run()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_handlers_of_the_program_stay(monkeypatch):
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append("mine"))
    try:
        with interruption.heeded(signal.SIGINT):
            os.kill(os.getpid(), signal.SIGINT)
            assert heard == ["mine"]
            assert interruption.asked() is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_second_signal_stops_at_once():
    with interruption.heeded(signal.SIGINT):
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.asked() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert interruption.asked() is None


def test_pieces_grow_until_they_take_their_time(monkeypatch):
    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    clock, pieces, done = Clock(), Pieces(), []
    monkeypatch.setattr(interruption, "time", clock)

    def work(first, last):
        clock.now += 1e-3 * (last - first)
        done.append(last - first)

    assert pieces.run(work, 0, 2_000) == 2_000
    assert done[:3] == [1, GROWTH, GROWTH**2]
    assert max(done) == pytest.approx(SECONDS_PER_PIECE / 1e-3, abs=1)
    assert sum(done) == 2_000
    assert pieces.run(work, 2_000, 2_000) == 2_000, "also where there is nothing to do"


HEED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
"""Whoever starts the tests may have told them to ignore it."""
OPTIONS = ["goal-position", "--size", "4", "--target", "3", "1", "--initial-x", "0", "2", "--num-seeds", "2"]
OPTIONS += ["--num-iterations", "1000000000", "--log-every", "1000000000", "--no-progress"]


def start(folder):
    code = f"{HEED}; from bilevel_rl.cli import main; main()"
    command = [sys.executable, "-c", code, "run", *OPTIONS, "--folder", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "timing.csv").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.0)
    return process


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_stops_in_a_chunk_of_many_minutes(tmp_path, number):
    folder = tmp_path / "run"
    process = start(folder)
    process.send_signal(number)
    err = process.communicate(timeout=20)[1]
    assert process.returncode == 128 + number
    assert f"interrupted; go on with `bilevel-rl resume {folder}` (stopped and saved after iteration " in err
    assert "Traceback" not in err
    saved = RunFolder(folder).sound_checkpoint()
    assert saved is not None
    assert saved > 0
    assert not (folder / "lock").exists()


@pytest.mark.long
def test_the_second_ctrl_c_ends_a_command_at_once(tmp_path):
    process = start(tmp_path / "run")
    process.send_signal(signal.SIGINT)
    time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    assert process.returncode == 130


@pytest.mark.slow
def test_a_command_that_python_cannot_interrupt_ends_in_time():
    stuck = (
        f"{HEED}; import ctypes; from bilevel_rl.runs import interruption\n"
        "with interruption.bounded('farewell'):\n"
        "    print('stuck', flush=True)\n"
        "    while True:\n"
        "        try: ctypes.CDLL(None).sleep(30)\n"
        "        except KeyboardInterrupt: pass\n"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", stuck], stdout=pipe, stderr=pipe, text=True)
    assert process.stdout.readline() == "stuck\n"
    time.sleep(0.2)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == "farewell\n"
    assert process.returncode == 130
    assert time.monotonic() - started < 4
