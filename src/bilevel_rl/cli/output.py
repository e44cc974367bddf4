"""What the commands print: text for people, or one line of JSON for programs."""

import contextlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bilevel_rl.runs import processes

WIDTH_OF_PIPES = 400
"""Columns of a table where no terminal says how many there are: lines are not broken."""


def standard_output(*, quiet: bool = False) -> Console:
    """Text for people; colours and widths only where a terminal is."""
    console = Console(highlight=False, soft_wrap=True, markup=False, quiet=quiet)
    if not console.is_terminal and not console._environ.get("COLUMNS"):
        return Console(highlight=False, soft_wrap=True, markup=False, quiet=quiet, width=WIDTH_OF_PIPES)
    return console


def standard_error() -> Console:
    """The same for errors and warnings."""
    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


@contextlib.contextmanager
def only_json(is_asked_for: bool) -> Iterator[None]:
    """While it is open, what anybody prints goes to standard error, where standard output is for JSON."""
    if not is_asked_for:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


def print_json(value: Any):
    """One line; numbers that are none are null."""
    print(json.dumps(_plain(value), ensure_ascii=False))


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {str(key): _plain(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_plain(entry) for entry in value]
        case float():
            return value if math.isfinite(value) else None
        case bool() | int() | str() | None:
            return value
    return str(value)


def row(table: Table, *cells: str):
    """A line of a table whose cells are what they say: brackets are no markup."""
    table.add_row(*map(Text, cells))


def shown(path: Path) -> str:
    """A path as it is typed from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def show_warning(message: Warning | str, *_: Any, **__: Any):
    """As `warnings.showwarning`, in one line."""
    standard_error().print(f"warning: {message}")


def fail(message: str, status: int):
    """Ends the process with one line on standard error."""
    standard_error().print(f"error: {' '.join(message.split())}")
    processes.leave(status)
