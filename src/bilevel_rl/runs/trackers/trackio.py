"""Metric rows for Trackio: one run, whose series are `seed-0/upper_objective` and so on."""

import contextlib
import secrets
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bilevel_rl.runs.tables import Row
from bilevel_rl.runs.trackers.tracker import PROJECT, by_step


class Trackio:
    """A run in Trackio's local database, in the folder that `TRACKIO_DIR` names; `trackio show` draws it.

    Args:
        name: of the run folder.
        run: the run to go on with; None for a new one.
        config: what it is.
    """

    def __init__(self, name: str, run: str | None, config: Mapping[str, Any]):
        import trackio  # pyright: ignore[reportMissingImports]

        self._name = run or f"{name}-{secrets.token_hex(4)}"
        with contextlib.redirect_stdout(sys.stderr):  # Which says how to draw it.
            self._run = trackio.init(
                PROJECT,
                name=self._name,
                config=dict(config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    @property
    def run(self) -> str:
        """Its name."""
        return self._name

    def log(self, rows: Sequence[Row]):
        """As `Tracker.log`, but for a second in which Trackio's own thread writes what it was given."""
        for step, metrics in by_step(rows):
            self._run.log(dict(metrics), step=step)

    def close(self):
        """As `Tracker.close`."""
        with contextlib.redirect_stdout(sys.stderr):
            self._run.finish()
