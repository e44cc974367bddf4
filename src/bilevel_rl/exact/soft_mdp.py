"""Optimal policies of a known MDP: soft-optimal at entropy weight τ > 0, and their limit as τ → 0.

Source: docs/explanation/method.md, sections 2 and 7.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from bilevel_rl.environments import TabularMDP
from bilevel_rl.exact.evaluation import expected_next, occupancy, policy_values, values_tolerance

MAX_IMPROVEMENTS = 1_000
"""Policy iterations before a problem counts as unsolved; a dozen are usual, since convergence is quadratic. Where a
long way pays only at its end, at a discount near 1, every iteration finds some more steps of it."""


class SoftSolution(NamedTuple):
    """A soft-optimal policy. `log_policy` is −inf for actions that the limit τ → 0 never takes."""

    log_policy: Float[Array, "S A"]
    values: Float[Array, " S"]
    action_values: Float[Array, "S A"]

    @property
    def policy(self) -> Float[Array, "S A"]:
        """π(a|s)."""
        return jnp.exp(self.log_policy)


def entropy(log_policy: Float[Array, "*batch A"]) -> Float[Array, "*batch"]:
    """H(π(·|s)) = −Σ_a π log π in nats, with 0 log 0 = 0."""
    policy = jnp.exp(log_policy)
    return -jnp.sum(jnp.where(policy > 0, policy * jnp.where(policy > 0, log_policy, 0.0), 0.0), axis=-1)


def soft_values(
    mdp: TabularMDP, reward: Float[Array, "S A"], log_policy: Float[Array, "S A"], entropy_weight: Float[ArrayLike, ""]
) -> Float[Array, " S"]:
    """V^π(s) = E[Σ γ^t (r + τ H)]; terminal states accrue neither (`reward` must be 0 there)."""
    bonus = jnp.where(mdp.terminal, 0.0, jnp.asarray(entropy_weight) * entropy(log_policy))
    return policy_values(mdp, jnp.exp(log_policy), jnp.sum(jnp.exp(log_policy) * reward, axis=-1) + bonus)


def soft_return(
    mdp: TabularMDP, reward: Float[Array, "S A"], log_policy: Float[Array, "S A"], entropy_weight: Float[ArrayLike, ""]
) -> Float[Array, ""]:
    """J_τ(π) = E_{d^π}[r + τ H], normalized by 1−γ."""
    bonus = jnp.where(mdp.terminal, 0.0, jnp.asarray(entropy_weight) * entropy(log_policy))
    return jnp.sum(occupancy(mdp, jnp.exp(log_policy)) * (reward + bonus[:, None]))


def soft_optimal(
    mdp: TabularMDP,
    reward: Float[Array, "S A"],
    entropy_weight: Float[ArrayLike, ""],
    allowed: Bool[Array, "S A"] | None = None,
    start_values: Float[Array, " S"] | None = None,
) -> SoftSolution:
    """Soft policy iteration: evaluate by a linear solve, improve by softmax(Q / τ), until the values stand still.

    Args:
        reward: r(s, a); 0 in terminal states.
        entropy_weight: τ > 0.
        allowed: actions that the policy may take; all by default.
        start_values: values to start from; ones close to the solution save improvements. 0 by default.

    Returns:
        The solution; its values are NaN where `MAX_IMPROVEMENTS` did not suffice.
    """
    may_take = jnp.ones(reward.shape, bool) if allowed is None else allowed
    entropy_weight = jnp.asarray(entropy_weight, reward.dtype)
    start_values = jnp.zeros(mdp.num_states, reward.dtype) if start_values is None else start_values
    start_values = jax.lax.stop_gradient(start_values)  # The solution does not depend on where it was sought from.
    values = _soft_optimal_values(reward, entropy_weight, mdp=mdp, may_take=may_take, start_values=start_values)
    return _improved(mdp, reward, entropy_weight, may_take, values)


def _improved(mdp: TabularMDP, reward: Array, entropy_weight: Array, may_take: Array, values: Array) -> SoftSolution:
    action_values = reward + mdp.discount * expected_next(mdp, values)
    log_policy = jax.nn.log_softmax(jnp.where(may_take, action_values / entropy_weight, -jnp.inf))
    return SoftSolution(log_policy, values, action_values)


@eqx.filter_custom_jvp
def _soft_optimal_values(
    reward: Array, entropy_weight: Array, *, mdp: TabularMDP, may_take: Array, start_values: Array
) -> Array:
    tolerance = values_tolerance(mdp, reward.dtype)

    def improve(carry):
        count, solution, _ = carry
        values = soft_values(mdp, reward, solution.log_policy, entropy_weight)
        change = jnp.max(jnp.abs(values - solution.values)) / jnp.maximum(1.0, jnp.max(jnp.abs(values)))
        return count + 1, _improved(mdp, reward, entropy_weight, may_take, values), change

    def is_unfinished(carry):
        count, _, change = carry
        return (count < MAX_IMPROVEMENTS) & (change > tolerance)

    start = (0, _improved(mdp, reward, entropy_weight, may_take, start_values), jnp.asarray(jnp.inf, reward.dtype))
    _, solution, change = jax.lax.while_loop(is_unfinished, improve, start)
    return jnp.where(change <= tolerance, solution.values, jnp.nan)


@_soft_optimal_values.def_jvp
def _soft_optimal_values_jvp(
    primals, tangents, *, mdp: TabularMDP, may_take: Array, start_values: Array
) -> tuple[Array, Array]:
    """Envelope theorem: ∂V = (I − γP^π)^{-1} (E_π[∂r] + H ∂τ), with no derivative of the iteration."""
    reward, entropy_weight = primals
    values = _soft_optimal_values(reward, entropy_weight, mdp=mdp, may_take=may_take, start_values=start_values)
    log_policy = _improved(mdp, reward, entropy_weight, may_take, values).log_policy
    reward_tangent, weight_tangent = (
        jnp.zeros_like(primal) if tangent is None else tangent
        for primal, tangent in zip(primals, tangents, strict=True)
    )
    return values, soft_values(mdp, reward_tangent, log_policy, weight_tangent)


def optimal_limit(mdp: TabularMDP, reward: Float[Array, "S A"]) -> SoftSolution:
    """The limit τ → 0 of the soft-optimal policies: among all optimal policies the one of maximum entropy.

    To first order `Q_τ = Q_0 + τ Q_H` on optimal actions, so the limit is softmax(Q_H) over the optimal actions, where
    Q_H solves the MDP with reward 0, entropy weight 1 and the optimal actions only.
    """

    def greedy(action_values: Array) -> Array:
        return jax.nn.one_hot(jnp.argmax(action_values, axis=-1), mdp.num_actions, dtype=reward.dtype)

    def improve(carry):
        count, policy, _, _ = carry
        values = policy_values(mdp, policy, jnp.sum(policy * reward, axis=-1))
        new_action_values = reward + mdp.discount * expected_next(mdp, values)
        gain = jnp.max(jnp.max(new_action_values, axis=-1) - values) / scale
        return count + 1, greedy(new_action_values), new_action_values, gain

    def is_unfinished(carry):
        count, _, _, gain = carry
        return (count < MAX_IMPROVEMENTS) & (gain > tolerance)

    scale = jnp.maximum(jnp.max(jnp.abs(reward)), jnp.finfo(reward.dtype).tiny) / (1 - mdp.discount)
    tolerance = values_tolerance(mdp, reward.dtype, horizon=1.0)
    start = (0, greedy(reward), reward, jnp.asarray(jnp.inf, reward.dtype))
    _, _, action_values, gain = jax.lax.while_loop(is_unfinished, improve, start)
    values = jnp.max(action_values, axis=-1)
    is_optimal = action_values >= values[:, None] - 10 * tolerance * scale
    spread = soft_optimal(mdp, jnp.zeros_like(reward), jnp.ones((), reward.dtype), allowed=is_optimal)
    values = jnp.where((gain <= tolerance) & jnp.all(jnp.isfinite(spread.values)), values, jnp.nan)
    return SoftSolution(spread.log_policy, values, action_values)
