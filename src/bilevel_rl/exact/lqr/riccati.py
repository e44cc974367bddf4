"""The follower's answer in a linear system with quadratic losses: soft Riccati and Lyapunov equations.

With s̃ = (s, 1), z = (s, a, 1) and a law N(−K s̃, Σ) of the action:

    V(s) = −s̃ᵀ P s̃,   Q(s, a) = −zᵀ M z,   M = W + γ (F̃ᵀ P F̃ + tr(P_ss G Gᵀ) e eᵀ)                    (Bellman)

where F̃ z = (F z, 1) and e = (0, 0, 1), so that all constants stand in the last number of P. As exp(Q/τ) is a Gaussian
in a,

    π*(·|s) = N(−K s̃, Σ),   K = M_aa⁻¹ M_a·,   Σ = (τ/2) M_aa⁻¹
    P = M_·· − M_·a K − (τ/2) log det(πτ M_aa⁻¹) e eᵀ                                                   (soft Riccati)

τ changes the constants alone: K is that of the plain regulator. Of laws with independent numbers the best has the same
K, and Σ = (τ/2) diag(M_aa)⁻¹; log det(πτ M_aa⁻¹) is then Σ_i log(πτ / M_ii). The discounted second moments are

    S = E_{d^π}[s̃ s̃ᵀ] = (1 − γ) S_0 + γ (F̃ Z F̃ᵀ + G Gᵀ),   Z = E_{d^π}[z zᵀ], linear in S.              (Lyapunov)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bilevel_rl.exact.lqr.model import LinearQuadratic

MAX_ITERATIONS = 100_000
"""Of value iteration, whose error shrinks by γ ρ² with the spectral radius ρ of the closed loop."""

TOLERANCE = 1e-14
"""Of its last change, relative to the largest number."""


class LinearGaussian(NamedTuple):
    """A law of actions with its value and its visits; s̃ = (s, 1), z = (s, a, 1).

    Attributes:
        gain: K; the mean of a is −K s̃.
        covariance: Σ.
        values: P; V(s) = −s̃ᵀ P s̃.
        moments: Z, second moments of z under the discounted occupancy, which sums to 1.
    """

    gain: Float[Array, "m s"]
    covariance: Float[Array, "m m"]
    values: Float[Array, "s s"]
    moments: Float[Array, "z z"]

    @property
    def entropy(self) -> Float[Array, ""]:
        """H(π(·|s)), alike in all states."""
        _, log_determinant = jnp.linalg.slogdet(2 * jnp.pi * jnp.e * self.covariance)
        return log_determinant / 2


def best_answer(
    model: LinearQuadratic,
    start: Float[Array, "s s"],
    discount: float,
    entropy_weight: Float[Array, ""],
    *,
    independent: bool,
) -> LinearGaussian:
    """π* for the losses of a model; NaN where there is none. Differentiable any number of times.

    Args:
        model: of arrays.
        start: second moments of s̃_0.
        discount: γ.
        entropy_weight: τ.
        independent: the numbers of an action are.
    """
    n, τ = len(model.transition), entropy_weight

    def improved(values: Array) -> Array:
        return _improved(action_losses(model, values, discount), n, τ, independent)[0]

    def iterate(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        num_iterations, values, _ = carry
        following = improved(values)
        change = jnp.max(jnp.abs(following - values)) / jnp.maximum(jnp.max(jnp.abs(following)), 1e-300)
        return num_iterations + 1, following, change

    def goes_on(carry: tuple[Array, Array, Array]) -> Array:
        num_iterations, values, change = carry
        return (num_iterations < MAX_ITERATIONS) & (change > TOLERANCE) & jnp.all(jnp.isfinite(values))

    def find(residual: Callable, start: Array) -> Array:
        num_iterations, values, _ = jax.lax.while_loop(goes_on, iterate, (jnp.int32(0), start, jnp.asarray(jnp.inf)))
        return jnp.where(num_iterations < MAX_ITERATIONS, values, jnp.nan)

    def solve_linear(linear: Callable[[Array], Array], right: Array) -> Array:
        return solved(lambda P: P - linear(P) + right, right)

    def residual_of(values: Array) -> Array:
        return improved(values) - values

    values = jax.lax.custom_root(residual_of, jnp.zeros((n + 1, n + 1)), find, solve_linear)  # pyright: ignore
    _, gain, covariance = _improved(action_losses(model, values, discount), n, τ, independent)
    moments = visited(model, start, discount, gain, covariance)
    return LinearGaussian(gain, covariance, values, moments)


def action_losses(model: LinearQuadratic, values: Float[Array, "s s"], discount: float) -> Float[Array, "z z"]:
    """M: the loss of one step and of all that come after it, with these values."""
    transition = _with_one(model.transition)
    of_noise = jnp.trace(values[:-1, :-1] @ model.noise @ model.noise.T)
    return model.loss + discount * (transition.T @ values @ transition).at[-1, -1].add(of_noise)


def visited(
    model: LinearQuadratic,
    start: Float[Array, "s s"],
    discount: float,
    gain: Float[Array, "m s"],
    covariance: Float[Array, "m m"],
) -> Float[Array, "z z"]:
    """Z of a law."""
    n, transition = len(model.transition), _with_one(model.transition)
    of_noise = jnp.zeros_like(start).at[:n, :n].set(model.noise @ model.noise.T)
    lift = jnp.concatenate([jnp.eye(n + 1)[:n], -gain, jnp.eye(n + 1)[n:]])

    def lifted(states: Array) -> Array:
        return (lift @ states @ lift.T).at[n:-1, n:-1].add(covariance)

    def following(states: Array) -> Array:
        return (1 - discount) * start + discount * (transition @ lifted(states) @ transition.T + of_noise)

    return lifted(solved(following, start))


def solved(affine: Callable[[Array], Array], like: Float[Array, "s s"]) -> Float[Array, "s s"]:
    """The fixed point of an affine map, by one linear system."""
    right = affine(jnp.zeros_like(like))
    slope = jax.jacfwd(affine)(jnp.zeros_like(like)).reshape(like.size, like.size)
    return jnp.linalg.solve(jnp.eye(like.size) - slope, right.ravel()).reshape(like.shape)


def _improved(losses: Array, n: int, τ: Array, independent: bool) -> tuple[Array, Array, Array]:
    """P, K and Σ of the best law for M."""
    rest = jnp.array([*range(n), len(losses) - 1])
    of_actions, crossed = losses[n:-1, n:-1], losses[n:-1][:, rest]
    factor = jnp.linalg.cholesky(of_actions)  # NaN where a follower gains without end.
    gain = jax.scipy.linalg.cho_solve((factor, True), crossed)
    scales = jnp.diagonal(of_actions) if independent else jnp.diagonal(factor) ** 2
    bonus = τ / 2 * jnp.sum(jnp.log(jnp.pi * τ / scales))
    values = (losses[rest][:, rest] - crossed.T @ gain).at[-1, -1].add(-bonus)
    inverse = jnp.diag(1 / scales) if independent else jax.scipy.linalg.cho_solve((factor, True), jnp.eye(len(factor)))
    return (values + values.T) / 2, gain, τ / 2 * inverse


def _with_one(transition: Float[Array, "n z"]) -> Float[Array, "s z"]:
    """F̃."""
    return jnp.concatenate([transition, jnp.zeros_like(transition[:1]).at[0, -1].set(1.0)])
