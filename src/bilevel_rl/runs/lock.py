"""One process at a time works in a run folder; whoever only reads does not ask.

The lock is one of the operating system, on the file `lock` of the folder, so it ends with its process, however that
ends. The file says who holds it, and is there only while somebody does, or after a kill.
"""

import contextlib
import contextvars
import datetime
import errno
import json
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from bilevel_rl.runs.errors import RunFolderError

NAME = "lock"

_held: contextvars.ContextVar[frozenset[Path]] = contextvars.ContextVar("held", default=frozenset())
"""Folders that the code above on the stack holds: a study holds the folder that its run asks for again."""


@contextlib.contextmanager
def hold(path: Path | str, *, waits: bool = False) -> Iterator[None]:
    """Keeps other processes, and other threads, from working in a folder.

    Args:
        path: of the folder, which exists.
        waits: for whoever holds it now, instead of refusing.

    Raises:
        RunFolderError: somebody else holds it; the message says who.
    """
    path = Path(path).resolve()
    if path in _held.get():
        yield
        return
    file = _locked(path, waits=waits)
    token = _held.set(_held.get() | {path})
    try:
        yield
    finally:
        _held.reset(token)
        if file is not None:
            # Before it is closed: afterwards it may be another's.
            (path / NAME).unlink(missing_ok=True)
            file.close()


@contextlib.contextmanager
def hold_together(path: Path | str, crew: Any) -> Iterator[None]:
    """As `hold`, for all processes of a `loop.Crew`: the writer holds the folder, and all learn whether it does.

    Raises:
        RunFolderError: somebody else holds it, on every process of the crew.
    """
    with contextlib.ExitStack() as stack:
        if not crew.is_writer:
            if not crew.agree(False):
                raise RunFolderError(f"process 0 cannot work in {path}; it says why")
        else:
            try:
                stack.enter_context(hold(path))
            except BaseException:
                crew.agree(False)
                raise
            crew.agree(True)
        yield


def _locked(path: Path, *, waits: bool) -> TextIO | None:
    """The locked file; None where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows.
        return None
    while True:
        file = (path / NAME).open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(file)
            file.close()
            raise RunFolderError(f"{path} is in use by {holder}; wait until that has ended, or use another") from error
        except OSError as error:
            file.close()
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                raise
            warnings.warn(
                f"the file system of {path} has no locks ({error.strerror}): see to it that only one process works "
                "there",
                stacklevel=4,
            )
            return None
        # Whoever held it before may have removed the file that was opened here.
        if _is_still(file, path / NAME):
            break
        file.close()
    file.truncate(0)
    started = f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}"
    json.dump({"process": os.getpid(), "host": socket.gethostname(), "since": started}, file)
    file.flush()
    return file


def _is_still(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _holder(file: TextIO) -> str:
    file.seek(0)
    try:
        said = json.load(file)
        return f"process {said['process']} on {said['host']} since {said['since']}"
    except (ValueError, KeyError, TypeError):  # It has not written it yet.
        return "another process"
