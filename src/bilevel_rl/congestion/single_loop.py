"""The single loop of first order on a congestion game: x and two crowds of followers move at the same time.

    d*  ← d*  + β (response to r_x − t(flow(d*))                    − d*)         (L)
    d^L ← d^L + β (response to r_x − t(flow(d^L)) − w ∂f/∂flow(d^L) − d^L)        (P)
    x   ← Π(x − ζ [∂_x f(x, flow(d^L)) + demand Σ (n* − n^L) ∂_x r_x / w])        (U)

A mean-field form of Algorithm 1 (Zeng et al., 2026) with a known model: the responses are those of the penalty method,
on the potential of the game in place of the return of one follower. (L) and (P) are the method of successive averages
with a fixed share β, and no equilibrium is waited for. There is no proof of convergence here: β must be small where
crowding is steep and τ small, or the crowd swings from road to road.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bilevel_rl import checks
from bilevel_rl.congestion.equilibrium import NoEquilibriumError, response
from bilevel_rl.congestion.game import CongestionGame
from bilevel_rl.congestion.leader import first_order_gradient
from bilevel_rl.exact.oracle import in_double_precision


class Crowd(NamedTuple):
    """Followers on the way to an equilibrium: their occupancy, and values to seek the next response from."""

    occupancy: Float[Array, "S A"]
    values: Float[Array, " S"]


class CongestionLoop(eqx.Module):
    """The single loop's step sizes.

    Attributes:
        entropy_weight: τ of the followers.
        penalty: w; the tolls' bias is O(w).
        damping: β, in (0, 1]: share of the crowd that takes up the response in one step.
        upper_step: ζ, step size of x.

    Raises:
        TypeError, ValueError: a number is not positive, or `damping` exceeds 1.
    """

    entropy_weight: float
    penalty: float
    damping: float
    upper_step: float

    def __check_init__(self):
        for name in ("entropy_weight", "penalty", "upper_step"):
            checks.number(name, getattr(self, name), above=0)
        checks.number("damping", self.damping, above=0, at_most=1)

    def run(self, game: CongestionGame, num_iterations: int) -> Float[np.ndarray, "iterations n"]:
        """From `initial_x` and the response to empty roads; x after every iteration, in double precision.

        Raises:
            TypeError, ValueError: `game` is none, or `num_iterations` is no positive integer.
            NoEquilibriumError: x is not finite at some iteration.
        """
        checks.instance("game", game, CongestionGame)
        checks.integer("num_iterations", num_iterations, at_least=1)
        weights = {name: np.asarray(value, np.float64) for name, value in vars(self).items()}
        path = in_double_precision(_path, game, weights, np.arange(num_iterations))
        if not np.all(np.isfinite(path)):
            where = int(np.argmin(np.all(np.isfinite(path), axis=1)))
            raise NoEquilibriumError(
                f"x is not finite after iteration {where + 1}; take a smaller upper_step or damping"
            )
        return path


@eqx.filter_jit
def _path(game: CongestionGame, weights: dict[str, Array], iterations: Array) -> Array:
    τ, w, β, ζ = (weights[name] for name in ("entropy_weight", "penalty", "damping", "upper_step"))

    def responded(x: Array, flow: Array, values: Array, penalty: Array) -> Crowd:
        answer = response(game, x, flow, values, τ, penalty)
        return Crowd(game.policy_occupancy(answer.policy), answer.values)

    def moved(x: Array, crowd: Crowd, penalty: Array) -> Crowd:
        answer = responded(x, game.flow(crowd.occupancy), crowd.values, penalty)
        return Crowd(crowd.occupancy + β * (answer.occupancy - crowd.occupancy), answer.values)

    def step(carry: tuple[Array, Crowd, Crowd], _: Array) -> tuple[tuple[Array, Crowd, Crowd], Array]:
        x, lower, penalized = carry
        lower, penalized = moved(x, lower, jnp.zeros_like(w)), moved(x, penalized, w)  # (L), (P)
        gradient = first_order_gradient(game, x, lower.occupancy, penalized.occupancy, w)
        x = game.feasible(x - ζ * gradient)  # (U)
        return (x, lower, penalized), x

    x = jnp.asarray(game.initial_x)
    nobody = jnp.zeros(len(game.latency.constant), x.dtype)
    crowd = responded(x, nobody, jnp.zeros(game.environment.num_states, x.dtype), jnp.zeros_like(w))
    return jax.lax.scan(step, (x, crowd, crowd), iterations)[1]
