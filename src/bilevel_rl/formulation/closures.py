"""Arrays that a plain function reads, wherever they hide, made leaves of a pytree.

Compiled programs would keep such arrays as constants. JAX 0.10 caches a constant NumPy array by identity in the
precision in which it was first used, so an oracle in double precision would meet the single-precision copy of an
earlier run, and fail or lose digits. As leaves the arrays are inputs of every program, in its own precision.
"""

import functools
import types
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from bilevel_rl.formulation.holdings import Place, holdings


class _Same:
    """A function as part of a program's key: equal to itself alone, also where it cannot be hashed."""

    def __init__(self, function: Any):
        self.function = function
        is_method = isinstance(function, types.MethodType)
        self._key = (id(function.__self__), function.__func__) if is_method else id(function)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


class OpenFunction(eqx.Module):
    """A function whose NumPy arrays are leaves: captured, defaults, module-level, in objects, containers and helpers.

    Attributes:
        written: the function as it was written.
        arrays: all that it can read, in the order in which a walk meets them.
    """

    written: _Same = eqx.field(static=True)
    arrays: tuple[np.ndarray, ...]

    def __call__(self, *args: Any) -> Any:
        """Calls a copy of the function that reads the leaves instead."""
        found = _Found(self.written.function)
        if len(found.arrays) != len(self.arrays):
            raise ValueError(
                "a function of the problem holds other arrays than when the problem was made; make it anew"
            )
        return found.copy_with(self.arrays)(*args)


def open_function(function: Any) -> Any:
    """The function itself where it reads no NumPy arrays, otherwise its `OpenFunction`.

    A pytree that can be called, as an `equinox.Module`, has leaves already: it stays one, with its functions opened.
    """
    if isinstance(function, OpenFunction) or not callable(function):
        return function
    arrays = _Found(function).arrays
    if not arrays:
        return function
    if not jax.tree_util.all_leaves([function]):
        opened = jax.tree.map(open_function, function)
        if len(arrays) == len({id(leaf) for leaf in jax.tree.leaves(opened) if _is_table(leaf)}):
            return opened
    return OpenFunction(_Same(function), tuple(arrays))


def _is_table(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biufc"


class _Found:
    """Everything that a function reads, each thing once, and which of it leads to arrays.

    Attributes:
        arrays: of numbers, in the order of the walk.
    """

    def __init__(self, root: Any):
        self._root, self.arrays = root, list[np.ndarray]()
        self._held: dict[int, dict[Place, Any]] = {}
        holders: dict[int, list[int]] = {}
        waiting, met = [root], {id(root): root}
        while waiting:
            value = waiting.pop()
            if _is_table(value):
                self.arrays.append(value)
                continue
            # An open function's arrays are leaves already; what it was written as reads them no more.
            is_open = isinstance(value, OpenFunction)
            held = self._held[id(value)] = {("attribute", "arrays"): value.arrays} if is_open else holdings(value)
            for part in held.values():
                holders.setdefault(id(part), []).append(id(value))
                if id(part) not in met:
                    met[id(part)] = part
                    waiting.append(part)
        self._alive = met  # Else an id could become that of something new.
        self._touched = set[int]()
        rising = [id(array) for array in self.arrays]
        while rising:
            for holder in holders.get(rising.pop(), ()):
                if holder not in self._touched:
                    self._touched.add(holder)
                    rising.append(holder)

    def copy_with(self, leaves: Iterable[Any]) -> Any:
        """The function with leaves instead of its arrays. Whatever leads to none of them is shared, not copied."""
        copies: dict[int, Any] = {id(array): leaf for array, leaf in zip(self.arrays, leaves, strict=True)}

        def copied(value: Any) -> Any:
            if id(value) not in copies and id(value) in self._touched:
                held = self._held[id(value)]
                changed = {place: part for place, part in held.items() if id(part) in self._touched | copies.keys()}
                copy, fill = _empty_copy(value, changed, copied)
                copies[id(value)] = copy  # Before it is filled, since it may lead to itself.
                fill()
            return copies.get(id(value), value)

        return copied(self._root)


Fill = Callable[[], None]


def _empty_copy(value: Any, changed: dict[Place, Any], copied: Callable[[Any], Any]) -> tuple[Any, Fill]:
    """A copy, and what puts copies of the changed parts in. What cannot be part of a circle by itself is made whole."""
    done: Fill = lambda: None  # noqa: E731
    match value:
        case types.FunctionType():
            return _empty_function(value, changed, copied)
        case types.MethodType():
            return types.MethodType(copied(value.__func__), copied(value.__self__)), done
        case functools.partial():
            return functools.partial(copied(value.func), *copied(value.args), **copied(value.keywords)), done
        case tuple():
            entries = map(copied, value)
            return (value._make(entries) if hasattr(value, "_make") else type(value)(entries)), done  # pyright: ignore
        case list() | dict():
            copy = value.copy()

            def fill_container():
                for (_, key), part in changed.items():
                    copy[key] = copied(part)  # pyright: ignore[reportArgumentType]

            return copy, fill_container
    if ("wrapped",) in changed:
        return copied(value.__wrapped__), done
    return _empty_object(value, changed, copied)


def _empty_function(
    function: types.FunctionType, changed: dict[Place, Any], copied: Callable[[Any], Any]
) -> tuple[Any, Fill]:
    cells = {name: types.CellType() for kind, name, *_ in changed if kind == "captured"}
    closure = tuple(
        cells.get(name, cell)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    )
    is_global = any(kind in ("global", "module") for kind, *_ in changed)
    names = dict(function.__globals__) if is_global else function.__globals__
    copy = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, closure)
    copy.__kwdefaults__ = keyword_defaults = dict(function.__kwdefaults__ or {})

    def fill():
        defaults = list(function.__defaults__ or ())
        for (kind, name, *inner), part in changed.items():
            match kind:
                case "captured":
                    cells[name].cell_contents = copied(part)
                case "default":
                    defaults[name] = copied(part)
                case "keyword default":
                    keyword_defaults[name] = copied(part)
                case "global":
                    names[name] = copied(part)
                case "module":
                    if names[name] is function.__globals__[name]:
                        names[name] = types.ModuleType(name)
                        vars(names[name]).update(vars(function.__globals__[name]))
                    setattr(names[name], inner[0], copied(part))
        copy.__defaults__ = tuple(defaults) or None

    return copy, fill


def _empty_object(value: Any, changed: dict[Place, Any], copied: Callable[[Any], Any]) -> tuple[Any, Fill]:
    kind = type(value)
    methods = {name: copied(part) for (place, name), part in changed.items() if place == "method"}
    copy = object.__new__(type(kind)(kind.__name__, (kind,), methods) if methods else kind)  # pyright: ignore

    def fill():
        for (place, *name), part in holdings(value).items():
            if place == "attribute":
                object.__setattr__(copy, name[0], copied(part))

    return copy, fill
