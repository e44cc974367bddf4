"""Tables of numbers that grow row by row, as CSV: they read back exactly, and a kill tears at most the last line."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bilevel_rl.files.atomic import write_atomically
from bilevel_rl.runs.errors import DamagedFileError

Row = Mapping[str, float]
"""One metric row: column name to number."""


class Mark(NamedTuple):
    """How far a table had come: what its first bytes are."""

    num_bytes: int
    sha256: str


class Table:
    """A file of rows with the same columns.

    Args:
        path: of the file, which need not exist.
    """

    def __init__(self, path: Path):
        self.path = path
        # Of what this process knows to be in the file; worked out when it is first asked for.
        self._known: tuple[int, Any] | None = None

    def append(self, rows: Sequence[Row]):
        """Appends rows and waits until they are on disk. Numbers read back exactly."""
        if not rows:
            return
        lines = [_line(row.values()) for row in rows]
        if not self.path.exists():
            lines.insert(0, ",".join(rows[0]) + "\n")
        data = "".join(lines).encode()
        num_bytes, digest = self._digested()
        with self.path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        digest.update(data)
        self._known = num_bytes + len(data), digest

    def rows(self) -> list[dict[str, float]]:
        """The complete rows; none where the file does not exist.

        Raises:
            DamagedFileError: a row is not one of numbers.
        """
        if not self.path.exists():
            return []
        whole = self.path.read_bytes().rpartition(b"\n")[0]
        header, *lines = whole.decode(errors="replace").splitlines() or [""]
        names = header.split(",")
        return [dict(zip(names, self._numbers(line, names, i + 2), strict=True)) for i, line in enumerate(lines)]

    def _numbers(self, line: str, names: Sequence[str], number: int) -> list[float]:
        entries = line.split(",")
        if len(entries) != len(names):
            raise DamagedFileError(self.path, f"line {number} has {len(entries)} columns, not {len(names)}")
        try:
            return [_parse(entry) for entry in entries]
        except ValueError as error:
            raise DamagedFileError(self.path, f"line {number}, {error}") from error

    def mark(self) -> Mark:
        """What is in the file now, as this process knows it."""
        num_bytes, digest = self._digested()
        return Mark(num_bytes, digest.hexdigest())

    def flaw(self, mark: Mark) -> str | None:
        """What is wrong with the rows that were there when the mark was made; None for nothing."""
        if not self.path.exists() and mark.num_bytes:
            return f"{self.path.name} is missing"
        data = self.path.read_bytes()[: mark.num_bytes] if mark.num_bytes else b""
        if len(data) < mark.num_bytes:
            return f"{self.path.name} ends after {len(data):,} bytes, {mark.num_bytes:,} were written"
        return None if hashlib.sha256(data).hexdigest() == mark.sha256 else f"{self.path.name} has other rows"

    def cut_to(self, mark: Mark):
        """Drops what came after a mark; without rows there is no file."""
        self._known = None
        if mark.num_bytes:
            write_atomically(self.path, self.path.read_bytes()[: mark.num_bytes])
        else:
            self.path.unlink(missing_ok=True)

    def cut_at(self, num_iterations: int):
        """Drops a torn last line and the rows beyond an iteration, which a resumed run will write again.

        Raises:
            DamagedFileError: a row is not one of numbers, or does not say of which iteration it is.
        """
        if not self.path.exists():
            return
        lines = self.path.read_bytes().splitlines(keepends=True)
        rows = self.rows()
        if rows and "num_iterations" not in rows[0]:
            raise DamagedFileError(self.path, "line 1 names no column num_iterations")
        kept = lines[: 1 + sum(row["num_iterations"] <= num_iterations for row in rows)]
        self.cut_to(Mark(len(b"".join(kept)) if len(kept) > 1 else 0, ""))

    def _digested(self) -> tuple[int, Any]:
        if self._known is None:
            data = self.path.read_bytes() if self.path.exists() else b""
            self._known = len(data), hashlib.sha256(data)
        return self._known


def _line(values: Iterable[float]) -> str:
    return ",".join(map(_format, values)) + "\n"


def _format(value: float) -> str:
    return str(int(value)) if isinstance(value, int | np.integer) else repr(float(value))


def _parse(text: str) -> float:
    return int(text) if text.lstrip("-").isdigit() else float(text)
