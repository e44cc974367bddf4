"""Who shares the work does not show in the results; and who cannot be reached is said before anything is made."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from bilevel_rl.cli import main
from bilevel_rl.comparison import workers
from bilevel_rl.comparison.workers import Workers
from bilevel_rl.runs.folder import RunFolder
from comparison.small_comparison import CONFIG, FLAGS, RESULTS


def assert_same_results(path, finished_comparison):
    for name in RESULTS:
        assert (path / name).read_bytes() == (finished_comparison.path / name).read_bytes(), name


@pytest.mark.long
def test_dask_workers_write_the_table_of_one_process(finished_comparison, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address.removeprefix("tcp://")
        with Workers(backend="dask", address=address).connected():
            CONFIG.main(RunFolder(tmp_path / "run"), progress=False)
    assert_same_results(tmp_path / "run", finished_comparison)


def start(log, *arguments, jobs):
    """The command, which writes into a file: a pipe would stay open as long as any of its workers lives."""
    # A shell that runs the tests in the background makes all that they start ignore interrupts.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heed}; from bilevel_rl.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments), f"--jobs={jobs}", "--no-progress"],
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        env=os.environ | {"XLA_FLAGS": ""},
        start_new_session=True,
    )


def exit_code(command, sign, until):
    """Of a command that gets a signal as soon as a condition holds."""
    deadline = time.monotonic() + 180
    while not until():
        assert time.monotonic() < deadline
        assert command.poll() is None, "ended too early"
        time.sleep(0.05)
    command.send_signal(sign)
    return command.wait(timeout=60)


@pytest.mark.long
def test_an_interrupted_comparison_is_resumed_to_the_same_table(finished_comparison, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log.txt"

    def has(pattern, number):
        return lambda: len(list(folder.glob(pattern))) >= number

    # Killed while tuning: its workers finish what they are at.
    command = start(log, "compare", *FLAGS, "--folder", folder, jobs=2)
    assert exit_code(command, signal.SIGKILL, has("tuning/*/*/metrics.csv", 2)) == -signal.SIGKILL
    assert not (folder / "protocol.json").exists()
    command = start(log, "resume", folder, jobs=1)
    assert exit_code(command, signal.SIGINT, has("protocol.json", 1)) == 130
    assert f"interrupted; go on with `bilevel-rl resume {folder}`" in log.read_text()
    assert not (folder / "table.md").exists()

    assert start(log, "resume", folder, jobs=1).wait(timeout=180) == 0
    assert_same_results(folder, finished_comparison)
    assert (folder / "table.md").read_text() in log.read_text()
    assert (folder / "wall_clock.md").read_text() in log.read_text()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "simplex"], "does not know simplex"),
        (["--budget", "-5"], "--budget must be a positive number of transitions, got -5"),
        (["--size", "1"], "size must be at least 2, got 1"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--address", "localhost:8786"], "needs --backend dask"),
        (["--backend", "dask"], "--backend dask needs --address HOST:PORT, got None"),
        (["--backend", "dask", "--address", "localhost"], "needs --address HOST:PORT, got localhost"),
        (["--backend", "dask", "--address", "localhost:1", "--jobs", "2"], "--jobs 2 is for --backend loky"),
        (["--backend", "dask", "--address", "127.0.0.1:PORT"], "no Dask scheduler answers at --address 127.0.0.1:"),
    ],
)
def test_comparisons_that_cannot_be_are_refused_before_a_folder_is_made(flags, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(workers, "SECONDS_TO_CONNECT", 1)
    monkeypatch.chdir(tmp_path)
    flags = [flag.replace("PORT", str(free_port())) if ":PORT" in flag else flag for flag in flags]
    with pytest.raises(SystemExit) as caught:
        main(["compare", "goal-position", *flags])
    assert caught.value.code == 2
    assert message in re.sub(r"\s+", " ", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    message = "needs the package distributed, which is not installed: pip install 'bilevel-rl[cluster]'"
    with (
        pytest.raises(ValueError, match=re.escape(message)),
        Workers(backend="dask", address="127.0.0.1:1").connected(),
    ):
        pass


def test_workers_are_for_comparisons_and_devices_for_runs(finished_comparison, tmp_path, capsys):
    comparison_folder, run_folder = tmp_path / "comparison", tmp_path / "run"
    for folder, experiment in ((comparison_folder, "compare-goal-position"), (run_folder, "goal-position")):
        RunFolder(folder).write_config({"experiment": experiment, "options": {}})
    for folder, flag, message in (
        (comparison_folder, "--cpu-devices=2", "is many runs"),
        (run_folder, "--jobs=2", "is one run"),
    ):
        with pytest.raises(SystemExit):
            main(["resume", str(folder), flag])
        assert message in re.sub(r"\s+", " ", capsys.readouterr().err)


def test_plot_and_list_know_comparisons(finished_comparison, tmp_path, capsys):
    figure = finished_comparison.figures() / "comparison.png"
    figure.unlink()
    main(["plot", str(finished_comparison.path)])
    assert figure.is_file()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished/config.json").write_bytes((finished_comparison.path / "config.json").read_bytes())
    capsys.readouterr()
    main(["list", str(tmp_path)])
    assert "unfinished: bilevel-rl resume" in re.sub(r"\s+", " ", capsys.readouterr().out)
