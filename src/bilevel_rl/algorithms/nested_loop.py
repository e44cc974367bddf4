"""Nested loop: Algorithm 1's equations, with T steps of both followers between two steps of x.

Source: docs/explanation/method.md, section 8. With T = 1 it is Algorithm 1. The samples of the later half of the inner
loop, when the followers have had time to answer the present x, all go into (U).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from bilevel_rl.algorithms.followers import LOWER, PENALIZED
from bilevel_rl.algorithms.sampled import SampledInfo, SampledState, TwoLoopAlgorithm, learn_for
from bilevel_rl.algorithms.transitions import draw_uniforms


class NestedLoop(TwoLoopAlgorithm):
    """T actor-critic steps on θ and θᴸ, then one step (U) on x from what they did; 2 T B environment transitions.

    Attributes:
        problem: what is solved.
        step_sizes: ζ, α, β, w and τ.
        num_chains: B, chains per policy.
        num_inner_steps: T, steps of the policies between two steps of x.
    """

    @property
    def num_transitions_per_iteration(self) -> int:
        """Environment transitions of one iteration, the inner loop's."""
        return 2 * self.num_inner_steps * self.num_chains

    def draw(self, key: Array, num_iterations: int) -> Float[Array, "iterations T 4 2 B"]:
        """Uniforms for every chain's action, transition, restart and start, at every inner step."""
        return draw_uniforms(key, num_iterations, self.num_inner_steps, 4, 2, self.num_chains)

    def step(self, uniforms: Float[Array, "T 4 2 B"], state: SampledState) -> tuple[SampledState, SampledInfo]:
        """One iteration: the inner loop at fixed x, then (U)."""
        problem, x = self.problem, state.x
        step_size = self.step_sizes(state.num_iterations)
        w = step_size.penalty

        def learned_rewards(s: Array, a: Array) -> Array:
            c = problem.costs(x, s[PENALIZED], a[PENALIZED])
            return problem.rewards(x, s, a).at[PENALIZED].add(-w * c)

        reward_bound = problem.reward_bound + w * problem.upper.step_cost_bound
        inner = self.followers, problem.mdp, state.parameters, state.chain_states
        parameters, chain_states, visits = learn_for(*inner, uniforms, learned_rewards, step_size, reward_bound)
        visits = visits.later_half()

        def upper_estimate(x: PyTree) -> tuple[Array, tuple[Array, Array]]:
            rewards = jnp.mean(problem.rewards(x, visits.states, visits.actions), axis=(0, 2))
            costs = jnp.mean(problem.costs(x, visits.states, visits.actions), axis=(0, 2))
            penalty_term = (rewards[LOWER] - rewards[PENALIZED]) / w
            return costs[PENALIZED] + problem.upper.regularizer(x) + penalty_term, (rewards, costs)

        upper_gradient, (r, c) = jax.grad(upper_estimate, has_aux=True)(x)
        x = self._moved(x, upper_gradient, step_size.upper)  # (U)
        info = SampledInfo(r, c, jnp.mean(visits.entropy, axis=(0, 2)), jnp.mean(visits.td_errors**2, axis=(0, 2)))
        return SampledState(state.num_iterations + 1, x, parameters, chain_states), info
