"""From words to a command: studies by name, the user's problems by reference, and what was meant by another word."""

import difflib
import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from bilevel_rl.cli.commands import (
    Compare,
    Diagnose,
    Init,
    List,
    Plot,
    Rate,
    Report,
    Resume,
    Run,
    Runs,
    Solve,
    SolveAny,
    Tune,
)
from bilevel_rl.cli.looking import title
from bilevel_rl.references import ReferencedProblem, is_reference, registered
from bilevel_rl.references.parameters import REQUIRED, flag_of
from bilevel_rl.runs.job import Job
from bilevel_rl.runs.study import Command, Study
from bilevel_rl.studies.registry import find_studies

OF_STUDIES: dict[str, Any] = {"run": Run, "compare": Compare, "tune": Tune, "solve": Solve}
OTHERS: dict[str, Any] = {
    "solve": SolveAny,
    "resume": Resume,
    "plot": Plot,
    "report": Report,
    "rate": Rate,
    "diagnose": Diagnose,
    "list": List,
    "runs": Runs,
    "init": Init,
}
CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.CascadeSubcommandArgs)


def parse(arguments: Sequence[str]) -> Any:
    """The command that was meant.

    Raises:
        ValueError: there is none of that name; or what `ReferencedProblem` says of a reference.
        SystemExit: for --help, and for options that tyro refuses.
    """
    match arguments:
        case [command, study, *rest] if command in OF_STUDIES and not study.startswith("-"):
            if is_reference(study):
                return _of_reference(cast(Command, command), study, rest)
            _check_known(study, _names(command), f"{command}: there is no experiment")
        case [command, *_] if not command.startswith("-"):
            _check_known(command, [*OF_STUDIES, *OTHERS], "there is no command")
    return _cli(_commands(), arguments, "bilevel-rl")


def _cli(kind: Any, arguments: Sequence[str], prog: str, **options: Any) -> Any:
    return tyro.cli(
        kind, args=arguments, prog=prog, description="Bi-level reinforcement learning.", config=CONFIG, **options
    )


def _check_known(word: str, known: Sequence[str], lacking: str):
    if word in known:
        return
    near = difflib.get_close_matches(word, known, n=3)
    meant = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}."
    own = " Your own problem: path/to/file.py:name" if "experiment" in lacking else ""
    raise ValueError(f"{lacking} {word!r}; {meant}{own}")


def _names(command: str) -> list[str]:
    kinds = [kind for kind in find_studies().values() if kind.command == command and not kind.takes_reference]
    return [*map(title, kinds), *registered()]


def _commands() -> Any:
    """The union of all commands, with a subcommand for every study."""
    kinds = {name: OF_STUDIES[name][_studies_of(name)] for name in ("run", "compare", "tune")} | OTHERS
    return functools.reduce(
        operator.or_, [Annotated[kind, tyro.conf.subcommand(command)] for command, kind in kinds.items()]
    )


def _studies_of(command: str) -> Any:
    kinds = [kind for kind in find_studies().values() if kind.command == command and not kind.takes_reference]
    return functools.reduce(operator.or_, [Annotated[kind, tyro.conf.subcommand(title(kind))] for kind in kinds])


def _of_reference(command: Command, reference: str, rest: Sequence[str]) -> Any:
    """A command on the user's problem, whose parameters are flags beside those of the command."""
    if command == "run":
        _join(rest)
    problem, registry = ReferencedProblem.of(reference), ConstructorRegistry()
    parameters = problem.parameters()

    @registry.struct_rule
    def flags(info: StructTypeInfo) -> StructConstructorSpec | None:
        if info.type is not ReferencedProblem:
            return None
        fields = [
            StructFieldSpec(
                name=name,
                type=cast(Any, Annotated[parameter.kind, tyro.conf.arg(name=flag_of(name))]),
                default=tyro.MISSING if parameter.default is REQUIRED else parameter.default,
                helptext=parameter.help or "of the problem",
            )
            for name, parameter in parameters.items()
        ]
        return StructConstructorSpec(instantiate=problem.told, fields=tuple(fields))

    study = _own_study(command)
    kind = OF_STUDIES[command]
    default = kind(study.of(problem))  # pyright: ignore[reportAttributeAccessIssue]
    return _cli(kind[study], rest, f"bilevel-rl {command} {reference}", registry=registry, default=default)


@dataclass(frozen=True)
class _Early:
    """Options that are needed before the user's file, which may compute something, is executed."""

    folder: Path | None = None
    job: Job = field(default_factory=Job)


def _join(arguments: Sequence[str]):
    """Prepares the devices of the job; other options are left alone."""
    options = {"return_unknown_args": True, "add_help": False, "config": CONFIG}
    early, _ = tyro.cli(_Early, args=arguments, **options)
    early.job.join(early.folder)


def _own_study(command: Command) -> type[Study]:
    return next(kind for kind in find_studies().values() if kind.command == command and kind.takes_reference)
