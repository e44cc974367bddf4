"""Goal placement: the leader spreads a reward over the cells of a walled, hazardous grid, and pays for the ground."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from bilevel_rl import checks
from bilevel_rl.exact.batch import hyper_objectives
from bilevel_rl.exact.solver import Solution, solve
from bilevel_rl.formulation.problem import BilevelProblem
from bilevel_rl.formulation.upper_objectives import OccupancyCost
from bilevel_rl.problems.grid import Cell, Grid
from bilevel_rl.problems.worked import as_function

WALLS: tuple[Cell, ...] = ((5, 1), (5, 2), (5, 3), (5, 4), (5, 5), (5, 6), (6, 6), (7, 6))
HAZARDS: tuple[Cell, ...] = ((8, 6), (3, 1), (6, 8))


@dataclass(frozen=True)
class GoalPlacement:
    """x ∈ R^cells are logits of a placement p = softmax(x) of the reward: `r_x(s, a) = scale · p_s`.

    The leader wants the follower at `delivery`: cost `‖pos(s) − delivery‖² / size²`. It pays for the ground,
    `Σ_s price_s p_s` with `price_s = price · ‖pos(s) − home‖² / size²`, and a fee for splitting the reward over cells,
    `splitting_fee · (1 − Σ_s p_s²)`. Ground is free at home: where a leader that ignores the follower goes.
    Without a fee the leader spreads the reward thinly over cheap ground and steers by tiny differences, ever tinier as
    τ → 0; the fee makes single cells the local optima, so the best of them is known by enumeration
    (`goal_placement_optimum`). Walls hold no reward, whatever their logits: most of it could be hidden there on
    cheap ground, where nobody collects it.

    The follower starts uniformly in the free cells that are not hazards; a hazard sends it back to the start.

    Args:
        size: cells along a side of the grid; walls and hazards must fit.
        slip: probability that one of the four directions is taken instead of the chosen action.
        discount: discount factor γ.
        delivery: row and column of the cell that the leader wants the follower at.
        home: row and column of the cell where the ground is free.
        scale: reward per step in a cell that holds the whole placement.
        price: price of ground at distance `size` from home.
        splitting_fee: fee for an even spread over infinitely many cells; 0 for a single cell.
        walls: cells that the follower cannot enter, (row, column) each.
        hazards: cells that send the follower back to the start, (row, column) each.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a cell lies off the grid, `scale` is not positive, a price is negative, or as `Grid`.

    Example:
        >>> import bilevel_rl as brl
        >>> problem = brl.problems.goal_placement()
        >>> problem.initial_x.shape
        (100,)
    """

    size: int = 10
    slip: float = 0.1
    discount: float = 0.95
    delivery: Cell = (9, 2)
    home: Cell = (0, 9)
    scale: float = 5.0
    price: float = 0.03
    splitting_fee: float = 0.05
    walls: tuple[Cell, ...] = WALLS
    hazards: tuple[Cell, ...] = HAZARDS

    def problem(self) -> BilevelProblem:
        """What is solved."""
        size = self.size
        grid = Grid(size, self.slip, self.walls, self.hazards)
        for name, cell in (("delivery", self.delivery), ("home", self.home)):
            grid.check_cell(name, cell)
        checks.number("scale", self.scale, above=0)
        for name in ("price", "splitting_fee"):
            checks.number(name, getattr(self, name), at_least=0)

        cells = np.stack(np.divmod(np.arange(grid.num_cells), size), axis=-1)
        costs = ((cells - self.delivery) ** 2).sum(-1) / size**2
        prices = self.price * ((cells - self.home) ** 2).sum(-1) / size**2

        is_wall = np.isin(np.arange(grid.num_cells), [grid.state(cell) for cell in self.walls])

        def placement(x: Float[ArrayLike, " cells"]) -> Float[Array, " cells"]:
            # No softmax: XLA rounds its division in another way on several devices than on one.
            return jnp.exp(jax.nn.log_softmax(jnp.where(is_wall, -jnp.inf, x)))

        def ground_price(x: Float[ArrayLike, " cells"]) -> Float[Array, ""]:
            p = placement(x)
            return p @ prices + self.splitting_fee * (1 - p @ p)

        starts = np.setdiff1d(grid.free_states(), [grid.state(cell) for cell in self.hazards])
        return BilevelProblem(
            environment=grid.mdp(start=[(int(row), int(col)) for row, col in cells[starts]], discount=self.discount),
            reward=lambda x, s, a: self.scale * placement(x)[s],
            upper=OccupancyCost(
                cost=lambda x, s, a: jnp.asarray(costs, float)[s],
                regularizer=ground_price,
                cost_bound=float(costs.max()),
            ),
            initial_x=np.zeros(grid.num_cells),
            reward_bound=self.scale,
            names=grid.names(f"On which ground must the reward lie so that the follower goes to {self.delivery}?"),
        )

    def optimum(self, problem: BilevelProblem, entropy_weight: float) -> Solution:
        """The known optimum: the best of all single cells and of some exact descents."""
        return goal_placement_optimum(problem, entropy_weight=entropy_weight)


goal_placement = as_function(GoalPlacement)
"""The problem that `GoalPlacement` describes, from the same arguments."""

ONE_HOT_LOGIT = 30.0
"""Logit of the chosen cell; the others share a mass of 1e-11."""


def one_cell_objectives(problem: BilevelProblem, *, entropy_weight: float = 0.01) -> Float[np.ndarray, " cells"]:
    """Φ_τ of putting the whole reward into one cell, for every cell.

    Args:
        problem: from `goal_placement`.
        entropy_weight: τ > 0 at which placements are compared.

    Raises:
        OracleError: an oracle does not converge.
    """
    checks.instance("problem", problem, BilevelProblem)
    one_hots = ONE_HOT_LOGIT * np.eye(problem.initial_x.size)
    return hyper_objectives(problem, one_hots, entropy_weight=entropy_weight)


def goal_placement_optimum(problem: BilevelProblem, *, entropy_weight: float = 0.01, num_descents: int = 4) -> Solution:
    """Best of all one-cell placements and of exact descents from the uniform and from softened one-cell placements.

    Args:
        problem: from `goal_placement`.
        entropy_weight: τ > 0 at which placements are compared.
        num_descents: exact descents: from `problem.initial_x` and from the best `num_descents` − 1 cells.

    Raises:
        ValueError: `num_descents` < 1.
        OracleError: an oracle does not converge.
    """
    checks.instance("problem", problem, BilevelProblem)
    checks.integer("num_descents", num_descents, at_least=1)
    one_hots = ONE_HOT_LOGIT * np.eye(problem.initial_x.size)
    objectives = one_cell_objectives(problem, entropy_weight=entropy_weight)
    ranked = np.argsort(objectives)
    # A softmax of these logits is saturated: its gradient vanishes to rounding.
    best_cell = Solution(one_hots[ranked[0]], float(objectives[ranked[0]]), 0.0, num_iterations=0, status="converged")
    starts = [problem.initial_x, *(one_hots[ranked[: num_descents - 1]] / 5)]
    descended = solve(problem, entropy_weight=entropy_weight, starts=starts, max_iterations=200)
    return min(best_cell, descended, key=lambda solution: solution.objective)
