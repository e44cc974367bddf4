"""Partial SGD: Algorithm 1 without its penalty term, as if the follower's policy did not move with x.

Source: docs/explanation/method.md, section 8. One policy and one chain batch; x follows ∇_x f̂(x, π_θ) alone, so it
stops where the leader's direct gain does and not where Φ is lowest. It is what the penalty of Algorithm 1 is worth.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from bilevel_rl.algorithms.sampled import SampledAlgorithm, SampledInfo, SampledState
from bilevel_rl.algorithms.transitions import draw_uniforms


class PartialSGD(SampledAlgorithm):
    """x ← Π_X[x − ζ_k ∇_x f̂(x, π_θ)], while θ tracks π_τ*(x) by (A) and (C).

    An iteration costs B environment transitions.

    Attributes:
        problem: what is solved.
        step_sizes: ζ, α, β and τ; w is not used.
        num_chains: B, parallel Markov chains.
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

    def step(self, uniforms: Float[Array, "4 1 B"], state: SampledState) -> tuple[SampledState, SampledInfo]:
        """One iteration, all from iteration k's values."""
        problem, followers, environment = self.problem, self.followers, self.problem.mdp
        step_size = self.step_sizes(state.num_iterations)
        transitions, chain_states = followers.act(
            environment, state.parameters, state.chain_states, followers.uniforms(uniforms)
        )
        s, a = transitions.states, transitions.actions

        def upper_estimate(x: PyTree) -> tuple[Array, Array]:
            c = problem.costs(x, s, a)
            return jnp.mean(c) + problem.upper.regularizer(x), c

        upper_gradient, c = jax.grad(upper_estimate, has_aux=True)(state.x)
        r = problem.rewards(state.x, s, a)
        parameters, δ = followers.learn(
            environment, state.parameters, transitions, r, step_size, problem.reward_bound
        )  # (A), (C)
        x = self._moved(state.x, upper_gradient, step_size.upper)  # (U) without its penalty term
        info = SampledInfo(r.mean(1), c.mean(1), transitions.entropy.mean(1), (δ**2).mean(1))
        return SampledState(state.num_iterations + 1, x, parameters, chain_states), info
