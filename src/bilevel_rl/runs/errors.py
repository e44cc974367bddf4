"""What a run folder is refused with."""

from pathlib import Path


class RunFolderError(RuntimeError):
    """A folder is not what a run folder has to be."""


class DamagedFileError(RunFolderError):
    """A file is there, and cannot be what was written.

    Args:
        path: of the file.
        flaw: what is wrong with it.
    """

    def __init__(self, path: Path, flaw: str):
        super().__init__(f"{path} is damaged: {flaw}; put back a copy of it")
        self.path, self.flaw = path, flaw

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.flaw)
