"""The equilibrium of a congestion game with entropy: Newton's method on the flows, with a certificate.

One equation holds the equilibrium, and the penalized one of the leader:

    flow = L_x(flow),   L_x(flow): flow of the best response to r_x(s, a) − t_e(flow_e) − w ∂f/∂flow_e

At penalty w = 0 it is the followers' own equilibrium. At w > 0 its solution minimizes Ψ_x + w f, wherever f is convex.
Solved is the dual of that convex program, D(flow) = ⟨flow, c⟩ − (T + w f)(flow) + W(c), with c the cost of a road, T
the integrated latency and W the value that the followers reach under c: its slope is c'(flow) (flow − L(flow)), and
Newton's direction goes down wherever c' is not negative. The steps are halved until D falls.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, ArrayLike, Float

from bilevel_rl import checks
from bilevel_rl.congestion.game import CongestionGame
from bilevel_rl.exact.oracle import in_double_precision
from bilevel_rl.exact.soft_mdp import SoftSolution, soft_optimal

TOLERANCE = 1e-10
"""|flow − L(flow)| over the demand at which it counts as solved."""

MAX_STEPS, MAX_HALVINGS = 100, 30

ROUNDING = 1e-9
"""Relative change of D below which it no longer tells better from worse, and the distance |flow − L(flow)| does: the
values that it sums are resolved to `values_tolerance`, some 4e-10 where trips are not discounted."""


class NoEquilibriumError(RuntimeError):
    """The search for an equilibrium did not converge."""


@dataclass(frozen=True)
class Equilibrium:
    """Where no follower gains by another policy.

    Attributes:
        policy: π(a|s).
        occupancy: d^π(s, a), the mean over followers; sums to 1, terminal states included.
        flow: followers on each road, for each unit of time; that of `policy`.
        latency: minutes on each road at that flow.
        gap: certificate: what one follower could gain at most, in its lifetime, by another policy while the others stay
            as they are; ≥ 0 but for rounding. Times the demand it bounds how far Ψ_x is above its minimum. With a
            penalty, the same under r_x − w ∂f/∂flow.
        num_iterations: Newton steps, those of all entropy weights.
        values: soft values of the states, from which the next search starts.
    """

    policy: Float[np.ndarray, "S A"]
    occupancy: Float[np.ndarray, "S A"]
    flow: Float[np.ndarray, " E"]
    latency: Float[np.ndarray, " E"]
    gap: float
    num_iterations: int
    values: Float[np.ndarray, " S"]


def equilibrium(
    game: CongestionGame,
    x: npt.ArrayLike,
    *,
    entropy_weight: float | Sequence[float],
    penalty: float = 0.0,
    start: Equilibrium | None = None,
) -> Equilibrium:
    """The followers' equilibrium at x, in double precision.

    Args:
        game: what is played.
        x: the upper variable.
        entropy_weight: τ > 0, in units of reward. Or a falling sequence: each is solved from the one before. With
            roads in circles, τ must stay well below a road's cost, or riding in circles for the sake of entropy pays.
        penalty: w ≥ 0; above 0 it is the penalized equilibrium, argmin Ψ_x + w f(x, ·).
        start: to search from, such as the equilibrium at an x nearby; the best response to empty roads by default.

    Raises:
        TypeError: an argument is of another type.
        ValueError: x has another shape or is not finite, a weight is not positive, or `penalty` is negative.
        NoEquilibriumError: the search did not converge.
    """
    checks.instance("game", game, CongestionGame)
    x = upper_variable(game, x)
    weights = list(entropy_weight) if isinstance(entropy_weight, Sequence | np.ndarray) else [entropy_weight]
    if not weights:
        raise ValueError("entropy_weight must not be empty; a single number, such as 0.1")
    weights = [np.asarray(checks.number("entropy_weight", weight, above=0)) for weight in weights]
    w = np.asarray(checks.number("penalty", penalty, at_least=0))
    values = np.zeros(game.environment.num_states) if start is None else start.values
    flow = np.zeros(len(game.latency.constant)) if start is None else start.flow
    num_steps = 0
    for τ in weights:
        if start is None and num_steps == 0:
            flow = in_double_precision(_point, game, x, flow, values, τ, w).loaded
        flow, values, taken = _solved(game, x, flow, values, τ, w)
        num_steps += taken
    found = in_double_precision(_certified, game, x, flow, values, weights[-1], w)
    policy, occupancy, flow, latency, gap, values = found
    if not np.isfinite(gap + flow.sum()):
        raise NoEquilibriumError(_message(game, weights[-1], "the gap is not finite"))
    return Equilibrium(policy, occupancy, flow, latency, float(gap), num_steps, values)


def upper_variable(game: CongestionGame, x: npt.ArrayLike) -> Float[np.ndarray, " n"]:
    """x in double precision; `ValueError` unless it is finite and shaped as `initial_x`."""
    return np.array(checks.shape("x", checks.finite("x", x), game.initial_x.shape), np.float64)


def road_costs(
    game: CongestionGame, x: Float[Array, " n"], flow: Float[Array, " E"], penalty: Float[ArrayLike, ""]
) -> Float[Array, " E"]:
    """c(flow) = t(flow) + w ∂f/∂flow, what a follower is charged on each road."""
    return game.latency(flow) + penalty * jax.grad(game.upper, argnums=1)(x, flow)


def response(
    game: CongestionGame,
    x: Float[Array, " n"],
    flow: Float[Array, " E"],
    start_values: Float[Array, " S"],
    entropy_weight: Float[ArrayLike, ""],
    penalty: Float[ArrayLike, ""],
) -> SoftSolution:
    """The best response to r_x(s, a) − c_e(flow), sought from these values."""
    rewards = game.rewards(x, road_costs(game, x, flow, penalty))
    return soft_optimal(
        game.environment, rewards, jnp.asarray(entropy_weight, rewards.dtype), game.is_available, start_values
    )


def loaded_flow(
    game: CongestionGame,
    x: Float[Array, " n"],
    flow: Float[Array, " E"],
    start_values: Float[Array, " S"],
    entropy_weight: Float[ArrayLike, ""],
    penalty: Float[ArrayLike, ""],
) -> Float[Array, " E"]:
    """L_x(flow). A plain JAX function with derivatives in x and flow."""
    return _flow_of(game, response(game, x, flow, start_values, entropy_weight, penalty))


def _flow_of(game: CongestionGame, answer: SoftSolution) -> Float[Array, " E"]:
    return game.flow(game.policy_occupancy(answer.policy))


class _Point(NamedTuple):
    """At a flow: the best response's, its values, and the dual objective D."""

    loaded: Float[Array, " E"]
    values: Float[Array, " S"]
    dual: Float[Array, ""]


@eqx.filter_jit
def _point(game: CongestionGame, x: Array, flow: Array, values: Array, τ: Array, penalty: Array) -> _Point:
    answer = response(game, x, flow, values, τ, penalty)
    value = game.demand * jnp.dot(game.environment.initial, answer.values)
    potential = jnp.sum(game.latency.integral(flow)) + penalty * game.upper(x, flow)
    paid = jnp.dot(flow, road_costs(game, x, flow, penalty))
    return _Point(_flow_of(game, answer), answer.values, paid - potential + value)


@eqx.filter_jit
def _direction(game: CongestionGame, x: Array, flow: Array, values: Array, τ: Array, penalty: Array) -> Array:
    """Newton's: −(I − ∂L/∂flow)^{-1} (flow − L(flow))."""

    def residual(flow: Array) -> tuple[Array, Array]:
        left = flow - loaded_flow(game, x, flow, values, τ, penalty)
        return left, left

    jacobian, left = jax.jacfwd(residual, has_aux=True)(flow)
    return -jnp.linalg.solve(jacobian, left)


@eqx.filter_jit
def _certified(game: CongestionGame, x: Array, flow: Array, values: Array, τ: Array, penalty: Array) -> tuple:
    answer = response(game, x, flow, values, τ, penalty)
    occupancy = game.policy_occupancy(answer.policy)
    own_flow = game.flow(occupancy)
    best = response(game, x, own_flow, answer.values, τ, penalty)
    rewards = game.rewards(x, road_costs(game, x, own_flow, penalty))
    gap = game.total_return(rewards, best.log_policy, τ) - game.total_return(rewards, answer.log_policy, τ)
    return answer.policy, occupancy, own_flow, game.latency(own_flow), gap, best.values


def _solved(
    game: CongestionGame, x: np.ndarray, flow: np.ndarray, values: np.ndarray, τ: np.ndarray, penalty: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Flow and values of the equilibrium, and how many steps were taken."""
    point = in_double_precision(_point, game, x, flow, values, τ, penalty)
    for num_steps in range(MAX_STEPS):
        distance = np.max(np.abs(flow - point.loaded)) / game.demand
        if not np.isfinite(distance + point.dual):
            raise NoEquilibriumError(_message(game, τ, "a response's values are not finite"))
        if distance <= TOLERANCE:
            return point.loaded, point.values, num_steps
        direction = in_double_precision(_direction, game, x, flow, point.values, τ, penalty)
        for step in 0.5 ** np.arange(MAX_HALVINGS):
            tried = np.maximum(flow + step * direction, 0.0)
            new = in_double_precision(_point, game, x, tried, point.values, τ, penalty)
            change = (new.dual - point.dual) / max(1.0, abs(point.dual))
            is_closer = np.max(np.abs(tried - new.loaded)) / game.demand < distance
            if change < -ROUNDING or (abs(change) <= ROUNDING and is_closer):
                break
        else:
            raise NoEquilibriumError(
                _message(game, τ, f"no step is better; |flow − L(flow)| / demand is {distance:.2g}")
            )
        flow, point = tried, new
    raise NoEquilibriumError(_message(game, τ, f"{MAX_STEPS} steps did not suffice"))


def _message(game: CongestionGame, τ: np.ndarray, what: str) -> str:
    return (
        f"no equilibrium found at entropy weight {τ:g} with {len(game.latency.constant)} roads: {what}; anneal from a "
        "larger weight, as in entropy_weight=(0.3, 0.1, 0.03). At a large one, roads in circles may pay"
    )
