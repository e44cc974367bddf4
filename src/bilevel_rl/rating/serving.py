"""The page as a server: one a process, in the foreground or in a thread beside training."""

import importlib.util
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bilevel_rl import checks
from bilevel_rl.rating.guard import Guard, is_loopback, token_for
from bilevel_rl.rating.store import NAME, AnswerStore

PORT = 8765

_is_taken = threading.Lock()
"""NiceGUI keeps its state in its module, so a process has one page."""


class RatingPage:
    """A page that is ready to be served, and its address.

    Args:
        folder: run folder with an answers.db.
        host: address to listen at.
        port: 0 for any that is free.
        token: what the link must have; None for none where only this machine reaches the host, else a random one.

    Raises:
        ModuleNotFoundError: the extra is not installed.
        ValueError: there are no questions in the folder, or an argument cannot be used.
        OSError: the port is in use, or the host is none of this machine.
    """

    def __init__(self, folder: Path | str, *, host: str = "127.0.0.1", port: int = PORT, token: str | None = None):
        if importlib.util.find_spec("nicegui") is None:
            raise ModuleNotFoundError(
                "the rating page needs nicegui, which is not installed: pip install 'bilevel-rl[rate]'", name="nicegui"
            )
        checks.integer("port", port, at_least=0, at_most=65_535)
        self._token = token_for(host, token)
        self._folder = Path(folder)
        if not (self._folder / NAME).is_file():
            raise ValueError(
                f"{folder} has no {NAME}: nobody has been asked anything there; HumanRatings({str(folder)!r}) makes it"
            )
        self._socket = _listening(host, port)
        name = host if is_loopback(host) else socket.gethostname() if host in ("0.0.0.0", "::") else host
        end = "" if self._token is None else f"?token={self._token}"
        shown = f"[{name}]" if ":" in name else name
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}/{end}"
        """what raters open"""

    def serve(self):
        """Serves until the process is told to stop.

        Raises:
            RuntimeError: this process has a page already.
        """
        self._server().run(sockets=[self._socket])

    @contextmanager
    def beside(self) -> Iterator["RatingPage"]:
        """Serves in a thread while it is open.

        Raises:
            RuntimeError: this process has, or had, a page already.
        """
        server = self._server()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join(timeout=5)

    def _server(self) -> Any:
        if not _is_taken.acquire(blocking=False):
            raise RuntimeError("this process has, or had, a rating page: `bilevel-rl rate RUN` serves another one")
        import uvicorn

        from bilevel_rl.rating.page import application

        app = Guard(application(AnswerStore(self._folder), self._folder), self._token)
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
        return uvicorn.Server(config)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host.strip("[]"), port))
    except OSError as error:
        listening.close()
        raise OSError(f"{host}:{port}: {error.strerror or error}; --port 0 takes any that is free") from error
    return listening
