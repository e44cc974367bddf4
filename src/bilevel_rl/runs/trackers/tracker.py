"""What a tracker is, and which there are."""

import importlib.util
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol, get_args, runtime_checkable

from bilevel_rl import checks
from bilevel_rl.runs.tables import Row

ReportTo = Literal["none", "tensorboard", "wandb", "trackio", "mlflow"]
"""Where metric rows go besides `metrics.csv`."""

PROJECT = "bilevel-rl"
"""What runs are filed under, where the tracker's own settings name nothing else."""

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}
"""What each needs; but for the first, which comes with this package, the extra has the tracker's name."""

NOT_MEASURED = "seed", "num_iterations"
"""Columns that say which row it is."""


@runtime_checkable
class Tracker(Protocol):
    """A run as a tracker has it."""

    @property
    def run(self) -> str:
        """What the tracker calls the run; with it a later process goes on with the same one."""
        ...

    def log(self, rows: Sequence[Row]):
        """Logs every metric of rows, at the step `num_iterations`, and waits until the tracker has them."""
        ...

    def close(self):
        """Says that no more will come from this process."""
        ...


def check_tracker(report_to: str):
    """Whether rows can be reported there, before anything is computed.

    Raises:
        TypeError, ValueError: there is no such tracker.
        ModuleNotFoundError: its package is not installed; the message names the extra.
    """
    checks.one_of("report_to", report_to, get_args(ReportTo))
    package = PACKAGES.get(report_to)
    if package is not None and importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"report_to={report_to!r} needs {package}, which is not installed: pip install 'bilevel-rl[{report_to}]'",
            name=package,
        )


def by_step(rows: Sequence[Row]) -> Iterator[tuple[int, Mapping[str, float]]]:
    """Rows of all seeds as trackers without a place for seeds take them: `seed-0/upper_objective`, step by step."""
    for step, group in itertools.groupby(rows, key=lambda row: int(row["num_iterations"])):
        yield (
            step,
            {
                f"seed-{int(row['seed'])}/{name}": float(value)
                for row in group
                for name, value in row.items()
                if name not in NOT_MEASURED
            },
        )
