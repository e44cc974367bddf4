"""What an experiment is: a frozen dataclass whose fields are the flags of `bilevel-rl`, and four things it can do."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.json_files import from_json
from bilevel_rl.runs.trackers import ReportTo

Sharing = Literal["devices", "workers", "nothing"]
"""Who can share the work of a study: the devices and processes of a JAX job, the workers of a comparison, or nobody."""

Command = Literal["run", "compare", "tune", "solve"]
"""Which command of `bilevel-rl` starts a study."""

AnyStudy = TypeVar("AnyStudy", bound="Study")


class Study(abc.ABC):
    """An experiment with all of its options. Subclasses are frozen dataclasses; their docstring says what it shows.

    A subclass in a module of `bilevel_rl.studies` is found by itself (`studies.registry`): the command line, `list`,
    `resume` and `plot` need no other mention of it.
    """

    name: ClassVar[str]
    """in `config.json`, and on the command line, there without the command before it (`compare-`, `tune-`)"""

    command: ClassVar[Command | None] = "run"
    """what starts it; None where no command does"""

    shared_by: ClassVar[Sharing] = "devices"
    """who can share its work"""

    takes_reference: ClassVar[bool] = False
    """whether its problem is the user's, named after the command: `bilevel-rl run path/to/file.py:name`"""

    @property
    def label(self) -> str:
        """What a run of it is called, in messages and as a folder."""
        return self.name

    @property
    def num_iterations(self) -> int | None:
        """Of a study whose folder holds one run: iterations that it does."""
        return None

    @property
    def report_to(self) -> ReportTo:
        """Where its metric rows go besides `metrics.csv`."""
        return "none"

    @abc.abstractmethod
    def check(self):
        """Raises `ValueError` for options that cannot be run with, before a folder is made or anything is computed."""

    def settled(self: AnyStudy) -> AnyStudy:
        """The study with what its options left open worked out; asked for before a new folder is written."""
        return self

    def outcome(self, folder: RunFolder) -> dict[str, Any]:
        """The outcome as data, which `--json` prints; `RunFolderError` where the run has not come that far."""
        return {"summary": self.summarize(folder)}

    @abc.abstractmethod
    def main(self, folder: RunFolder, *, progress: bool = True):
        """Runs it, or what the folder does not hold yet, and draws the figures."""

    @abc.abstractmethod
    def plot(self, folder: RunFolder):
        """Draws the figures from the files of a folder."""

    @abc.abstractmethod
    def summarize(self, folder: RunFolder) -> str:
        """One line about the outcome, from the files; `RunFolderError` where the run has not come that far."""

    def to_json(self) -> dict[str, Any]:
        """What `config.json` holds."""
        return {"experiment": self.name, "options": dataclasses.asdict(self)}  # pyright: ignore[reportArgumentType]

    @classmethod
    def from_json(cls: type[AnyStudy], options: Mapping[str, Any]) -> AnyStudy:
        """The study whose `to_json` was written.

        Raises:
            FieldError: a field is missing, unknown, or of another type.
        """
        return from_json(cls, options)

    def with_cache(self, cache: str) -> "Study":
        """The study, with its downloads and prepared models in a folder that the user names; no run folder names one.

        Raises:
            ValueError: it has none.
        """
        raise ValueError(f"{self.name} keeps no downloads: --cache {cache} does not apply")
