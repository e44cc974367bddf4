"""What functions and objects hold: one step of a walk from a function to everything that it can read.

A function holds what it captured, its defaults and the module-level names that its code mentions; a method its object;
an object its attributes and the functions of its class; a container its entries. Libraries' own names are not followed.
"""

import functools
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np

LIBRARIES = {"beartype", "equinox", "jax", "jaxlib", "jaxtyping", "numpy", "optax", "scipy", "torch"}
"""Packages whose modules and classes hold nothing that a problem is about; those of Python do not either."""

COMPILED: tuple[type, ...] = tuple(type(make(lambda: None)) for make in (jax.jit, eqx.filter_jit, functools.cache))
"""What is compiled or cached by itself, which within another program means nothing."""

OPEN: tuple[type, ...] = types.SimpleNamespace, jax.custom_jvp, jax.custom_vjp, eqx.Module
"""Libraries' objects that hold what is their user's."""

OUR_OWN = tuple(
    f"bilevel_rl.{room}"
    for room in ("algorithms", "checks", "environments", "exact", "figures", "formulation", "policies", "runs")
)
"""Rooms of this library whose functions hold nothing that a problem is about."""

Place = tuple[Any, ...]
"""Where in its holder something is: a kind, and a name or a number."""


def holdings(value: Any) -> dict[Place, Any]:
    """What a value holds, by place; nothing where it is a number, an array, a module, or a library's object."""
    if isinstance(value, np.ndarray | type | types.ModuleType):
        return {}
    if isinstance(value, types.FunctionType):
        return dict(_of_function(value))
    if isinstance(value, types.MethodType):
        return {("function",): value.__func__, ("object",): value.__self__}
    if isinstance(value, functools.partial):
        return {("function",): value.func, ("arguments",): value.args, ("keywords",): value.keywords}
    if isinstance(value, dict):
        return {("entry", key): entry for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return {("entry", number): entry for number, entry in enumerate(value)}
    if isinstance(value, COMPILED):
        return {("wrapped",): value.__wrapped__}  # pyright: ignore
    if is_library(type(value).__module__) and hasattr(type(value), "state_dict"):
        return {("state",): dict(value.state_dict())}
    if is_library(type(value).__module__) and not isinstance(value, OPEN):
        return {}
    attributes: dict[Place, Any] = {("attribute", name): attribute for name, attribute in _attributes(value)}
    return attributes | {("method", name): method for name, method in _methods(type(value))}


def is_library(module: str | None) -> bool:
    """Whether a module is Python's own, that of one of the `LIBRARIES`, or in a room of ours that knows no problem."""
    module = module or ""
    root = module.partition(".")[0]
    return module.startswith(OUR_OWN) or root in LIBRARIES or (root in sys.stdlib_module_names and root != "__main__")


def _of_function(function: types.FunctionType) -> Iterator[tuple[Place, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield ("captured", name), cell.cell_contents
        except ValueError:  # A name that is bound only after the function was made.
            continue
    for number, default in enumerate(function.__defaults__ or ()):
        yield ("default", number), default
    for name, default in (function.__kwdefaults__ or {}).items():
        yield ("keyword default", name), default
    if is_library(function.__module__):  # What jax.vmap makes of a function holds it, but by capture alone.
        return
    # pytest rewrites asserts, and hands them modules of its own by names like `@pytest_ar`.
    names = [name for name in names_in(function.__code__) if not name.startswith("@")]
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, types.ModuleType):
            if not is_library(value.__name__):
                yield from ((("module", name, inner), vars(value)[inner]) for inner in names if inner in vars(value))
        elif name in function.__globals__:
            yield ("global", name), value


def names_in(code: types.CodeType) -> list[str]:
    """Names that a code mentions, besides its variables, functions within it included; each once, in order."""
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= dict.fromkeys(names_in(constant))
    return list(names)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def _methods(kind: type) -> Iterator[tuple[str, types.FunctionType]]:
    own: list[Mapping[str, Any]] = [
        vars(ancestor) for ancestor in reversed(kind.__mro__) if not is_library(ancestor.__module__)
    ]
    members = {name: member for of_class in own for name, member in of_class.items()}
    yield from ((name, member) for name, member in members.items() if isinstance(member, types.FunctionType))
