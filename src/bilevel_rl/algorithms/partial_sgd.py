"""Partial SGD: Algorithm 1 without its penalty term, as if the follower's policy did not move with x.

Source: docs/method.md, section 8. One policy and one chain batch; x follows ∇_x f̂(x, π_θ) alone, so it stops where the
leader's direct gain does and not where Φ is lowest. It is what the penalty of Algorithm 1 is worth.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from bilevel_rl.algorithms.actor_critic import Info
from bilevel_rl.algorithms.sampled import SampledAlgorithm, State, draw_uniforms


class PartialSGD(SampledAlgorithm):
    """x ← Π_X[x − ζ_k ∇_x f̂(x, π_θ)], while θ tracks π_τ*(x) by (A) and (C).

    An iteration costs B environment transitions. Attributes and errors are those of `SampledAlgorithm`.
    """

    @property
    def num_followers(self) -> int:
        """One, which tracks π_τ*(x)."""
        return 1

    @property
    def num_transitions_per_iteration(self) -> int:
        """Environment transitions of one iteration: one per chain."""
        return self.num_chains

    def draw(self, key: Array, num_iterations: int) -> Float[Array, "iterations 4 1 B"]:
        """Uniforms for every chain's action, transition, restart and start."""
        return draw_uniforms(key, num_iterations, 4, 1, self.num_chains)

    def step(self, uniforms: Float[Array, "4 1 B"], state: State) -> tuple[State, Info]:
        """One iteration, all from iteration k's values."""
        problem, actor_critic = self.problem, self.actor_critic
        step_size = self.step_sizes(state.num_iterations)
        sample = actor_critic.act(state.followers, state.chain_states, uniforms)
        s, a = sample.states, sample.actions

        def upper_estimate(x: PyTree) -> tuple[Array, Array]:
            c = problem.costs(x, s, a)
            return jnp.mean(c) + problem.upper.regularizer(x), c

        upper_gradient, c = jax.grad(upper_estimate, has_aux=True)(state.x)
        r = problem.rewards(state.x, s, a)
        value_bound = actor_critic.value_bound(problem.reward_bound, step_size.entropy)
        followers, δ = actor_critic.learn(state.followers, sample, r, step_size, value_bound)  # (A), (C)

        means = (r.mean(), c.mean(), actor_critic.accrued_entropy(sample).mean(), (δ**2).mean())
        return State(
            state.num_iterations + 1,
            self._moved(state.x, upper_gradient, step_size.upper),  # (U) without its penalty term
            followers,
            actor_critic.restart(sample.next_states, uniforms),
        ), Info(*(jnp.stack([mean, mean]) for mean in means))
