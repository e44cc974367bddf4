"""Algorithm 1: the single-loop, first-order, regularized actor-critic for bi-level reinforcement learning.

Source: Zeng, Bhatt, Ganesh, Koppel, "A Regularized Actor-Critic Algorithm for Bi-Level Reinforcement Learning", arXiv
2601.16399 (2026). Equation names are those of docs/method.md, section 4.

| symbol | name             | meaning                                                             |
|--------|------------------|---------------------------------------------------------------------|
| x      | `x`              | upper variable                                                      |
| θ, V   | `followers[0]`   | lower policy and critic: track π_τ*(x), the follower's answer       |
| θᴸ, Vᴸ | `followers[1]`   | penalized policy and critic: track π^L, optimal for r_x − w c_x     |
| s, sᴸ  | `chain_states`   | current states of the two batches of Markov chains                  |
| ζ, α, β| `upper`, `actor`, `critic` | step sizes of x, the policies, the critics                |
| w, τ   | `penalty`, `entropy` | penalty parameter (smaller is harder) and entropy weight        |

Both followers take the same step (`actor_critic.py`) and differ only in the reward that they learn from, so everything
of theirs carries a leading axis of length two: (lower, penalized).

Deviations from the paper:

1. B parallel chains per policy instead of one; every expectation is estimated by their mean. B = 1 is the paper's.
2. Step sizes have an offset (`schedules.PowerDecay`); offset = 1 is the paper's form.
3. With B chains the critic's step is the mean of the B single-sample steps of (C), each clipped on its own. The mean of
   steps into an interval is a step into the interval, so |V| keeps the paper's bound.
4. Terminal states accrue neither reward, cost nor entropy, as in the environment.
"""

import math
import warnings
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PyTree

from bilevel_rl.algorithms.actor_critic import ActorCritic, Info
from bilevel_rl.problems import BilevelProblem
from bilevel_rl.schedules import ScheduleWarning, StepSizes

LOWER, PENALIZED = 0, 1


class SingleLoopState(NamedTuple):
    """What the next iteration needs."""

    num_iterations: Int[Array, ""]
    x: PyTree
    followers: Float[Array, "2 S columns"]
    chain_states: Int[Array, "2 B"]


class SingleLoopActorCritic(eqx.Module):
    """Algorithm 1 on a bi-level problem with a tabular follower.

    Attributes:
        problem: what is solved.
        step_sizes: the five sequences (ζ, α, β, w, τ). A schedule that violates a validity condition is used, with a
            `ScheduleWarning` that names the condition.
        num_chains: B, parallel Markov chains per policy; an iteration costs 2 B environment transitions.
        chain_axis: mesh axis whose devices share the chains; none by default (`shared_by`).

    Raises:
        ValueError: `num_chains` < 1.

    Example:
        >>> import jax, bilevel_rl as brl
        >>> algorithm = brl.SingleLoopActorCritic(brl.problems.goal_position(size=5, target=(3, 1), initial_x=(1, 3)))
        >>> state = algorithm.init(jax.random.key(0))
        >>> uniforms = algorithm.draw(jax.random.key(1), num_iterations=10)
        >>> state, info = algorithm.step(uniforms[0], state)
        >>> int(state.num_iterations), algorithm.num_transitions_per_iteration
        (1, 32)
    """

    problem: BilevelProblem
    step_sizes: StepSizes
    num_chains: int = eqx.field(static=True)
    chain_axis: str | None = eqx.field(static=True)

    def __init__(
        self,
        problem: BilevelProblem,
        step_sizes: StepSizes | None = None,
        num_chains: int = 16,
        chain_axis: str | None = None,
    ):
        if num_chains < 1:
            raise ValueError(f"num_chains must be at least 1, got {num_chains}; the paper's setting is 1")
        self.problem = problem
        self.step_sizes = StepSizes.decaying() if step_sizes is None else step_sizes
        self.num_chains = num_chains
        self.chain_axis = chain_axis
        if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(self.step_sizes)):
            self._warn_of_step_sizes()

    @property
    def num_transitions_per_iteration(self) -> int:
        """Environment transitions of one iteration: one per chain, 2 B chains."""
        return 2 * self.num_chains

    def shared_by(self, axis: str, num_devices: int) -> "SingleLoopActorCritic":
        """The same algorithm, each of whose chains runs on one of the devices of a mesh axis.

        Raises:
            ValueError: the devices cannot share the chains evenly.
        """
        if self.num_chains % num_devices:
            raise ValueError(
                f"num_chains, {self.num_chains}, must be a multiple of {num_devices}, the devices that share a seed"
            )
        with warnings.catch_warnings(action="ignore", category=ScheduleWarning):  # They were shown for this one.
            return SingleLoopActorCritic(self.problem, self.step_sizes, self.num_chains, axis)

    @property
    def actor_critic(self) -> ActorCritic:
        """How both followers act and learn."""
        return ActorCritic(self.problem.environment, self.num_chains, self.chain_axis)

    def init(self, key: Array) -> SingleLoopState:
        """Uniform policies, critics at 0, x at the problem's start, chains drawn from ρ."""
        return SingleLoopState(
            num_iterations=jnp.int32(0),
            x=self.problem.start(jax.random.fold_in(key, 1)),
            followers=self.actor_critic.init(2),
            chain_states=self.actor_critic.start(jax.random.uniform(key, (2, self.num_chains))),
        )

    def draw(self, key: Array, num_iterations: int) -> Float[Array, "iterations 4 2 B"]:
        """All randomness of a block of iterations: uniforms for every chain's action, transition, restart and start."""
        shape = (num_iterations, 4, 2, self.num_chains)
        return jax.random.uniform(key, (math.prod(shape),)).reshape(shape)  # One long axis is fast to fill.

    def step(self, uniforms: Float[Array, "4 2 B"], state: SingleLoopState) -> tuple[SingleLoopState, Info]:
        """One iteration: one transition per chain, then (U), (A), (C), (AL), (CL), all from iteration k's values."""
        problem, actor_critic = self.problem, self.actor_critic
        step_size = self.step_sizes(state.num_iterations)
        w, τ = step_size.penalty, step_size.entropy

        sample = actor_critic.act(state.followers, state.chain_states, uniforms)  # a ~ π_θ(·|s), s' ~ P(·|s,a)
        s, a = sample.states, sample.actions

        def upper_estimate(x: PyTree) -> tuple[Array, tuple[Array, Array]]:
            rewards, costs = problem.rewards(x, s, a), problem.costs(x, s, a)
            objective = jnp.mean(costs[PENALIZED]) + problem.upper.regularizer(x)
            penalty_term = (jnp.mean(rewards[LOWER]) - jnp.mean(rewards[PENALIZED])) / w
            return objective + penalty_term, (rewards, costs)

        upper_gradient, (r, c) = jax.grad(upper_estimate, has_aux=True)(state.x)
        x = problem.project(jax.tree.map(lambda x, g: x - step_size.upper * g, state.x, upper_gradient))  # (U)

        learned_rewards = jnp.stack([r[LOWER], r[PENALIZED] - w * c[PENALIZED]])
        reward_bound = problem.reward_bound + w * problem.upper.cost_bound
        value_bound = actor_critic.value_bound(reward_bound, τ)
        followers, δ = actor_critic.learn(  # (A), (C), (AL), (CL)
            state.followers, sample, learned_rewards, step_size, value_bound
        )
        chain_states = actor_critic.restart(sample.next_states, uniforms)

        info = Info(r.mean(1), c.mean(1), actor_critic.accrued_entropy(sample).mean(1), (δ**2).mean(1))
        return SingleLoopState(state.num_iterations + 1, x, followers, chain_states), info

    def log_policies(self, state: SingleLoopState) -> Float[Array, "2 S A"]:
        """log π_θ and log π_θᴸ in every state."""
        return jax.nn.log_softmax(state.followers[..., :-1])

    def _warn_of_step_sizes(self):
        for violation in self.step_sizes.violations():
            warnings.warn(f"step sizes violate {violation}", ScheduleWarning, stacklevel=4)
        critic_step = float(np.max(np.asarray(self.step_sizes.critic.initial)))
        num_states = self.problem.environment.num_states
        for limit, count in (("num_chains", self.num_chains), ("the number of states", num_states)):
            if critic_step > count:
                warnings.warn(
                    f"critic={critic_step:g} exceeds {limit}, {count}: the steps of an iteration on one state add up "
                    "to more than a whole one, and critics overshoot; lower critic and actor",
                    ScheduleWarning,
                    stacklevel=4,
                )
