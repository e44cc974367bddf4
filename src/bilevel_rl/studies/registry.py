"""Every study, found by itself: a class in a module of its own is all that an experiment takes."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import MappingProxyType, ModuleType

from bilevel_rl import comparison, studies
from bilevel_rl.runs.folder import DamagedFileError, RunFolder, RunFolderError
from bilevel_rl.runs.json_files import FieldError
from bilevel_rl.runs.study import Study


class UnknownStudyError(RunFolderError):
    """A folder holds a run of a study that this version does not know."""


@functools.cache
def find_studies() -> MappingProxyType[str, type[Study]]:
    """Name to class, in the order of the names: classes with a name, in modules and in the module `study` of folders.

    Raises:
        ValueError: two studies have one name.
    """
    found: dict[str, type[Study]] = {}
    for package in (studies, comparison):
        for entry in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(f"{entry.name}.study" if entry.ispkg else entry.name)
            for kind in _named_in(module):
                if kind.name in found:
                    raise ValueError(f"{kind} and {found[kind.name]} are both named {kind.name!r}")
                found[kind.name] = kind
    return MappingProxyType(dict(sorted(found.items())))


def _named_in(module: ModuleType) -> Iterator[type[Study]]:
    for value in vars(module).values():
        is_own = inspect.isclass(value) and value.__module__ == module.__name__
        if is_own and issubclass(value, Study) and "name" in vars(value):
            yield value


def open_study(folder: RunFolder) -> Study:
    """The study whose run a folder holds.

    Raises:
        RunFolderError: this version does not know it, or `config.json` is damaged.
    """
    config = folder.config()
    name = config.get("experiment")
    kind = find_studies().get(str(name))
    if kind is None:
        raise UnknownStudyError(f"{folder.path} holds a run of {name!r}, which this version does not know")
    try:
        return kind.from_json(config["options"])
    except KeyError as error:
        raise DamagedFileError(folder.path / "config.json", "options is missing") from error
    except FieldError as error:
        raise DamagedFileError(folder.path / "config.json", f"options.{error}") from error
