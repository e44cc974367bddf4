"""The processes and devices of a job, as options of the command line."""

from dataclasses import dataclass
from pathlib import Path

from bilevel_rl import checks
from bilevel_rl.runs import compiler, processes

_joined: set["Job"] = set()
"""What this process has prepared itself for."""


@dataclass(frozen=True)
class Job:
    """Which processes and devices share the work; one process with one device by default."""

    coordinator: str | None = None
    """HOST:PORT of process 0, where several processes of one job meet; all share the run folder"""
    num_processes: int = 1
    """processes of the job"""
    process_id: int = 0
    """this process, from 0"""
    cpu_devices: int = 1
    """CPU devices of this process; the bits of the results do not depend on them"""

    def join(self, folder: Path | None):
        """Prepares the devices, and waits for the other processes. Call before anything is computed, once or again.

        Raises:
            ValueError: options that exclude each other, or as `processes.connect`.
            LostProcessError: as `processes.connect`.
        """
        checks.integer("--cpu-devices", self.cpu_devices, at_least=1)
        if self.coordinator is None and (self.num_processes, self.process_id) != (1, 0):
            raise ValueError("--num-processes and --process-id need --coordinator HOST:PORT, the address of process 0")
        if self.coordinator is not None and folder is None:
            raise ValueError("--coordinator needs --folder, one that all processes share")
        compiler.fuse_small_loops(None)
        compiler.cache_compilations()
        if self in _joined:
            return
        compiler.split_cpu(self.cpu_devices)
        if self.coordinator is not None:
            processes.connect(self.coordinator, self.num_processes, self.process_id)
        _joined.add(self)
