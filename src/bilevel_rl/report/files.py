"""Pictures, tables and texts that a study left in its folder, ready to be put into a page."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bilevel_rl.runs.folder import RunFolder

OWN = {"learning_curves", "residuals", "x", "follower", "payments", "side_by_side"}
"""Figures that a report shows in its own way."""

MOST_BYTES = 2_500_000
"""Of all pictures of a page, as files."""


@dataclass(frozen=True)
class Embedded:
    """A picture as data; of an animation also its first moment, for who wants nothing to move."""

    name: str
    source: str
    still: str = ""


@dataclass(frozen=True)
class Text:
    """A table or a text that a study wrote as Markdown: rows where it is a table, else lines."""

    name: str
    rows: tuple[tuple[str, ...], ...]
    text: str


def pictures(folder: RunFolder, left: int = MOST_BYTES) -> tuple[list[Embedded], list[str], int]:
    """Pictures of a study, the names of those that are too large, and how many bytes are left."""
    found, omitted = [], []
    for path in sorted((folder.path / "figures").glob("*")):
        if path.suffix not in (".png", ".gif") or path.stem in OWN:
            continue
        data = path.read_bytes()
        if len(data) > left:
            omitted.append(path.name)
            continue
        left -= len(data)
        kind = path.suffix.removeprefix(".")
        still = _still(path) if kind == "gif" else ""
        found.append(Embedded(path.stem.replace("_", " "), _as_uri(kind, data), still))
    return found, omitted, left


def _still(path: Path) -> str:
    with Image.open(path) as image, io.BytesIO() as file:
        image.convert("RGB").save(file, "PNG")
        return _as_uri("png", file.getvalue())


def _as_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def texts(folder: RunFolder) -> list[Text]:
    """All Markdown files of a folder."""
    return [_text(path) for path in sorted(folder.path.glob("*.md"))]


def _text(path: Path) -> Text:
    lines = path.read_text(errors="replace").strip().splitlines()
    cells = [tuple(cell.strip() for cell in line.strip().strip("|").split("|")) for line in lines]
    is_table = len(lines) > 2 and all(line.lstrip().startswith("|") for line in lines)
    if is_table and len({len(row) for row in cells}) == 1 and set("".join(cells[1])) <= set("-: "):
        return Text(path.stem.replace("_", " "), (cells[0], *cells[2:]), "")
    return Text(path.stem.replace("_", " "), (), "\n".join(lines))
