"""Files that the tweet problem is made of: fetched once from the package index, checked, and kept in one folder.

CACHE/archives/      archives put there by hand are used instead of the package index
CACHE/ratings/       4,200 tweets with the ratings of 20 to 99 people each (Hutto & Gilbert, ICWSM 2014; MIT)
CACHE/vader/         VADER, the rule-based judge of the same authors (MIT)
CACHE/smollm2/       SmolLM2-135M-Instruct, 4-bit GGUF (Apache-2.0)
CACHE/minilm/        all-MiniLM-L6-v2, the sentence encoder of annotator and judge (Apache-2.0)
CACHE/nade/          NADE, a judge that is asked for only if its libraries are installed (MIT)
CACHE/…              what was made from these: language models, fitted annotators

A folder in the cache is whole: it is made under another name and renamed at the end. What was fetched is compared with
the digests in `packages` at every use, before anything of it is read or run.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bilevel_rl.studies.happy_tweets.packages import PINNED, AssetError as AssetError, Package
from bilevel_rl.studies.happy_tweets.tweets import Splits, read_tweets, split_tweets


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

    def splits(self) -> Splits:
        """The rated tweets, by who may see them. Raises `AssetError`, as does `pinned`."""
        return split_tweets(read_tweets(self.pinned("ratings")))

    def pinned(self, name: str) -> Path:
        """The folder of that name, of those that the package index has: all but what was made from them."""
        return self.folder(name, PINNED[name])

    def folder(self, name: str, package: Package) -> Path:
        """The folder of a package's members; fetched and unpacked unless it is there, and checked every time.

        Raises:
            AssetError: the package cannot be had, or the digest of the archive or of a member is not the pinned one.
        """
        folder = self.make(name, lambda folder: self._unpack(package, folder))
        try:
            package.check_members(folder)
        except AssetError as error:
            raise AssetError(f"{error}\nNothing of it was used. Remove {folder}; then run again.") from error
        return folder

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
        archives = self.cache / "archives"
        by_hand = archives / package.archive
        with tempfile.TemporaryDirectory(dir=folder) as downloads:
            try:
                archive = by_hand if by_hand.is_file() else package.download(Path(downloads))
                package.check(archive)
                package.extract(archive, folder)
            except AssetError as error:
                remedy = (
                    f"Remove {by_hand} or put the right archive in its place"
                    if by_hand.is_file()
                    else f"Check the network and the package index (`pip config list`; PIP_INDEX_URL names another), "
                    f"or put {package.archive} (sha256 {package.sha256}) into {archives}"
                )
                raise AssetError(f"{error}\n{remedy}; then run again.") from error


def _wait_until_on_disk(folder: Path):
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
