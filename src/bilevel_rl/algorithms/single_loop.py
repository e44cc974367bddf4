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

import warnings

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from bilevel_rl.algorithms.actor_critic import Info
from bilevel_rl.algorithms.sampled import SampledAlgorithm, State, draw_uniforms
from bilevel_rl.schedules import ScheduleWarning

LOWER, PENALIZED = 0, 1


class SingleLoopActorCritic(SampledAlgorithm):
    """Algorithm 1 on a bi-level problem with a tabular follower.

    Attributes:
        step_sizes: a schedule that violates a validity condition is used, with a `ScheduleWarning` that names the
            condition.
        num_chains: B, parallel Markov chains per policy; an iteration costs 2 B environment transitions. 1 is the
            paper's.

    The other attributes, and the errors, are those of `SampledAlgorithm`.

    Example:
        >>> import jax, bilevel_rl as brl
        >>> algorithm = brl.SingleLoopActorCritic(brl.problems.goal_position(size=5, target=(3, 1), initial_x=(1, 3)))
        >>> state = algorithm.init(jax.random.key(0))
        >>> uniforms = algorithm.draw(jax.random.key(1), num_iterations=10)
        >>> state, info = algorithm.step(uniforms[0], state)
        >>> int(state.num_iterations), algorithm.num_transitions_per_iteration
        (1, 32)
    """

    def __check_init__(self):
        if not self._is_traced():
            for violation in self.step_sizes.violations():
                warnings.warn(f"step sizes violate {violation}", ScheduleWarning, stacklevel=4)

    @property
    def num_transitions_per_iteration(self) -> int:
        """Environment transitions of one iteration: one per chain, 2 B chains."""
        return 2 * self.num_chains

    def draw(self, key: Array, num_iterations: int) -> Float[Array, "iterations 4 2 B"]:
        """All randomness of a block of iterations: uniforms for every chain's action, transition, restart and start."""
        return draw_uniforms(key, num_iterations, 4, 2, self.num_chains)

    def step(self, uniforms: Float[Array, "4 2 B"], state: State) -> tuple[State, Info]:
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
        x = self._moved(state.x, upper_gradient, step_size.upper)  # (U): Π_X[x − ζ ∇]

        learned_rewards = jnp.stack([r[LOWER], r[PENALIZED] - w * c[PENALIZED]])
        reward_bound = problem.reward_bound + w * problem.upper.cost_bound
        value_bound = actor_critic.value_bound(reward_bound, τ)
        followers, δ = actor_critic.learn(  # (A), (C), (AL), (CL)
            state.followers, sample, learned_rewards, step_size, value_bound
        )
        chain_states = actor_critic.restart(sample.next_states, uniforms)

        info = Info(r.mean(1), c.mean(1), actor_critic.accrued_entropy(sample).mean(1), (δ**2).mean(1))
        return State(state.num_iterations + 1, x, followers, chain_states), info
