"""A problem by reference: what every process, and every later command, builds it from."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from bilevel_rl.environments import TransitionLog
from bilevel_rl.exact.solver import Solution, solve
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.references.loading import blamed, digest_of, file_of, find, place_of, registered
from bilevel_rl.references.parameters import Parameter, built, flag_of, options_of, parameters_of
from bilevel_rl.runs.json_files import from_json

ANNEALED = (10.0, 3.0, 1.0)
"""Entropy weights that exact descent goes through, in units of the last."""


class Built(NamedTuple):
    """A problem, and the object that made it, which may know its optimum."""

    problem: BilevelProblem
    maker: Any


@dataclass(frozen=True)
class ReferencedProblem:
    """A problem of the user's. Nothing of it is executed before `parameters`, `problem` or `optimum` are asked for.

    Attributes:
        reference: `/absolute/path/to/file.py:name`, `module:name`, or a name that an installed package has registered.
        file: absolute path of the source file, None where there is none.
        sha256: of that file.
        arguments: of the function or class that gives the problem, as JSON.
    """

    reference: str
    file: str | None = None
    sha256: str | None = None
    arguments: Any = field(default_factory=dict)

    @classmethod
    def of(cls, reference: str) -> "ReferencedProblem":
        """As it is now. For a module its package is imported.

        Raises:
            ValueError: there is no such file, module or name.
        """
        place, file = place_of(reference), file_of(reference)
        if reference not in registered():
            source = str(Path(place.source).absolute()) if place.is_file else place.source
            reference = f"{source}:{place.name}"
        known = cls(reference, None if file is None else str(file))
        find(reference)
        return known.renewed()

    def __hash__(self) -> int:
        return hash((self.reference, self.sha256, json.dumps(self.arguments, sort_keys=True)))

    @property
    def title(self) -> str:
        """For people: the file's own name without its folder."""
        return Path(self.reference).name if self.file else self.reference

    @property
    def short_name(self) -> str:
        """For folders."""
        place = place_of(self.reference)
        return Path(place.source).stem if place.is_file else self.reference.replace(":", "-").replace("/", "-")

    def parameters(self) -> dict[str, Parameter]:
        """What it can be told."""
        return parameters_of(find(self.reference), self.title)

    def told(self, **arguments: Any) -> "ReferencedProblem":
        """Your problem, with these arguments."""
        return replace(self, arguments=json.loads(json.dumps(arguments, default=str)))

    def problem(self) -> BilevelProblem:
        """What is solved: one object a process.

        Raises:
            ValueError: the file has gone or is another one than `sha256` says, or no problem comes of it.
        """
        return _build(self).problem

    def knows_optimum(self) -> bool:
        """Whether the object behind the reference says where the optimum is."""
        return hasattr(_build(self).maker, "optimum")

    def log(self) -> TransitionLog | None:
        """The logged data that the object behind the reference says it is from: its `log()`; None where it has none.

        Raises:
            ValueError: that gives something else.
        """
        log = getattr(_build(self).maker, "log", None)
        given = log() if callable(log) else log
        if given is not None and not isinstance(given, TransitionLog):
            raise ValueError(f"{self.title}: log must give a TransitionLog, got {type(given).__name__}")
        return given

    def optimum(self, problem: BilevelProblem, entropy_weight: float) -> Solution:
        """The known optimum, or what exact descent finds from `initial_x`.

        Raises:
            ValueError: there are no tables.
        """
        if self.knows_optimum():
            return _build(self).maker.optimum(problem, entropy_weight)
        return descend(problem, entropy_weight)

    def renewed(self) -> "ReferencedProblem":
        """With the digest that the file has now."""
        return self if self.file is None else replace(self, sha256=digest_of(Path(self.file)))

    def flags(self) -> list[str]:
        """The words of a command line that name it: the reference, and every argument that is not the default."""
        words, parameters = [self.reference], self.parameters()
        for name, value in self.arguments.items():
            default = json.loads(json.dumps(parameters[name].default, default=str)) if name in parameters else None
            if value != default and value is not None:
                flag = flag_of(name)
                if isinstance(value, bool):
                    words.append(f"--{flag}" if value else f"--no-{flag}")
                else:
                    words += [f"--{flag}", *(map(str, _flat(value)))]
        return words


def descend(problem: BilevelProblem, entropy_weight: float, starts: Any = None, **options: Any) -> Solution:
    """Exact descent, annealed unless the follower has an entropy weight of its own."""
    shares = ANNEALED if problem.entropy_weight is None else (1.0,)
    weights = [share * entropy_weight for share in shares]
    return solve(problem, entropy_weight=weights, starts=starts, **options)


def _flat(value: Any) -> list[Any]:
    return [entry for part in value for entry in _flat(part)] if isinstance(value, list) else [value]


@functools.cache
def _build(reference: ReferencedProblem) -> Built:
    if reference.file is not None:
        file = Path(reference.file)
        if not file.is_file():
            raise ValueError(f"{file} has gone, from which the problem is built; put it back")
        if digest_of(file) != reference.sha256:
            raise ValueError(f"{file} has changed since this was begun; put it back as it was, or begin anew")
    value = find(reference.reference)
    parameters = parameters_of(value, reference.title)
    with blamed(reference.title if reference.file is None else reference.file):
        return Built(*built(value, _arguments(parameters, reference.arguments), reference.title))


def _arguments(parameters: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """JSON as what the parameters are."""
    options = from_json(options_of(parameters), given)
    return {name: getattr(options, name) for name in parameters}
