"""Three problems in which the leader writes a reward for every cell of a grid, and wants something else each time.

x ∈ R^cells is the reward itself, `r_x(s, a) = x_s` in [−1, 1]. What differs is the upper objective: the time that the
follower spends where (an occupancy functional), whether it acts as was demonstrated (a policy loss), or whether the
reward explains preferences between the follower's own trajectories (a trajectory loss).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, ArrayLike, Float, Int

from bilevel_rl import checks
from bilevel_rl.checks.arrays import whole_numbers
from bilevel_rl.formulation.problem import BilevelProblem
from bilevel_rl.formulation.projections import Box
from bilevel_rl.formulation.upper_objectives import (
    OccupancyFunctional,
    PolicyLoss,
    Regularizer,
    TrajectoryLoss,
    UpperObjective,
)
from bilevel_rl.problems.grid import Cell, Grid

QUESTIONS: dict[type[UpperObjective], str] = {
    OccupancyFunctional: "Which reward spreads the follower's time as it is wanted?",
    PolicyLoss: "Which reward explains what was demonstrated?",
    TrajectoryLoss: "Which reward explains the preferences between the follower's own trajectories?",
}

FLOOR = 1e-3
"""Share of the time that counts as never, so that the divergence of a visitation stays finite."""


def target_visitation(
    target: npt.ArrayLike,
    size: int = 6,
    slip: float = 0.1,
    discount: float = 0.95,
    price: float = 0.01,
    walls: tuple[Cell, ...] = (),
) -> BilevelProblem:
    """The leader wants the follower to spend its time as `target` says: KL(visitation ‖ target).

    `f = Σ_s (d_s + ε) log((d_s + ε) / (q_s + ε)) + price · mean(x²)` with d_s the share of the follower's time in cell
    s, q the target and ε = 0.001. An even target asks for coverage. The follower starts uniformly in the free cells.

    Args:
        target: wanted shares of the time, shape (cells,); scaled to sum to 1.
        size: cells along a side.
        slip: probability that one of the four directions is taken instead of the chosen action.
        discount: γ.
        price: of a reward of ±1 everywhere.
        walls: cells that the follower cannot enter.

    Raises:
        TypeError: an argument is of another type.
        ValueError: `target` is not a non-negative number a cell, `price` is negative, or as `Grid`.

    Example:
        >>> import numpy as np, bilevel_rl as brl
        >>> problem = brl.problems.target_visitation(np.arange(9.0), size=3)
        >>> round(float(brl.exact.hyper_objective(problem, np.zeros(9), entropy_weight=0.1)), 3)
        0.581
    """
    grid = Grid(size, slip, walls)
    weights = np.asarray(checks.real("target", target))
    if weights.shape != (grid.num_cells,) or not (np.all(weights >= 0) and 0 < weights.sum() < np.inf):
        raise ValueError(f"target must hold a non-negative number for each of {grid.num_cells} cells, got {target}")
    wanted = weights / weights.sum() + FLOOR

    def divergence(x: Array, d: Float[Array, "S A"]) -> Float[Array, ""]:
        visits = d.sum(1) + FLOOR
        return jnp.sum(visits * jnp.log(visits / wanted))

    bound = float(np.log((1 + FLOOR) / FLOOR) + 1)
    return _with_reward_of_cells(grid, None, discount, price, OccupancyFunctional(divergence, cost_bound=bound))


def inverse_rl(
    states: npt.ArrayLike,
    actions: npt.ArrayLike,
    size: int = 6,
    slip: float = 0.1,
    discount: float = 0.95,
    entropy_weight: float = 0.1,
    price: float = 0.01,
    walls: tuple[Cell, ...] = (),
) -> BilevelProblem:
    """Maximum-entropy inverse reinforcement learning: the reward whose answer would have acted as was demonstrated.

    `f = mean of −log π(a|s) over the demonstrations + price · mean(x²)`. The follower starts uniformly in the free
    cells and values entropy, as demonstrators of this model do.

    Args:
        states: cells in which actions were demonstrated, shape (N,).
        actions: what was done there, shape (N,): 0 up, 1 down, 2 left, 3 right, 4 stay.
        size: cells along a side.
        slip: probability that one of the four directions is taken instead of the chosen action.
        discount: γ.
        entropy_weight: τ of the demonstrator, and of the follower.
        price: of a reward of ±1 everywhere; it chooses among the rewards that explain the demonstrations equally well.
        walls: cells that the follower cannot enter.

    Raises:
        TypeError: an argument is of another type.
        ValueError: demonstrations that are none, `entropy_weight` not positive, `price` negative, or as `Grid`.

    Example:
        >>> import numpy as np, bilevel_rl as brl
        >>> problem = brl.problems.inverse_rl(states=[0, 1], actions=[1, 1], size=3)
        >>> print(f"{brl.exact.hyper_objective(problem, np.zeros(9), entropy_weight=0.1):.6f}")
        1.609438
    """
    grid = Grid(size, slip, walls)
    return _with_reward_of_cells(grid, None, discount, price, PolicyLoss(states, actions), entropy_weight)


def preference_learning(
    true_reward: npt.ArrayLike,
    offline_states: npt.ArrayLike | None = None,
    size: int = 4,
    slip: float = 0.0,
    discount: float = 0.9,
    num_steps: int = 3,
    sharpness: float = 2.0,
    price: float = 0.003,
) -> BilevelProblem:
    """The reward is learned from preferences between trajectories that the follower itself produces.

    An annotator compares two trajectories of `num_steps` steps by their sums R of `true_reward`, and prefers the first
    with probability `p = σ(sharpness · (R_1 − R_2))` (Bradley–Terry). The reward model says `q`, the same of x. The
    loss is KL(p ‖ q), the expected log loss less the annotator's own noise: 0 where x explains the answers.
    `f = E[loss over pairs of the follower's trajectories] + mean loss over offline pairs + price · mean(x²)`. The
    follower starts in one of the four corners. Without offline pairs many rewards confirm themselves: the follower
    shows the annotator nothing but what they explain.

    Args:
        true_reward: what the annotator likes, shape (cells,).
        offline_states: cells of pairs of trajectories that were compared before, shape (pairs, 2, steps).
        size: cells along a side.
        slip: probability that one of the four directions is taken instead of the chosen action.
        discount: γ.
        num_steps: of each trajectory.
        sharpness: of the annotator, and of the reward model: how much a difference in reward says.
        price: of a reward of ±1 everywhere.

    Raises:
        TypeError: an argument is of another type.
        ValueError: `true_reward` is not a finite number a cell, `sharpness` is not positive, `price` is negative, or as
            `Grid` and `TrajectoryLoss`.

    Example:
        >>> import numpy as np, bilevel_rl as brl
        >>> true_reward = np.linspace(-1.0, 1.0, 9)
        >>> problem = brl.problems.preference_learning(true_reward, size=3, num_steps=2, price=0.0)
        >>> round(float(brl.exact.hyper_objective(problem, true_reward, entropy_weight=0.1)), 9)
        0.0
    """
    grid = Grid(size, slip)
    liked = np.asarray(checks.real("true_reward", true_reward))
    if liked.shape != (grid.num_cells,) or not np.all(np.isfinite(liked)):
        raise ValueError(f"true_reward must hold a finite number for each of {grid.num_cells} cells, got {true_reward}")
    checks.number("sharpness", sharpness, above=0)

    def log_odds(rewards: Array, states: Int[Array, "2 H"]) -> Float[Array, ""]:
        sums = jnp.sum(rewards[states], axis=1)
        return sharpness * (sums[0] - sums[1])

    def loss(x: Array, states: Int[Array, "2 H"], actions: Int[Array, "2 H"]) -> Float[Array, ""]:
        said, modelled = log_odds(jnp.asarray(liked, float), states), log_odds(jnp.asarray(x), states)
        p = jax.nn.sigmoid(said)
        first = jax.nn.log_sigmoid(said) - jax.nn.log_sigmoid(modelled)
        second = jax.nn.log_sigmoid(-said) - jax.nn.log_sigmoid(-modelled)
        return p * first + (1 - p) * second

    def offline(x: Array) -> Array:
        return jnp.mean(jax.vmap(lambda states: loss(x, states, states))(jnp.asarray(compared)))

    # No pairs at all are an array (0, 2, steps); whatever else is empty is a slip.
    has_none = offline_states is None or getattr(offline_states, "shape", ())[:2] == (0, 2)
    compared = np.zeros((0, 2, 1), np.int32) if has_none else whole_numbers("offline_states", offline_states)
    if compared.ndim != 3 or compared.shape[1] != 2 or np.any((compared < 0) | (compared >= grid.num_cells)):
        raise ValueError(
            f"offline_states must hold cells 0..{grid.num_cells - 1} in shape (pairs, 2, steps), got {compared.shape}"
        )
    corners = [(row, column) for row in (0, size - 1) for column in (0, size - 1)]
    also = offline if len(compared) else None
    return _with_reward_of_cells(grid, corners, discount, price, TrajectoryLoss(loss, num_steps), also=also)


def _with_reward_of_cells(
    grid: Grid,
    start: list[Cell] | None,
    discount: float,
    price: float,
    upper: UpperObjective,
    entropy_weight: float | None = None,
    also: Regularizer | None = None,
) -> BilevelProblem:
    """x is the reward of every cell, between −1 and 1; what `upper` and `also` say is to be lowered at a price."""
    checks.number("price", price, at_least=0)

    def reward(x: Float[ArrayLike, " cells"], s: Int[ArrayLike, ""], a: Int[ArrayLike, ""]) -> Float[Array, ""]:
        return jnp.asarray(x)[s]

    def spending(x: Float[ArrayLike, " cells"]) -> Float[Array, ""]:
        spent = price * jnp.mean(jnp.asarray(x) ** 2)
        return spent if also is None else spent + also(x)

    return BilevelProblem(
        environment=grid.mdp(start, discount),
        reward=reward,
        upper=dataclasses.replace(upper, regularizer=spending),
        initial_x=np.zeros(grid.num_cells),
        project=Box(-1.0, 1.0),
        reward_bound=1.0,
        entropy_weight=entropy_weight,
        names=grid.names(QUESTIONS[type(upper)]),
    )
