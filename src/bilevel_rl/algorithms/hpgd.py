"""HPGD, hyper policy gradient descent: the implicit gradient (IG) from rollouts of a follower that has learned.

Source: Thoma, Pásztor, Krause, Ramponi, Hu, "Contextual Bilevel Reinforcement Learning for Incentive Alignment",
NeurIPS 2024, as summarized in docs/explanation/method.md, section 8. The entropy weight τ is fixed: Φ_τ is what is
minimized.

Deviations from the paper, which we know from its summary and its published protocol:

1. The follower learns by the actor-critic of this library. `planned_hpgd.py` has the published protocol's planner.
2. ∂Q − ∂V and A_c are differences of two actions' rollouts, in which either estimate serves twice (`rollouts.py`). The
   published experiments average the returns of all visits instead; `estimator="tables"` does so with two halves of the
   walks (`episode_tables.py`), where theirs take both factors of (IG) from the same episodes.
3. Rollouts have H steps and weights γ^t, instead of random lengths: γ^H of every sum is missed.
4. No context: a leader who sees one is a larger state space.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from bilevel_rl.algorithms.followers import LOWER
from bilevel_rl.algorithms.implicit_gradient import ImplicitGradientMethod
from bilevel_rl.algorithms.sampled import SampledInfo, SampledState, TwoLoopAlgorithm, learn_for
from bilevel_rl.algorithms.transitions import draw_uniforms


class HPGD(TwoLoopAlgorithm, ImplicitGradientMethod):
    """T actor-critic steps on θ, then x ← Π_X[x − ζ_k clip(∇Φ̂_τ(x))] from rollouts of π_θ.

    An iteration costs (T + 5 H) B environment transitions; rollouts in a terminal state count on.

    Attributes:
        problem: what is solved.
        step_sizes: ζ, α, β and τ; w is not used.
        num_chains: B, chains that the follower learns from and walks of an estimate.
        num_inner_steps: T, steps of the follower between two steps of x.
        num_rollout_steps: H; sums over time lack the share γ^H.
        estimator: "rollouts" or "tables", how (IG) is estimated.
        max_global_norm: longer estimates of the gradient are shortened to this length; infinite for none.

    Raises:
        ValueError: as `TwoLoopAlgorithm` and `ImplicitGradientMethod`.
    """

    @property
    def num_followers(self) -> int:
        """One, which tracks π_τ*(x)."""
        return 1

    @property
    def num_transitions_per_iteration(self) -> int:
        """Environment transitions of one iteration: the inner loop's and the rollouts'."""
        return self.num_inner_steps * self.num_chains + self.rollouts.num_transitions

    def draw(self, key: Array, num_iterations: int) -> dict[str, Array]:
        """Uniforms (T, 4, 1, B) for the inner loop and (numbers, B) for the rollouts."""
        inner_key, rollout_key = jax.random.split(key)
        return {
            "inner": draw_uniforms(inner_key, num_iterations, self.num_inner_steps, 4, 1, self.num_chains),
            "rollouts": draw_uniforms(rollout_key, num_iterations, self.rollouts.num_uniforms, self.num_chains),
        }

    def step(self, noise: dict[str, Array], state: SampledState) -> tuple[SampledState, SampledInfo]:
        """One iteration: T steps of θ at fixed x, then one step of x."""
        problem, x = self.problem, state.x
        step_size = self.step_sizes(state.num_iterations)
        inner = self.followers, problem.mdp, state.parameters, state.chain_states
        parameters, chain_states, visits = learn_for(
            *inner, noise["inner"], lambda s, a: problem.rewards(x, s, a), step_size, problem.reward_bound
        )
        log_policy = jax.nn.log_softmax(parameters[LOWER, :, :-1])
        gradient, means = self.rollouts.estimate(x, log_policy, step_size.entropy, noise["rollouts"])
        x = self._descended(x, gradient, step_size.upper)  # (IG)
        info = SampledInfo(*(mean[None] for mean in (*means, jnp.mean(visits.later_half().td_errors ** 2))))
        return SampledState(state.num_iterations + 1, x, parameters, chain_states), info
