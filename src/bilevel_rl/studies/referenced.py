"""What the studies of a user's problem share: defaults that suit it, its source file, and what is written of it."""

import dataclasses
import warnings
from pathlib import Path
from typing import TypeVar

from bilevel_rl.environments import TabularMDP
from bilevel_rl.formulation import BilevelProblem, measure_scales
from bilevel_rl.references import ReferencedProblem
from bilevel_rl.references.parameters import REQUIRED
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.study import Study

EVALUATED = 0.01
"""Entropy weight at which Φ is measured, in units of the follower's reward."""

AnyOwn = TypeVar("AnyOwn", bound=Study)


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


def with_digest_of_now(study: AnyOwn, folder: RunFolder) -> AnyOwn:
    """The study of the file as it is now: whether it still is the same problem, the run's identity says.

    Raises:
        ValueError: the file has gone.
    """
    problem: ReferencedProblem = study.problem  # pyright: ignore[reportAttributeAccessIssue]
    if problem.file is None:
        return study
    if not Path(problem.file).is_file():
        copy = folder.path / "source" / Path(problem.file).name
        raise ValueError(
            f"{problem.file} has gone, from which {folder.path} was begun; its copy is {copy}: put it back"
        )
    now = problem.renewed()
    if now.sha256 != problem.sha256:
        warnings.warn(f"{problem.file} has changed since {folder.path} was begun", stacklevel=2)
    return dataclasses.replace(study, problem=now)  # pyright: ignore[reportArgumentType]


def keep_source(problem: ReferencedProblem, folder: RunFolder):
    """Copies the source file into the run folder, for the record; nothing reads it again."""
    if problem.file is None:
        return
    copy = folder.path / "source" / Path(problem.file).name
    if not copy.exists():
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(Path(problem.file).read_bytes())
