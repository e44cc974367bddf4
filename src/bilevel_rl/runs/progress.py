"""A progress bar with transitions per second, what the leader gets at the moment, and what policies write."""

import time
from collections.abc import Sequence

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress as RichProgress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from bilevel_rl.runs.folder import Row

NUM_PLAIN_LINES = 10
"""Lines printed where standard error is not a terminal, and a bar would be lost."""

SHOWN = (
    {"upper_objective": "Φ"},
    {"lower_mean_divergence": "KL", "lower_mean_reward": "reward", "lower_judge_score": "judge"},
    {"upper_value": "f"},
)
"""Metrics and their symbols; shown is the first group whose first metric the run has."""


class Progress:
    """Shows a run's progress on standard error; a context manager.

    Args:
        num_iterations: iterations of the whole run.
        is_shown: whether to show anything.
    """

    def __init__(self, num_iterations: int, *, is_shown: bool):
        self._console = Console(stderr=True, quiet=not is_shown, highlight=False)
        self._num_iterations = num_iterations
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
        )
        self._task = self._bar.add_task("iterations", total=num_iterations, status="compiling")
        self._live = Live(self._bar, console=self._console, refresh_per_second=4)
        self._is_live = is_shown and self._console.is_terminal
        self._first: tuple[float, int] | None = None
        self._next_line = 0.0

    def __enter__(self) -> "Progress":
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *exception: object):
        if self._is_live:
            self._live.stop()

    def update(self, num_iterations: int, num_transitions: int, rows: Sequence[Row], texts: Sequence[str] = ()):
        """Reports a log point.

        Args:
            num_iterations: of each seed.
            num_transitions: of all seeds.
            rows: the newest metric rows.
            texts: examples of what policies write.
        """
        status = " · ".join([*self._rate(num_transitions), *_measured(rows)])
        if self._is_live:
            self._bar.update(self._task, completed=num_iterations, status=status)
            samples = [Text(f"  {text}", overflow="ellipsis", no_wrap=True, style="dim") for text in texts]
            self._live.update(Group(self._bar, *samples))
        elif num_iterations >= self._next_line or num_iterations == self._num_iterations:
            self._console.print(f"{num_iterations:>9,} of {self._num_iterations:,} iterations  {status}", markup=False)
            for text in texts[:1]:
                self._console.print(f"          {text}", markup=False)
            self._next_line = num_iterations + self._num_iterations / NUM_PLAIN_LINES

    def _rate(self, num_transitions: int) -> list[str]:
        """Transitions per second since the first log point, which comes after compilation."""
        now = time.perf_counter()
        if self._first is None:
            self._first = now, num_transitions
        elif now > self._first[0]:
            rate = (num_transitions - self._first[1]) / (now - self._first[0])
            return [f"{rate / 1e6:.2f} M transitions/s" if rate >= 1e4 else f"{rate:.0f} transitions/s"]
        return []


def _measured(rows: Sequence[Row]) -> list[str]:
    for group in SHOWN:
        if rows and next(iter(group)) in rows[0]:
            return [
                f"{symbol} = {np.mean(values):.4f} ± {np.std(values):.4f}"
                for metric, symbol in group.items()
                if metric in rows[0] and (values := [row[metric] for row in rows])
            ]
    return []
