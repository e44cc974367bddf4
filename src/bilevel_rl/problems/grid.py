"""Square grids with slippery moves, walls and hazards: the follower's world in both GridWorld problems."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from bilevel_rl import checks
from bilevel_rl.environments import TabularMDP
from bilevel_rl.formulation.names import GridLayout, Names

Cell = tuple[int, int]

MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1), (0, 0))
"""Row and column steps of the actions up, down, left, right, stay."""


MOVE_NAMES = ("up", "down", "left", "right", "stay")

MOST_NAMED = 1_500
"""Larger grids are not drawn cell by cell, so their cells get no names."""

LARGEST_SIZE = 46_340
"""Larger grids have more cells than compiled programs can count."""


@dataclass(frozen=True)
class Grid:
    """A size × size grid. State s is the cell (row, col) = divmod(s, size); wall cells are states that nothing enters.

    With probability 1 − slip the chosen move happens, with probability slip one of the four directions, uniformly. A
    move off the grid or into a wall stays. From a hazard every action leads back to the start distribution.

    Raises:
        TypeError: a field is of another type.
        ValueError: `size` < 2, `slip` outside [0, 1], or a wall or hazard that is not a cell of the grid or is both.
    """

    size: int
    slip: float = 0.1
    walls: tuple[Cell, ...] = ()
    hazards: tuple[Cell, ...] = ()

    def __post_init__(self):
        checks.integer("size", self.size, at_least=2, at_most=LARGEST_SIZE)
        checks.number("slip", self.slip, at_least=0, at_most=1)
        for name in ("walls", "hazards"):
            self.check_cells(name, getattr(self, name))
        if both := set(self.walls) & set(self.hazards):
            raise ValueError(f"hazards must not be walls, got {sorted(both)} as both")
        if len(set(self.walls)) == self.num_cells:
            raise ValueError("walls must leave a free cell, got walls everywhere")

    @property
    def num_cells(self) -> int:
        """Number of states, size²."""
        return self.size**2

    def check_position(self, name: str, position: Any):
        """Raises `ValueError` unless it is (row, col) on this grid, or between its cells."""
        place = np.asarray(checks.real(name, position))
        if place.shape != (2,) or not np.all((place >= 0) & (place <= self.size - 1)):
            shown = checks.shown(position)
            raise ValueError(f"{name} must be (row, col) with both in 0..{self.size - 1}, got {shown}")

    def check_cell(self, name: str, cell: Any):
        """Raises `TypeError` or `ValueError` unless it is (row, col) of a cell of this grid."""
        self.check_position(name, cell)
        for coordinate in cell:
            checks.integer(name, coordinate)

    def check_cells(self, name: str, cells: Any):
        """Raises `TypeError` or `ValueError` unless these are cells of this grid."""
        for cell in checks.instance(name, cells, tuple, list, remedy="write ((row, col), …)"):
            self.check_cell(name, checks.instance(name, cell, tuple, remedy="write ((row, col), …)"))

    def state(self, cell: Cell) -> int:
        """Index of a cell."""
        return cell[0] * self.size + cell[1]

    def position(self, state: Int[ArrayLike, ""]) -> Float[Array, "2"]:
        """(row, col) of a state, as floats."""
        return jnp.stack(jnp.divmod(state, self.size)).astype(float)

    def names(self, question: str, x: Sequence[str] = (), *, num_followers: int = 1) -> Names:
        """Names of the moves and of the numbers of x, and where the cells lie, once for each follower."""
        cells = [divmod(state, self.size) for state in range(self.num_cells)] * num_followers
        layout = GridLayout(cells) if len(cells) <= MOST_NAMED else None
        return Names(question, actions=MOVE_NAMES, x=x, layout=layout)

    def free_states(self) -> Int[np.ndarray, " free"]:
        """Indices of the cells that are not walls."""
        return np.setdiff1d(np.arange(self.num_cells), [self.state(cell) for cell in self.walls])

    def mdp(self, start: Sequence[Cell] | None, discount: float) -> TabularMDP:
        """The follower's MDP, started uniformly in `start` (`None`: in all free cells).

        Raises:
            ValueError: there is no start cell, one is a wall or no cell of the grid, or `discount` lies outside [0, 1).
        """
        self.check_cells("start", () if start is None else start)
        if start is not None and not len(start):
            raise ValueError("start must hold at least one cell, got none")
        for cell in start or ():
            if tuple(cell) in self.walls:
                raise ValueError(f"start must hold free cells, got the wall {cell}")
        starts = self.free_states() if start is None else np.array([self.state(cell) for cell in start])
        initial = np.zeros(self.num_cells)
        initial[starts] = 1 / len(starts)

        cells = np.stack(np.divmod(np.arange(self.num_cells), self.size), axis=-1)
        targets = cells[:, None, :] + np.array(MOVES)
        blocked = ((targets < 0) | (targets >= self.size)).any(-1)
        targets = targets.clip(0, self.size - 1) @ [self.size, 1]
        blocked |= np.isin(targets, [self.state(cell) for cell in self.walls])
        destinations = np.where(blocked, np.arange(self.num_cells)[:, None], targets)

        num_actions = len(MOVES)
        outcome = (1 - self.slip) * np.eye(num_actions) + self.slip / 4 * (np.arange(num_actions) < 4)
        successors, probabilities = destinations[:, None, :], outcome[None]
        if self.hazards:
            successors, probabilities = self._with_hazards(successors, probabilities, starts)
        return TabularMDP.from_successors(successors, probabilities, initial=initial, discount=discount)

    def _with_hazards(
        self, successors: Int[np.ndarray, "S 1 K"], probabilities: Float[np.ndarray, "1 A K"], starts: np.ndarray
    ) -> tuple[Int[np.ndarray, "S 1 N"], Float[np.ndarray, "S A N"]]:
        """The same tables with as many outcomes as there are starts, to which hazards lead."""
        num_outcomes = max(successors.shape[-1], len(starts))
        padding = ((0, 0), (0, 0), (0, num_outcomes - successors.shape[-1]))
        successors, probabilities = np.pad(successors, padding), np.pad(probabilities, padding)
        probabilities = np.repeat(probabilities, self.num_cells, axis=0)
        for hazard in self.hazards:
            successors[self.state(hazard)] = np.resize(starts, num_outcomes)
            probabilities[self.state(hazard)] = np.where(np.arange(num_outcomes) < len(starts), 1 / len(starts), 0.0)
        return successors, probabilities
