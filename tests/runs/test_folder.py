"""The run folder: tables that read back exactly, files that are always whole, checkpoints that are whole or absent."""

import importlib.metadata
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl.runs.folder import PACKAGES, RunFolder, RunFolderError, describe_environment


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def files_of(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def row(k, seed=0, value=0.5):
    return {"seed": seed, "num_iterations": k, "value": value}


# Tables.


def test_floats_survive_the_csv_bit_by_bit(folder):
    bits = np.random.default_rng(0).integers(0, 2**64, size=2_000, dtype=np.uint64).view(np.float64)
    numbers = [*bits, 0.0, -0.0, 0.1, 5e-324, np.inf, -np.inf, np.nan, 1e22, 1e16, 123456789.0, np.float32(0.1).item()]

    folder.append_rows("metrics", [row(k, value=float(number)) for k, number in enumerate(numbers)])

    read = [entry["value"] for entry in folder.read_rows("metrics")]
    assert all(type(number) is float for number in read)
    number = ~np.isnan(numbers)
    np.testing.assert_array_equal(np.isnan(read), ~number)
    np.testing.assert_array_equal(np.array(read)[number].view(np.uint64), np.array(numbers)[number].view(np.uint64))


def test_integers_stay_integers(folder):
    numbers = [0, -1, 7, 2**31, -(2**62)]
    folder.append_rows("metrics", [row(k, value=number) for k, number in enumerate(numbers)])
    read = [entry["value"] for entry in folder.read_rows("metrics")]
    assert read == numbers
    assert {type(number) for number in read} == {int}


def test_rows_are_appended_below_one_header(folder):
    folder.append_rows("metrics", [row(0)])
    folder.append_rows("metrics", [])
    folder.append_rows("metrics", [row(1, seed=0), row(1, seed=1, value=-2.25)])
    expected = "seed,num_iterations,value\n0,0,0.5\n0,1,0.5\n1,1,-2.25\n"
    assert (folder.path / "metrics.csv").read_bytes() == expected.encode()


def test_tables_are_separate_and_a_missing_one_is_empty(folder):
    folder.append_rows("timing", [{"num_iterations": 0, "seconds": 1.5}])
    assert folder.read_rows("timing") == [{"num_iterations": 0, "seconds": 1.5}]
    assert folder.read_rows("metrics") == []
    folder.append_rows("metrics", [])
    assert not (folder.path / "metrics.csv").exists()


@pytest.mark.parametrize("torn", ["", "0", "0,2,0.2", "0,2,0.25"])
def test_a_torn_last_line_is_not_read(folder, torn):
    folder.append_rows("metrics", [row(0), row(1)])
    whole = folder.read_rows("metrics")
    with (folder.path / "metrics.csv").open("a") as file:
        file.write(torn)
    assert folder.read_rows("metrics") == whole


@pytest.mark.parametrize("torn", ["", "seed,num_it", "seed,num_iterations,value", "seed,num_iterations,value\n"])
def test_a_table_torn_in_its_header_has_no_rows_and_is_dropped(folder, torn):
    (folder.path / "metrics.csv").write_text(torn)
    assert folder.read_rows("metrics") == []
    folder.truncate_rows("metrics", 100)
    assert not (folder.path / "metrics.csv").exists()


def test_truncation_keeps_the_bytes_of_all_rows_up_to_an_iteration(folder):
    values = [-0.0, np.nan, np.inf, 1 / 3]
    folder.append_rows("metrics", [row(k, seed, values[k]) for k in range(3) for seed in range(2)])
    kept = (folder.path / "metrics.csv").read_bytes()
    folder.append_rows("metrics", [row(3, seed, values[3]) for seed in range(2)])
    whole = (folder.path / "metrics.csv").read_bytes()

    folder.truncate_rows("metrics", 3)
    assert (folder.path / "metrics.csv").read_bytes() == whole
    with (folder.path / "metrics.csv").open("a") as file:
        file.write("0,4")
    folder.truncate_rows("metrics", 2)
    assert (folder.path / "metrics.csv").read_bytes() == kept
    folder.truncate_rows("metrics", -1)
    assert not (folder.path / "metrics.csv").exists()
    folder.truncate_rows("metrics", 5)  # no table: nothing to do


# Whole files.


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("instant", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file(folder, monkeypatch, instant):
    folder.write_config({"experiment": "old"})
    folder.write_divergences([{"seed": 1}])
    folder.append_rows("metrics", [row(0), row(1)])
    before = files_of(folder.path)
    monkeypatch.setattr(*((os, "fsync") if instant == "fsync" else ("pathlib.Path.replace",)), interrupt)
    for write in (
        lambda: folder.write_config({"experiment": "new"}),
        lambda: folder.write_divergences([]),
        lambda: folder.truncate_rows("metrics", 0),
    ):
        with pytest.raises(KeyboardInterrupt):
            write()
    after = files_of(folder.path)
    assert {name: after[name] for name in before} == before
    monkeypatch.undo()

    folder.write_config({"experiment": "new"})
    assert folder.config() == {"experiment": "new"}


def test_an_interrupted_write_of_arrays_leaves_the_old_ones(folder, monkeypatch):
    arrays = {"a": np.arange(3.0), "with space": np.eye(2)}
    folder.write_arrays("landscape", **arrays)
    monkeypatch.setattr("pathlib.Path.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        folder.write_arrays("landscape", a=np.zeros(3))
    monkeypatch.undo()

    read = folder.read_arrays("landscape")
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


def test_arrays_that_are_not_there_yet(folder):
    with pytest.raises(
        RunFolderError, match=r"has no landscape\.npz: the run has not come that far; `bilevel-rl resume`"
    ):
        folder.read_arrays("landscape")


def test_divergences_are_read_as_written(folder):
    assert folder.read_divergences() == []
    divergences = [{"seed": 1, "num_iterations": 7, "quantity": "x", "likely_cause": "ζ"}]
    folder.write_divergences(divergences)
    assert folder.read_divergences() == divergences


# What a run is.


def test_only_a_folder_with_a_config_opens(folder, tmp_path):
    for path in (folder.path, tmp_path / "nothing"):
        with pytest.raises(RunFolderError, match=f"{path} is not a run folder: it has no config.json"):
            RunFolder.open(path)
    assert not (tmp_path / "nothing").exists()

    folder.write_config({"experiment": "goal-position", "options": {"a": [1, 2.5, None]}})
    assert RunFolder.open(str(folder.path)).config() == {
        "experiment": "goal-position",
        "options": {"a": [1, 2.5, None]},
    }


def test_a_folder_is_made_with_its_parents(tmp_path):
    assert RunFolder(tmp_path / "a" / "b").path.is_dir()
    figures = RunFolder(tmp_path / "a").figures()
    assert figures == tmp_path / "a" / "figures"
    assert figures.is_dir()


def test_the_first_identity_stands(folder):
    assert folder.note_identity({"key": [0, 1]}) == {"key": [0, 1]}
    environment = (folder.path / "environment.json").read_bytes()
    assert folder.note_identity({"key": [0, 2]}) == {"key": [0, 1]}
    assert (folder.path / "environment.json").read_bytes() == environment
    assert json.loads((folder.path / "run.json").read_text()) == {"key": [0, 1]}


def test_the_environment_names_versions_and_devices():
    environment = describe_environment()
    assert environment["versions"] == {name: importlib.metadata.version(name) for name in PACKAGES}
    assert environment["devices"] == [str(device) for device in jax.devices()]
    assert json.loads(json.dumps(environment)) == environment


def test_changed_versions_are_found(folder):
    assert folder.changed_versions() == {}
    folder.note_identity({})
    assert folder.changed_versions() == {}
    path = folder.path / "environment.json"
    environment = json.loads(path.read_text())
    environment["versions"] |= {"jax": "0.1.2", "a-package-of-the-past": "1.0"}
    path.write_text(json.dumps(environment))
    assert folder.changed_versions() == {"jax": ("0.1.2", importlib.metadata.version("jax"))}


# Checkpoints.


def tree(number=0.0):
    return {
        "states": {"x": jnp.array([0.1, -0.0, number], jnp.float32), "k": jnp.array([3, 4], jnp.int32)},
        "is_stopped": np.array([True, False]),
    }


def test_a_checkpoint_is_restored_bit_by_bit(folder):
    assert folder.latest_checkpoint() is None
    assert not (folder.path / "checkpoints").exists()
    folder.save_checkpoint(30, tree(1 / 3))

    assert folder.latest_checkpoint() == 30
    restored = folder.restore_checkpoint(30, tree())
    assert jax.tree.structure(restored) == jax.tree.structure(tree())
    for got, saved in zip(jax.tree.leaves(restored), jax.tree.leaves(tree(1 / 3)), strict=True):
        assert got.dtype == saved.dtype
        assert np.asarray(got).tobytes() == np.asarray(saved).tobytes()


def test_the_newest_two_checkpoints_are_kept(folder):
    for k in (0, 90, 100, 1_000):
        folder.save_checkpoint(k, tree(float(k)))
    assert sorted(int(path.name) for path in (folder.path / "checkpoints").iterdir()) == [100, 1_000]
    assert folder.latest_checkpoint() == 1_000
    assert folder.restore_checkpoint(100, tree())["states"]["x"][2] == 100.0


def test_an_incomplete_checkpoint_does_not_count_and_is_no_obstacle(folder):
    folder.save_checkpoint(10, tree(10.0))
    checkpoints = folder.path / "checkpoints"
    shutil.copytree(checkpoints / "10", checkpoints / "20.orbax-checkpoint-tmp")
    (checkpoints / "30.orbax-checkpoint-tmp").mkdir()

    assert folder.latest_checkpoint() == 10
    assert folder.restore_checkpoint(10, tree())["states"]["x"][2] == 10.0
    folder.save_checkpoint(20, tree(20.0))
    assert folder.latest_checkpoint() == 20
    assert folder.restore_checkpoint(20, tree())["states"]["x"][2] == 20.0


@pytest.mark.parametrize(
    "like",
    [
        {"states": {"x": jnp.zeros(3), "k": jnp.zeros(2, jnp.int32)}},
        {"states": {"x": jnp.zeros(3), "y": jnp.zeros(2, jnp.int32)}, "is_stopped": np.zeros(2, bool)},
        {"states": {"x": jnp.zeros(4), "k": jnp.zeros(2, jnp.int32)}, "is_stopped": np.zeros(2, bool)},
    ],
    ids=["leaf missing", "leaf renamed", "other shape"],
)
def test_a_checkpoint_of_another_structure_is_refused(folder, like):
    folder.save_checkpoint(10, tree())
    with pytest.raises(RunFolderError, match="is that of another problem or algorithm"):
        folder.restore_checkpoint(10, like)
