"""Who runs the tasks: processes of this machine, or the workers of a Dask cluster, all through joblib."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import joblib
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bilevel_rl import checks
from bilevel_rl.comparison.tasks import Task, run_task
from bilevel_rl.runs.processes import is_address

SECONDS_TO_CONNECT = 15

IDLE_SECONDS = 20
"""After so long without work a worker ends; those of a command that was killed, too."""


@dataclass(frozen=True)
class Workers:
    """Where the tasks of a comparison run; their results do not depend on it."""

    jobs: int | None = None
    """worker processes on this machine; by default as many as it has cores"""
    backend: Literal["loky", "dask"] = "loky"
    """loky: processes of this machine; dask: the workers of a cluster, which see the same run folder"""
    address: str | None = None
    """HOST:PORT of the cluster's scheduler, for dask"""

    def check(self):
        """Raises `ValueError` for options that exclude each other."""
        if self.jobs is not None:
            checks.integer("--jobs", self.jobs, at_least=1)
        if self.backend == "loky" and self.address is not None:
            raise ValueError(f"--address {self.address} needs --backend dask")
        if self.backend != "loky":
            if self.jobs is not None:
                raise ValueError(f"--jobs {self.jobs} is for --backend loky; a cluster has the workers that it has")
            if not is_address(self.address or ""):
                raise ValueError(f"--backend {self.backend} needs --address HOST:PORT, got {self.address}")

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """While it is open, `run_tasks` uses these workers.

        Raises:
            ValueError: options exclude each other, the package of --backend dask is not installed, or no scheduler
                answers at the address.
        """
        self.check()
        if self.backend == "loky":
            num_workers = self.jobs or os.cpu_count() or 1
            with joblib.parallel_config("loky", n_jobs=num_workers, idle_worker_timeout=IDLE_SECONDS):
                yield
        else:
            with _dask(str(self.address)):
                yield


@contextlib.contextmanager
def _dask(address: str) -> Iterator[None]:
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError(
            "--backend dask needs the package distributed, which is not installed: pip install 'bilevel-rl[cluster]'"
        ) from error
    try:
        client = Client(address, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"no Dask scheduler answers at --address {address}: {error}") from error
    with client, joblib.parallel_config("dask", n_jobs=-1, client=client):
        yield


def run_tasks(tasks: Sequence[Task], what: str, *, progress: bool):
    """Runs the tasks that are not finished, each in one of the workers of the surrounding `Workers.connected`.

    Args:
        tasks: in the order in which they begin; they end in any order.
        what: they are, for the progress bar.
        progress: show it.
    """
    left = [task for task in tasks if not task.is_finished()]
    console = Console(stderr=True, quiet=not progress, highlight=False)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (progress and console.is_terminal),
    )
    if not console.is_terminal:
        console.print(f"{what}: {len(tasks)} tasks, {len(tasks) - len(left)} of them finished before")
    with bar:
        shown = bar.add_task(what, total=len(tasks), completed=len(tasks) - len(left))
        if left:
            work = joblib.Parallel(return_as="generator_unordered")
            for _ in work(joblib.delayed(run_task)(task) for task in left):
                bar.advance(shown)
