"""A run that was interrupted, even by kill -9, and continued ends with the same bits as one that never was."""

import contextlib
import dataclasses
import importlib
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pytest

from bilevel_rl import SingleLoopActorCritic, problems
from bilevel_rl.algorithms import UpperSteps
from bilevel_rl.runs.compiled import Loop
from bilevel_rl.runs.folder import RunFolder, RunFolderError
from small_runs import (
    COST_EDGE,
    KEY,
    LONE_SEED,
    NUM_ITERATIONS,
    NUM_SEEDS,
    SLOPE_EDGE,
    first_beyond,
    small_algorithm,
    small_run,
)


def assert_same_bits(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def metrics_of(path):
    return (path / "metrics.csv").read_bytes()


def files_of(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


# Interrupted in this process.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run, and its folder. To be copied, not to be changed."""
    path = tmp_path_factory.mktemp("whole")
    return small_run(folder=path), path


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole[1], tmp_path / "copy"))


@pytest.mark.long
@pytest.mark.parametrize("first", [50, 150])
def test_continuing_a_shorter_run_ends_with_the_same_bits(whole, first, tmp_path):
    small_run(folder=tmp_path, num_iterations=first)
    result = small_run(folder=tmp_path)

    assert_same_bits(result.states, whole[0].states)
    assert_same_bits(result.metrics, whole[0].metrics)
    assert metrics_of(tmp_path) == metrics_of(whole[1])
    timing = RunFolder(tmp_path).read_rows("timing")
    assert [row["num_iterations"] for row in timing] == [0, 50, 100, 150, 200]


@pytest.mark.long
def test_continuing_from_between_two_log_points_changes_no_state(whole, tmp_path):
    small_run(folder=tmp_path, num_iterations=120)
    result = small_run(folder=tmp_path)

    assert_same_bits(result.states, whole[0].states)
    iterations = result.metrics["num_iterations"]
    assert sorted(set(iterations)) == [0, 50, 100, 120, 150, 200]
    np.testing.assert_array_equal(result.metrics["x0"][iterations != 120], whole[0].metrics["x0"])


def test_a_finished_run_is_read_not_run_again(whole, copy, monkeypatch):
    monkeypatch.setattr(Loop, "stretch", None)
    result = small_run(folder=copy)
    assert_same_bits(result.states, whole[0].states)
    assert_same_bits(result.metrics, whole[0].metrics)
    assert files_of(copy) == files_of(whole[1])


def test_rows_beyond_the_checkpoint_and_a_torn_line_are_written_again(whole, copy):
    shutil.rmtree(copy / "checkpoints" / "200")
    with (copy / "metrics.csv").open("a") as file:
        file.write("0,250,2000,0.0")
    with (copy / "timing.csv").open("a") as file:
        file.write("25")

    result = small_run(folder=copy)

    assert_same_bits(result.states, whole[0].states)
    assert metrics_of(copy) == metrics_of(whole[1])
    assert [row["num_iterations"] for row in RunFolder(copy).read_rows("timing")] == [0, 50, 100, 150, 200]


def test_a_torn_row_of_the_log_point_after_the_checkpoint_is_written_again(whole, copy):
    shutil.rmtree(copy / "checkpoints" / "200")
    lines = (copy / "metrics.csv").read_bytes().splitlines(keepends=True)
    (copy / "metrics.csv").write_bytes(b"".join(lines[:-2]) + lines[-2][:100])
    small_run(folder=copy)
    assert metrics_of(copy) == metrics_of(whole[1])


@pytest.mark.parametrize("kept", ["rows of the start", "torn header", "run.json only"])
def test_a_run_killed_before_its_first_checkpoint_starts_afresh(whole, copy, kept):
    shutil.rmtree(copy / "checkpoints")
    lines = (copy / "metrics.csv").read_bytes().splitlines(keepends=True)
    if kept == "rows of the start":
        (copy / "metrics.csv").write_bytes(b"".join(lines[: 1 + NUM_SEEDS]))
    elif kept == "torn header":
        (copy / "metrics.csv").write_bytes(lines[0][:40])
    else:
        for name in ("metrics.csv", "timing.csv", "divergences.json"):
            (copy / name).unlink()

    result = small_run(folder=copy)

    assert_same_bits(result.states, whole[0].states)
    assert metrics_of(copy) == metrics_of(whole[1])


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", pytest.param("after", marks=pytest.mark.long)])
@pytest.mark.parametrize("log_point", [pytest.param(0, marks=pytest.mark.long), 2])
@pytest.mark.parametrize(
    ("method", "calls_per_log_point", "call"),
    [("append_rows", 2, 0), ("append_rows", 2, 1), ("write_divergences", 1, 0), ("save_checkpoint", 1, 0)],
    ids=["metrics", "timing", "divergences", "checkpoint"],
)
def test_an_interrupt_around_any_write_is_healed(
    whole, tmp_path, monkeypatch, method, calls_per_log_point, call, log_point, when
):
    write, calls = getattr(RunFolder, method), itertools.count()

    def interrupted(*arguments):
        is_the_one = next(calls) == calls_per_log_point * log_point + call
        if is_the_one and when == "before":
            raise KeyboardInterrupt
        write(*arguments)
        if is_the_one:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, method, interrupted)
    with pytest.raises(KeyboardInterrupt):
        small_run(folder=tmp_path)
    monkeypatch.undo()
    result = small_run(folder=tmp_path)

    assert_same_bits(result.states, whole[0].states)
    assert_same_bits(result.metrics, whole[0].metrics)
    assert metrics_of(tmp_path) == metrics_of(whole[1])
    assert [row["num_iterations"] for row in RunFolder(tmp_path).read_rows("timing")] == [0, 50, 100, 150, 200]


@pytest.mark.parametrize("call", [1, 4])
def test_an_interrupt_of_the_loop_in_the_background_is_healed(whole, tmp_path, monkeypatch, call):
    stretch = Loop.stretch

    def interrupted(*arguments):
        if arguments[-1] == 50 * call:
            raise KeyboardInterrupt
        return stretch(*arguments)

    monkeypatch.setattr(Loop, "stretch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small_run(folder=tmp_path)
    monkeypatch.undo()
    assert RunFolder(tmp_path).latest_checkpoint() == (call - 1) * 50  # logged while the loop was at work
    result = small_run(folder=tmp_path)

    assert_same_bits(result.states, whole[0].states)
    assert metrics_of(tmp_path) == metrics_of(whole[1])


@pytest.mark.parametrize(
    ("checkpoint_every", "expected"), [(0.0, [0, 50, 100, 150, 200]), (1.5, [50, 150, 200]), (1e9, [200])]
)
def test_a_checkpoint_is_saved_when_its_time_has_come_and_at_the_end(
    whole, tmp_path, monkeypatch, checkpoint_every, expected
):
    class Clock:
        """A second passes from look to look."""

        now = -1.0

        def perf_counter(self):
            self.now += 1.0
            return self.now

    clock, saved, save = Clock(), [], RunFolder.save_checkpoint

    def instantly(self, num_iterations, tree):
        saved.append(num_iterations)
        save(self, num_iterations, tree)
        clock.now -= 1.0

    monkeypatch.setattr(RunFolder, "save_checkpoint", instantly)
    monkeypatch.setattr(importlib.import_module("bilevel_rl.runs.loop"), "time", clock)
    result = small_run(folder=tmp_path, checkpoint_every=checkpoint_every)

    assert saved == expected
    assert_same_bits(result.states, whole[0].states)
    assert metrics_of(tmp_path) == metrics_of(whole[1])


@pytest.mark.slow
def test_a_stopped_seed_stays_stopped(tmp_path):
    algorithm = small_algorithm(slope_edge=SLOPE_EDGE)
    stop = first_beyond("x1", SLOPE_EDGE)[LONE_SEED]
    assert stop < 150
    with pytest.warns(RuntimeWarning, match=f"seed {LONE_SEED} diverged"):
        uninterrupted = small_run(algorithm, folder=tmp_path / "whole")
    with pytest.warns(RuntimeWarning, match=f"seed {LONE_SEED} diverged"):
        small_run(algorithm, folder=tmp_path / "parts", num_iterations=150)
    (entry,) = RunFolder(tmp_path / "parts").read_divergences()
    assert (entry["seed"], entry["num_iterations"], entry["quantity"]) == (LONE_SEED, stop, "x")

    result = small_run(algorithm, folder=tmp_path / "parts")  # no second warning

    assert result.divergences == uninterrupted.divergences
    assert_same_bits(result.states, uninterrupted.states)
    for name in ("metrics.csv", "divergences.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert RunFolder(tmp_path / "parts").read_rows("metrics")[-1]["num_iterations"] == NUM_ITERATIONS


def test_a_divergence_beyond_the_checkpoint_is_found_again_and_noted_once(tmp_path):
    algorithm = small_algorithm(cost_edge=COST_EDGE)
    stops = first_beyond("x0", COST_EDGE)
    assert all(stop > 150 for stop in stops[1:])
    with pytest.warns(RuntimeWarning, match="parameters"):
        uninterrupted = small_run(algorithm, folder=tmp_path)
    before = files_of(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "200")

    with pytest.warns(RuntimeWarning, match="parameters"):
        result = small_run(algorithm, folder=tmp_path)

    assert result.divergences == uninterrupted.divergences
    assert_same_bits(result.states, uninterrupted.states)
    for name in ("metrics.csv", "divergences.json"):
        assert (tmp_path / name).read_bytes() == before[name]


# Folders of other runs.


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"key": jax.random.key(1)}, r"its key is \[0, 0\], not \[0, 1\]"),
        ({"algorithm": small_algorithm(upper=0.06)}, "its step_sizes is another one"),
        ({"algorithm": small_algorithm(cost_edge=5.0)}, "its cost is another one"),
        ({"algorithm": small_algorithm(discount=0.8)}, r"its discount is 0\.9, not 0\.8"),
        ({"algorithm": small_algorithm(num_chains=3)}, "its num_chains is 4, not 3"),
        ({"num_seeds": 2}, "its num_seeds is 3, not 2"),
        ({"log_every": 40}, "its log_every is 50, not 40"),
        ({"evaluation_entropy_weight": 0.5}, r"its evaluation_entropy_weight is 0\.01, not 0\.5"),
        ({"seeds_per_group": 1}, "its seeds_per_group is 3, not 1"),
        ({"diagnostics": "sampled"}, "its diagnostics is auto, not sampled"),
        ({"key": jax.random.key(0, impl="rbg")}, "its generator is .*, not rbg"),
    ],
    ids=[
        "key",
        "step size",
        "problem",
        "discount",
        "chains",
        "seeds",
        "log_every",
        "evaluation",
        "group",
        "diagnostics",
        "generator",
    ],
)
def test_a_folder_of_another_run_is_refused_and_left_alone(whole, other, difference):
    before = files_of(whole[1])
    with pytest.raises(RunFolderError, match=f"{whole[1]} holds another run: {difference}.*; use another folder"):
        small_run(folder=whole[1], **other)
    assert files_of(whole[1]) == before


def test_a_folder_of_another_average_is_refused(tmp_path):
    averaged = [dataclasses.replace(small_algorithm(), upper_steps=UpperSteps(averaging=p)) for p in (3.0, 2.0)]
    small_run(averaged[0], folder=tmp_path, num_iterations=50)
    with pytest.raises(RunFolderError, match="holds another run: its upper_steps is another one; use"):
        small_run(averaged[1], folder=tmp_path, num_iterations=50)


def test_a_folder_of_another_generator_is_refused(tmp_path):
    small_run(key=jax.random.key(0, impl="rbg"), folder=tmp_path, num_iterations=50)
    before = files_of(tmp_path)
    with pytest.raises(RunFolderError, match="holds another run: its generator is rbg, not "):
        small_run(folder=tmp_path)
    assert files_of(tmp_path) == before


def test_fewer_iterations_than_done_are_refused(whole):
    before = files_of(whole[1])
    with pytest.raises(
        RunFolderError, match=r"done 200 iterations, more than 199: ask for num_iterations=200 .* to load"
    ):
        small_run(folder=whole[1], num_iterations=199)
    assert files_of(whole[1]) == before


def test_other_versions_of_the_packages_warn(whole, copy):
    environment = json.loads((copy / "environment.json").read_text())
    environment["versions"]["jax"] = "0.1.2"
    (copy / "environment.json").write_text(json.dumps(environment))
    with pytest.warns(UserWarning, match=rf"jax is now {jax.__version__}, was 0\.1\.2: results may differ"):
        result = small_run(folder=copy)
    assert_same_bits(result.states, whole[0].states)


# Killed. Figures are left out: they are drawn after the run, from files that are compared here.

COMMAND = [
    sys.executable,
    "-c",
    "from bilevel_rl.cli import main; from bilevel_rl.studies.goal_position import GoalPositionStudy\n"
    "GoalPositionStudy.plot = lambda study, folder: None; main()",
]
PROBLEM = ["goal-position", "--size", "4", "--target", "3", "1", "--initial-x", "0", "2"]
LENGTH, LOG_EVERY = 1_000, 48
SETTINGS = ["--num-seeds", "2", "--num-iterations", str(LENGTH), "--log-every", str(LOG_EVERY), "--seed", "7"]
SETTINGS += ["--checkpoint-every", "0"]
NUM_LOG_POINTS = 22
TIMEOUT = 300


@dataclass(frozen=True)
class Moment:
    """When to kill: this many seconds after the table of times has this many rows."""

    num_rows: int
    delay: float


@dataclass(frozen=True)
class Kill:
    """A run that was killed and then resumed."""

    path: Path
    was_alive: bool
    iterations_done: int | None


def lengths_of_phases(path):
    """Seconds from run.json to the first log point, and between two log points."""
    seconds = [row["seconds"] for row in RunFolder(path).read_rows("timing")]
    return seconds[0], (seconds[-1] - seconds[0]) / (len(seconds) - 1)


def start(path):
    arguments = [*COMMAND, "run", *PROBLEM, *SETTINGS, "--folder", str(path), "--no-progress"]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_and_resume(path, moment):
    process = start(path)
    try:
        deadline = time.monotonic() + TIMEOUT
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):
                started = (path / "run.json").stat()
                if moment.num_rows == 0 and started:
                    break
                # One line is the header; a kill may come in the middle of any line.
                if (path / "timing.csv").read_bytes().count(b"\n") > moment.num_rows:
                    break
            time.sleep(0.002)
        time.sleep(moment.delay)
        was_alive = process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = max((int(step.name) for step in (path / "checkpoints").glob("*") if step.name.isdigit()), default=None)
    resumed = subprocess.run(
        [*COMMAND, "resume", str(path), "--no-progress"], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    return Kill(path, was_alive, done)


@pytest.fixture
def uninterrupted(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    path = tmp_path / "uninterrupted"
    assert start(path).wait(TIMEOUT) == 0
    return path


def final_checkpoint(path):
    problem = problems.goal_position(size=4, target=(3, 1), initial_x=(0, 2))
    states = jax.vmap(SingleLoopActorCritic(problem).init)(jax.random.split(KEY, 2))
    folder = RunFolder(path)
    assert folder.latest_checkpoint() == LENGTH
    return folder.restore_checkpoint(LENGTH, {"states": states, "is_stopped": np.zeros(2, bool)})


@pytest.mark.parametrize(
    ("num_early", "num_later"), [(1, 1), pytest.param(1, 4, marks=pytest.mark.long)], ids=["two", "five"]
)
def test_killed_and_resumed_runs_end_with_the_same_bits(uninterrupted, tmp_path, num_early, num_later):
    rows, states = RunFolder(uninterrupted).read_rows("metrics"), final_checkpoint(uninterrupted)["states"]
    assert len(rows) == 2 * NUM_LOG_POINTS
    np.testing.assert_array_equal(states.num_iterations, LENGTH)
    assert [rows[-1]["x0"], rows[-1]["x1"]] == states.x[1].tolist()
    assert np.any(np.abs(states.x - np.array([0.0, 2.0])) > 0.1)

    generator = random.Random(0)
    to_first, between = lengths_of_phases(uninterrupted)
    # Resumed programs are compiled already, so the first checkpoint may come much sooner than in the whole run.
    moments = [Moment(0, generator.uniform(0, to_first / 4)) for _ in range(num_early)]
    moments += [
        Moment(generator.randrange(1, NUM_LOG_POINTS - 1), generator.uniform(0, between)) for _ in range(num_later)
    ]
    with ThreadPoolExecutor(2) as pool:
        paths = [tmp_path / f"killed-{i}" for i in range(len(moments))]
        kills = list(pool.map(kill_and_resume, paths, moments))

    # The kills hit runs at work, before the first checkpoint and at different places after it.
    at_work = [kill for kill in kills if kill.was_alive]
    assert len(at_work) >= int(0.8 * len(kills))
    assert sum(kill.iterations_done is None for kill in at_work) >= 1
    assert sum(0 < (kill.iterations_done or 0) < LENGTH for kill in at_work) >= int(0.8 * num_later)
    assert len({kill.iterations_done for kill in at_work}) >= min(4, num_later)

    for kill in kills:
        assert metrics_of(kill.path) == metrics_of(uninterrupted)
        assert_same_bits(final_checkpoint(kill.path), final_checkpoint(uninterrupted))
        for name in ("config.json", "run.json", "divergences.json"):
            assert (kill.path / name).read_bytes() == (uninterrupted / name).read_bytes()
        landscape, expected = (RunFolder(path).read_arrays("landscape") for path in (kill.path, uninterrupted))
        assert_same_bits(landscape, expected)
        timing = [row["num_iterations"] for row in RunFolder(kill.path).read_rows("timing")]
        assert timing == [*range(0, LENGTH, LOG_EVERY), LENGTH]
        checkpoints = sorted(entry.name for entry in (kill.path / "checkpoints").iterdir())
        assert checkpoints == sorted([str(timing[-2]), str(LENGTH)])  # nothing half-written is left
