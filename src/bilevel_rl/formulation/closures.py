"""Arrays that a plain function closes over, made leaves of a pytree.

Compiled programs would keep such arrays as constants. JAX 0.10 caches a constant NumPy array by identity in the
precision in which it was first used, so an oracle in double precision would meet the single-precision copy of an
earlier run, and fail or lose digits. As leaves the arrays are inputs of every program, in its own precision.
"""

import types
from typing import Any

import equinox as eqx
import numpy as np


class OpenFunction(eqx.Module):
    """A plain function whose captured NumPy arrays are leaves.

    Attributes:
        function: the function as it was written.
        cells: closure variables by name that are arrays, or functions with arrays of their own.
        module_arrays: module-level arrays by name that the function reads.
    """

    function: Any = eqx.field(static=True)
    cells: dict[str, Any]
    module_arrays: dict[str, np.ndarray]

    def __call__(self, *args: Any) -> Any:
        """Calls the function with the leaves instead of what it captured."""
        code, captured = self.function.__code__, self.function.__closure__ or ()
        cells = tuple(
            types.CellType(self.cells[name]) if name in self.cells else cell
            for name, cell in zip(code.co_freevars, captured, strict=True)
        )
        names = self.function.__globals__ | self.module_arrays
        copy = types.FunctionType(code, names, self.function.__name__, self.function.__defaults__, cells)
        copy.__kwdefaults__ = self.function.__kwdefaults__
        return copy(*args)


def open_function(function: Any, *, enclosing: tuple[Any, ...] = ()) -> Any:
    """The function itself where it captures no NumPy arrays, otherwise its `OpenFunction`.

    Functions that call each other recursively (`enclosing` holds those being opened) stay as they are.
    """
    if not isinstance(function, types.FunctionType) or function in enclosing:
        return function
    code, cells = function.__code__, {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            content = cell.cell_contents
        except ValueError:  # A name that is bound only after the function was made.
            continue
        if isinstance(content, np.ndarray):
            cells[name] = content
        elif isinstance(opened := open_function(content, enclosing=(*enclosing, function)), OpenFunction):
            cells[name] = opened
    arrays = {name: value for name in code.co_names if isinstance(value := function.__globals__.get(name), np.ndarray)}
    return OpenFunction(function, cells, arrays) if cells or arrays else function
