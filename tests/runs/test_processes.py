"""Jobs of several processes on this machine, over loopback."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bilevel_rl.runs import processes

OPTIONS = ["goal-position", "--size", "4", "--target", "3", "1", "--initial-x", "0", "3", "--num-seeds", "4"]
OPTIONS += ["--num-chains", "8", "--seeds-per-group", "1", "--checkpoint-every", "0", "--no-progress"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command: str, folder: Path, *options: str, **job: int) -> subprocess.Popen:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in job.items()]
    arguments = ["run", *OPTIONS, "--folder", str(folder)] if command == "run" else ["resume", str(folder)]
    code = "from bilevel_rl.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments, *options, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"XLA_FLAGS": ""},
    )


def job(command: str, folder: Path, *options: str, num_processes: int = 2) -> list[subprocess.Popen]:
    coordinator = f"--coordinator=127.0.0.1:{free_port()}"
    return [
        start(command, folder, coordinator, *options, num_processes=num_processes, process_id=i)
        for i in range(num_processes)
    ]


def finish(members: list[subprocess.Popen]) -> list[str]:
    outputs = [member.communicate(timeout=180)[0] for member in members]
    assert [member.returncode for member in members] == [0] * len(members), "\n".join(outputs)
    return outputs


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    finish([start("run", folder, "--num-iterations=300", "--log-every=100")])
    return folder


@pytest.mark.slow
def test_two_processes_write_the_rows_of_one(alone, tmp_path):
    outputs = finish(job("run", tmp_path / "run", "--num-iterations=300", "--log-every=100"))
    assert (tmp_path / "run/metrics.csv").read_bytes() == (alone / "metrics.csv").read_bytes()
    with np.load(tmp_path / "run/outcome.npz") as ours, np.load(alone / "outcome.npz") as theirs:
        np.testing.assert_array_equal(ours["after_policy"], theirs["after_policy"])
    assert "Φ*" in outputs[0]
    assert "Φ*" not in outputs[1], "only process 0 speaks"


@pytest.mark.long
def test_devices_of_one_process_write_the_rows_of_one(alone, tmp_path):
    finish([start("run", tmp_path / "run", "--num-iterations=300", "--log-every=100", cpu_devices=4)])
    assert (tmp_path / "run/metrics.csv").read_bytes() == (alone / "metrics.csv").read_bytes()


@pytest.mark.slow
def test_more_devices_than_seeds_are_refused(tmp_path):
    member = start("run", tmp_path / "run", "--num-iterations=300", "--num-seeds=2", cpu_devices=4)
    output = member.communicate(timeout=180)[0]
    assert member.returncode == 2
    assert "2 seeds in groups of 1 cannot be shared evenly by 4 devices; run a multiple of 4 seeds" in output
    assert not (tmp_path / "run/metrics.csv").exists()


@pytest.mark.long
def test_a_lost_process_stops_the_job_which_one_process_then_finishes(alone, tmp_path):
    folder = tmp_path / "run"
    members = job("run", folder, "--num-iterations=2000000", "--log-every=100")
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoints/[0-9]*00")):
        assert time.monotonic() < deadline, members[0].communicate()[0]
        time.sleep(0.1)
    members[1].kill()
    output = members[0].communicate(timeout=120)[0]
    assert members[0].returncode == 3, output
    message = re.sub(r"\s+", " ", output)
    assert "another process of the job is lost" in message
    assert f"bilevel-rl resume {folder}" in message

    config = folder / "config.json"
    saved = max(int(path.name) for path in folder.glob("checkpoints/[0-9]*") if path.name.isdigit())
    config.write_text(config.read_text().replace("2000000", str(saved + 100)))
    finish([start("resume", folder)])
    rows, expected = ((path / "metrics.csv").read_text().splitlines() for path in (folder, alone))
    assert rows[: len(expected)][:13] == expected[:13]
    assert rows[-1].split(",")[1] == str(saved + 100)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--coordinator", "localhost", "--folder", "x"], "HOST:PORT"),
        (["--coordinator", "localhost:1", "--num-processes", "2", "--process-id", "2", "--folder", "x"], "0..1"),
        (["--num-processes", "2"], "--coordinator"),
        (["--coordinator", "localhost:1", "--num-processes", "2"], "--folder"),
        (["--cpu-devices", "0"], "--cpu-devices"),
    ],
)
def test_jobs_that_cannot_be_are_refused(flags, message, capsys, tmp_path, monkeypatch):
    from bilevel_rl.cli import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["run", *OPTIONS, *flags])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_failures_of_one_process_alone_are_not_blamed_on_another():
    with pytest.raises(RuntimeError, match="UNAVAILABLE"), processes.stop_together(None):
        raise RuntimeError("UNAVAILABLE: of another kind")
