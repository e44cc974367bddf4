"""Four Rooms incentive design: penalties in some cells lead a follower, whose goal the leader does not choose, astray.

An independent re-creation of the benchmark of Thoma, Pásztor, Krause, Ramponi and Hu, "Contextual Bilevel
Reinforcement Learning for Incentive Alignment", NeurIPS 2024.

Conventions, found by agreement with the benchmark's published values:

1. Rewards and costs belong to the state that an action is taken in. The goal's reward of 1 and the leader's price of
   the penalties are paid for the action taken *in* the goal, which then ends the episode whatever the action.
2. That last action earns its entropy bonus, as any other; nothing accrues afterwards.
3. A penalty in a goal's own cell is paid only by followers with the other goal.

Deviations:

1. The published simulator slips less (0.33) than the model that its planner and its evaluation use (0.44). Here samples
   and model agree: 0.44.
2. Objectives are minimized and normalized by 1 − γ, as everywhere in this library: f = −(1 − γ) F, where F is the
   benchmark's value (`four_rooms_value`).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from bilevel_rl import checks
from bilevel_rl.environments import TabularMDP
from bilevel_rl.exact.objectives import hyper_objective
from bilevel_rl.formulation.names import GridLayout, Names
from bilevel_rl.formulation.problem import BilevelProblem
from bilevel_rl.formulation.upper_objectives import OccupancyCost
from bilevel_rl.problems.grid import Cell, Grid

ROOMS: tuple[str, ...] = (
    "#############",
    "#.....#.....#",
    "#.....#.....#",
    "#...........#",
    "#.....#.....#",
    "#.....#.....#",
    "##.####.....#",
    "#.....###.###",
    "#.....#.....#",
    "#.....#.....#",
    "#...........#",
    "#.....#.....#",
    "#############",
)
"""The map, row by row: `#` is a wall."""

FREE_CELLS: tuple[Cell, ...] = tuple(
    (row, column) for row, line in enumerate(ROOMS) for column, sign in enumerate(line) if sign != "#"
)
"""(row, col) of the free cells; state s = context · 104 + cell is a place in this list, and the last state the end."""

MOVES: tuple[Cell, ...] = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Row and column steps of the actions up, right, down, left."""

START: Cell = (4, 1)
GOALS: tuple[Cell, ...] = ((1, 9), (11, 11))
TARGET: Cell = (8, 4)
"""The cell that the leader wants visited."""

INITIAL_SPREAD = 0.01


def four_rooms(
    entropy_weight: float = 0.001,
    beta: float = 1.0,
    budget: float = 0.2,
    slip: float = 0.44,
    discount: float = 0.99,
    goals: tuple[Cell, ...] = GOALS,
) -> BilevelProblem:
    """x ∈ R^105 are logits of a penalty: `p(s) = −budget · softmax(x)_s` in the 104 free cells, the rest unused budget.

    The follower walks from (4, 1) to one of the goals, drawn evenly; the draw is a *context* that it knows and the
    leader does not control. It earns 1 in its goal, where the episode ends, and p(s) in any other cell, and weighs its
    entropy with `entropy_weight` (kept as `BilevelProblem.entropy_weight`: here it is the follower's, not a method's to
    choose). The leader earns 1 for every visit to (8, 4), far from both ways, and pays `beta · ‖p‖₁` when the follower
    reaches its goal. Seeds start from x ~ N(0, 0.01²).

    Args:
        entropy_weight: λ > 0; the benchmark's are 0.001, 0.003 and 0.005.
        beta: price of the penalties; the benchmark's are 1 to 5.
        budget: all penalties together, per step.
        slip: probability that one of the other three moves happens, evenly, instead of the chosen one.
        discount: γ of both levels.
        goals: different free cells; the benchmark's two by default.

    Raises:
        TypeError: an argument is of another type.
        ValueError: `entropy_weight` or `budget` is not positive, `beta` is negative, `slip` is not a probability,
            `discount` lies outside [0, 1), or `goals` are none, the same twice, or not free.

    Example:
        >>> import bilevel_rl as brl
        >>> problem = brl.problems.four_rooms(entropy_weight=0.003, beta=3.0)
        >>> problem.environment.num_states, problem.initial_x.shape, problem.entropy_weight
        (209, (105,), 0.003)
        >>> print(f"{brl.problems.four_rooms_value(problem, problem.initial_x):.3f}")
        -0.068
    """
    checks.number("entropy_weight", entropy_weight, above=0)
    checks.number("beta", beta, at_least=0)
    checks.number("budget", budget, above=0)
    checks.number("slip", slip, at_least=0, at_most=1)
    goals = _checked_goals(goals)
    num_cells, num_contexts = len(FREE_CELLS), len(goals)
    num_states = num_contexts * num_cells + 1
    context, cell = np.divmod(np.arange(num_states), num_cells)
    is_goal = (cell == np.array([FREE_CELLS.index(goal) for goal in goals])[context % num_contexts]) & (
        context < num_contexts
    )
    is_target = cell == FREE_CELLS.index(TARGET)

    def price(x: Float[ArrayLike, " 105"]) -> Float[Array, ""]:
        return beta * jnp.sum(penalties(x, budget))

    return BilevelProblem(
        environment=_environment(is_goal, num_contexts, slip, discount),
        reward=lambda x, s, a: jnp.where(jnp.asarray(is_goal)[s], 1.0, -penalties(x, budget)[jnp.asarray(cell)[s]]),
        upper=OccupancyCost(
            cost=lambda x, s, a: jnp.where(jnp.asarray(is_goal)[s], price(x), -1.0 * jnp.asarray(is_target)[s]),
            cost_bound=max(1.0, beta * budget),
        ),
        initial_x=np.zeros(num_cells + 1),
        reward_bound=max(1.0, budget),
        initial_spread=INITIAL_SPREAD,
        entropy_weight=entropy_weight,
        names=Names(
            f"Which penalties lead a follower on the way to its goal through {TARGET}?",
            actions=("up", "right", "down", "left"),
            x=(*(f"penalty at {cell}" for cell in FREE_CELLS), "unused budget"),
            layout=GridLayout([*FREE_CELLS * num_contexts, None]),
        ),
    )


def penalties(x: Float[ArrayLike, " 105"], budget: float = 0.2) -> Float[Array, " 104"]:
    """What the follower pays per step in each free cell, −p(s)."""
    # No softmax: XLA rounds its division in another way on several devices than on one.
    return budget * jnp.exp(jax.nn.log_softmax(jnp.asarray(x)))[:-1]


def _checked_goals(goals: tuple[Cell, ...]) -> tuple[Cell, ...]:
    Grid(size=len(ROOMS)).check_cells("goals", goals)
    if not goals or len(set(goals)) < len(goals) or not set(goals) <= set(FREE_CELLS):
        raise ValueError(f"goals must be different free cells, for instance ((1, 9),), got {checks.shown(goals)}")
    return goals


def _environment(is_goal: np.ndarray, num_contexts: int, slip: float, discount: float) -> TabularMDP:
    """A copy of the rooms for every context, and the end, which each goal leads to."""
    number = {cell: i for i, cell in enumerate(FREE_CELLS)}
    reached = np.array(
        [[number.get((row + down, column + right), i) for down, right in MOVES] for (row, column), i in number.items()]
    )
    end = len(is_goal) - 1
    successors = np.concatenate(
        [*(context * len(number) + reached for context in range(num_contexts)), np.full((1, 4), end)]
    )
    successors[is_goal] = end
    starts = [context * len(number) + number[START] for context in range(num_contexts)]
    return TabularMDP.from_successors(
        successors[:, None, :],
        [(1 - slip - slip / 3) * np.eye(4) + slip / 3],
        initial=np.isin(np.arange(end + 1), starts) / len(starts),
        discount=discount,
        terminal=np.arange(end + 1) == end,
    )


def four_rooms_value(
    problem: BilevelProblem, x: Float[ArrayLike, " 105"], *, entropy_weight: float | None = None
) -> float:
    """F(x) = −Φ_λ(x) / (1 − γ): the leader's discounted return, the mean over the goals; larger is better.

    Args:
        problem: from `four_rooms`.
        x: logits of the penalties.
        entropy_weight: λ; by default the problem's own.

    Raises:
        ValueError: x has another shape, or `entropy_weight` is not positive.
        OracleError: the follower's answer does not converge.
    """
    checks.instance("problem", problem, BilevelProblem)
    weight = problem.entropy_weight if entropy_weight is None else entropy_weight
    if weight is None:
        raise ValueError("entropy_weight must be given for a problem that has none of its own, got None")
    return -float(hyper_objective(problem, x, entropy_weight=weight)) / (1 - problem.environment.discount)
