"""What the function, or the class, that gives a problem can be told: a flag for each parameter."""

import dataclasses
import inspect
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, cast, get_args, get_origin, get_type_hints

import docstring_parser

from bilevel_rl.formulation import BilevelProblem

PLAIN: tuple[type, ...] = (bool, int, float, str, Path)
"""Types whose values a word on the command line, and in JSON, can be."""

RESERVED = frozenset(
    {"name", "problem", "study", "folder", "progress", "json", "job", "workers"}
    | {"coordinator", "num_processes", "process_id", "cpu_devices", "jobs", "backend", "address"}
    | {"run", "num_seeds", "num_iterations", "log_every", "checkpoint_every", "seed", "generator", "seeds_per_group"}
    | {"evaluation_entropy_weight", "diagnostics", "report_to", "method", "coupled", "width", "find_optimum"}
    | {"fresh_followers"}
    | {"schedule", "upper", "actor", "critic", "penalty", "entropy_weight", "offset", "num_chains"}
    | {"comparison", "methods", "budget", "trials", "tuning_seeds", "num_log_points", "tuning", "batch_size"}
    | {"max_iterations", "tolerance"}
)
"""Flags of the commands themselves; a parameter of that name becomes `--problem-NAME`."""

REQUIRED = inspect.Parameter.empty


class Parameter(NamedTuple):
    """One parameter.

    Attributes:
        kind: its type.
        default: `REQUIRED` where there is none.
        help: from the docstring.
    """

    kind: Any
    default: Any
    help: str


def parameters_of(value: Any, where: str) -> dict[str, Parameter]:
    """The parameters of what gives a problem; none of a problem itself.

    A parameter with a default of which no flag can be made keeps its default, and is left out.

    Args:
        value: a `BilevelProblem`, an object or a class with a method `problem`, or a function.
        where: what to call it in messages.

    Raises:
        ValueError: it is nothing of these, or a flag cannot be made of a parameter without a default.
    """
    if isinstance(value, BilevelProblem) or (not inspect.isclass(value) and hasattr(value, "problem")):
        return {}
    if not callable(value) or (inspect.isclass(value) and not hasattr(value, "problem")):
        raise ValueError(
            f"{where} must be a BilevelProblem, a function that returns one, or a dataclass with a method `problem`, "
            f"got {type(value).__name__ if not inspect.isclass(value) else f'the class {value.__name__}'}"
        )
    documented = docstring_parser.parse(inspect.getdoc(value) or "").params
    helps = {entry.arg_name: " ".join((entry.description or "").split()) for entry in documented}
    found = {}
    for name, kind, default in _declared(value, where):
        if not _is_flag(kind):
            if default is not REQUIRED:
                continue
            said = "has no type" if kind is REQUIRED else f"is of type {kind}"
            raise ValueError(
                f"parameter {name!r} of {where} {said} and has no default, so no flag can be made of it; give it a "
                f"default, or a type: {name}: float"
            )
        found[name] = Parameter(kind, default, helps.get(name, ""))
    return found


def _declared(value: Any, where: str) -> list[tuple[str, Any, Any]]:
    """Name, type and default of every parameter that can be named in a call."""
    if dataclasses.is_dataclass(value):
        hints = get_type_hints(value)
        return [(field.name, hints[field.name], _default(field)) for field in dataclasses.fields(value) if field.init]
    try:
        signature = inspect.signature(value, eval_str=True)
    except (TypeError, ValueError, NameError) as error:
        raise ValueError(f"the parameters of {where} cannot be read: {error}") from error
    variadic = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return [
        (p.name, type(p.default) if p.annotation is REQUIRED and p.default is not REQUIRED else p.annotation, p.default)
        for p in signature.parameters.values()
        if p.kind not in variadic
    ]


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default


def _is_flag(kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return all(part is types.NoneType or _is_flag(part) for part in arguments)
    if origin is tuple:
        return bool(arguments) and all(_is_flag(part) for part in arguments if part is not ...)
    return origin is Literal or kind in PLAIN


def flag_of(name: str) -> str:
    """What the flag of a parameter is called, without its dashes."""
    return f"{'problem_' if name in RESERVED else ''}{name}".replace("_", "-")


def options_of(parameters: Mapping[str, Parameter]) -> type:
    """A dataclass with a field for each parameter, into which JSON is read."""
    fields = [
        (name, p.kind)
        if p.default is REQUIRED
        else (name, p.kind, dataclasses.field(default_factory=lambda p=p: p.default))
        for name, p in sorted(parameters.items(), key=lambda item: item[1].default is not REQUIRED)
    ]
    return dataclasses.make_dataclass("Arguments", fields, frozen=True)


def built(value: Any, arguments: Mapping[str, Any], where: str) -> tuple[BilevelProblem, Any]:
    """The problem, and the object that made it, which may know its optimum; None where a function did.

    Raises:
        ValueError: no problem is returned.
    """
    is_given = isinstance(value, BilevelProblem) or (not inspect.isclass(value) and hasattr(value, "problem"))
    maker = value if is_given else cast(Any, value)(**arguments)
    if isinstance(maker, BilevelProblem):
        return maker, None
    problem = cast(Any, maker).problem() if hasattr(maker, "problem") else maker
    if not isinstance(problem, BilevelProblem):
        raise ValueError(f"{where} must return a BilevelProblem, got {type(problem).__name__}")
    return problem, maker
