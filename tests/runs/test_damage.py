"""Whatever is damaged in a run folder is named, or gone round with the same bits."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from test_loop import Counter

from bilevel_rl.runs.folder import DamagedFileError, RunFolder, RunFolderError
from bilevel_rl.runs.log_points import LogPoints
from bilevel_rl.runs.loop import follow
from small_runs import small_algorithm, small_run


def run(folder, num_iterations=9):
    return follow(
        Counter(), num_iterations, LogPoints(3), folder=RunFolder(folder), checkpoint_every=0.0, progress=False
    )


def metrics_of(path):
    return (path / "metrics.csv").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run whose checkpoints are of 6 and 9. To be copied, not to be changed."""
    path = tmp_path_factory.mktemp("whole")
    run(path)
    assert sorted(entry.name for entry in (path / "checkpoints").iterdir()) == ["6", "9"]
    return path


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def files_of_checkpoint(path):
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_a_flipped_byte_of_any_file_of_a_checkpoint_is_found(whole, tmp_path):
    names = files_of_checkpoint(whole / "checkpoints" / "9")
    assert len(names) > 5
    assert "seal.json" in names
    for i, name in enumerate(names):
        copy = Path(shutil.copytree(whole, tmp_path / str(i)))
        flip(copy / "checkpoints" / "9" / name)
        with pytest.raises(RunFolderError):
            RunFolder(copy).restore_checkpoint(9)
        with pytest.warns(UserWarning, match=r"checkpoint 9 of .* cannot be used, since .*: going on from iteration 6"):
            assert RunFolder(copy).sound_checkpoint() == 6


@pytest.mark.parametrize("damage", ["flipped", "missing", "added", "empty"])
def test_a_damaged_checkpoint_is_gone_round_with_the_same_bytes(whole, copy, damage):
    newest = copy / "checkpoints" / "9"
    files = [newest / name for name in files_of_checkpoint(newest) if name != "seal.json"]
    victim = max(files, key=lambda file: file.stat().st_size)
    if damage == "flipped":
        flip(victim)
    elif damage == "missing":
        victim.unlink()
    elif damage == "added":
        (newest / "stray").write_text("")
    else:
        victim.write_bytes(b"")
    with pytest.warns(UserWarning, match="checkpoint 9 of .* cannot be used") as caught:
        point, _ = run(copy, 12)
    assert len(caught) == 1, "one warning"
    assert str(newest.relative_to(copy)) in str(caught[0].message)
    assert point.states.tolist() == [12, 120]
    assert metrics_of(copy).startswith(metrics_of(whole))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(copy, 12)


def test_without_a_sound_checkpoint_the_run_is_refused_and_left_alone(copy):
    for number in ("6", "9"):
        flip(copy / "checkpoints" / number / "seal.json")
    before = metrics_of(copy)
    with pytest.raises(RunFolderError, match=r"checkpoint 9 .*; checkpoint 6 .*remove .*checkpoints to run from the"):
        run(copy)
    assert metrics_of(copy) == before
    shutil.rmtree(copy / "checkpoints")
    run(copy)
    assert metrics_of(copy) == before


def test_a_checkpoint_that_a_kill_left_unsealed_does_not_count(whole, copy):
    (copy / "checkpoints" / "9" / "seal.json").unlink()
    with pytest.warns(UserWarning, match="checkpoint 9 of .* was not saved completely"):
        run(copy)
    assert metrics_of(copy) == metrics_of(whole)


@pytest.mark.parametrize(
    ("damage", "flaw"),
    [
        ("deleted", "metrics.csv is missing"),
        ("cut", r"metrics.csv ends after \d+ bytes, \d+ were written"),
        ("edited", "metrics.csv has other rows"),
        ("a row less", "metrics.csv ends after"),
    ],
)
def test_rows_that_are_not_those_of_the_checkpoint_are_refused(copy, damage, flaw):
    path = copy / "metrics.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    if damage == "deleted":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(b"".join(lines)[:40])
    elif damage == "edited":
        path.write_bytes(b"".join(lines).replace(b"0,3,3.0", b"0,3,9.0"))
    else:
        path.write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(RunFolderError, match=flaw):
        run(copy)


def test_rows_that_are_those_of_the_older_checkpoint_are_gone_on_from(whole, copy):
    path = copy / "metrics.csv"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.warns(UserWarning, match="metrics.csv ends after .*: going on from iteration 6"):
        run(copy)
    assert metrics_of(copy) == metrics_of(whole)


def test_rows_that_are_only_read_are_compared_with_the_checkpoint_too(copy):
    rows = RunFolder(copy).read_rows("metrics")
    assert rows
    metrics = copy / "metrics.csv"
    metrics.write_bytes(metrics.read_bytes() + b"torn")
    assert RunFolder(copy).read_rows("metrics") == rows
    flip(metrics)
    with pytest.raises(DamagedFileError, match=r"metrics\.csv.*other rows.*`bilevel-rl resume` goes back"):
        RunFolder(copy).read_rows("metrics")


def test_a_table_that_does_not_say_of_which_iterations_is_named(copy):
    timing = copy / "timing.csv"
    timing.write_text(timing.read_text().replace("num_iterations", "num_iterationz"))
    with pytest.raises(DamagedFileError, match=r"timing\.csv.*names no column num_iterations"):
        run(copy)


@pytest.mark.parametrize("content", ["", "{", "[1, 2", '"text"', "17", "\0\0", "nonsense"])
@pytest.mark.parametrize("name", ["run.json", "environment.json", "divergences.json"])
def test_json_that_is_none_is_named(copy, name, content):
    (copy / name).write_text(content)
    engine = Counter(diverges_at=100)
    with pytest.raises(DamagedFileError, match=f"{name} is damaged: it "):
        RunFolder(copy).read_divergences() if name == "divergences.json" else follow(
            engine, 12, LogPoints(3), folder=RunFolder(copy), checkpoint_every=0.0, progress=False
        )


@pytest.mark.parametrize(
    ("entry", "flaw"),
    [
        ({"seed": 1}, r"\[0\]\.\w+ is missing"),
        (
            {"seed": "1", "num_iterations": 3, "quantity": "x", "likely_cause": ""},
            r'\[0\]\.seed must be an integer, got "1"',
        ),
        ({"seed": 1, "num_iterations": 3, "quantity": "x", "likely_cause": "", "no": 0}, r"\[0\]\.no is no"),
        ([], r"\[0\] must be a JSON object"),
    ],
)
def test_a_divergence_that_is_none_is_named(copy, entry, flaw):
    (copy / "divergences.json").write_text(json.dumps([entry]))
    with pytest.raises(DamagedFileError, match=f"divergences.json is damaged: {flaw}"):
        RunFolder(copy).read_divergences()


@pytest.mark.long
def test_a_stopped_seed_whose_divergence_is_lost_is_refused(tmp_path):
    algorithm = small_algorithm(slope_edge=0.3)
    with pytest.warns(RuntimeWarning, match="diverged"):
        small_run(algorithm, folder=tmp_path)
    (tmp_path / "divergences.json").unlink()
    with pytest.raises(RunFolderError, match=r"divergences.json is damaged: the seeds that stopped .* are \[1\]"):
        small_run(algorithm, folder=tmp_path)


@pytest.mark.parametrize("num_bytes", [0, 10, 100, 300])
def test_arrays_that_are_cut_are_named(tmp_path, num_bytes):
    folder = RunFolder(tmp_path)
    folder.write_arrays("landscape", a=np.arange(30.0), b=np.eye(3))
    path = tmp_path / "landscape.npz"
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(DamagedFileError, match=r"landscape\.npz is damaged: NumPy cannot read it"):
        folder.read_arrays("landscape")


def test_a_flipped_byte_of_arrays_is_never_silent(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_arrays("landscape", a=np.arange(30.0))
    path = tmp_path / "landscape.npz"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            read = folder.read_arrays("landscape")
        except DamagedFileError:
            continue
        # What no number depends on: dates, and names.
        np.testing.assert_array_equal(next(iter(read.values())), np.arange(30.0))


@pytest.mark.parametrize(
    ("line", "flaw"), [("0,3", "line 3 has 2 columns, not 3"), ("0,3,spam", "line 3, .*spam"), ("", "line 3 has 1 col")]
)
def test_a_row_that_is_none_is_named(tmp_path, line, flaw):
    (tmp_path / "metrics.csv").write_text(f"seed,num_iterations,x0\n0,0,1.0\n{line}\n0,6,1.0\n")
    with pytest.raises(DamagedFileError, match=f"metrics.csv is damaged: {flaw}"):
        RunFolder(tmp_path).read_rows("metrics")
