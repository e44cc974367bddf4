"""Pictures that people are asked about, kept in RUN/rating/ under the digest of their bytes."""

import hashlib
import re
from pathlib import Path

from bilevel_rl.files.atomic import write_atomically

FOLDER = "rating"

BEGINNINGS = {b"GIF87a": "gif", b"GIF89a": "gif", b"\x89PNG\r\n\x1a\n": "png"}

NAME = re.compile(r"[0-9a-f]{64}\.(gif|png)")


def keep(folder: Path, picture: Path | str) -> str:
    """Copies a GIF or PNG into a run folder, unless it is there; returns its name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is neither, whatever it is called.
    """
    data = Path(picture).read_bytes()
    kind = next((kind for beginning, kind in BEGINNINGS.items() if data.startswith(beginning)), None)
    if kind is None:
        raise ValueError(f"{picture} must be a GIF or a PNG, and begins with {data[:8]!r}")
    name = f"{hashlib.sha256(data).hexdigest()}.{kind}"
    path = folder / FOLDER / name
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, data)
    return name
