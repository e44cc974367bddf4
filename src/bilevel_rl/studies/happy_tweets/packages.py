"""Pinned archives of the package index, fetched as plain files: nothing of them is built, installed or run.

pip would run the set-up script of a source distribution to learn its metadata, so pip is not asked.
"""

import hashlib
import html
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

PYPI = "https://pypi.org/simple"

TIMEOUT = 60
"""Seconds without an answer after which the index counts as out of reach."""


class AssetError(RuntimeError):
    """A file could not be fetched, or is not what it has to be. The message says which, why, and what to do."""


class Member(NamedTuple):
    """A file of an archive: its path, where `outer.tar.gz!inner` is a path in an archive in it, and its digest."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Package:
    """A pinned archive of the package index.

    Attributes:
        name: of the package, as the index spells it.
        archive: the archive's file name; `.whl` is a wheel, `.tar.gz` a source distribution.
        sha256: hexadecimal digest of the archive.
        members: name in the cache to what it is in the archive.
    """

    name: str
    archive: str
    sha256: str
    members: Mapping[str, Member]

    def download(self, folder: Path) -> Path:
        """Fetches the archive into a folder, unchecked.

        Raises:
            AssetError: the index is out of reach, or does not have it.
        """
        page = f"{_index().rstrip('/')}/{self.name}/"
        try:
            with _open(page) as answer:
                # The address after redirections is what relative links are relative to.
                links, base = re.findall(r'href="([^"]+)"', answer.read().decode()), answer.geturl()
            urls = [urljoin(base, html.unescape(link)) for link in links]
            url = next((url for url in urls if unquote(urlsplit(url).path).endswith(f"/{self.archive}")), None)
            if url is None:
                raise AssetError(f"{page} does not list it")
            with _open(url) as answer, (folder / self.archive).open("wb") as file:
                shutil.copyfileobj(answer, file)
        except (AssetError, OSError, ValueError) as error:
            raise AssetError(f"{self.archive} could not be downloaded: {error}") from error
        return folder / self.archive

    def check(self, archive: Path):
        """Raises `AssetError` where the archive is not the pinned one."""
        if (found := sha256_of(archive)) != self.sha256:
            raise AssetError(
                f"{self.archive} is not the archive this library was written for:\n"
                f"expected sha256 {self.sha256}\nfound    sha256 {found}"
            )

    def extract(self, archive: Path, folder: Path):
        """Writes the members into a folder; raises `AssetError` where the archive has not got them."""
        try:
            for name, member in self.members.items():
                (folder / name).write_bytes(_read(archive, member.path))
        except (KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise AssetError(f"{self.archive} has not the expected content: {error}") from error

    def check_members(self, folder: Path):
        """Raises `AssetError` where a folder holds anything but the pinned members: what reads them reads the rest."""
        for name, member in self.members.items():
            found = sha256_of(folder / name) if (folder / name).is_file() else "none: there is no such file"
            if found != member.sha256:
                raise AssetError(
                    f"{folder / name} is not the file of {self.archive}:\n"
                    f"expected sha256 {member.sha256}\nfound    sha256 {found}"
                )
        # Earlier versions imported modules from here; what that left behind is not read.
        strangers = {path.name for path in folder.iterdir()} - {*self.members, "__pycache__"}
        if strangers:
            raise AssetError(f"{folder} holds files that are not of {self.archive}: {', '.join(sorted(strangers))}")


def sha256_of(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _index() -> str:
    """The package index that pip is told to use."""
    if index := os.environ.get("PIP_INDEX_URL"):
        return index
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or PYPI


def _open(url: str):
    # Without this header some indices answer with JSON.
    return urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": "text/html, */*"}), timeout=TIMEOUT)


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


def _pinned() -> dict[str, Package]:
    packages = tomllib.loads((Path(__file__).parent / "packages.toml").read_text())
    for entry in packages.values():
        folder, digests = entry.pop("folder"), entry.pop("members")
        entry["members"] = {name: Member(f"{folder}/{name}", sha256) for name, sha256 in digests.items()}
    return {name: Package(**entry) for name, entry in packages.items()}


PINNED = _pinned()
"""Those of `packages.toml`; members' names in the cache are their own."""
