"""Frozen lake: bonuses for the steps of a follower who reaches its goal too rarely."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from bilevel_rl import checks
from bilevel_rl.environments import TabularMDP, gymnasium_reward
from bilevel_rl.exact.solver import Solution, solve
from bilevel_rl.formulation.names import GridLayout, Names
from bilevel_rl.formulation.problem import BilevelProblem
from bilevel_rl.formulation.projections import Box
from bilevel_rl.formulation.upper_objectives import OccupancyCost
from bilevel_rl.problems.worked import as_function

LAKE = "FrozenLake-v1"


@dataclass(frozen=True)
class FrozenLake:
    """x ∈ [0, largest_bonus]^16 is a bonus for every step on a square of Gymnasium's slippery 4 × 4 lake.

    The follower's reward is 1 in the goal and the bonus of the square that it is on; it values entropy at
    `entropy_weight`. An arrival is worth `goal_value` to the leader, who pays the bonuses. Its cost counts in units of
    an arrival: `c_x(s, a) = x_s / goal_value − r_lake(s, a)`. Most walks end in a hole, so the goal is rarely seen.

    Args:
        discount: γ.
        goal_value: an arrival's worth, in units of the follower's reward.
        largest_bonus: of a square.
        entropy_weight: λ, what the follower gains from entropy.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a number is not positive, or `discount` lies outside of [0, 1).

    Example:
        >>> import bilevel_rl as brl
        >>> problem = brl.problems.frozen_lake()
        >>> print(f"{brl.exact.hyper_objective(problem, problem.initial_x, entropy_weight=0.05):.5f}")
        -0.00417
    """

    discount: float = 0.95
    goal_value: float = 50.0
    largest_bonus: float = 0.5
    entropy_weight: float = 0.05

    def problem(self) -> BilevelProblem:
        """What is solved."""
        checks.number("largest_bonus", self.largest_bonus, above=0, at_most=1e6)
        for name in ("goal_value", "entropy_weight"):
            checks.number(name, getattr(self, name), above=0)
        table = gymnasium_reward(LAKE, is_slippery=True)
        num_squares, largest = len(table), float(table.max())
        return BilevelProblem(
            environment=TabularMDP.from_gymnasium(LAKE, discount=self.discount, is_slippery=True),
            reward=lambda x, s, a: jnp.asarray(table, float)[s, a] + x[s],
            upper=OccupancyCost(
                cost=lambda x, s, a: x[s] / self.goal_value - jnp.asarray(table, float)[s, a],
                cost_bound=largest + self.largest_bonus / self.goal_value,
            ),
            initial_x=np.zeros(num_squares),
            project=Box(0.0, self.largest_bonus),
            reward_bound=largest + self.largest_bonus,
            entropy_weight=self.entropy_weight,
            names=Names(
                "Which squares of the frozen lake should carry a bonus, and how large?",
                actions=("left", "down", "right", "up"),
                layout=GridLayout.of_shape(4, 4),
            ),
        )

    def optimum(self, problem: BilevelProblem, entropy_weight: float) -> Solution:
        """Exact descent from the start."""
        return solve(problem, entropy_weight=entropy_weight)


frozen_lake = as_function(FrozenLake)
"""The problem that `FrozenLake` describes, from the same arguments."""
