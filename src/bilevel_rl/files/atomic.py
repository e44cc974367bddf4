"""Files that are whole at any moment: the old ones, or the new ones."""

import os
from pathlib import Path


def write_atomically(path: Path, data: str | bytes):
    """Writes a file beside the one that is there, waits until it is on disk, and puts it in its place."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
