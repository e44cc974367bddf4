"""HPGD with a planner: the published protocol, in which the follower knows the model and only the leader samples.

Source and deviations 2 to 4 as in `hpgd.py`. The follower's policy is π_τ*(x) itself, by soft policy iteration from the
values of the previous x. Planning costs no environment transitions.
"""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from bilevel_rl.algorithms.implicit_gradient import ImplicitGradientMethod
from bilevel_rl.algorithms.transitions import draw_uniforms
from bilevel_rl.exact.soft_mdp import soft_optimal
from bilevel_rl.exact.tables import reward_table


class PlannedHPGDState(NamedTuple):
    """What the next iteration needs; log π and V are those of the follower at the previous x."""

    num_iterations: Int[Array, ""]
    x: PyTree
    log_policy: Float[Array, "S A"]
    values: Float[Array, " S"]


class PlannedHPGDInfo(NamedTuple):
    """Diagnostics of one iteration, means over its walks."""

    mean_reward: Float[Array, "1"]
    mean_cost: Float[Array, "1"]
    mean_entropy: Float[Array, "1"]


class PlannedHPGD(ImplicitGradientMethod):
    """x ← Π_X[x − ζ_k clip(∇Φ̂_τ(x))] from rollouts of π_τ*(x).

    An iteration costs 5 H B environment transitions; rollouts in a terminal state count on.

    Attributes:
        problem: what is solved.
        step_sizes: of the five sequences ζ and τ are used.
        num_chains: B, walks of an estimate.
        num_rollout_steps: H; sums over time lack the share γ^H.
        estimator: "rollouts" or "tables", how (IG) is estimated.
        max_global_norm: longer estimates of the gradient are shortened to this length; infinite for none.

    Raises:
        ValueError: as `ImplicitGradientMethod`.
    """

    has_critics: ClassVar[bool] = False

    @property
    def num_transitions_per_iteration(self) -> int:
        """Environment transitions of one iteration: the rollouts'."""
        return self.rollouts.num_transitions

    def init(self, key: Array) -> PlannedHPGDState:
        """The uniform policy, V = 0, and x at the problem's start."""
        mdp = self.problem.mdp
        log_policy = jnp.full((mdp.num_states, mdp.num_actions), -np.log(mdp.num_actions), float)
        return PlannedHPGDState(jnp.int32(0), self.problem.start(key), log_policy, jnp.zeros(mdp.num_states))

    def draw(self, key: Array, num_iterations: int) -> Float[Array, "iterations numbers B"]:
        """Uniforms for the rollouts."""
        return draw_uniforms(key, num_iterations, self.rollouts.num_uniforms, self.num_chains)

    def step(
        self, uniforms: Float[Array, "numbers B"], state: PlannedHPGDState
    ) -> tuple[PlannedHPGDState, PlannedHPGDInfo]:
        """One iteration: the follower's answer to x, then one step of x."""
        x, step_size = state.x, self.step_sizes(state.num_iterations)
        τ = step_size.entropy
        answer = soft_optimal(self.problem.mdp, reward_table(self.problem, x), τ, start_values=state.values)
        gradient, means = self.rollouts.estimate(x, answer.log_policy, τ, uniforms)
        x = self._descended(x, gradient, step_size.upper)  # (IG)
        info = PlannedHPGDInfo(*(mean[None] for mean in means))
        return PlannedHPGDState(state.num_iterations + 1, x, answer.log_policy, answer.values), info

    def log_policies(self, state: PlannedHPGDState) -> Float[Array, "1 S A"]:
        """log π of the answer to the previous x."""
        return state.log_policy[None]
