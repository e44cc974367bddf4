"""Files of JSON that people may have edited: every value is checked against the type that it stands for."""

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from bilevel_rl.runs.errors import DamagedFileError

Config = TypeVar("Config")


class FieldError(ValueError):
    """A field of JSON is missing, unknown, or of another type; the message names it."""


def read_json(path: Path) -> Any:
    """What a file holds.

    Raises:
        DamagedFileError: it is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DamagedFileError(path, f"it is not JSON, {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """As `read_json`, of a file that holds an object.

    Raises:
        DamagedFileError: it does not.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise DamagedFileError(path, f"it must be a JSON object, got {_shown(value)}")
    return value


def from_json(kind: type[Config], options: Any, *, name: str = "") -> Config:
    """The dataclass whose fields were written as JSON: lists back to tuples, objects back to dataclasses.

    Args:
        kind: the dataclass.
        options: JSON.
        name: of the field that holds it, for messages.

    Raises:
        FieldError: a field is missing, unknown, of another type, or not a number.
    """
    prefix = f"{name}." if name else ""
    if not isinstance(options, Mapping):
        raise FieldError(f"{name or 'it'} must be a JSON object, got {_shown(options)}")
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    for unknown in options.keys() - fields.keys():
        raise FieldError(f"{prefix}{unknown} is no option that this version knows")
    for field in fields.values():
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.name not in options and not has_default:
            raise FieldError(f"{prefix}{field.name} is missing")
    return kind(**{key: _value(hints[key], value, f"{prefix}{key}") for key, value in options.items()})


def _value(kind: Any, value: Any, name: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return from_json(kind, value, name=name)
    if origin in (Union, types.UnionType):
        return _first_that_fits(arguments, value, name)
    if origin is Literal:
        if value not in arguments:
            raise FieldError(f"{name} must be one of {', '.join(map(str, arguments))}, got {_shown(value)}")
        return value
    if origin is tuple:
        return _tuple(arguments, value, name)
    if kind is Any or kind is None:
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and is_number and not math.isnan(value):
        return value
    if kind is not float and isinstance(kind, type) and isinstance(value, kind) and (kind is not int or is_number):
        return value
    if kind is types.NoneType:
        raise FieldError(f"{name} must be null, got {_shown(value)}")
    raise FieldError(f"{name} must be {_called(kind)}, got {_shown(value)}")


def _first_that_fits(kinds: tuple[Any, ...], value: Any, name: str) -> Any:
    refusals = []
    for kind in kinds:
        try:
            return _value(kind, value, name)
        except FieldError as error:
            refusals.append(str(error).partition(", got ")[0].removeprefix(f"{name} must be "))
    raise FieldError(f"{name} must be {' or '.join(refusals)}, got {_shown(value)}")


def _tuple(kinds: tuple[Any, ...], value: Any, name: str) -> tuple:
    if not isinstance(value, list):
        raise FieldError(f"{name} must be a list, got {_shown(value)}")
    if kinds[1:] == (...,):
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise FieldError(f"{name} must have {len(kinds)} entries, got {len(value)}")
    return tuple(_value(kind, entry, f"{name}[{i}]") for i, (kind, entry) in enumerate(zip(kinds, value, strict=True)))


def _called(kind: Any) -> str:
    return {int: "an integer", float: "a number", str: "a string", bool: "true or false"}.get(kind, str(kind))


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
