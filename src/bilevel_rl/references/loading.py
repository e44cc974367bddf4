"""From `path/to/file.py:name`, `module:name` or a registered name to the object; a mistake in it is one sentence."""

import contextlib
import difflib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from bilevel_rl.formulation import BilevelProblem

GROUP = "bilevel_rl.problems"
"""Entry points by which installed packages register problems."""

DEFAULT_NAME = "problem"
"""What a reference means that names no object."""

MODULE_PREFIX = "bilevel_rl_reference_"
"""Of the names of modules that are files: no file hides a module of that name, nor counts as a library."""


class Place(NamedTuple):
    """Where an object is: a file or a module, and its name there."""

    source: str
    name: str

    @property
    def is_file(self) -> bool:
        """Whether the source is a file, and not a module."""
        return self.source.endswith(".py") or "/" in self.source or "\\" in self.source


@functools.cache
def registered() -> dict[str, str]:
    """Problems of installed packages: name to reference."""
    return {entry.name: entry.value for entry in importlib.metadata.entry_points(group=GROUP)}


def is_reference(text: str) -> bool:
    """Whether a word on the command line names an object, and not a study."""
    return any(mark in text for mark in ":./\\") or text in registered()


def place_of(reference: str) -> Place:
    """Where an object is to be found; nothing is looked at."""
    reference = registered().get(reference, reference)
    source, colon, name = reference.rpartition(":")
    if colon and all(part.isidentifier() for part in name.split(".")):
        return Place(source, name)
    if colon and source.endswith(".py"):
        raise ValueError(f"{reference}: after the colon there must be a name, got {name!r}; write {source}:problem")
    return Place(reference, DEFAULT_NAME)


def find(reference: str) -> Any:
    """The object that a reference names; its file or module is executed.

    Raises:
        ValueError: there is no such file, module or name, or it raises when it is executed; the message names file and
            line.
    """
    place = place_of(reference)
    module = load_file(Path(place.source)) if place.is_file else _load_module(place.source)
    value: Any = module
    for part in place.name.split("."):
        if not hasattr(value, part):
            raise ValueError(f"{place.source} has no {part!r}{_said(part, _candidates(module))}")
        value = getattr(value, part)
    return value


def file_of(reference: str) -> Path | None:
    """The source file behind a reference, None where there is none; for a module its package is imported."""
    place = place_of(reference)
    if place.is_file:
        return Path(place.source).absolute()
    module = _load_module(place.source)
    return None if module.__file__ is None else Path(module.__file__)


def digest_of(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def load_file(path: Path) -> ModuleType:
    """A file as a module, executed once for each content; its folder is searched for what it imports.

    Raises:
        ValueError: as `find`.
    """
    path = path.absolute()
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [file.name for file in path.parent.glob("*.py")])
        there = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise ValueError(f"there is no file {path}{there}")
    return _execute(path, digest_of(path))


@functools.cache
def _execute(path: Path, digest: str) -> ModuleType:
    name = MODULE_PREFIX + path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    sys.modules[name] = module  # Dataclasses look their module up there.
    try:
        # Not by the loader, whose cache of byte code goes by seconds: a file may have changed within one.
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ValueError(_sentence(error, path)) from error
    return module


@contextlib.contextmanager
def blamed(source: str) -> Iterator[None]:
    """While it is open, what goes wrong is one sentence about a file; a `ValueError` says enough by itself."""
    try:
        yield
    except ValueError:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(_sentence(error, Path(source))) from error


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            remedy = "write path/to/file.py:name for a file, or install the package"
            raise ValueError(f"there is no module {name}; {remedy}") from error
        raise ValueError(f"{name} cannot be imported: {error}") from error
    except (Exception, SystemExit) as error:
        raise ValueError(_sentence(error, Path(name))) from error


def _sentence(error: BaseException, path: Path) -> str:
    """Where in the file an exception came from, and what it says."""
    line = next(
        (f.lineno for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == str(path)), None
    )
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line = error.lineno
    said = "it ends the program; put that below `if __name__ == '__main__':`"
    what = said if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
    return f"{path}{'' if line is None else f', line {line}'}: {what}"


def _candidates(module: ModuleType) -> list[str]:
    """Names of what may be a problem, or give one."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (
            isinstance(value, BilevelProblem)
            or ((inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__)
            or (hasattr(value, "problem") and not inspect.ismodule(value) and not inspect.isclass(value))
        )
    ]


def _said(name: str, candidates: Sequence[str]) -> str:
    """What there is instead."""
    near = difflib.get_close_matches(name, candidates, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{meant} It has {', '.join(candidates)}" if candidates else "; it has no problem, and no function"
