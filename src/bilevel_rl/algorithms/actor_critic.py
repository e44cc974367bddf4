"""How a follower learns: Markov chains whose stationary law is d^π, and the regularized actor-critic on their samples.

Every sampled method of this library learns its policies with these two steps. Equation names are those of
docs/method.md, section 4. All arrays carry a leading axis of F followers, each with a table of its own and B chains.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from bilevel_rl.algorithms.devices import shared_by_devices
from bilevel_rl.environments import DrivenMDP, TabularMDP
from bilevel_rl.policies import TabularActorCritic, over_samples
from bilevel_rl.schedules import StepSizeValues

FISHER_FLOOR = 0.1
"""Probabilities by which the natural actor divides are at least this share of the uniform policy's."""


class Sample(NamedTuple):
    """One transition of every chain, with what the followers thought of its states when they acted."""

    states: Int[Array, "F B"]
    actions: Int[Array, "F B"]
    next_states: Int[Array, "F B"]
    policy: Float[Array, "F B A"]
    log_policy: Float[Array, "F B A"]
    entropy: Float[Array, "F B"]
    values: Float[Array, "F B"]
    next_values: Float[Array, "F B"]


class Info(NamedTuple):
    """Diagnostics of one iteration, each a mean over the chains, for (lower, penalized).

    A method that has one policy gives its numbers twice. Those of the last three that a method does not have are None.

    Attributes:
        coupling_rate: share of the chains in which both followers were in the same state and chose the same action.
        upper_gradient: the estimate of (U), like x.
        squared_upper_gradient: its squared length. With the mean of the estimates it tells their variance.
    """

    mean_reward: Float[Array, "2"]
    mean_cost: Float[Array, "2"]
    mean_entropy: Float[Array, "2"]
    mean_squared_td_error: Float[Array, "2"]
    coupling_rate: Float[Array, ""] | None = None
    upper_gradient: PyTree = None
    squared_upper_gradient: Float[Array, ""] | None = None


class Visits(NamedTuple):
    """What followers did over T steps of learning, and how well their critics foresaw it."""

    states: Int[Array, "T F B"]
    actions: Int[Array, "T F B"]
    entropy: Float[Array, "T F B"]
    td_errors: Float[Array, "T F B"]

    def later_half(self) -> "Visits":
        """The visits since the followers have had half of the time to adapt; of a single step, that step."""
        return Visits(*(array[len(array) // 2 :] for array in self))


class ActorCritic(eqx.Module):
    """Acts and learns for any number of followers in one environment.

    Attributes:
        environment: what they live in.
        num_chains: B, parallel chains per follower.
        chain_axis: mesh axis whose devices share the chains; None for no sharing.
        coupled: there are two followers, whose chains live on the same random numbers and choose the same action as
            often as their laws allow.
        natural: the actors take natural gradients, `natural_direction` instead of `direction`.
    """

    environment: TabularMDP | DrivenMDP
    num_chains: int = eqx.field(static=True)
    chain_axis: str | None = eqx.field(static=True, default=None)
    coupled: bool = eqx.field(static=True, default=False)
    natural: bool = eqx.field(static=True, default=False)

    @property
    def policy(self) -> TabularActorCritic:
        """How a follower's table is read and written."""
        return TabularActorCritic(self.environment.num_states, self.environment.num_actions)

    def init(self, num_followers: int) -> Float[Array, "F S columns"]:
        """Uniform policies, and critics at 0."""
        return jnp.stack([self.policy.init()] * num_followers)

    def start(self, uniforms: Float[Array, "F B"]) -> Int[Array, "F B"]:
        """Chains drawn from ρ."""
        return self.environment.reset(uniforms)

    def act(
        self, followers: Float[Array, "F S columns"], states: Int[Array, "F B"], uniforms: Float[Array, "U F B"]
    ) -> Sample:
        """One transition of every chain: a ~ π_θ(·|s), s' ~ P(·|s,a).

        `uniforms` are for the action, the transition, the restart and the start (`restart` takes the last two); coupled
        chains have a fifth one, for whether the second follower does as the first.
        """

        def transition(s: Array, uniforms: Array) -> tuple[Array, ...]:
            logits, values = jax.vmap(self.policy.read)(followers, s)
            a, policy, log_policy, entropy = jax.vmap(draw_actions)(logits, uniforms[0])
            if self.coupled:
                a = jnp.stack([a[0], follow_actions(a[0], policy[0], policy[1], uniforms[4, 1])])
            next_s = self.environment.step(s, a, uniforms[1])
            next_values = jax.vmap(self.policy.values)(followers, next_s)
            return a, next_s, policy, log_policy, entropy, values, next_values

        return Sample(states, *shared_by_devices(self.chain_axis, transition)(states, uniforms))

    def choose(
        self, followers: Float[Array, "F S columns"], states: Int[Array, "F B"], uniforms: Float[Array, "F B"]
    ) -> Int[Array, "F B"]:
        """Actions a ~ π_θ(·|s) that are not taken yet."""
        logits, _ = jax.vmap(self.policy.read)(followers, states)
        return jax.vmap(draw_actions)(logits, uniforms)[0]

    def learn(
        self,
        followers: Float[Array, "F S columns"],
        sample: Sample,
        rewards: Float[Array, "F B"],
        step_size: StepSizeValues,
        value_bound: Float[Array, ""],
    ) -> tuple[Float[Array, "F S columns"], Float[Array, "F B"]]:
        """One step of all policies and critics, for the rewards that they learn from; also the temporal differences δ.

        The critic's step is the mean of the single-sample steps, each clipped on its own: the mean of steps into an
        interval is a step into the interval.
        """
        accrues = ~self.environment.is_terminal(sample.states)
        τ, γ = step_size.entropy * accrues, self.environment.discount
        δ = rewards + τ * sample.entropy + γ * sample.next_values - sample.values
        ascent = natural_direction if self.natural else direction
        clipped_values = jnp.clip(sample.values + step_size.critic * δ, -value_bound, value_bound)
        followers = jax.vmap(self.policy.ascend)(
            followers,
            sample.states,
            step_size.actor
            / self.num_chains
            * jax.vmap(ascent)(δ, sample.actions, sample.policy, sample.log_policy, τ),
            (clipped_values - sample.values) / self.num_chains,
        )  # (A), (C)
        return followers, δ

    def value_bound(self, reward_bound: Float[ArrayLike, ""], entropy_weight: Float[ArrayLike, ""]) -> Float[Array, ""]:
        """A-priori bound of the critics, (max|r| + τ log|A|) / (1−γ); infinite where the rewards have none."""
        return jnp.asarray(reward_bound + entropy_weight * jnp.log(self.environment.num_actions)) / (
            1 - self.environment.discount
        )

    def accrued_entropy(self, sample: Sample) -> Float[Array, "F B"]:
        """H(π(·|s)) of every sample; 0 in terminal states."""
        return sample.entropy * ~self.environment.is_terminal(sample.states)

    def restart(self, next_states: Int[Array, "F B"], uniforms: Float[Array, "U F B"]) -> Int[Array, "F B"]:
        """Where the chains go on: with probability 1 − γ afresh from ρ, so that their stationary law is d^π."""
        restarts = uniforms[2] >= self.environment.discount
        return jnp.where(restarts, self.environment.reset(uniforms[3]), next_states)

    def learn_for(
        self,
        followers: Float[Array, "F S columns"],
        states: Int[Array, "F B"],
        uniforms: Float[Array, "T 4 F B"],
        rewards: Callable[[Array, Array], Array],
        step_size: StepSizeValues,
        value_bound: Float[Array, ""],
    ) -> tuple[Float[Array, "F S columns"], Int[Array, "F B"], Visits]:
        """T steps of all followers, the inner loop of two-loop methods.

        Args:
            followers: their tables.
            states: of their chains.
            uniforms: all randomness.
            rewards: what they learn from, a function of states and actions, both (F, B).
            step_size: α, β and τ of every step.
            value_bound: of the critics.

        Returns:
            Tables and chains after the last step, and what happened on the way.
        """

        def iterate(carry: tuple[Array, Array], uniforms: Array) -> tuple[tuple[Array, Array], Visits]:
            followers, states = carry
            sample = self.act(followers, states, uniforms)
            learned = rewards(sample.states, sample.actions)
            followers, δ = self.learn(followers, sample, learned, step_size, value_bound)
            visits = Visits(states, sample.actions, self.accrued_entropy(sample), δ)
            return (followers, self.restart(sample.next_states, uniforms)), visits

        (followers, states), visits = jax.lax.scan(iterate, (followers, states), uniforms)
        return followers, states, visits


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

    Sources: docs/method.md, section 5; Kakade, "A natural policy gradient", NeurIPS 2001.
    """
    ascent = gradient / jnp.maximum(policy, FISHER_FLOOR / policy.shape[-1])
    return ascent - jnp.mean(ascent, axis=-1, keepdims=True)
