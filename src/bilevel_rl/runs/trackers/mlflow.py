"""Metric rows for MLflow: one run, whose series are `seed-0/upper_objective` and so on."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bilevel_rl.runs.tables import Row
from bilevel_rl.runs.trackers.tracker import PROJECT, by_step

LARGEST_BATCH = 1_000
"""Metrics that MLflow takes at once."""


class MLflow:
    """A run where `MLFLOW_TRACKING_URI` says, in the experiment `MLFLOW_EXPERIMENT_NAME`, by default `bilevel-rl`.

    Args:
        name: of the run folder.
        run: the run to go on with; None for a new one.
        config: what it is.
    """

    def __init__(self, name: str, run: str | None, config: Mapping[str, Any]):
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        self._client = MlflowClient()
        if run is None:
            title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = self._client.get_experiment_by_name(title)
            number = self._client.create_experiment(title) if experiment is None else experiment.experiment_id
            created = self._client.create_run(number, run_name=name, tags={"config": json.dumps(config)})
            self.run = str(created.info.run_id)
        else:
            self._client.update_run(run, status="RUNNING")
            self.run = run

    def log(self, rows: Sequence[Row]):
        """As `Tracker.log`."""
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now = int(1_000 * time.time())
        metrics = [Metric(name, value, now, step) for step, found in by_step(rows) for name, value in found.items()]
        for first in range(0, len(metrics), LARGEST_BATCH):
            self._client.log_batch(self.run, metrics[first : first + LARGEST_BATCH])

    def close(self):
        """As `Tracker.close`."""
        self._client.set_terminated(self.run)
