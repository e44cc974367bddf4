"""A progress bar with what the policies write at the moment."""

from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from bilevel_rl.runs.folder import Row

NUM_PLAIN_LINES = 20
"""Lines printed where standard error is no terminal, and a bar would be lost."""


class LiveProgress:
    """Shows iterations, rewards and samples on standard error; a context manager.

    Args:
        num_iterations: of the whole run.
        is_shown: whether to show anything.
    """

    def __init__(self, num_iterations: int, *, is_shown: bool):
        self._console = Console(stderr=True, quiet=not is_shown, highlight=False)
        self._num_iterations = num_iterations
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
        )
        self._task = self._bar.add_task("iterations", total=num_iterations, status="")
        self._live = Live(self._bar, console=self._console, refresh_per_second=4)
        self._is_live = is_shown and self._console.is_terminal
        self._next_line = 0.0

    def __enter__(self) -> "LiveProgress":
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *exception: object):
        if self._is_live:
            self._live.stop()

    def update(self, row: Row, texts: Sequence[str]):
        """Reports an iteration: its metric row, and some completions."""
        done = int(row["num_iterations"])
        judged = next((name for name in row if name.startswith("lower_judge_")), "lower_mean_reward")
        shown = {"judge": judged, "reward": "lower_mean_reward", "KL": "lower_mean_divergence"}
        status = " · ".join(f"{label} {row[name]:.2f}" for label, name in shown.items())
        if self._is_live:
            self._bar.update(self._task, completed=done, status=status)
            samples = [Text(f"  {text}", overflow="ellipsis", no_wrap=True, style="dim") for text in texts]
            self._live.update(Group(self._bar, *samples))
        elif done >= self._next_line or done == self._num_iterations:
            self._console.print(f"{done:>5} of {self._num_iterations} iterations  {status}", markup=False)
            if texts:
                self._console.print(f"      {texts[0]}", markup=False)
            self._next_line = done + self._num_iterations / NUM_PLAIN_LINES
