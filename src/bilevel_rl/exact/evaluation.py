"""Policy evaluation and occupancies of a known tabular MDP, by one linear solve each.

Up to `DENSE_LIMIT` states the solve is dense; above it is BiCGSTAB on the sparse successors, to a relative residual of
`SPARSE_TOLERANCE` in double precision, or what rounding allows at a discount near 1. A solve that misses its tolerance
yields NaN, which the public oracles report. Policy iterations stop when values stand still to `values_tolerance`.
"""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from bilevel_rl.environments import TabularMDP

DENSE_LIMIT = 1_500
SPARSE_TOLERANCE = 1e-12
LONG_HORIZON = 0.99
"""Discount beyond which the rounding of values of size 1/(1−γ) matters beside the rewards themselves."""

REFINEMENT, MAX_REFINEMENTS = 1e-5, 10
"""BiCGSTAB may stall near its rounding error, so it gains five digits at a time on what is left."""


def values_tolerance(mdp: TabularMDP, dtype: DTypeLike, horizon: float | None = None) -> float:
    """Relative change of the values at which a policy iteration counts as converged: what the solver can resolve.

    The condition of I − γP is 1/(1−γ): the mean of the values is resolved to half of eps/(1−γ), while their differences
    between states, on which alone the policy depends, are as exact as rewards are.

    Args:
        mdp: whose values.
        dtype: their precision.
        horizon: 1/(1−γ) by default; 1 where differences are compared.
    """
    horizon = 1 / (1 - mdp.discount) if horizon is None else horizon
    rounding = float(jnp.finfo(dtype).eps) * max(200, 2 * horizon)
    return rounding if mdp.num_states <= DENSE_LIMIT else max(100 * SPARSE_TOLERANCE, 100 * rounding)


def expected_next(mdp: TabularMDP, values: Float[Array, " S"]) -> Float[Array, "S A"]:
    """(P v)(s, a) = Σ_s' P(s'|s, a) v(s')."""
    return jnp.sum(mdp.probabilities * values[mdp.successors], axis=-1)


def inflow(mdp: TabularMDP, weights: Float[Array, "S A"]) -> Float[Array, " S"]:
    """(Pᵀ m)(s') = Σ_{s,a} P(s'|s, a) m(s, a), the adjoint of `expected_next`."""
    return jnp.zeros(mdp.num_states, weights.dtype).at[mdp.successors].add(_outcome_weights(mdp, weights))


def _outcome_weights(mdp: TabularMDP, weights: Float[Array, "S A"]) -> Float[Array, "S #A K"]:
    """m(s, a) P(k-th outcome), summed over the actions where they share their successors."""
    products = weights[..., None] * mdp.probabilities
    return jnp.sum(products, axis=1, keepdims=True) if mdp.successors.shape[1] == 1 else products


def start_mean(mdp: TabularMDP, values: Float[Array, " S"]) -> Float[Array, ""]:
    """(1−γ) ρᵀV: what unnormalized values amount to from the start, normalized."""
    return (1 - mdp.discount) * jnp.asarray(mdp.initial, values.dtype) @ values


class PolicySystem(eqx.Module):
    """The linear system I − γP^π of one policy, factored once for as many right-hand sides as there are.

    Plain JAX functions: they follow the precision of `policy`.
    """

    mdp: TabularMDP
    policy: Float[Array, "S A"]
    factors: tuple[Float[Array, "S S"], Int[Array, " S"]] | None

    def __init__(self, mdp: TabularMDP, policy: Float[Array, "S A"]):
        self.mdp = mdp
        self.policy = policy
        self.factors = None
        if mdp.num_states <= DENSE_LIMIT:
            rows = jnp.arange(mdp.num_states)[:, None, None]
            kernel = jnp.zeros((mdp.num_states, mdp.num_states), policy.dtype)
            kernel = kernel.at[rows, mdp.successors].add(_outcome_weights(mdp, policy))
            # Solutions are differentiated by the equation that they solve, not through the factors.
            self.factors = _factor(jax.lax.stop_gradient(jnp.eye(mdp.num_states) - mdp.discount * kernel))

    def values(self, state_rewards: Float[Array, " S"]) -> Float[Array, " S"]:
        """Unnormalized values: solves (I − γ P^π) V = r^π."""

        def flow(values: Array) -> Array:
            return values - self.mdp.discount * jnp.sum(self.policy * expected_next(self.mdp, values), axis=-1)

        return self._solve(flow, state_rewards, _solve_dense, _solve_dense_transposed)

    def advantages(self, rewards: Float[Array, "S A"]) -> tuple[Float[Array, " S"], Float[Array, "S A"]]:
        """Unnormalized values of a reward, and Q(s, a) − V(s)."""
        values = self.values(jnp.sum(self.policy * rewards, axis=-1))
        advantages = rewards + self.mdp.discount * expected_next(self.mdp, values) - values[:, None]
        if self.mdp.discount > LONG_HORIZON:
            # Their mean under the policy is 0. An adjoint solve would multiply what rounding leaves of it by 1/(1−γ).
            advantages = advantages - jnp.sum(self.policy * advantages, axis=-1, keepdims=True)
        return values, advantages

    def inflow(self, sources: Float[Array, " S"]) -> Float[Array, " S"]:
        """The adjoint of `values`: solves (I − γP^π)ᵀ z = sources."""

        def flow(mass: Array) -> Array:
            return mass - self.mdp.discount * inflow(self.mdp, mass[:, None] * self.policy)

        return self._solve(flow, sources, _solve_dense_transposed, _solve_dense)

    def occupancy(self) -> Float[Array, "S A"]:
        """d^π(s, a) = (1−γ) Σ_t γ^t Pr(s_t = s, a_t = a) from ρ; sums to 1 (terminal states included)."""
        start = (1 - self.mdp.discount) * jnp.asarray(self.mdp.initial, self.policy.dtype)
        return self.inflow(start)[:, None] * self.policy

    def _solve(self, flow: Callable, right_hand_side: Array, dense: Callable, transposed: Callable) -> Array:
        # A `custom_linear_solve` is differentiated by its own equation, in both modes, however it is solved.
        if self.factors is None:
            tolerance = _residual_tolerance(self.mdp, right_hand_side.dtype)
            solve = functools.partial(_solve_sparse, tolerance=tolerance)
            return jax.lax.custom_linear_solve(flow, right_hand_side, solve, solve)
        return jax.lax.custom_linear_solve(
            flow,
            right_hand_side,
            solve=lambda _, sources: dense(self.factors, sources),
            transpose_solve=lambda _, sources: transposed(self.factors, sources),
        )


def policy_values(
    mdp: TabularMDP, policy: Float[Array, "S A"], state_rewards: Float[Array, " S"]
) -> Float[Array, " S"]:
    """Unnormalized values of one reward, `PolicySystem.values`."""
    return PolicySystem(mdp, policy).values(state_rewards)


def occupancy(mdp: TabularMDP, policy: Float[Array, "S A"]) -> Float[Array, "S A"]:
    """d^π(s, a) = (1−γ) Σ_t γ^t Pr(s_t = s, a_t = a) from ρ; sums to 1 (terminal states included).

    A plain JAX function: it follows the precision of `policy`.
    """
    return PolicySystem(mdp, policy).occupancy()


# One system after the other under vmap: jaxlib 0.10 hands the factorizations of a batch to the thread pool that the
# program itself runs on and waits for them there, which can deadlock on machines with few cores.


@jax.custom_batching.sequential_vmap
def _factor(system: Array) -> tuple[Array, Array]:
    return jax.scipy.linalg.lu_factor(system)


@jax.custom_batching.sequential_vmap
def _solve_dense(factors: tuple[Array, Array], right_hand_side: Array) -> Array:
    return jax.scipy.linalg.lu_solve(factors, right_hand_side)


@jax.custom_batching.sequential_vmap
def _solve_dense_transposed(factors: tuple[Array, Array], right_hand_side: Array) -> Array:
    return jax.scipy.linalg.lu_solve(factors, right_hand_side, trans=1)


def _residual_tolerance(mdp: TabularMDP, dtype: DTypeLike) -> float:
    """A residual is a difference of values of size 1/(1−γ), each of which is rounded."""
    return max(SPARSE_TOLERANCE, float(jnp.finfo(dtype).eps) * max(100, 4 / (1 - mdp.discount)))


def _solve_sparse(flow: Callable[[Array], Array], right_hand_side: Array, *, tolerance: float) -> Array:
    goal = tolerance * jnp.linalg.norm(right_hand_side)

    def refine(carry: tuple) -> tuple:
        count, solution, residual = carry
        correction, _ = jax.scipy.sparse.linalg.bicgstab(flow, residual, x0=residual, tol=REFINEMENT)
        solution = solution + correction
        return count + 1, solution, right_hand_side - flow(solution)

    def is_unfinished(carry: tuple) -> Array:
        return (carry[0] < MAX_REFINEMENTS) & (jnp.linalg.norm(carry[2]) > goal)

    start = (0, jnp.zeros_like(right_hand_side), right_hand_side)
    _, solution, residual = jax.lax.while_loop(is_unfinished, refine, start)
    return jnp.where(jnp.linalg.norm(residual) <= goal, solution, jnp.nan)
