"""Digests of what a function computes: the same in every process, another one where an operation or a number differs.

A function is traced, and its program read operation by operation, with the bytes of all its constants. Names do not
count, nor does where things lie in memory. What a program calls on the host is known by its code and what that holds.
"""

import dataclasses
import enum
import functools
import hashlib
import re
import types
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import PyTree

from bilevel_rl.formulation.holdings import holdings, is_library

ARRAYS = np.ndarray, np.generic, jax.Array, jax.ShapeDtypeStruct

NAMES = {"name", "debug_info"}
"""Parameters of operations that say what something is called."""

SCALARS = bool | int | float | complex | str | bytes | None

ADDRESS = re.compile(r" at 0x[0-9a-f]+|\b0x[0-9a-f]{6,}|\bid=\d+")


def of_arrays(tree: PyTree) -> str:
    """Digest of all arrays and numbers of a pytree, of their types and their places in it."""
    leaves = jax.tree.leaves_with_path(eqx.filter(tree, eqx.is_array_like))
    return of_texts(*(f"{jax.tree_util.keystr(path)} {_array(leaf)}" for path, leaf in leaves))


def of_program(function: Callable, *args: PyTree) -> tuple[str, PyTree[jax.ShapeDtypeStruct]]:
    """Digest of what a function does to arguments of these shapes, whatever their numbers; and its results' shapes.

    Args:
        function: of arrays in `args`; it is traced, not run.
        args: pytrees. Of arrays only the shape and type count, of all else what the function makes of it.
    """
    arrays, static = eqx.partition(args, lambda leaf: isinstance(leaf, ARRAYS))
    shapes = jax.tree.map(_shape, arrays)
    program, results = jax.make_jaxpr(lambda arrays: function(*eqx.combine(arrays, static)), return_shape=True)(shapes)
    return _Reader().program(program), results


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype if _is_key(leaf) else jax.dtypes.canonicalize_dtype(leaf.dtype))


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _is_tensor(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


def of_texts(*texts: str) -> str:
    """Sixteen hexadecimal digits that say whether texts are the same."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _array(value: Any) -> str:
    if isinstance(value, jax.Array) and _is_key(value):
        return f"{value.dtype} {_array(jax.random.key_data(value))}"
    if _is_tensor(value):
        try:
            values = value.detach().cpu().double().numpy()  # pyright: ignore  NumPy has not all of PyTorch's types.
        except ValueError:  # Of a lazy module, without values as yet.
            return type(value).__qualname__
        return f"{value.dtype} {_array(values)}"
    array = np.asarray(value)
    return f"{array.dtype} {array.shape} {hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()}"


class _Reader:
    """Reads programs; those within others once each."""

    def __init__(self):
        self._known: dict[int, str] = {}
        self._alive: list[Any] = []

    def program(self, program: ClosedJaxpr | Jaxpr) -> str:
        """Digest of a program."""
        if id(program) not in self._known:
            self._alive.append(program)
            if isinstance(program, ClosedJaxpr):
                text = of_texts(self.program(program.jaxpr), *map(_array, program.consts))
            else:
                text = of_texts(*self._lines(program))
            self._known[id(program)] = text
        return self._known[id(program)]

    def _lines(self, program: Jaxpr) -> list[str]:
        numbers: dict[Any, int] = {}

        def name(variable: Any) -> str:
            if isinstance(variable, Literal):
                return f"{_type(variable)} {_array(variable.val)}"
            return f"{numbers.setdefault(variable, len(numbers))} {_type(variable)}"

        lines = [", ".join(map(name, [*program.constvars, *program.invars]))]
        for equation in program.eqns:
            options = {key: self._option(key, value) for key, value in equation.params.items() if key not in NAMES}
            inputs, outputs = (list(map(name, variables)) for variables in (equation.invars, equation.outvars))
            lines.append(f"{equation.primitive.name} {sorted(options.items())} {inputs} {outputs}")
        return [*lines, ", ".join(map(name, program.outvars))]

    def _option(self, key: str, value: Any) -> str:
        if key == "callback":  # On the host, by jax.pure_callback and its like.
            return of_object(getattr(value, "callback_func", value))
        return self._value(value)

    def _value(self, value: Any) -> str:
        match value:
            case ClosedJaxpr() | Jaxpr():
                return self.program(value)
            case np.ndarray() | np.generic() | jax.Array():
                return _array(value)
            case tuple() | list():
                return f"({', '.join(map(self._value, value))})"
            case dict():
                return str(sorted((self._value(key), self._value(entry)) for key, entry in value.items()))
            case set() | frozenset():
                return str(sorted(map(self._value, value)))
            case types.FunctionType() | types.MethodType() | functools.partial():
                return "rule"  # Of a derivative, which stands in the program where it is taken.
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
            return f"{type(value).__name__} {self._value(fields)}"
        return _plain(value)


def _type(variable: Any) -> str:
    return f"{variable.aval.str_short()} {getattr(variable.aval, 'weak_type', None)}"


def _plain(value: Any) -> str:
    """What is neither a program nor holds anything, without its address."""
    if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
        return f"{getattr(value, '__module__', '')}.{value.__name__}"
    if isinstance(value, enum.Enum | SCALARS):
        return repr(value)
    return f"{type(value).__module__}.{type(value).__qualname__} {ADDRESS.sub('', repr(value))}"


def of_object(value: Any) -> str:
    """Digest of what is not traced, as a function on the host: its code, and code and numbers of all that it holds."""
    numbers, lines, waiting = {id(value): 0}, [], [value]
    for value in waiting:  # Which grows.
        held = holdings(value)
        line = [_own(value, is_empty=not held)]
        for place, part in held.items():
            if isinstance(part, SCALARS):
                line.append(f"{place} {part!r}")
                continue
            if id(part) not in numbers:
                numbers[id(part)] = len(numbers)
                waiting.append(part)
            line.append(f"{place} {numbers[id(part)]}")
        lines.append(" ".join(line))
    return of_texts(*lines)


def _own(value: Any, *, is_empty: bool) -> str:
    if isinstance(value, np.ndarray | np.generic | jax.Array) or _is_tensor(value):
        return _array(value)
    if isinstance(value, types.FunctionType):
        is_named = is_library(value.__module__)
        return f"{value.__module__}.{value.__qualname__}" if is_named else _code(value.__code__)
    if isinstance(value, set | frozenset):
        return str(sorted(map(_plain, value)))
    return _plain(value) if is_empty else type(value).__qualname__


def _code(code: types.CodeType) -> str:
    constants = [
        _code(constant) if isinstance(constant, types.CodeType) else _own(constant, is_empty=True)
        for constant in code.co_consts
    ]
    return of_texts(code.co_code.hex(), *constants, *code.co_names)
