"""Goal position: the leader moves a goal across the plane so that the follower ends up where the leader wants it."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bilevel_rl import checks
from bilevel_rl.exact.batch import hyper_objectives
from bilevel_rl.exact.solver import Solution, solve
from bilevel_rl.formulation.problem import BilevelProblem
from bilevel_rl.formulation.projections import Box
from bilevel_rl.formulation.upper_objectives import OccupancyCost
from bilevel_rl.problems.grid import Cell, Grid
from bilevel_rl.problems.worked import as_function

LANDSCAPE_RESOLUTION = 25
"""Points along each axis of the grid on which Φ is measured to find its lowest valley."""


class Landscape(NamedTuple):
    """Φ at the positions (axis[i], axis[j]), and where it is lowest."""

    axis: Float[np.ndarray, " n"]
    objectives: Float[np.ndarray, "n n"]
    optimum: Solution


@dataclass(frozen=True)
class GoalPosition:
    """x ∈ [0, size−1]² is the goal's position (row, col); the follower is drawn to it, the leader wants it at `target`.

    Reward `r_x(s, a) = exp(−‖pos(s) − x‖² / (2 width²))`; cost `‖pos(s) − target‖² / size²`, plus
    `installation_cost · ‖x − home‖² / size²`. The follower starts uniformly in the free cells.

    Args:
        size: cells along a side of the grid.
        slip: probability that one of the four directions is taken instead of the chosen action.
        discount: discount factor γ.
        target: row and column that the leader wants the follower at.
        width: how far the goal's attraction reaches, in cells.
        initial_x: row and column of the goal at the start.
        walls: cells that the follower cannot enter, (row, column) each.
        installation_cost: price of placing the goal away from home.
        home: row and column where the goal stands for free.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a position lies off the grid, `width` is not positive, `installation_cost` negative, or as `Grid`.

    Example:
        >>> import bilevel_rl as brl
        >>> problem = brl.problems.goal_position()
        >>> round(float(brl.exact.hyper_objective(problem, problem.initial_x, entropy_weight=0.1)), 6)
        0.36571
    """

    size: int = 10
    slip: float = 0.1
    discount: float = 0.95
    target: tuple[float, float] = (7, 3)
    width: float = 4.0
    initial_x: tuple[float, float] = (2, 7)
    walls: tuple[Cell, ...] = ()
    installation_cost: float = 0.0
    home: tuple[float, float] = (0, 0)

    def problem(self) -> BilevelProblem:
        """What is solved."""
        size, target = self.size, self.target
        grid = Grid(size, self.slip, self.walls)
        for name in ("target", "initial_x", "home"):
            grid.check_position(name, getattr(self, name))
        checks.number("width", self.width, above=0, remedy="it is in cells")
        checks.number("installation_cost", self.installation_cost, at_least=0)

        def squared_distance(position, other):
            return jnp.sum((position - jnp.asarray(other)) ** 2)

        corners = [(row, col) for row in (0, size - 1) for col in (0, size - 1)]
        farthest = max((row - target[0]) ** 2 + (col - target[1]) ** 2 for row, col in corners)
        return BilevelProblem(
            environment=grid.mdp(start=None, discount=self.discount),
            reward=lambda x, s, a: jnp.exp(-squared_distance(grid.position(s), x) / (2 * self.width**2)),
            upper=OccupancyCost(
                cost=lambda x, s, a: squared_distance(grid.position(s), target) / size**2,
                regularizer=lambda x: self.installation_cost * squared_distance(x, self.home) / size**2,
                cost_bound=farthest / size**2,
            ),
            initial_x=np.asarray(self.initial_x, float),
            project=Box(0.0, size - 1.0),
            reward_bound=1.0,
            names=grid.names(
                f"Where must the goal stand so that the follower spends its time at {tuple(target)}?",
                x=("goal's row", "goal's column"),
            ),
        )

    def landscape(self, problem: BilevelProblem, entropy_weight: float) -> Landscape:
        """Φ on a grid of goal positions, and the optimum: exact descent from the lowest of them and from the start."""
        axis = np.linspace(0.0, self.size - 1.0, LANDSCAPE_RESOLUTION)
        grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        objectives = hyper_objectives(problem, grid, entropy_weight=entropy_weight)
        starts = [grid[objectives.argmin()], problem.initial_x]
        optimum = solve(problem, entropy_weight=entropy_weight, starts=starts)
        return Landscape(axis, objectives.reshape(len(axis), len(axis)), optimum)

    def optimum(self, problem: BilevelProblem, entropy_weight: float) -> Solution:
        """The known optimum at an entropy weight τ > 0."""
        return self.landscape(problem, entropy_weight).optimum


goal_position = as_function(GoalPosition)
"""The problem that `GoalPosition` describes, from the same arguments."""
