"""What a run left behind is read as it was written, and nothing is changed by reading."""

import json

import jax
import numpy as np
import pytest

import bilevel_rl as brl
from bilevel_rl.results import RunFolder, RunFolderError, load
from small_runs import KEY, small_run


def test_a_runs_files_are_read_and_left_alone(tmp_path):
    result = small_run(folder=tmp_path, num_iterations=50)
    RunFolder(tmp_path).write_arrays("extra", table=np.arange(3.0))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    found = load(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

    call = {"call": "bilevel_rl.run", "iterations": 50}
    assert found.config == {"experiment": "python-run", "options": call}
    assert found.identity["num_seeds"] == 3
    assert found.identity["key"] == np.asarray(jax.random.key_data(KEY)).tolist()
    assert list(found.metrics) == list(result.metrics)
    jax.tree.map(np.testing.assert_array_equal, dict(found.metrics), result.metrics)
    assert found.divergences == []
    assert found.arrays["extra"]["table"].tolist() == [0.0, 1.0, 2.0]


def test_what_has_not_come_yet_is_empty(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"experiment": "goal-position"}))
    found = load(str(tmp_path))
    assert found.config == {"experiment": "goal-position"}
    assert (found.identity, found.metrics, found.divergences, found.arrays) == ({}, {}, [], {})


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_folder_without_a_run_is_an_error_and_is_not_made(tmp_path, name):
    with pytest.raises(RunFolderError, match="holds no run"):
        load(tmp_path / name)
    assert not any(tmp_path.iterdir())
    assert brl.RunFolderError is RunFolderError
