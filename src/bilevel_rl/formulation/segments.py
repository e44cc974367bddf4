"""All short trajectories of a small environment, for exact means over them."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from bilevel_rl.environments import TabularMDP


class Segments(eqx.Module):
    """The N possible trajectories (s_0, a_0, …, s_{H−1}, a_{H−1}) from the start distribution.

    Attributes:
        states: of every trajectory.
        actions: of every trajectory.
        chances: ρ(s_0) Π P(s_{t+1}|s_t, a_t), what a trajectory's probability is besides the policy's part.
        num_trajectories: how many are drawn independently: 1 or 2.
    """

    MAX_COMBINATIONS: ClassVar[int] = 4_000_000

    states: Int[np.ndarray, "N H"]
    actions: Int[np.ndarray, "N H"]
    chances: Float[np.ndarray, " N"]
    num_trajectories: int = eqx.field(static=True)

    @classmethod
    def of(cls, environment: TabularMDP, num_steps: int, num_trajectories: int) -> "Segments | None":
        """Enumerated; None where there are more than `MAX_COMBINATIONS` combinations of `num_trajectories` of them."""
        S, A, limit = environment.num_states, environment.num_actions, cls.MAX_COMBINATIONS ** (1 / num_trajectories)
        K = environment.probabilities.shape[-1]
        chances, successors = (
            np.broadcast_to(table, (S, A, K)) for table in (environment.probabilities, environment.successors)
        )
        states = np.flatnonzero(environment.initial)[:, None]
        actions = np.zeros((len(states), 0), np.int64)
        weights = environment.initial[states[:, 0]]
        for step in range(num_steps):
            if len(states) * A > limit:
                return None
            last = np.repeat(states[:, -1], A)
            taken = np.tile(np.arange(A), len(states))
            states, actions = np.repeat(states, A, axis=0), np.column_stack([np.repeat(actions, A, axis=0), taken])
            weights = np.repeat(weights, A)
            if step < num_steps - 1:
                # Outcomes that lead to the same state stay apart; each has its own share of the probability.
                row, outcome = np.nonzero(chances[last, taken] > 0)
                weights = weights[row] * chances[last, taken][row, outcome]
                states = np.column_stack([states[row], successors[last, taken][row, outcome]])
                actions = actions[row]
        return None if len(states) > limit else cls(states, actions, weights, num_trajectories)

    def mean(
        self, loss: Callable[[Array, Array], Float[ArrayLike, ""]], log_policy: Float[Array, "S A"]
    ) -> Float[Array, ""]:
        """E[loss(states, actions)] of independent trajectories of a policy; the arguments have shape (n, H)."""
        states, actions = jnp.asarray(self.states), jnp.asarray(self.actions)
        log_chances = jnp.sum(log_policy[states, actions], axis=1)
        chances = jnp.asarray(self.chances, log_policy.dtype) * jnp.exp(log_chances)

        def conditional(*firsts: Array) -> Array:
            """Mean over the last trajectory, given the others."""

            def of(s: Array, a: Array) -> Array:
                of_all = (jnp.stack([*own, last]) for own, last in zip((firsts[:1], firsts[1:]), (s, a), strict=True))
                return jnp.asarray(loss(*of_all), chances.dtype)

            return chances @ jax.vmap(of)(states, actions)

        if self.num_trajectories == 1:
            return conditional()
        # One first trajectory at a time, worked out again for the gradient: all pairs would take gigabytes.
        means = jax.lax.map(jax.checkpoint(lambda first: conditional(*first)), (states, actions))
        return chances @ means
