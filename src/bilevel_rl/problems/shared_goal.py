"""Shared goal: one goal for several followers, each with a home, a gait and a mind of its own."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from bilevel_rl import checks
from bilevel_rl.environments.contexts import Contexts
from bilevel_rl.formulation.problem import BilevelProblem
from bilevel_rl.formulation.projections import Box
from bilevel_rl.formulation.upper_objectives import OccupancyCost
from bilevel_rl.problems.grid import Cell, Grid


def shared_goal(
    size: int = 7,
    discount: float = 0.9,
    homes: tuple[Cell, ...] = ((0, 0), (6, 1), (1, 6)),
    slips: tuple[float, ...] = (0.0, 0.4, 0.1),
    attachments: tuple[float, ...] = (0.5, 0.2, 0.8),
    weights: tuple[float, ...] = (0.5, 0.3, 0.2),
    target: tuple[float, float] = (4, 4),
    width: float = 3.0,
    initial_x: tuple[float, float] = (1, 1),
) -> BilevelProblem:
    """x ∈ [0, size−1]² is the position of one goal; follower i, drawn with chance `weights[i]`, starts at its home.

    All are drawn to the goal, and each to its home: `r_x(s, a) = exp(−‖pos − x‖² / (2 width²)) + attachments[i]
    exp(−‖pos − homes[i]‖² / (2 width²))`. The leader wants them at `target`: cost `‖pos − target‖² / size²`. With
    probability `slips[i]` follower i takes one of the four directions instead of the chosen action. Follower i's states
    are `i · size² + cell` (`environments.Contexts`).

    Args:
        size: cells along a side.
        discount: γ.
        homes: cell where each follower starts.
        slips: of each follower.
        attachments: of each follower to its home; the goal's pull is 1.
        weights: chance of each follower.
        target: (row, col) that the leader wants all followers at.
        width: how far goal and homes attract, in cells.
        initial_x: (row, col) of the goal at the start.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a position lies off the grid, the tuples differ in length, an attachment is negative, `width` is not
            positive, or as `Grid` and `Contexts`.

    Example:
        >>> import bilevel_rl as brl
        >>> problem = brl.problems.shared_goal()
        >>> problem.environment.num_states, problem.environment.initial[[0, 49 + 43, 98 + 13]].tolist()
        (147, [0.5, 0.3, 0.2])
    """
    grid = Grid(size)
    for name, position in (("target", target), ("initial_x", initial_x)):
        grid.check_position(name, position)
    for name, values in (("homes", homes), ("slips", slips), ("attachments", attachments), ("weights", weights)):
        checks.instance(name, values, tuple, list, np.ndarray)
    lengths = {len(values) for values in (homes, slips, attachments, weights)}
    if len(lengths) > 1:
        raise ValueError(f"homes, slips, attachments and weights must be equally many, got {sorted(lengths)}")
    if not len(homes):
        raise ValueError("homes must hold at least one cell, got none")
    for attachment in attachments:
        checks.number("attachments", attachment, at_least=0)
    for slip in slips:
        checks.number("slips", slip, at_least=0, at_most=1)
    for weight in weights:
        checks.number("weights", weight)
    grid.check_cells("homes", homes)
    checks.number("width", width, above=0, remedy="it is in cells")
    contexts = Contexts(
        [Grid(size, slip).mdp(start=[home], discount=discount) for home, slip in zip(homes, slips, strict=True)],
        weights,
    )
    pulls, places = np.array(attachments, float), np.array(homes, float)

    def attraction(position: Float[Array, "2"], place: ArrayLike) -> Float[Array, ""]:
        return jnp.exp(-jnp.sum((position - jnp.asarray(place)) ** 2) / (2 * width**2))

    def reward(x: Float[ArrayLike, "2"], s: Int[ArrayLike, ""], a: Int[ArrayLike, ""]) -> Float[Array, ""]:
        follower, cell = contexts.split(s)
        position = grid.position(cell)
        return attraction(position, x) + jnp.asarray(pulls)[follower] * attraction(
            position, jnp.asarray(places)[follower]
        )

    corners = [(row, col) for row in (0, size - 1) for col in (0, size - 1)]
    farthest = max((row - target[0]) ** 2 + (col - target[1]) ** 2 for row, col in corners)
    return BilevelProblem(
        environment=contexts.environment,
        reward=reward,
        upper=OccupancyCost(
            cost=lambda x, s, a: jnp.sum((grid.position(contexts.split(s)[1]) - jnp.asarray(target)) ** 2) / size**2,
            cost_bound=farthest / size**2,
        ),
        initial_x=np.asarray(initial_x, float),
        project=Box(0.0, size - 1.0),
        reward_bound=1.0 + max(attachments),
        names=grid.names(
            f"Where must one goal stand so that {len(homes)} followers spend their time at {tuple(target)}?",
            x=("goal's row", "goal's column"),
            num_followers=len(homes),
        ),
    )
