"""Metric rows for Weights & Biases: one run, whose series are `seed-0/upper_objective` and so on."""

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bilevel_rl.runs.tables import Row
from bilevel_rl.runs.trackers.tracker import PROJECT, by_step


class WeightsAndBiases:
    """A run. `WANDB_MODE=offline` keeps it in RUN/wandb until `wandb sync`; `WANDB_PROJECT` files it elsewhere.

    Args:
        path: of the run folder.
        run: the run to go on with; None for a new one.
        config: what it is.
    """

    def __init__(self, path: Path, run: str | None, config: Mapping[str, Any]):
        import wandb  # pyright: ignore[reportMissingImports]

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run or secrets.token_hex(4),
            name=path.name,
            resume="allow",
            dir=path,
            config=dict(config),
            reinit="create_new",
            settings=wandb.Settings(silent=True),
        )

    @property
    def run(self) -> str:
        """Its id."""
        return self._run.id

    def log(self, rows: Sequence[Row]):
        """As `Tracker.log`."""
        for step, metrics in by_step(rows):
            # Rows of a step are sent with it, and not only when the next step comes.
            self._run.log(dict(metrics), step=step, commit=True)

    def close(self):
        """As `Tracker.close`."""
        self._run.finish()
