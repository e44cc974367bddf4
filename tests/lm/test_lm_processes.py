"""Two processes over loopback take the steps of one with twice the batch."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bilevel_rl.lm.engine import read_checkpoint
from bilevel_rl.runs.folder import RunFolder
from lm.two_processes import SETTINGS, train

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The folder of two processes' results."""
    folder, port = tmp_path_factory.mktemp("job"), free_port()
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    common |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    members = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "tests/lm/two_processes.py"), str(folder)],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [member.communicate(timeout=600)[0] for member in members]
    finally:
        for member in members:
            member.kill()
    assert [member.returncode for member in members] == [0, 0], "\n".join(outputs)
    return folder


def results(job, setting, rank):
    rows, asked = json.loads((job / f"{setting}-{rank}.json").read_text())
    return load_file(job / f"{setting}-{rank}.safetensors"), rows, asked


@pytest.mark.parametrize("setting", SETTINGS)
def test_both_processes_end_with_the_same_numbers(job, setting):
    (first, rows, _), (second, other_rows, _) = (results(job, setting, rank) for rank in range(2))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-6, atol=1e-7)
    assert rows == other_rows
    assert len(rows) == 3


@pytest.mark.parametrize("setting", [name for name in SETTINGS if name != "iterated"])
def test_two_processes_make_the_updates_of_one_with_twice_the_batch(job, setting, tmp_path):
    built, rows, asked = train(setting, tmp_path, 1)
    found, found_rows, found_asked = results(job, setting, 0)
    assert [row["num_transitions"] for row in found_rows] == [row["num_transitions"] for row in rows]
    expected = built.tensors()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    if setting != "partial":  # it asks about the first half of every process's texts
        assert found_asked == asked
        for row, found_row in zip(rows, found_rows, strict=True):
            assert found_row == pytest.approx(row, rel=1e-4, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("setting", [name for name in SETTINGS if name != "two_stage"])
def test_people_are_asked_once_by_the_first_process_about_the_texts_of_both(job, setting):
    (_, rows, asked), (_, _, other_asked) = (results(job, setting, rank) for rank in range(2))
    assert not other_asked
    num_texts = sum(len(texts) for texts, _ in asked)
    assert num_texts == 24
    assert rows[-1]["num_answers"] == (12 if setting == "preferences" else 24)
    assert all(math.isfinite(value) for row in rows for value in row.values())


def test_iterated_processes_know_each_others_answers(job):
    _, counters = read_checkpoint(RunFolder(job / "iterated"), 3)
    _, _, asked = results(job, "iterated", 0)
    kept = [text for _, texts, _ in counters["answers"] for text in texts]
    assert sorted(kept) == sorted(text for texts, _ in asked for text in texts)


def test_where_people_cannot_be_asked_no_process_waits_for_their_answers(job):
    first, second = (json.loads((job / f"failure-{rank}.json").read_text()) for rank in range(2))
    assert first == "ConnectionError: nobody is there"
    assert second == "RuntimeError: upper_objective: asking failed in the first process: " + first


def test_completions_of_all_processes_are_kept_once(job, tmp_path):
    pandas = pytest.importorskip("pandas")
    train("functions", tmp_path, 1)
    found, expected = (pandas.read_parquet(path / "completions") for path in (job / "functions", tmp_path))
    names = ["step", "policy", "prompt", "completion"]
    found, expected = (table.sort_values(names, kind="stable").reset_index(drop=True) for table in (found, expected))
    assert len(found) == 48
    pandas.testing.assert_frame_equal(found, expected, rtol=1e-4)


def test_all_processes_stop_where_a_callback_of_the_first_one_says_so(job):
    assert [json.loads((job / f"callback-{rank}.json").read_text()) for rank in range(2)] == [2, 2]
