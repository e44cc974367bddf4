"""Wind design: the leader blows the follower off its way, cell by cell, and pays for the energy."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from bilevel_rl import checks
from bilevel_rl.formulation.problem import BilevelProblem
from bilevel_rl.formulation.upper_objectives import OccupancyCost
from bilevel_rl.problems.grid import Cell, Grid
from bilevel_rl.problems.worked import as_function

NUM_DIRECTIONS = 4
CALM = -2.0
"""Logit of every fan at the start: wind has 35 % of `strength`, spread evenly over the directions."""


@dataclass(frozen=True)
class WindDesign:
    """x ∈ R^(cells × 4) are logits of fans in every cell that blow up, down, left or right; the dynamics depend on x.

    In cell s the wind is `p_s = softmax(x_s, 0)`, the last share calm. With probability `strength · p_s(d)` the
    follower is moved in direction d, whatever it does, and otherwise as on any slippery grid. Its reward is fixed: it
    is drawn to `goal`, `r(s, a) = exp(−‖pos(s) − goal‖² / (2 width²))`. The leader wants it at `target`: cost
    `‖pos(s) − target‖² / size²`, plus `price` times the mean share of wind over the cells.

    The follower starts uniformly in the free cells.

    Args:
        size: cells along a side of the grid; goal, target and walls must fit.
        slip: probability that one of the four directions is taken instead of the chosen action.
        discount: discount factor γ.
        goal: row and column of the cell that the follower is drawn to.
        target: row and column of the cell that the leader wants the follower at.
        width: how far the goal's attraction reaches, in cells.
        strength: probability that a full wind moves the follower.
        price: price of full wind everywhere.
        walls: cells that the follower cannot enter, (row, column) each.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a cell lies off the grid, `width` is not positive, `strength` outside of (0, 1), `price` negative,
            or as `Grid`.

    Example:
        >>> import bilevel_rl as brl
        >>> problem = brl.problems.wind_design()
        >>> problem.initial_x.shape
        (36, 4)
    """

    size: int = 6
    slip: float = 0.1
    discount: float = 0.95
    goal: Cell = (0, 5)
    target: Cell = (4, 1)
    width: float = 3.0
    strength: float = 0.9
    price: float = 0.05
    walls: tuple[Cell, ...] = ()

    def problem(self) -> BilevelProblem:
        """What is solved."""
        size = self.size
        grid = Grid(size, self.slip, self.walls)
        for name, cell in (("goal", self.goal), ("target", self.target)):
            grid.check_cell(name, cell)
        checks.number("width", self.width, above=0, remedy="it is in cells")
        checks.number("strength", self.strength, above=0, below=1, remedy="at 1 full wind leaves no other outcome")
        checks.number("price", self.price, at_least=0)
        mdp = grid.mdp(start=None, discount=self.discount)
        # Shape (A, K), the same in every cell.
        still = np.broadcast_to(mdp.probabilities, (1, *mdp.probabilities.shape[1:]))[0]
        cells = np.stack(np.divmod(np.arange(grid.num_cells), size), axis=-1)
        attraction = np.exp(-((cells - self.goal) ** 2).sum(-1) / (2 * self.width**2))
        costs = ((cells - self.target) ** 2).sum(-1) / size**2
        is_free = np.isin(np.arange(grid.num_cells), grid.free_states())

        def wind(logits: Float[ArrayLike, "*cells 4"]) -> Float[Array, "*cells 4"]:
            # No softmax: XLA rounds its division in another way on several devices than on one.
            with_calm = jnp.concatenate([jnp.asarray(logits), jnp.zeros((*jnp.shape(logits)[:-1], 1))], axis=-1)
            return jnp.exp(jax.nn.log_softmax(with_calm))[..., :NUM_DIRECTIONS]

        def outcome_probabilities(
            x: Float[ArrayLike, "cells 4"], s: Int[ArrayLike, ""], a: Int[ArrayLike, ""]
        ) -> Float[Array, " K"]:
            blown = self.strength * wind(jnp.asarray(x)[s])
            return (1 - jnp.sum(blown)) * jnp.asarray(still)[a] + jnp.concatenate([blown, jnp.zeros(1)])

        def energy(x: Float[ArrayLike, "cells 4"]) -> Float[Array, ""]:
            return self.price * jnp.sum(wind(x) * jnp.asarray(is_free)[:, None]) / is_free.sum()

        return BilevelProblem(
            environment=mdp,
            reward=lambda x, s, a: jnp.asarray(attraction, float)[s],
            upper=OccupancyCost(
                cost=lambda x, s, a: jnp.asarray(costs, float)[s], regularizer=energy, cost_bound=float(costs.max())
            ),
            initial_x=np.full((grid.num_cells, NUM_DIRECTIONS), CALM),
            reward_bound=1.0,
            outcome_probabilities=outcome_probabilities,
            names=grid.names(f"Which winds blow a follower that wants to {self.goal} to {self.target}?"),
        )


wind_design = as_function(WindDesign)
"""The problem that `WindDesign` describes, from the same arguments."""
