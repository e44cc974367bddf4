"""The implicit gradient (IG) estimated from tables of average returns, as in HPGD's published experiments.

Source: docs/explanation/method.md, sections 7 and 8; Thoma et al., NeurIPS 2024, whose code averages returns the same
way.

B walks of 5 H steps are cut into episodes, which end in a terminal state or after H steps and start anew from ρ. A
visit at time t of its episode has the weight γ^t. Half of the walks give A_c: for every pair (s, a) the average of the
discounted costs that followed it, less the average over all visits of s. Where the other half visits (s, a), the sum of
∂_x r that follows has this A_c as its factor, less what A_c is on average over the visits of s, which takes ∂V from ∂Q.
Then the halves change places. All visits are used, so the estimate has far less noise than that of `rollouts.py` from
as many transitions.

The sums need no derivative of every visit: Σ ω G = Σ z ∂_x r, where G is the discounted sum of ∂_x r after a visit of
weight ω, and the trace z_t = ω_t + γ z_{t−1}.

Episodes count that start within the first 4 H steps: they come to their end, whether they are long or short. The
estimate is consistent, not unbiased: with few visits, averages over a random number of them are slightly biased, and a
pair that one half does not visit counts as A_c = 0. What lies beyond H steps is missed, as in `rollouts.py`.

Deviations from the published experiments: theirs take both factors from the same episodes, and average without weights.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from bilevel_rl.algorithms.rollouts import WalkMeans, inverse_cdf_actions
from bilevel_rl.formulation import BilevelProblem


class EpisodeTables(eqx.Module):
    """Estimates (IG) from B walks of 5 H steps, in episodes of at most H.

    Attributes:
        problem: what is solved.
        num_walks: B.
        num_steps: H.

    Raises:
        ValueError: a single walk, which has no halves.
    """

    problem: BilevelProblem
    num_walks: int = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)

    def __check_init__(self):
        if self.num_walks < 2:
            raise ValueError(f"tables of average returns need at least 2 chains, got num_chains = {self.num_walks}")

    @property
    def num_transitions(self) -> int:
        """Environment transitions of an estimate."""
        return 5 * self.num_steps * self.num_walks

    @property
    def num_uniforms(self) -> int:
        """Uniforms that an estimate takes per walk."""
        return 1 + 3 * 5 * self.num_steps

    def estimate(
        self,
        x: PyTree,
        log_policy: Float[Array, "S A"],
        entropy_weight: Float[Array, ""],
        uniforms: Float[Array, "numbers B"],
    ) -> tuple[PyTree, WalkMeans]:
        """An estimate of ∇Φ_τ(x), given log π_τ*(x), and means over the walks."""
        problem, γ = self.problem, self.problem.mdp.discount
        policy = jnp.exp(log_policy)
        s, a, t, ends = self._walks(jnp.cumsum(policy, axis=1)[:, :-1], uniforms)
        returns = _returns(problem.costs(x, s, a), ends, γ)
        is_whole = jnp.arange(len(t))[:, None] - t <= 4 * self.num_steps
        halves = jnp.broadcast_to(jnp.arange(self.num_walks) % 2, s.shape)

        def total(values: Array) -> Float[Array, "2 S A"]:
            return jnp.zeros((2, *policy.shape)).at[halves, s, a].add(values)

        weights = (1 - γ) * jnp.where(is_whole, γ**t, 0.0)
        visits, sums = total(weights), total(weights * returns)
        advantages = jnp.where(visits > 0, _ratio(sums, visits) - _ratio(*_over_actions(sums, visits)), 0.0)[::-1]
        sensitivity = advantages - _ratio(*_over_actions(visits * advantages, visits))
        weights = weights / jnp.sum(is_whole & ends)
        traces = _traces(weights * sensitivity[halves, s, a] / entropy_weight, t, γ)

        def upper_estimate(x: PyTree) -> tuple[Array, tuple[Array, Array]]:
            r, mean_cost = problem.rewards(x, s, a), jnp.sum(weights * problem.costs(x, s, a))
            upper = mean_cost + problem.upper.regularizer(x) + jnp.sum(traces * r)
            return upper, (jnp.sum(weights * r), mean_cost)

        gradient, (mean_reward, mean_cost) = jax.grad(upper_estimate, has_aux=True)(x)  # (IG)
        entropy = -jnp.sum(policy * log_policy, axis=1)[s] * ~problem.mdp.is_terminal(s)
        return gradient, WalkMeans(mean_reward, mean_cost, jnp.sum(weights * entropy))

    def _walks(
        self, thresholds: Float[Array, "S choices"], uniforms: Float[Array, "numbers B"]
    ) -> tuple[Int[Array, "T B"], Int[Array, "T B"], Int[Array, "T B"], Bool[Array, "T B"]]:
        """States, actions, times since the episode's start, and whether the episode ends with this step."""
        environment = self.problem.mdp

        def step(carry: tuple[Array, Array], uniforms: Array) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
            s, t = carry
            a = inverse_cdf_actions(thresholds, s, uniforms[0])
            ends = environment.is_terminal(s) | (t == self.num_steps - 1)
            next_s = jnp.where(ends, environment.reset(uniforms[2]), environment.step(s, a, uniforms[1]))
            return (next_s, jnp.where(ends, 0, t + 1)), (s, a, t, ends)

        start = environment.reset(uniforms[0])
        of_steps = uniforms[1:].reshape(-1, 3, uniforms.shape[1])
        _, (s, a, t, ends) = jax.lax.scan(step, (start, jnp.zeros_like(start)), of_steps)
        return s, a, t, ends


def _ratio(sums: Array, weights: Array) -> Array:
    """Weighted averages; 0 where there is no weight."""
    return jnp.where(weights > 0, sums / jnp.where(weights > 0, weights, 1.0), 0.0)


def _over_actions(*tables: Float[Array, "2 S A"]) -> tuple[Float[Array, "2 S 1"], ...]:
    return tuple(jnp.sum(table, axis=2, keepdims=True) for table in tables)


def _returns(costs: Float[Array, "T B"], ends: Bool[Array, "T B"], γ: float) -> Float[Array, "T B"]:
    """Discounted sums of what follows in the same episode."""

    def back(following: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        c, ends = step
        following = c + γ * jnp.where(ends, 0.0, following)
        return following, following

    return jax.lax.scan(back, jnp.zeros_like(costs[0]), (costs, ends), reverse=True)[1]


def _traces(weights: Float[Array, "T B"], t: Int[Array, "T B"], γ: float) -> Float[Array, "T B"]:
    """z = weight + γ · the previous z of the same episode."""

    def forth(trace: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        weight, t = step
        trace = weight + γ * jnp.where(t > 0, trace, 0.0)
        return trace, trace

    return jax.lax.scan(forth, jnp.zeros_like(weights[0]), (weights, t))[1]
