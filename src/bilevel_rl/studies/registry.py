"""Every study, found by itself: a class in a module of its own is all that an experiment takes."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import MappingProxyType

from bilevel_rl import comparison, studies
from bilevel_rl.runs.folder import RunFolder, RunFolderError
from bilevel_rl.runs.study import Study


@functools.cache
def find_studies() -> MappingProxyType[str, type[Study]]:
    """Name to class, in the order of the names."""
    for package in (studies, comparison):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not _needs_an_extra(module.name):
                importlib.import_module(module.name)
    return MappingProxyType({kind.name: kind for kind in sorted(_concrete(Study), key=lambda kind: kind.name)})


def _needs_an_extra(name: str) -> bool:
    return name.startswith(f"{studies.__name__}.happy_tweets.") and not name.endswith(".study")


def _concrete(kind: type[Study]) -> Iterator[type[Study]]:
    """Subclasses that have a name; the others are what several studies share."""
    if not inspect.isabstract(kind) and hasattr(kind, "name"):
        yield kind
    for subclass in kind.__subclasses__():
        yield from _concrete(subclass)


def open_study(folder: RunFolder) -> Study:
    """The study whose run a folder holds.

    Raises:
        RunFolderError: this version does not know it.
    """
    config = folder.config()
    name = str(config.get("experiment"))
    kind = find_studies().get(name)
    if kind is None:
        raise RunFolderError(f"{folder.path} holds a run of {name!r}, which this version does not know")
    return kind.from_json(config["options"])
