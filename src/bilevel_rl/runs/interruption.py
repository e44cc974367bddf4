"""How a run is told to stop, and how soon it hears it.

A run cannot stop in the middle of compiled iterations. They are done in pieces of a fraction of a second instead, whose
lengths change no bit; after each the run looks whether it shall stop, and saves its state then.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax

SECONDS_PER_PIECE = 0.25

GROWTH = 8
"""A piece is at most so many times as long as the one before: what an iteration takes is not known at first."""

SECONDS_TO_STOP = 1.8
"""After which a command leaves without its run, unless that is about to save its state."""

SIGNALS = signal.SIGINT, signal.SIGTERM


class Interrupted(KeyboardInterrupt):
    """A run stopped because it was told to.

    Args:
        number: of the signal.
        message: what became of its state.
    """

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.number = number


class _Request:
    """What the signals of this process have asked for."""

    number: int | None = None
    is_saving = False


_request = _Request()


def asked() -> int | None:
    """The signal that asked the run to stop; None where there was none."""
    return _request.number


@contextlib.contextmanager
def heeded(*signals: int) -> Iterator[None]:
    """While it is open, the first of some signals only asks to stop (`asked`); the next raises `KeyboardInterrupt`.

    Signals that the program handles in its own way stay its own, and so do all of them outside of its main thread.
    """
    own = [number for number in signals if _is_ours(number)] if _in_main_thread() else []
    before = {number: signal.signal(number, _ask) for number in own}
    _request.number = None
    try:
        yield
    finally:
        _request.number = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def abandoned_on_error() -> Iterator[None]:
    """Within `heeded`: an error asks iterations to stop that are being done in another thread."""
    try:
        yield
    except BaseException:
        _request.number = _request.number or signal.SIGINT
        raise


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """While it is open, a command does not leave by itself."""
    _request.is_saving = True
    try:
        yield
    finally:
        _request.is_saving = False


@contextlib.contextmanager
def terminated() -> Iterator[None]:
    """While it is open, SIGTERM is `Interrupted`, so that a command can say how to go on."""
    if not _in_main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def bounded(farewell: str) -> Iterator[None]:
    """While it is open, no signal waits for long; for commands, which may end their process.

    It ends `SECONDS_TO_STOP` after the first signal even where Python does not get to hear of it, as in a long
    compilation, and at once with the second.

    Args:
        farewell: what to say then.
    """
    if not _in_main_thread():
        yield
        return
    ends, begins = os.pipe()
    os.set_blocking(begins, False)
    before = signal.set_wakeup_fd(begins, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(ends, farewell), daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(begins)
        watch.join()
        os.close(ends)


class Pieces:
    """Iterations in pieces, between which they can be interrupted. In a job of several processes there is one piece."""

    def __init__(self):
        self._length = 1

    def run(self, work: Callable[[int, int], Any], first: int, last: int) -> int:
        """Does iterations first … last−1, or those up to where a stop was asked for; returns the iteration reached.

        Args:
            work: does the iterations from one number up to another, and waits for them.
            first: where to begin.
            last: where to end.
        """
        while True:
            end = min(first + self._length, last) if jax.process_count() == 1 else last
            started = time.perf_counter()
            work(first, end)
            self._note(end - first, time.perf_counter() - started)
            first = end
            if end == last or asked():
                return end

    def _note(self, num_iterations: int, seconds: float):
        affordable = int(num_iterations * min(GROWTH, SECONDS_PER_PIECE / max(seconds, 1e-9)))
        # A piece that was short because the log point came says nothing against longer ones.
        self._length = max(1, affordable) if seconds > SECONDS_PER_PIECE else max(self._length, affordable)


def _ask(number: int, frame: FrameType | None):
    if _request.number is not None:
        raise Interrupted(number, "stopped at once")
    _request.number = number


def _raise(number: int, frame: FrameType | None):
    raise Interrupted(number, "")


def _is_ours(number: int) -> bool:
    return signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler, _raise)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _watch(pipe: int, farewell: str):
    """Ends the process in time. Python's own handlers wait until compiled code returns; this thread does not."""
    first: int | None = None
    while True:
        is_there = select.select([pipe], [], [], None if first is None else SECONDS_TO_STOP)[0]
        if not is_there and _request.is_saving:
            continue
        numbers = os.read(pipe, 1) if is_there else b""
        if is_there and not numbers:
            return
        if numbers and numbers[0] not in SIGNALS:
            continue
        if first is None:
            first = numbers[0]
            continue
        if not numbers:
            print(farewell, file=sys.stderr, flush=True)
        os._exit(128 + first)
