"""In which units a problem is written: how large its rewards and costs are, and how far x has to move to matter."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from bilevel_rl import checks
from bilevel_rl.formulation.problem import BilevelProblem
from bilevel_rl.formulation.upper_objectives import (
    OccupancyCost,
    OccupancyFunctional,
    PolicyLoss,
    TrajectoryLoss,
    UpperObjective,
)

NUM_DIRECTIONS = 32
MAX_PAIRS = 4_096
"""Directions of x, and pairs of state and action, from which the scale of x is measured."""

FAR = 1e6
"""How far x is sent to find where its feasible set ends."""

SHARE_OF_WIDTH = 1 / 4
"""X is at most this share of the feasible set's width."""


NUM_TRAJECTORIES = 1_024
"""Tuples of trajectories, of pairs that need not follow each other, on which a `TrajectoryLoss` is measured."""

ENTROPY_SHARE = 0.1
"""τ over R, of a follower without an entropy weight of its own."""

DECISIONS = 3.0
"""Logits by which a policy may change while x moves by X, where the leader's objective is a ratio of visits."""

FELT_WIDTHS = 2.0
"""R is at most what rewards change by when x moves this many widths of its feasible set, at the slope of x_0."""


class ProblemScales(NamedTuple):
    """The units of a problem. Multiplying all rewards, costs or x by a constant multiplies the entry alone.

    Attributes:
        reward: R, in units of the follower's reward: the size of rewards, or of what x can change about them where that
            is less.
        cost: C, in units of the leader's cost: the size of what the penalized follower pays per step.
        x: X, how far every entry of x can move before rewards and dynamics respond to it in another way, or x
            comes to the ends of its feasible set.
    """

    reward: float
    cost: float
    x: float


def measure_scales(problem: BilevelProblem) -> ProblemScales:
    """R_0 and C are the problem's bounds, or where it has none the largest |r| and |c| at `initial_x`.

    Where all rewards are 0 there, R_0 is the largest |r| at the ends of the feasible set, in some directions.

    C of other objectives than an `OccupancyCost` is how far the costs per step that stand for f
    (docs/explanation/method.md, section 6) are apart, where all pairs are visited equally often and the policy is
    uniform, without the dynamics:

    - `OccupancyFunctional`: the largest difference of ∂F/∂d(s, a) from its mean.
    - `PolicyLoss`: |A| times the largest slope of a demonstration's loss in a logit; A − 1 for the log-likelihood.
    - `TrajectoryLoss`: the largest difference of ℓ from its mean, over tuples of random pairs, times their number.

    X comes from how the tables r_x / R_0 and P_x bend at `initial_x` along normal directions v ~ N(0, I):

        X = D / (K + D²),     D² = E ‖∂_v (r/R_0, P)‖²,     K² = E ‖∂²_v (r/R_0, P)‖²,

    means over directions and over pairs of state and action. Where the tables bend, D / K is the distance after which
    their slopes are others: 1 for logits, some widths for a bump. Where they are straight, 1 / D is the distance after
    which a reward has changed by R_0. Where `project` leaves x less room than that, X is a quarter of the room along
    these directions, and R = R_0 · min(1, 2 D · width): a bonus of a hundredth beside a fall that costs 1 is felt by a
    follower whose entropy weight is as small. Entries of x are taken to have one unit. Models beyond 4,096 pairs are
    measured on as many of them, always the same ones.

    Of an `OccupancyFunctional` or a `PolicyLoss` X is at most 3 τ (1 − γ) / (D R_0): rewards that change by 3 τ (1 − γ)
    for a whole horizon change a logit by 3. These objectives are of ratios of visits, which change by orders of
    magnitude when decisions do.

    Raises:
        TypeError: `problem` is something else.
        ValueError: rewards or costs have no bound and are 0 at `initial_x`, x has no first-order effect there, or the
            upper objective does not depend on the policy.

    Example:
        >>> import bilevel_rl as brl
        >>> scales = brl.formulation.measure_scales(brl.problems.goal_position())
        >>> scales.reward, scales.cost, round(scales.x, 2)
        (1.0, 0.85, 1.32)
    """
    checks.instance("problem", problem, BilevelProblem)
    states, actions = some_pairs(problem)
    x = jax.tree.map(jnp.asarray, problem.initial_x)
    cost = _cost_scale(problem.upper, problem, x)
    directions = np.random.default_rng(0).normal(size=(NUM_DIRECTIONS, ravel_pytree(x)[0].size))
    rewards = problem.rewards(x, states, actions)
    if not np.isfinite(problem.reward_bound) and not np.any(rewards) and np.isfinite(_width(problem, directions)):
        rewards = jax.lax.map(lambda x: problem.rewards(x, states, actions), _ends(problem, directions))
    reward = _scale("reward_bound", problem.reward_bound, rewards)
    arrays = (jnp.asarray(array) for array in (states, actions, reward, directions))
    slope, bend = (float(value) for value in _bends(problem, *arrays))
    if not (0 < slope < float("inf") and bend < float("inf")):
        raise ValueError(
            f"initial_x must be a point where rewards or dynamics change with x, got a mean slope of {slope}; start "
            "elsewhere, or pass scales=ProblemScales(reward, cost, x) with the distance that x has to go"
        )
    distance, width = slope / (bend + slope**2), _width(problem, directions)
    felt = min(1.0, FELT_WIDTHS * slope * width)
    if isinstance(problem.upper, OccupancyFunctional | PolicyLoss):
        τ = ENTROPY_SHARE * reward * felt if problem.entropy_weight is None else problem.entropy_weight
        distance = min(distance, DECISIONS * τ * (1 - problem.mdp.discount) / (slope * reward))
    return ProblemScales(reward * felt, cost, min(distance, SHARE_OF_WIDTH * width))


def _cost_scale(upper: UpperObjective, problem: BilevelProblem, x: PyTree) -> float:
    S, A = problem.mdp.num_states, problem.mdp.num_actions
    uniform = jnp.full(A, -jnp.log(A))
    match upper:
        case OccupancyCost():
            states, actions = some_pairs(problem)
            return _scale("upper.cost_bound", upper.step_cost_bound, problem.costs(x, states, actions))
        case OccupancyFunctional():
            slope = jax.grad(lambda d: jnp.asarray(upper.functional(x, d), float))(jnp.full((S, A), 1 / (S * A)))
            largest = _largest(slope - slope.mean())
        case PolicyLoss():

            def loss(logits: Array, s: Array, a: Array) -> Array:
                return jnp.asarray(upper.loss(x, jax.nn.log_softmax(logits), s, a), float)

            pairs = np.unique(np.stack([upper.states, upper.actions]), axis=1)
            largest = A * _largest(jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(uniform, *pairs))
        case TrajectoryLoss():
            shape = NUM_TRAJECTORIES, upper.num_trajectories, upper.num_steps
            drawn = np.random.default_rng(2).integers(S * A, size=shape)
            pairs = (jnp.asarray(array, jnp.int32) for array in np.divmod(drawn, A))
            losses = jax.vmap(lambda s, a: jnp.asarray(upper.loss(x, s, a), float))(*pairs)
            largest = upper.num_trajectories * upper.num_steps * _largest(losses - losses.mean())
        case _:
            raise ValueError(
                f"upper is a {type(upper).__name__}, whose scale is not known; pass scales=ProblemScales(…)"
            )
    if not 0 < largest < float("inf"):
        raise ValueError(
            f"upper must depend on the policy at initial_x, got slopes of at most {largest}; start elsewhere, or pass "
            "scales=ProblemScales(reward, cost, x)"
        )
    return largest


def _largest(values: Array) -> float:
    return float(jnp.max(jnp.abs(values)))


def _ends(problem: BilevelProblem, directions: Float[np.ndarray, "directions d"]) -> PyTree:
    """The feasible points furthest from `initial_x` in these directions; leading axis of every leaf: the directions."""
    x, unravel = ravel_pytree(jax.tree.map(jnp.asarray, problem.initial_x))
    return jax.vmap(lambda offset: problem.project(unravel(x + offset)))(FAR * jnp.asarray(directions, float))


def _width(problem: BilevelProblem, directions: Float[np.ndarray, "directions d"]) -> float:
    """Width of the feasible set per entry of x, the root mean square over directions; infinite where it has no end."""
    between = jax.tree.map(jnp.subtract, _ends(problem, directions), _ends(problem, -directions))
    width = float(jnp.sqrt(jnp.mean(jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(between)]) ** 2)))
    return width if width < FAR else float("inf")


def _scale(name: str, bound: ArrayLike, values: Array) -> float:
    if np.isfinite(bound):
        return float(np.asarray(bound))
    largest = _largest(values)
    if not 0 < largest < float("inf"):
        raise ValueError(f"{name} must be finite where the largest value at initial_x is {largest}; give a bound")
    return largest


def some_pairs(problem: BilevelProblem) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """States and actions of all pairs, or of as many as `MAX_PAIRS`, always the same ones."""
    num_pairs = problem.mdp.num_states * problem.mdp.num_actions
    chosen = np.arange(num_pairs)
    if num_pairs > MAX_PAIRS:
        chosen = np.random.default_rng(1).integers(num_pairs, size=MAX_PAIRS)
    states, actions = np.divmod(chosen.astype(np.int32), problem.mdp.num_actions)
    return states, actions


@eqx.filter_jit
def _bends(
    problem: BilevelProblem,
    states: Array,
    actions: Array,
    reward: Float[Array, ""],
    directions: Float[Array, "directions d"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """D and K."""
    x, unravel = ravel_pytree(jax.tree.map(jnp.asarray, problem.initial_x))

    def tables(x: Array) -> Float[Array, "pairs columns"]:
        rewards = problem.rewards(unravel(x), states, actions)[:, None] / reward
        if (outcomes := problem.outcome_probabilities) is None:
            return rewards
        chances = jax.vmap(lambda s, a: jnp.asarray(outcomes(unravel(x), s, a)))(states, actions)
        return jnp.concatenate([rewards, chances], axis=1)

    def squares(direction: Array) -> tuple[Array, Array]:
        def slope(x: Array) -> Array:
            return jax.jvp(tables, (x,), (direction,))[1]

        first, second = jax.jvp(slope, (x,), (direction,))
        return jnp.mean(jnp.sum(first**2, axis=1)), jnp.mean(jnp.sum(second**2, axis=1))

    return jax.tree.map(lambda mean: jnp.sqrt(jnp.mean(mean)), jax.lax.map(squares, directions))
