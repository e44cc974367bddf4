"""Policies that choose one of A actions, by the softmax of A logits.

How an action is drawn, how two followers come to choose the same one, and which direction of the logits a sample asks
for. Equation names are those of docs/explanation/method.md, section 4.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bilevel_rl.policies.batches import over_samples

FISHER_FLOOR = 0.1
"""Probabilities by which the natural actor divides are at least this share of the uniform policy's."""


class CategoricalLaw(NamedTuple):
    """π(·|s) of a batch of states, and its logarithm."""

    policy: Float[Array, "*batch A"]
    log_policy: Float[Array, "*batch A"]


class Categorical(eqx.Module):
    """The softmax policy of A logits. Actions are integers 0…A−1."""

    num_actions: int = eqx.field(static=True)

    @property
    def num_parameters(self) -> int:
        """A, the logits of one state."""
        return self.num_actions

    @property
    def entropy_bound(self) -> float:
        """log A, an upper bound of the entropy."""
        return math.log(self.num_actions)

    def num_extra_uniforms(self, coupled: bool) -> int:
        """Beside the one that an action takes: one where two followers are coupled."""
        return 1 if coupled else 0

    def draw(
        self, logits: Float[Array, "F B A"], uniforms: Float[Array, "F B"], extra: Float[Array, "U F B"], coupled: bool
    ) -> tuple[Int[Array, "F B"], CategoricalLaw, Float[Array, "F B"]]:
        """Actions a ~ π, the laws they come from, and their entropies; coupled followers agree as often as they can."""
        a, policy, log_policy, entropy = jax.vmap(draw_actions)(logits, uniforms)
        if coupled:
            a = jnp.stack([a[0], follow_actions(a[0], policy[0], policy[1], extra[0, 1])])
        return a, CategoricalLaw(policy, log_policy), entropy

    def direction(
        self, δ: Float[Array, " B"], a: Int[Array, " B"], law: CategoricalLaw, τ: Float[Array, " B"]
    ) -> Float[Array, "B A"]:
        """(A)'s direction of the logits, δ ∇ log π(a|s) + τ ∇H(π(·|s))."""
        return direction(δ, a, law.policy, law.log_policy, τ)

    def natural_direction(
        self, δ: Float[Array, " B"], a: Int[Array, " B"], law: CategoricalLaw, τ: Float[Array, " B"]
    ) -> Float[Array, "B A"]:
        """The natural gradient, instead of `direction`."""
        return natural_direction(δ, a, law.policy, law.log_policy, τ)


@over_samples
def draw_actions(
    logits: Float[Array, "B A"], uniforms: Float[Array, " B"]
) -> tuple[Int[Array, " B"], Float[Array, "B A"], Float[Array, "B A"], Float[Array, " B"]]:
    """a ~ π by inverse CDF of one uniform in [0, 1), with π(·|s), log π(·|s) and the entropy H(π(·|s))."""
    policy, log_policy = jax.nn.softmax(logits), jax.nn.log_softmax(logits)
    thresholds = jnp.cumsum(policy, axis=-1)[:, :-1]
    a = jnp.sum(uniforms[:, None] >= thresholds, axis=-1, dtype=jnp.int32)
    return a, policy, log_policy, -jnp.sum(policy * log_policy, axis=-1)


@over_samples
def follow_actions(
    a: Int[Array, " B"], policy: Float[Array, "B A"], other: Float[Array, "B A"], uniforms: Float[Array, " B"]
) -> Int[Array, " B"]:
    """Actions of law `other` that equal a ~ `policy` as often as they can: maximal coupling.

    The action is kept with probability min(1, other(a) / policy(a)), and otherwise drawn from where `other` exceeds
    `policy`. A uniform that did not keep it is uniform again above that probability, and draws the new one.
    """
    is_taken = jax.nn.one_hot(a, policy.shape[-1], dtype=bool)
    keeps = jnp.minimum(1.0, jnp.sum(jnp.where(is_taken, other / policy, 0.0), axis=-1))
    excess = jnp.cumsum(jnp.maximum(other - policy, 0.0), axis=-1)
    left = (uniforms - keeps) / jnp.maximum(1 - keeps, jnp.finfo(keeps.dtype).tiny)
    drawn = jnp.sum(left[:, None] * excess[:, -1:] >= excess[:, :-1], axis=-1, dtype=jnp.int32)
    return jnp.where(uniforms < keeps, a, drawn)


@over_samples
def direction(
    δ: Float[Array, " B"],
    a: Int[Array, " B"],
    policy: Float[Array, "B A"],
    log_policy: Float[Array, "B A"],
    τ: Float[Array, " B"],
) -> Float[Array, "B A"]:
    """δ ∇_θ log π(a|s) + τ ∇_θ H(π(·|s)), with respect to the logits θ(s, ·)."""
    score = jax.nn.one_hot(a, policy.shape[-1]) - policy
    mean_log_policy = jnp.sum(policy * log_policy, axis=-1, keepdims=True)
    entropy_gradient = -policy * (log_policy - mean_log_policy)
    return δ[:, None] * score + τ[:, None] * entropy_gradient


@over_samples
def natural_direction(
    δ: Float[Array, " B"],
    a: Int[Array, " B"],
    policy: Float[Array, "B A"],
    log_policy: Float[Array, "B A"],
    τ: Float[Array, " B"],
) -> Float[Array, "B A"]:
    """`direction`, preconditioned: but for constants δ 1_a / π(a) − τ log π, whose mean is Q(s, ·) − τ log π."""
    return fisher_preconditioned(direction(δ, a, policy, log_policy, τ), policy)


def fisher_preconditioned(
    gradient: Float[Array, "*batch A"], policy: Float[Array, "*batch A"]
) -> Float[Array, "*batch A"]:
    """The pseudo-inverse of the softmax's Fisher matrix diag(π) − ππᵀ times a gradient in logits, a floor under π.

    The matrix maps v to π (v − π·v), so a row g that sums to 0 comes from v = g / π, less its mean: mirror descent. The
    variance of δ / π(a) has no bound; with the floor ε under the denominators its second moment is at most δ² / ε. The
    mean is then the gradient times another positive diagonal: still an ascent direction, which still vanishes where the
    gradient does, but actions rarer than ε catch up more slowly than by the natural gradient.

    Sources: docs/explanation/method.md, section 5; Kakade, "A natural policy gradient", NeurIPS 2001.
    """
    ascent = gradient / jnp.maximum(policy, FISHER_FLOOR / policy.shape[-1])
    return ascent - jnp.mean(ascent, axis=-1, keepdims=True)
