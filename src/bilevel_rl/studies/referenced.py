"""What the studies of a user's problem share: defaults that suit it, its source file, and what is written of it."""

import abc
import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from bilevel_rl.environments import TabularMDP
from bilevel_rl.formulation import BilevelProblem, measure_scales
from bilevel_rl.references import ReferencedProblem
from bilevel_rl.references.parameters import REQUIRED
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.study import Study

EVALUATED = 0.01
"""Entropy weight at which Φ is measured, in units of the follower's reward."""

AnyOwn = TypeVar("AnyOwn", bound="OfReference")


@dataclass(frozen=True)
class OfReference(Study):
    """A study of the user's problem, which is named after the command: `bilevel-rl COMMAND path/to/file.py:name`."""

    takes_reference: ClassVar[bool] = True

    problem: ReferencedProblem

    @classmethod
    @abc.abstractmethod
    def of(cls: type[AnyOwn], problem: ReferencedProblem) -> AnyOwn:
        """With defaults that suit the problem."""

    @property
    def label(self) -> str:
        """What the file is called, after the command if that is not `run`."""
        called = self.problem.short_name
        return called if self.command == "run" else f"{self.command}-{called}"

    def keep_source(self, folder: RunFolder):
        """Copies the source file into the run folder, for the record; nothing reads it again."""
        if self.problem.file is not None and not (copy := _copy(self.problem.file, folder)).exists():
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(Path(self.problem.file).read_bytes())

    def of_now(self: AnyOwn, folder: RunFolder) -> AnyOwn:
        """The study of the file as it is now: whether it still is the same problem, the run's identity says.

        Raises:
            ValueError: the file has gone.
        """
        file = self.problem.file
        if file is None:
            return self
        if not Path(file).is_file():
            copy = _copy(file, folder)
            raise ValueError(f"{file} has gone, from which {folder.path} was begun; its copy is {copy}: put it back")
        now = self.problem.renewed()
        if now.sha256 != self.problem.sha256:
            warnings.warn(f"{file} has changed since {folder.path} was begun", stacklevel=2)
        return dataclasses.replace(self, problem=now)


def _copy(file: str, folder: RunFolder) -> Path:
    return folder.path / "source" / Path(file).name


def default_problem(reference: ReferencedProblem) -> BilevelProblem | None:
    """What is built without any arguments; None where there must be some."""
    parameters = reference.parameters()
    if any(parameter.default is REQUIRED for parameter in parameters.values()):
        return None
    return reference.problem()


def evaluated_at(problem: BilevelProblem | None) -> float:
    """The follower's own entropy weight, or a hundredth of the size of rewards, where that can be measured."""
    if problem is None or not isinstance(problem.environment, TabularMDP):
        return EVALUATED
    if problem.entropy_weight is not None:
        return problem.entropy_weight
    try:
        return float(f"{EVALUATED * measure_scales(problem).reward:.2g}")
    except ValueError:
        return EVALUATED
