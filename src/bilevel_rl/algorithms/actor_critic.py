"""How a follower learns: Markov chains whose stationary law is d^π, and the regularized actor-critic on their samples.

Every sampled method of this library learns its policies with these two steps. Equation names are those of
docs/method.md, section 4. All arrays carry a leading axis of F followers, each with parameters of its own and B chains.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree, Shaped

from bilevel_rl.algorithms.devices import shared_by_devices
from bilevel_rl.algorithms.step_sizes import StepSizeValues
from bilevel_rl.environments import DrivenMDP, Environment, ObservedEnvironment, TabularMDP
from bilevel_rl.policies import CategoricalLaw, GaussianLaw, Policy, TabularActorCritic

Followers = PyTree[Shaped[Array, "F ..."]]
"""Parameters of all followers: tables (F, S, A + 1), or whatever a policy keeps, with F in front."""

States = PyTree[Shaped[Array, "F B ..."]]
"""States of the chains: numbers (F, B), an `Episode` or a `HostEpisode`."""

Actions = Int[Array, "F B"] | Float[Array, "F B d"]


class Decision(NamedTuple):
    """The action of every chain, with what the followers thought of its state; fields as those of `Sample`."""

    actions: Actions
    law: CategoricalLaw | GaussianLaw
    entropy: Float[Array, "F B"]
    values: Float[Array, "F B"]


class Sample(NamedTuple):
    """One transition of every chain, with what the followers thought of its states when they acted.

    Attributes:
        law: π(·|s) of the states.
        entropy: H(π(·|s)).
    """

    states: States
    actions: Actions
    next_states: States
    law: CategoricalLaw | GaussianLaw
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

    states: PyTree[Shaped[Array, "T F B ..."]]
    actions: Int[Array, "T F B"] | Float[Array, "T F B d"]
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
        policies: what the followers are; None for tables.
    """

    environment: Environment
    num_chains: int = eqx.field(static=True)
    chain_axis: str | None = eqx.field(static=True, default=None)
    coupled: bool = eqx.field(static=True, default=False)
    natural: bool = eqx.field(static=True, default=False)
    policies: Policy | None = None

    @property
    def policy(self) -> Policy:
        """How a follower's parameters are read and moved."""
        return self.table if self.policies is None else self.policies

    @property
    def table(self) -> TabularActorCritic:
        """The policy of followers that are tables."""
        assert isinstance(self.environment, TabularMDP | DrivenMDP)
        return TabularActorCritic(self.environment.num_states, self.environment.num_actions)

    def init(self, num_followers: int, key: Array | None = None) -> Followers:
        """All followers alike. Tables: uniform policies, and critics at 0; networks draw their weights with the key."""
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * num_followers), self.policy.init(key))

    @property
    def num_uniforms(self) -> int:
        """U, uniforms that a chain takes for one transition."""
        return 4 + self.policy.law.num_extra_uniforms(self.coupled)

    def start(self, uniforms: Float[Array, "F B"]) -> States:
        """Chains drawn from ρ."""
        return self.environment.reset(uniforms)

    def act(self, followers: Followers, states: States, uniforms: Float[Array, "U F B"]) -> Sample:
        """One transition of every chain: a ~ π_θ(·|s), s' ~ P(·|s,a).

        `uniforms` are for the action, the transition, the restart and the start (`restart` takes the last two). What
        follows is the law's: of coupled chains with countable actions a fifth, for whether the second follower does as
        the first, and of actions that are vectors one for each number but the first.
        """

        def transition(s: States, uniforms: Array) -> tuple[PyTree, ...]:
            decision = self.decide(followers, s, uniforms)
            return self.sample(followers, s, decision, self.environment.step(s, decision.actions, uniforms[1]))[1:]

        return Sample(states, *shared_by_devices(self.chain_axis, transition, (1, -1))(states, uniforms))

    def decide(self, followers: Followers, states: States, uniforms: Float[Array, "U F B"]) -> Decision:
        """The first part of `act`, a ~ π_θ(·|s); its arguments are those of `act`."""
        parameters, values = jax.vmap(self.policy.read)(followers, states)
        actions, law, entropy = self.policy.law.draw(parameters, uniforms[0], uniforms[4:], self.coupled)
        return Decision(actions, law, entropy, self._none_in_the_end(values, states))

    def sample(self, followers: Followers, states: States, decision: Decision, next_states: States) -> Sample:
        """The rest of `act`: what is learned from, once it is known where the actions led."""
        actions, law, entropy, values = decision
        next_values = self._none_in_the_end(jax.vmap(self.policy.values)(followers, next_states), next_states)
        return Sample(states, actions, next_states, law, entropy, values, next_values)

    def _none_in_the_end(self, values: Float[Array, "F B"], states: States) -> Float[Array, "F B"]:
        """A network does not know what a table keeps: in terminal states V is 0."""
        return values if self.policies is None else jnp.where(self.environment.is_terminal(states), 0.0, values)

    def choose(self, followers: Followers, states: States, uniforms: Float[Array, "F B"]) -> Actions:
        """Actions a ~ π_θ(·|s) that are not taken yet."""
        parameters, _ = jax.vmap(self.policy.read)(followers, states)
        return self.policy.law.draw(parameters, uniforms, uniforms[None][:0], False)[0]

    def learn(
        self,
        followers: Followers,
        sample: Sample,
        rewards: Float[Array, "F B"],
        step_size: StepSizeValues,
        value_bound: Float[Array, ""],
    ) -> tuple[Followers, Float[Array, "F B"]]:
        """One step of all policies and critics, for the rewards that they learn from; also their δ."""
        δ = self.td_errors(sample, rewards, step_size.entropy)
        return self.move(followers, sample, δ, step_size, value_bound), δ

    def td_errors(
        self, sample: Sample, rewards: Float[Array, "F B"], entropy_weight: Float[ArrayLike, ""]
    ) -> Float[Array, "F B"]:
        """The temporal differences δ for the rewards that the followers learn from."""
        τ = self._accrued_weight(sample, entropy_weight)
        return rewards + τ * sample.entropy + self.environment.discount * sample.next_values - sample.values

    def move(
        self,
        followers: Followers,
        sample: Sample,
        advantages: Float[Array, "F B"],
        step_size: StepSizeValues,
        value_bound: Float[Array, ""],
    ) -> Followers:
        """The step of all policies and critics that δ, or `windows.advantages` in its place, asks for: (A) and (C).

        The critic's step is the mean of the single-sample steps, each clipped on its own: the mean of steps into an
        interval is a step into the interval.
        """
        policy, law = self.policy, self.policy.law
        τ = self._accrued_weight(sample, step_size.entropy)
        ascent = law.natural_direction if self.natural else law.direction
        clipped_values = jnp.clip(sample.values + step_size.critic * advantages, -value_bound, value_bound)
        return jax.vmap(policy.learn, in_axes=(0, 0, 0, 0, None, None))(
            followers,
            sample.states,
            jax.vmap(ascent)(advantages, sample.actions, sample.law, τ),
            clipped_values - sample.values,
            step_size.actor,
            step_size.critic,
        )  # (A), (C)

    def _accrued_weight(self, sample: Sample, entropy_weight: Float[ArrayLike, ""]) -> Float[Array, "F B"]:
        """τ of every sample; 0 in terminal states."""
        return jnp.asarray(entropy_weight) * ~self.environment.is_terminal(sample.states)

    def value_bound(self, reward_bound: Float[ArrayLike, ""], entropy_weight: Float[ArrayLike, ""]) -> Float[Array, ""]:
        """A-priori bound of the critics, (max|r| + τ max H) / (1−γ); infinite where rewards or entropies have none."""
        if self.policy.law.entropy_bound == math.inf:
            return jnp.asarray(jnp.inf)
        return jnp.asarray(reward_bound + entropy_weight * self.policy.law.entropy_bound) / (
            1 - self.environment.discount
        )

    def accrued_entropy(self, sample: Sample) -> Float[Array, "F B"]:
        """H(π(·|s)) of every sample; 0 in terminal states."""
        return sample.entropy * ~self.environment.is_terminal(sample.states)

    def restart(self, next_states: States, uniforms: Float[Array, "U F B"]) -> States:
        """Where the chains go on: with probability 1 − γ afresh from ρ, so that their stationary law is d^π.

        Truncated episodes start afresh too. What was learned from their last transition was right all the same: it
        counts the value of the state that they would have gone on from.
        """
        restarts = self.restarts(next_states, uniforms)

        def pick(fresh: Array, following: Array) -> Array:
            return jnp.where(restarts.reshape(restarts.shape + (1,) * (fresh.ndim - restarts.ndim)), fresh, following)

        return jax.tree.map(pick, self.environment.reset(uniforms[3]), next_states)

    def restarts(self, next_states: States, uniforms: Float[Array, "U F B"]) -> Bool[Array, "F B"]:
        """Which chains start afresh."""
        restarts = uniforms[2] >= self.environment.discount
        if isinstance(self.environment, ObservedEnvironment):
            restarts |= self.environment.is_truncated(next_states)
        return restarts

    def learn_for(
        self,
        followers: Followers,
        states: States,
        uniforms: Float[Array, "T U F B"],
        rewards: Callable[[States, Actions], Array],
        step_size: StepSizeValues,
        value_bound: Float[Array, ""],
    ) -> tuple[Followers, States, Visits]:
        """T steps of all followers, the inner loop of two-loop methods.

        Args:
            followers: their parameters.
            states: of their chains.
            uniforms: all randomness.
            rewards: what they learn from, a function of states and actions, both (F, B).
            step_size: α, β and τ of every step.
            value_bound: of the critics.

        Returns:
            Parameters and chains after the last step, and what happened on the way.
        """

        def iterate(carry: tuple[Followers, States], uniforms: Array) -> tuple[tuple[Followers, States], Visits]:
            followers, states = carry
            sample = self.act(followers, states, uniforms)
            learned = rewards(sample.states, sample.actions)
            followers, δ = self.learn(followers, sample, learned, step_size, value_bound)
            visits = Visits(states, sample.actions, self.accrued_entropy(sample), δ)
            return (followers, self.restart(sample.next_states, uniforms)), visits

        (followers, states), visits = jax.lax.scan(iterate, (followers, states), uniforms)
        return followers, states, visits


def coincide(sample: Sample) -> Bool[Array, " B"]:
    """In which chains two followers were in the same state and chose the same action."""

    def agree(leaf: Array) -> Array:
        is_same = leaf[0] == leaf[1]
        return jnp.all(is_same.reshape(len(is_same), -1), axis=1) if is_same.ndim > 1 else is_same

    return functools.reduce(jnp.logical_and, jax.tree.leaves(jax.tree.map(agree, (sample.states, sample.actions))))
