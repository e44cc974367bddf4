"""Metric rows as TensorBoard scalars, one series a seed."""

import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bilevel_rl.runs.tables import Row
from bilevel_rl.runs.trackers.tracker import NOT_MEASURED


class TensorBoard:
    """Files of events.

    Args:
        path: of the folder that holds them; made when the first are written.
    """

    def __init__(self, path: Path):
        self._path = path
        self._writers: dict[int, Any] = {}

    @property
    def run(self) -> str:
        """The folder's name."""
        return self._path.name

    def log(self, rows: Sequence[Row]):
        """As `Tracker.log`."""
        # Not the SummaryWriter: its flush does not wait for the thread that writes what it was given.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.summary import scalar

        for row in rows:
            seed = int(row["seed"])
            if seed not in self._writers:
                path = self._path / f"seed-{seed}"
                path.mkdir(parents=True, exist_ok=True)
                # Names are of the second, which two processes that follow each other may share.
                self._writers[seed] = EventsWriter(str(path / "events"), f".{secrets.token_hex(4)}")
            for name, value in row.items():
                if name not in NOT_MEASURED:
                    event = Event(wall_time=time.time(), step=int(row["num_iterations"]), summary=scalar(name, value))
                    self._writers[seed].write_event(event)
        for writer in self._writers.values():
            writer.flush()

    def close(self):
        """As `Tracker.close`."""
        for writer in self._writers.values():
            writer.close()
