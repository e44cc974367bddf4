"""Trackers get the rows of `metrics.csv`, each once, also after a kill; each is asked back what it has."""

import contextlib
import importlib
import json
import struct
import types

import numpy as np
import pytest

from bilevel_rl.runs import trackers
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.trackers import Report
from small_runs import small_run

CONFIG = {"experiment": "python-run", "options": {"call": "bilevel_rl.run", "iterations": 100}}


def rows(*iterations, num_seeds=2):
    return [
        {"seed": seed, "num_iterations": k, "upper_value": k / 8 + seed}
        for k in iterations
        for seed in range(num_seeds)
    ]


def interrupted_reports(path, report_to):
    """Rows of iterations 0, 50 and 100, in two processes, the second of which goes on from iteration 0."""
    first = Report(path, report_to, CONFIG)
    first.log(rows(0))
    first.log(rows(50))
    first.close()
    second = Report(path, report_to, CONFIG)
    second.log(rows(0))
    second.log(rows(50))
    second.log(rows(100))
    second.close()
    return json.loads((path / report_to / "logged.json").read_text())["run"]


EXPECTED = {f"seed-{seed}/upper_value": [(k, k / 8 + seed) for k in (0, 50, 100)] for seed in range(2)}


def events_of(path):
    """(step, name, value) of TensorBoard's files: records of a length, its checksum, the event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(path.rglob("*tfevents*")):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            yield from ((event.step, value.tag, value.simple_value) for value in event.summary.value)
            data = data[16 + length :]


def test_tensorboard_has_every_row_once_after_a_kill(tmp_path):
    interrupted_reports(tmp_path, "tensorboard")
    for seed in range(2):
        found = [(step, value) for step, _, value in events_of(tmp_path / "tensorboard" / f"seed-{seed}")]
        assert sorted(found) == EXPECTED[f"seed-{seed}/upper_value"]


def test_rows_that_a_tracker_missed_are_caught_up_by_the_next_run(tmp_path):
    first = small_run(folder=RunFolder(tmp_path), num_iterations=100)
    assert not (tmp_path / "tensorboard").exists()
    result = small_run(folder=RunFolder(tmp_path, report_to="tensorboard"), num_iterations=200)
    assert len(result.rows) > len(first.rows)
    values = result.metrics["upper_objective"]
    for seed in range(3):
        of_seed = result.metrics["seed"] == seed
        found = [
            event for event in events_of(tmp_path / "tensorboard" / f"seed-{seed}") if event[1] == "upper_objective"
        ]
        found = sorted(found)
        assert [step for step, _, _ in found] == result.metrics["num_iterations"][of_seed].tolist()
        np.testing.assert_array_equal(np.float32([value for *_, value in found]), values[of_seed].astype(np.float32))


def test_a_tracker_is_closed_also_where_the_run_fails(tmp_path, monkeypatch):
    calls = []
    tracker = types.SimpleNamespace(run="a run", log=lambda rows: 1 / 0, close=lambda: calls.append("closed"))
    monkeypatch.setattr(importlib.import_module("bilevel_rl.runs.trackers.report"), "_opened", lambda *_: tracker)
    with contextlib.suppress(ZeroDivisionError):
        small_run(folder=RunFolder(tmp_path, report_to="tensorboard"), num_iterations=50)
    assert calls == ["closed"]


def test_a_missing_package_is_named_with_its_extra_before_a_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs wandb.*pip install 'bilevel-rl\[wandb\]'"):
        RunFolder(tmp_path / "run", report_to="wandb")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="report_to must be one of none, tensorboard"):
        trackers.check_tracker("papers")


def log_records(data, offset):
    """Records of a file in LevelDB's log format: blocks of 32 KiB with (checksum, length, type) before each part."""
    record = b""
    while len(data) >= 7:
        left = 32_768 - offset % 32_768
        if left < 7:
            data, offset = data[left:], offset + left
            continue
        length, kind = struct.unpack("<HB", data[4:7])
        record = data[7 : 7 + length] if kind in (1, 2) else record + data[7 : 7 + length]
        data, offset = data[7 + length :], offset + 7 + length
        if kind in (1, 4):  # Whole, or the last part.
            yield record


@pytest.mark.long
def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    run = interrupted_reports(tmp_path, "wandb")
    found = {}
    for file in sorted((tmp_path / "wandb").rglob(f"run-{run}.wandb")):
        for data in log_records(file.read_bytes()[7:], 7):
            record = wandb_internal_pb2.Record.FromString(data)
            items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            for name in items.keys() & EXPECTED.keys():
                found.setdefault(name, []).append((items["_step"], items[name]))
    assert found == EXPECTED


@pytest.mark.long
def test_trackio_in_a_local_folder(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    from trackio import sqlite_storage, utils

    for module in (sqlite_storage, utils):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio-home", raising=False)
    run = interrupted_reports(tmp_path, "trackio")
    logs = sqlite_storage.SQLiteStorage.get_logs("bilevel-rl", run)
    found = {name: [(entry["step"], entry[name]) for entry in logs if name in entry] for name in EXPECTED}
    assert found == EXPECTED


@pytest.mark.long
def test_mlflow_in_a_local_database(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run = interrupted_reports(tmp_path, "mlflow")
    client = MlflowClient()
    found = {name: [(m.step, m.value) for m in client.get_metric_history(run, name)] for name in EXPECTED}
    assert found == EXPECTED
    assert client.get_run(run).info.status == "FINISHED"
    assert json.loads(client.get_run(run).data.tags["config"]) == CONFIG
