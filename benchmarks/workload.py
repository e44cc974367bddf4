"""The problem that every loop in the comparison runs: goal-position, with the library's default step sizes."""

import functools
from dataclasses import dataclass

import numpy as np

TARGET, INITIAL_X, WIDTH, DISCOUNT = (7.0, 3.0), (2.0, 7.0), 4.0, 0.95

STEP_SIZES = ((0.03, 0.9), (1.0, 0.5), (4.0, 0.5), (1.0, 0.15), (0.1, 0.05))
"""Initial value and exponent of (ζ, α, β, w, τ)."""

OFFSET = 20_000.0


@dataclass(frozen=True)
class Workload:
    """Size and precision, and the tables of the environment in that precision."""

    size: int
    dtype: type

    @functools.cache  # noqa: B019
    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """Successors (S, K) and thresholds of the outcomes (A, K)."""
        from bilevel_rl import problems

        environment = problems.goal_position(size=self.size).mdp
        return environment.successors[:, 0], environment.cumulative_probabilities[0].astype(self.dtype)

    def initial_state(self, chain_states: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """x, logits (2, S, A), values (2, S), chains (2, B) at iteration 0."""
        num_states = self.size**2
        return (
            np.array(INITIAL_X, self.dtype),
            np.zeros((2, num_states, 5), self.dtype),
            np.zeros((2, num_states), self.dtype),
            np.array(chain_states, np.int32),
        )

    def uniforms(self, generator: np.random.Generator, num_iterations: int, num_chains: int) -> np.ndarray:
        """Random numbers of a block of iterations: (iterations, 4, 2, B)."""
        return generator.random((num_iterations, 4, 2, num_chains), dtype=self.dtype)
