"""Goal position: the leader moves a goal across the plane so that the follower ends up where the leader wants it."""

import jax.numpy as jnp
import numpy as np

from bilevel_rl.formulation.problem import BilevelProblem
from bilevel_rl.formulation.projections import Box
from bilevel_rl.formulation.upper_objectives import OccupancyCost
from bilevel_rl.problems.grid import Cell, Grid


def goal_position(
    size: int = 10,
    slip: float = 0.1,
    discount: float = 0.95,
    target: tuple[float, float] = (7, 3),
    width: float = 4.0,
    initial_x: tuple[float, float] = (2, 7),
    walls: tuple[Cell, ...] = (),
    installation_cost: float = 0.0,
    home: tuple[float, float] = (0, 0),
) -> BilevelProblem:
    """x ∈ [0, size−1]² is the goal's position (row, col); the follower is drawn to it, the leader wants it at `target`.

    Reward `r_x(s, a) = exp(−‖pos(s) − x‖² / (2 width²))`; cost `‖pos(s) − target‖² / size²`, plus
    `installation_cost · ‖x − home‖² / size²`. The follower starts uniformly in the free cells.

    Args:
        size: cells along a side.
        slip: probability that one of the four directions is taken instead of the chosen action.
        discount: γ.
        target: (row, col) that the leader wants the follower at.
        width: how far the goal's attraction reaches, in cells.
        initial_x: (row, col) of the goal at the start.
        walls: cells that the follower cannot enter.
        installation_cost: price of placing the goal away from `home`.
        home: (row, col) where the goal stands for free.

    Raises:
        ValueError: a position lies off the grid, `width` is not positive, `installation_cost` negative, or as `Grid`.

    Example:
        >>> import bilevel_rl as brl
        >>> problem = brl.problems.goal_position()
        >>> round(float(brl.exact.hyper_objective(problem, problem.initial_x, entropy_weight=0.1)), 6)
        0.36571
    """
    grid = Grid(size, slip, walls)
    for name, position in (("target", target), ("initial_x", initial_x), ("home", home)):
        grid.check_cell(name, position)
    if not width > 0:
        raise ValueError(f"width must be positive (in cells), got {width}")
    if not 0 <= installation_cost < float("inf"):
        raise ValueError(f"installation_cost must be finite and not negative, got {installation_cost}")

    def squared_distance(position, other):
        return jnp.sum((position - jnp.asarray(other)) ** 2)

    corners = [(row, col) for row in (0, size - 1) for col in (0, size - 1)]
    farthest = max((row - target[0]) ** 2 + (col - target[1]) ** 2 for row, col in corners)
    return BilevelProblem(
        environment=grid.mdp(start=None, discount=discount),
        reward=lambda x, s, a: jnp.exp(-squared_distance(grid.position(s), x) / (2 * width**2)),
        upper=OccupancyCost(
            cost=lambda x, s, a: squared_distance(grid.position(s), target) / size**2,
            regularizer=lambda x: installation_cost * squared_distance(x, home) / size**2,
            cost_bound=farthest / size**2,
        ),
        initial_x=np.asarray(initial_x, float),
        project=Box(0.0, size - 1.0),
        reward_bound=1.0,
    )
