"""The implicit gradient (IG) estimated from rollouts of the follower's policy.

Source: docs/explanation/method.md, sections 7 and 8. Under π(·|s) the advantage A_c has mean 0, so E_a[A_c ∂Q] is a
covariance over actions, and with a and a' drawn independently from π(·|s)

    ∇Φ_τ(x) = ∇_x f + (1/2τ) E_{s∼d^π, a, a'}[ (Q_c(s,a) − Q_c(s,a')) (∂_x Q(s,a) − ∂_x Q(s,a')) ].

A *walk* of H steps from ρ estimates ∇_x f, and one of its states, at a time drawn with probability ∝ γ^t, is s. From
there four rollouts of H steps start, two with either action: copy 1 of both actions measures one of the two differences
and copy 2 the other, and then they change places. The two copies are independent given s, a and a', without which the
product of the two would have another mean. The two actions of one copy share their random numbers, which leaves the law
of each rollout and the mean of the difference as they are: rollouts that meet stay together, and differ no more.

The estimate is unbiased for the policy that it is given, but for what lies beyond H steps: of every sum over time the
terms with t ≥ H are missing, which have γ^H of the weight.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from bilevel_rl.formulation import BilevelProblem

WALK, ROLLOUTS = 0, slice(1, 5)
"""Places of the walk and of the rollouts (a, copy 1), (a, copy 2), (a', copy 1), (a', copy 2) among trajectories."""


class WalkMeans(NamedTuple):
    """Estimates of E_{d^π} from the walks, scalars."""

    reward: Float[Array, ""]
    cost: Float[Array, ""]
    entropy: Float[Array, ""]


def inverse_cdf_actions(
    thresholds: Float[Array, "S choices"], states: Int[Array, "*batch"], uniforms: Float[Array, "*batch"]
) -> Int[Array, "*batch"]:
    """a ~ π(·|s) by inverse CDF; thresholds are the cumulative π of all actions but the last."""
    choices = thresholds.at[states].get(mode="promise_in_bounds")
    return jnp.sum(uniforms[..., None] >= choices, axis=-1, dtype=jnp.int32)


class Rollouts(eqx.Module):
    """Estimates (IG) from B walks of H steps and four rollouts of H steps from each.

    Attributes:
        problem: what is solved.
        num_walks: B.
        num_steps: H.
    """

    problem: BilevelProblem
    num_walks: int = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)

    @property
    def num_transitions(self) -> int:
        """Environment transitions of an estimate: all 5 H B, also those that stay in a terminal state."""
        return 5 * self.num_steps * self.num_walks

    @property
    def num_uniforms(self) -> int:
        """Uniforms that an estimate takes per walk."""
        return 4 + 6 * self.num_steps

    def estimate(
        self,
        x: PyTree,
        log_policy: Float[Array, "S A"],
        entropy_weight: Float[Array, ""],
        uniforms: Float[Array, "numbers B"],
    ) -> tuple[PyTree, WalkMeans]:
        """An estimate of ∇Φ_τ(x), given log π_τ*(x), and means over the walks."""
        problem, γ = self.problem, self.problem.environment.discount
        policy = jnp.exp(log_policy)
        thresholds = jnp.cumsum(policy, axis=1)[:, :-1]
        states, actions = self._trajectories(thresholds, uniforms)

        weights = γ ** jnp.arange(self.num_steps)
        occupancy = (1 - γ) * weights / self.num_walks
        returns = problem.costs(x, states[ROLLOUTS], actions[ROLLOUTS]) @ weights
        returns = returns.reshape(2, 2, self.num_walks)  # actions, copies
        difference = (returns[0] - returns[1])[::-1] * jnp.sum(occupancy) / (4 * entropy_weight)
        return_weights = jnp.stack([difference, -difference]).reshape(4, self.num_walks)

        def upper_estimate(x: PyTree) -> tuple[Array, tuple[Array, Array]]:
            r, c = problem.rewards(x, states, actions), problem.costs(x, states[WALK], actions[WALK])
            mean_cost = jnp.sum(c @ occupancy)
            through_policy = jnp.sum(return_weights * (r[ROLLOUTS] @ weights))
            return mean_cost + problem.upper.regularizer(x) + through_policy, (jnp.sum(r[WALK] @ occupancy), mean_cost)

        gradient, (mean_reward, mean_cost) = jax.grad(upper_estimate, has_aux=True)(x)  # (IG)
        accrues = ~problem.mdp.is_terminal(states[WALK])
        entropy = -jnp.sum(policy * log_policy, axis=1)[states[WALK]] * accrues
        return gradient, WalkMeans(mean_reward, mean_cost, jnp.sum(entropy @ occupancy))

    def _trajectories(
        self, thresholds: Float[Array, "S choices"], uniforms: Float[Array, "numbers B"]
    ) -> tuple[Int[Array, "5 B H"], Int[Array, "5 B H"]]:
        """States and actions of the walks and their rollouts."""
        environment, num_walks = self.problem.mdp, uniforms.shape[1]
        of_start, of_branch, of_actions, of_steps = jnp.split(uniforms, (1, 2, 4))
        of_steps = of_steps.reshape(self.num_steps, 2, 3, num_walks)  # action and outcome; walk, copy 1, copy 2

        walk = self._trajectory(thresholds, environment.reset(of_start), of_steps[:, :, :1])
        chances = jnp.cumsum(environment.discount ** jnp.arange(self.num_steps))
        time = jnp.sum(of_branch[0, :, None] >= chances[:-1] / chances[-1], axis=1)
        branch_states = jnp.take_along_axis(walk[0][0], time[:, None], axis=1)[:, 0]

        of_copies = jnp.concatenate([of_steps[:, :, 1:]] * 2, axis=2)
        of_copies = of_copies.at[0, 0].set(jnp.repeat(of_actions, 2, axis=0))
        rollouts = self._trajectory(thresholds, jnp.stack([branch_states] * 4), of_copies)
        return jnp.concatenate([walk[0], rollouts[0]]), jnp.concatenate([walk[1], rollouts[1]])

    def _trajectory(
        self, thresholds: Float[Array, "S choices"], start: Int[Array, "K B"], uniforms: Float[Array, "H 2 K B"]
    ) -> tuple[Int[Array, "K B H"], Int[Array, "K B H"]]:
        """States and actions of H steps, by inverse CDFs of the uniforms."""

        def transition(states: Array, uniforms: Array) -> tuple[Array, tuple[Array, Array]]:
            actions = inverse_cdf_actions(thresholds, states, uniforms[0])
            return self.problem.mdp.step(states, actions, uniforms[1]), (states, actions)

        _, (states, actions) = jax.lax.scan(transition, start, uniforms)
        return jnp.moveaxis(states, 0, -1), jnp.moveaxis(actions, 0, -1)
