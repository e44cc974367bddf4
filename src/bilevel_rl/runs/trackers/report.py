"""Rows of a run to its tracker, each once, also where the run is killed and resumed.

The folder RUN/TRACKER holds `logged.json`: the tracker's name of the run, and the iteration up to which it has rows. A
resumed run repeats iterations after its newest checkpoint, with the same bits; rows up to that iteration are not logged
again. Rows that `metrics.csv` has and the tracker missed are, first of all. A kill in the instant between logging and
noting it may log one point again: the same numbers at the same step.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bilevel_rl.files.atomic import write_atomically
from bilevel_rl.runs.json_files import read_object
from bilevel_rl.runs.tables import Row
from bilevel_rl.runs.trackers.tracker import ReportTo, Tracker, check_tracker

MARK = "logged.json"


class Report:
    """What a tracker has of a run, and what it is still to get.

    Args:
        path: of the run folder.
        report_to: which tracker.
        config: what the run is, as `config.json` has it.

    Raises:
        ModuleNotFoundError: the tracker's package is not installed.
    """

    def __init__(self, path: Path, report_to: ReportTo, config: Mapping[str, Any]):
        check_tracker(report_to)
        self._mark = path / report_to / MARK
        noted = read_object(self._mark) if self._mark.is_file() else {}
        self._logged = int(noted.get("num_iterations", -1))
        self._tracker = _opened(path, report_to, noted.get("run"), config)

    def log(self, rows: Sequence[Row]):
        """Logs those rows that the tracker does not have, in the order of their iterations."""
        new = [row for row in rows if row["num_iterations"] > self._logged]
        if self._tracker is None or not new:
            return
        self._tracker.log(new)
        self._logged = int(new[-1]["num_iterations"])
        self._mark.parent.mkdir(parents=True, exist_ok=True)
        note = {"run": self._tracker.run, "num_iterations": self._logged}
        write_atomically(self._mark, json.dumps(note, indent=2) + "\n")

    def close(self):
        """Says that no more will come from this process."""
        if self._tracker is not None:
            self._tracker.close()


def _opened(path: Path, report_to: ReportTo, run: str | None, config: Mapping[str, Any]) -> Tracker | None:
    """The tracker of a run, or none. Their packages are heavy: each is imported where it is asked for."""
    match report_to:
        case "tensorboard":
            from bilevel_rl.runs.trackers.tensorboard import TensorBoard

            return TensorBoard(path / report_to)
        case "wandb":
            from bilevel_rl.runs.trackers.wandb import WeightsAndBiases

            return WeightsAndBiases(path, run, config)
        case "trackio":
            from bilevel_rl.runs.trackers.trackio import Trackio

            return Trackio(path.name, run, config)
        case "mlflow":
            from bilevel_rl.runs.trackers.mlflow import MLflow

            return MLflow(path.name, run, config)
    return None
