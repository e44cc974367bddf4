"""Names for people: what states, actions and entries of x are called, and where states lie in a picture.

Nothing that is computed depends on them: a run folder goes on under other names.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from bilevel_rl import checks

Cell = tuple[int, int]


@dataclass(frozen=True)
class GridLayout:
    """States are cells of a grid; several states may share one, as those of several followers do.

    Attributes:
        cells: (row, column) of each state, row 0 on top; None for a state that lies nowhere.

    Raises:
        TypeError: `cells` is no sequence of pairs of whole numbers.
        ValueError: a row or column is negative, or no state has a cell.

    Example:
        >>> import bilevel_rl as brl
        >>> brl.GridLayout.of_shape(2, 3).cells[4]
        (1, 1)
    """

    cells: Sequence[Sequence[int] | None] | Int[np.ndarray, "S 2"]

    def __post_init__(self):
        object.__setattr__(self, "cells", tuple(_cell(i, cell) for i, cell in _numbered("cells", self.cells)))
        if all(cell is None for cell in self.cells):
            raise ValueError("cells must hold the (row, column) of at least one state, got none")

    @classmethod
    def of_shape(cls, rows: int, columns: int) -> "GridLayout":
        """State s is the cell divmod(s, columns), as in Gymnasium's FrozenLake (4, 4) and CliffWalking (4, 12)."""
        rows, columns = (checks.integer(name, n, at_least=1) for name, n in (("rows", rows), ("columns", columns)))
        return cls([divmod(state, columns) for state in range(rows * columns)])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that hold all cells."""
        placed = np.array([cell for cell in self.cells if cell is not None])
        rows, columns = (placed.max(axis=0) + 1).tolist()
        return rows, columns

    @property
    def num_states(self) -> int:
        """How many states it places."""
        return len(self.cells)

    def places(self) -> Float[np.ndarray, "S 2"]:
        """(x, y) of each state, y downwards; NaN for a state that lies nowhere."""
        return np.array([(np.nan, np.nan) if cell is None else (cell[1], cell[0]) for cell in self.cells], float)


@dataclass(frozen=True)
class GraphLayout:
    """States are nodes of a graph, whose edges are the transitions that can happen.

    Attributes:
        positions: (x, y) of each state in any unit, y upwards; None for a state that lies nowhere.

    Raises:
        TypeError: no sequence of pairs of numbers.
        ValueError: a number is not finite, or no state has a position.

    Example:
        >>> import bilevel_rl as brl
        >>> brl.GraphLayout([(0, 0), (1.5, 2)]).places().tolist()
        [[0.0, -0.0], [1.5, -2.0]]
    """

    positions: Sequence[Sequence[float] | None] | Float[np.ndarray, "S 2"]

    def __post_init__(self):
        given = _numbered("positions", self.positions)
        object.__setattr__(self, "positions", tuple(_point(i, position) for i, position in given))
        if all(position is None for position in self.positions):
            raise ValueError("positions must hold the (x, y) of at least one state, got none")

    @property
    def num_states(self) -> int:
        """How many states it places."""
        return len(self.positions)

    def places(self) -> Float[np.ndarray, "S 2"]:
        """(x, y) of each state, y downwards, as pictures have it; NaN for a state that lies nowhere."""
        placed = [(np.nan, np.nan) if position is None else position for position in self.positions]
        return np.array(placed, float) * (1, -1)


Layout = GridLayout | GraphLayout


@dataclass(frozen=True)
class Names:
    """What figures and reports call a problem's parts; numbers stand in for what has no name.

    Attributes:
        question: what the leader wants to know, in a sentence.
        states: of each state of a `TabularMDP`.
        actions: of each action.
        x: of each number of x, leaves of a pytree in the order of `jax.tree.leaves`, each flattened.
        layout: where states lie, on a grid or as nodes of a graph.

    Raises:
        TypeError: names are no strings, or `layout` is something else.

    Example:
        >>> import bilevel_rl as brl
        >>> names = brl.Names(states=("home", "park"), x=["subsidy"], layout=brl.GraphLayout([(0, 0), (1, 0)]))
        >>> names.x
        ('subsidy',)
    """

    question: str = ""
    states: Sequence[str] = ()
    actions: Sequence[str] = ()
    x: Sequence[str] = ()
    layout: Layout | None = None

    def __post_init__(self):
        checks.instance("question", self.question, str)
        for field in ("states", "actions", "x"):
            named = tuple(
                checks.instance(f"{field}[{i}]", name, str) for i, name in _numbered(field, getattr(self, field))
            )
            object.__setattr__(self, field, named)
        if self.layout is not None:
            checks.instance("layout", self.layout, GridLayout, GraphLayout)

    def check(self, *, num_entries: int, num_states: int | None, num_actions: int | None):
        """Raises `ValueError` where they are not as many as the problem has; None: the problem numbers none."""
        counts = {"states": num_states, "actions": num_actions, "x": num_entries}
        given = {field: len(getattr(self, field)) for field in counts}
        if self.layout is not None:
            counts, given = counts | {"layout": num_states}, given | {"layout": self.layout.num_states}
        for field, number in given.items():
            if number and counts[field] is None:
                raise ValueError(f"names.{field} must be left out where the environment is no TabularMDP, got {number}")
            if number and number != counts[field]:
                whole = {"x": "number of initial_x", "actions": "action"}.get(field, "state")
                raise ValueError(f"names.{field} must be {counts[field]}, one for each {whole}, got {number}")

    def to_json(self) -> dict[str, Any]:
        """As JSON, from which `from_json` makes the same names."""
        match self.layout:
            case GridLayout(cells):
                layout = {"cells": cells}
            case GraphLayout(positions):
                layout = {"positions": positions}
            case _:
                layout = None
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"layout": layout}

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> "Names":
        """What `to_json` gave, also after it was written to a file.

        Raises:
            TypeError, ValueError: it is something else.
        """
        match written.get("layout"):
            case {"cells": cells}:
                layout: Layout | None = GridLayout(cells)
            case {"positions": positions}:
                layout = GraphLayout(positions)
            case _:
                layout = None
        return cls(**{**written, "layout": layout})

    def of_x(self, num_entries: int) -> tuple[str, ...]:
        """A name for each number of x."""
        return tuple(self.x) or (("x",) if num_entries == 1 else _or_numbers((), "x", num_entries))

    def of_states(self, num_states: int) -> tuple[str, ...]:
        """A name for each state: its own, its cell, or its number."""
        if not self.states and isinstance(self.layout, GridLayout):
            cells = enumerate(self.layout.cells)
            return tuple(f"state {s}" if cell is None else f"({cell[0]}, {cell[1]})" for s, cell in cells)
        return _or_numbers(self.states, "state ", num_states)

    def of_actions(self, num_actions: int) -> tuple[str, ...]:
        """A name for each action."""
        return _or_numbers(self.actions, "action ", num_actions)


def _or_numbers(names: Sequence[str], kind: str, count: int) -> tuple[str, ...]:
    return tuple(names) or tuple(f"{kind}{i}" for i in range(count))


def _numbered(name: str, values: Any) -> Iterable[tuple[int, Any]]:
    """Entries of a sequence with their numbers; a string is none."""
    return enumerate(checks.instance(name, values, tuple, list, np.ndarray))


def _cell(number: int, cell: Any) -> Cell | None:
    name = f"cells[{number}]"
    if cell is None:
        return None
    row, column = (checks.integer(name, part, at_least=0) for part in _pair(name, cell))
    return row, column


def _point(number: int, position: Any) -> tuple[float, float] | None:
    name = f"positions[{number}]"
    if position is None:
        return None
    x, y = (checks.number(name, part) for part in _pair(name, position))
    return x, y


def _pair(name: str, value: Any) -> Sequence[Any] | Shaped[np.ndarray, "2"]:
    pair = checks.instance(name, value, tuple, list, np.ndarray, remedy="a pair of numbers")
    if len(pair) != 2:
        raise ValueError(f"{name} must be a pair of numbers, got {checks.shown(value)}")
    return pair
