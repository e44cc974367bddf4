"""A progress bar with transitions per second and the current Φ."""

import time
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress as RichProgress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bilevel_rl.runs.folder import Row

NUM_PLAIN_LINES = 10
"""Lines printed where standard error is no terminal, and a bar would be lost."""


class Progress:
    """Shows a run's progress on standard error; a context manager.

    Args:
        num_iterations: iterations of the whole run.
        is_shown: whether to show anything.
    """

    def __init__(self, num_iterations: int, *, is_shown: bool):
        console = Console(stderr=True, quiet=not is_shown)
        self._num_iterations = num_iterations
        self._is_terminal = console.is_terminal
        self._console = console
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not (is_shown and self._is_terminal),
        )
        self._task = self._bar.add_task("iterations", total=num_iterations, status="compiling")
        self._first: tuple[float, int] | None = None
        self._next_line = 0.0

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object):
        self._bar.stop()

    def update(self, num_iterations: int, num_transitions: int, rows: Sequence[Row]):
        """Reports a log point: iterations of each seed, transitions of all seeds, and the newest metric rows."""
        now = time.perf_counter()
        status = []
        if self._first is None:
            self._first = now, num_transitions
        elif now > self._first[0]:
            rate = (num_transitions - self._first[1]) / (now - self._first[0])
            status.append(f"{rate / 1e6:.2f} M transitions/s")
        for symbol, metric in (("Φ", "upper_objective"), ("f", "upper_value")):
            if rows and metric in rows[0]:
                values = [row[metric] for row in rows]
                status.append(f"{symbol} = {np.mean(values):.4f} ± {np.std(values):.4f}")
                break
        text = " · ".join(status)
        self._bar.update(self._task, completed=num_iterations, status=text)
        is_due = num_iterations >= self._next_line or num_iterations == self._num_iterations
        if is_due and not self._is_terminal:
            self._console.print(f"{num_iterations:>9,} of {self._num_iterations:,} iterations  {text}", highlight=False)
            self._next_line = num_iterations + self._num_iterations / NUM_PLAIN_LINES
