"""Pytrees of arrays and a note of JSON in one `.npz` file, without pickle: anybody may read it, and it runs nothing."""

import io
import json
import zipfile
from collections import OrderedDict, namedtuple
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from bilevel_rl.files.atomic import write_atomically

CARD, TREE = "card", "tree"
"""Entries of a file that hold JSON: what the arrays are, and how they hang together."""


def write_arrays(path: Path, tree: PyTree, card: Mapping[str, Any]):
    """Writes a pytree of arrays, and a note of JSON beside it, as one file; the old one stays until the new is whole.

    Dicts, lists, tuples and named tuples come back as such. Other nodes, such as modules, come back as ordered
    dicts of their parts, so that leaves keep their order.

    Args:
        path: of the file.
        tree: whose leaves are arrays or numbers.
        card: what it is.
    """
    arrays: list[np.ndarray] = []
    structure = _described(tree, arrays)
    buffer = io.BytesIO()
    texts = {CARD: np.array(json.dumps(card)), TREE: np.array(json.dumps(structure))}
    np.savez(buffer, **texts, **{f"leaf{i}": array for i, array in enumerate(arrays)})  # pyright: ignore
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path) -> tuple[PyTree[np.ndarray], dict[str, Any]]:
    """What `write_arrays` wrote: the tree and the note.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not what was written.
    """
    try:
        with np.load(path) as file:
            entries = dict(file)
        return _built(json.loads(str(entries[TREE])), entries), json.loads(str(entries[CARD]))
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a file of arrays that this package wrote, {error}") from error


def _described(node: Any, arrays: list[np.ndarray]) -> Any:
    """The structure as JSON; the leaves are appended to `arrays`."""
    match node:
        case None:
            return None
        case dict():
            return {"dict": [[key, _described(part, arrays)] for key, part in _with_text_keys(node)]}
        case tuple() if hasattr(node, "_fields"):
            fields = list(getattr(node, "_fields"))  # noqa: B009  # Which the type of a tuple does not promise.
            parts = [_described(part, arrays) for part in node]
            return {"namedtuple": type(node).__name__, "fields": fields, "parts": parts}
        case list() | tuple():
            return {type(node).__name__: [_described(part, arrays) for part in node]}
    if jax.tree_util.all_leaves([node]):
        arrays.append(np.asarray(node))
        return len(arrays) - 1
    parts = jax.tree.leaves_with_path(node, is_leaf=lambda part: part is not node)
    named = {jax.tree_util.keystr(path).lstrip("."): part for path, part in parts}
    return {"ordered": _described(named, arrays)["dict"]}


def _with_text_keys(node: dict) -> list[tuple[str, Any]]:
    for key in node:
        if not isinstance(key, str):
            raise ValueError(f"keys of dicts must be texts to be written, got {key!r}")
    return list(node.items())


def _built(structure: Any, entries: Mapping[str, np.ndarray]) -> Any:
    if structure is None:
        return None
    if isinstance(structure, int):
        return entries[f"leaf{structure}"]
    if "dict" in structure:
        return {key: _built(part, entries) for key, part in structure["dict"]}
    if "ordered" in structure:
        return OrderedDict((key, _built(part, entries)) for key, part in structure["ordered"])
    if "namedtuple" in structure:
        parts = [_built(part, entries) for part in structure["parts"]]
        return namedtuple(structure["namedtuple"], structure["fields"])(*parts)
    ((kind, parts),) = structure.items()
    return {"list": list, "tuple": tuple}[kind](_built(part, entries) for part in parts)
