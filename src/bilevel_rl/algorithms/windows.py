"""Windows: T transitions of every chain with the same policies, and advantages that look ahead within them.

Source of the advantages: Schulman et al., "High-dimensional continuous control using generalized advantage estimation",
ICLR 2016. There the sum Σ_l (γλ)^l δ_{t+l} runs along one episode. Chains of this library restart with probability
1 − γ after every transition, so the sum stops there and has no γ of its own:

    Â_t = δ_t + λ c_t Â_{t+1},      c_t = 1 where the chain went on from s', 0 where it started afresh or T is over.

E[c_t] = γ, and a restart depends on nothing else, so the mean of Â_t is that of Σ_l (γλ)^l δ_{t+l} within the window.
Where a time limit restarts a chain c_t is 0 too, and V(s') in δ_t stands for what would have come.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from bilevel_rl.algorithms.actor_critic import ActorCritic, Followers, Sample, States
from bilevel_rl.environments import Environment, HostEnvironment


class Window(NamedTuple):
    """T transitions of every chain.

    Attributes:
        sample: all of them, N = T B of every follower, in the order of time and then of chains.
        goes_on: whether the chain went on from where the transition led, c.
        states: where the chains are after the last one.
    """

    sample: Sample
    goes_on: Bool[Array, "T F B"]
    states: States


def live(actor_critic: ActorCritic, followers: Followers, states: States, uniforms: Float[Array, "T U F B"]) -> Window:
    """T times `ActorCritic.act` and `ActorCritic.restart`; nothing is learned in between."""

    def transition(states: States, uniforms: Array) -> tuple[States, tuple[Sample, Array]]:
        sample = actor_critic.act(followers, states, uniforms)
        goes_on = ~actor_critic.restarts(sample.next_states, uniforms)
        return actor_critic.restart(sample.next_states, uniforms), (sample, goes_on)

    if len(uniforms) == 1:  # no loop around a single transition
        states, (sample, goes_on) = transition(states, uniforms[0])
        return Window(sample, goes_on[None], states)
    states, (samples, goes_on) = jax.lax.scan(transition, states, uniforms)
    return Window(in_a_row(samples), goes_on, states)


def in_a_row(transitions: PyTree[Shaped[Array, "T F B ..."]]) -> PyTree[Shaped[Array, "F N ..."]]:
    """All transitions of a follower along one axis, in the order of `Window.sample`."""

    def joined(leaf: Array) -> Array:
        return jnp.moveaxis(leaf, 0, 1).reshape(leaf.shape[1], -1, *leaf.shape[3:])

    return jax.tree.map(joined, transitions)


def advantages(δ: Float[Array, "F N"], goes_on: Bool[Array, "T F B"], gae_lambda: float) -> Float[Array, "F N"]:
    """Â of every sample of a window from its temporal differences; `gae_lambda` is λ."""
    T, F, B = goes_on.shape

    def accumulate(following: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        δ, goes_on = now
        advantage = δ + gae_lambda * goes_on * following
        return advantage, advantage

    backwards = jnp.moveaxis(δ.reshape(F, T, B), 1, 0), goes_on
    return in_a_row(jax.lax.scan(accumulate, jnp.zeros((F, B), δ.dtype), backwards, reverse=True)[1])


def check_windows(num_steps: int, gae_lambda: float, environment: Environment):
    """Whether there can be windows of that length with such advantages.

    Raises:
        ValueError: `num_steps` < 1, `gae_lambda` lies outside of [0, 1] or is positive although `num_steps` is 1, or
            the environment is a `HostEnvironment` and `num_steps` > 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if not 0 <= gae_lambda <= 1:
        raise ValueError(f"gae_lambda must lie in [0, 1], got {gae_lambda}")
    if gae_lambda > 0 and num_steps == 1:
        raise ValueError(
            f"gae_lambda must be 0 where num_steps is 1, which leaves nothing to look ahead to, got {gae_lambda}"
        )
    if num_steps > 1 and isinstance(environment, HostEnvironment):
        raise ValueError(f"num_steps must be 1 in a HostEnvironment, whose loop takes one at a time, got {num_steps}")
