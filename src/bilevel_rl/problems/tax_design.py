"""Tax design: a state sets taxes on income and on three goods, and two groups of households work, spend and save."""

import itertools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, ArrayLike, Float, Int

from bilevel_rl import checks
from bilevel_rl.environments.contexts import Contexts
from bilevel_rl.environments.tabular import TabularMDP
from bilevel_rl.exact.batch import hyper_objectives
from bilevel_rl.exact.solver import Solution, solve
from bilevel_rl.formulation.names import Names
from bilevel_rl.formulation.problem import BilevelProblem
from bilevel_rl.formulation.projections import Box
from bilevel_rl.formulation.upper_objectives import OccupancyCost
from bilevel_rl.problems.worked import as_function

COMFORT = 20.0
"""Savings at which the utility of having them is log 2."""
NUM_STARTS = 64
"""Random taxes of which the best begin a descent to the optimum."""


@dataclass(frozen=True)
class TaxDesign:
    """x ∈ [0, largest]^(1 + goods): the rate on income, and one on each good. After Thoma et al., NeurIPS 2024.

    A household with savings m works h hours and spends c_i on good i, of which it gets `q_i = c_i / (1 + x_i)`. Its
    reward is `u(m) − effort h² + Π_i q_i^preference_i`, with `u(m) = log(1 + m / 20)` for m > 0, and debt · m for
    debts. Its savings are then normal around `m + (1 − x_0) wage h − Σ_i c_i`, with standard deviation `noise`: the
    rate on income moves the dynamics. Which group a household is of, and so its preferences, is drawn at the start.

    The state wants welfare a step: `debt · min(m, 0) + consumption mean_i(q_i) / max c + revenue log(1 + Σ_i x_i q_i +
    x_0 wage h)`; its cost is minus that. State `group · num_savings + j`: savings are the j-th of the grid. Action
    `hour · levels^goods + spending`: hours and then levels of the goods, in the order of `itertools.product`.

    Args:
        preferences: of each group, one number for each good.
        weights: share of each group.
        hours: that a household may choose.
        spending: on each good that it may choose.
        num_savings: points of the grid of savings.
        savings: lowest and highest of them; what would be beyond is cut off.
        noise: standard deviation of a step's savings.
        wage: of an hour.
        effort: what h² costs the household.
        debt: what a unit of debts costs, the household and in welfare.
        consumption: weight of the goods in welfare.
        revenue: weight of the taxes in welfare.
        largest: highest rate of a tax.
        initial: all rates at the start.
        discount: γ.

    Raises:
        TypeError: an argument is of another type.
        ValueError: groups differ in their number of goods, there are not as many weights as groups, or a number is out
            of its range.

    Example:
        >>> import bilevel_rl as brl
        >>> problem = brl.problems.tax_design()
        >>> problem.environment.num_states, problem.environment.num_actions, problem.initial_x.tolist()
        (32, 32, [0.3, 0.3, 0.3, 0.3])
    """

    preferences: tuple[tuple[float, ...], ...] = ((0.6, 0.3, 0.1), (0.1, 0.7, 0.2))
    weights: tuple[float, ...] = (0.5, 0.5)
    hours: tuple[float, ...] = (0.0, 2.0, 4.0, 6.0)
    spending: tuple[float, ...] = (0.5, 3.0)
    num_savings: int = 16
    savings: tuple[float, float] = (-3.0, 12.0)
    noise: float = 1.0
    wage: float = 2.0
    effort: float = 0.1
    debt: float = 3.0
    consumption: float = 15.0
    revenue: float = 5.0
    largest: float = 0.4
    initial: float = 0.3
    discount: float = 0.9

    @property
    def num_goods(self) -> int:
        """Goods that are taxed."""
        return len(self.preferences[0])

    def points(self) -> Float[np.ndarray, " m"]:
        """The grid of savings."""
        return np.linspace(*self.savings, self.num_savings)

    def choices(self) -> tuple[Float[np.ndarray, " A"], Float[np.ndarray, "A goods"]]:
        """Hours and spending of every action."""
        rows = np.array(list(itertools.product(self.hours, *[self.spending] * self.num_goods)), float)
        return rows[:, 0], rows[:, 1:]

    def contexts(self) -> Contexts:
        """The groups, each at the savings that it has before any tax."""
        points, num_savings = self.points(), self.num_savings
        hours, spent = self.choices()
        expected = points[:, None] + self.wage * hours - spent.sum(1)
        group = TabularMDP.from_successors(
            np.broadcast_to(np.arange(num_savings), (num_savings, 1, num_savings)),
            self._law(expected, self.noise, np),
            initial=self._law(np.zeros(()), np.sqrt(2.0), np),
            discount=self.discount,
        )
        return Contexts([group] * len(self.preferences), self.weights)

    def problem(self) -> BilevelProblem:
        """What is solved."""
        self._check()
        contexts, goods = self.contexts(), self.num_goods
        points, (hours, spent) = self.points(), self.choices()
        preferences = np.array(self.preferences, float)
        most_spent = max(self.spending)

        def chosen(s, a):
            group, place = contexts.split(s)
            tables = points, hours, spent, preferences
            m, h, c, p = (jnp.asarray(table)[i] for table, i in zip(tables, (place, a, a, group), strict=True))
            return m, h, c, p

        def outcome_probabilities(
            x: Float[ArrayLike, " n"], s: Int[ArrayLike, ""], a: Int[ArrayLike, ""]
        ) -> Float[Array, " m"]:
            m, h, c, _ = chosen(s, a)
            return self._law(m + (1 - jnp.asarray(x)[0]) * self.wage * h - jnp.sum(c), self.noise, jnp)

        def reward(x: Float[ArrayLike, " n"], s: Int[ArrayLike, ""], a: Int[ArrayLike, ""]) -> Float[Array, ""]:
            m, h, c, preference = chosen(s, a)
            comfort = jnp.where(m > 0, jnp.log1p(jnp.maximum(m, 0.0) / COMFORT), self.debt * m)
            return comfort - self.effort * h**2 + jnp.prod((c / (1 + jnp.asarray(x)[1:])) ** preference)

        def cost(x: Float[ArrayLike, " n"], s: Int[ArrayLike, ""], a: Int[ArrayLike, ""]) -> Float[Array, ""]:
            m, h, c, _ = chosen(s, a)
            income, rates = jnp.asarray(x)[0], jnp.asarray(x)[1:]
            got = c / (1 + rates)
            taxes = jnp.sum(rates * got) + income * self.wage * h
            enjoyed = self.consumption * jnp.mean(got) / most_spent
            return -(self.debt * jnp.minimum(m, 0.0) + enjoyed + self.revenue * jnp.log1p(taxes))

        most_hours = max(self.hours)
        most_taxes = goods * most_spent + self.largest * self.wage * most_hours
        return BilevelProblem(
            environment=contexts.environment,
            reward=reward,
            upper=OccupancyCost(
                cost,
                cost_bound=self.debt * max(-points[0], 0.0)
                + self.consumption
                + self.revenue * float(np.log1p(most_taxes)),
            ),
            initial_x=np.full(1 + goods, float(self.initial)),
            project=Box(0.0, self.largest),
            reward_bound=max(self.debt * -points[0], float(np.log1p(max(points[-1], 0.0) / COMFORT)))
            + self.effort * most_hours**2
            + max(most_spent, 1.0) ** float(preferences.sum(1).max()),
            outcome_probabilities=outcome_probabilities,
            names=Names(
                "Which taxes do most for welfare, once households have changed how they work, spend and save?",
                x=["on income", *(f"on good {i + 1}" for i in range(goods))],
            ),
        )

    def optimum(self, problem: BilevelProblem, entropy_weight: float) -> Solution:
        """The best of exact descents from the start and from the best of random taxes."""
        taxes = self.largest * np.random.default_rng(0).uniform(size=(NUM_STARTS, 1 + self.num_goods))
        objectives = hyper_objectives(problem, taxes, entropy_weight=entropy_weight)
        starts = [problem.initial_x, *taxes[np.argsort(objectives)[:2]]]
        return solve(problem, entropy_weight=entropy_weight, starts=starts)

    def _law(self, expected: Any, scale: float, numeric: Any) -> Any:
        """Chances of the savings where they are normal around a mean; the outer points have the tails.

        `numeric` is NumPy, for tables in double precision, or that of JAX.
        """
        points = self.points()
        edges = numeric.asarray((points[1:] + points[:-1]) / 2)
        ndtr = scipy.special.ndtr if numeric is np else jax.scipy.special.ndtr
        below = ndtr((edges - expected[..., None]) / scale)
        zero, one = numeric.zeros((*expected.shape, 1)), numeric.ones((*expected.shape, 1))
        chances = numeric.diff(numeric.concatenate([zero, below, one], axis=-1), axis=-1)
        return numeric.maximum(chances, 0.0)  # Rounding in single precision.

    def _check(self):
        for name in ("preferences", "weights", "hours", "spending", "savings"):
            checks.instance(name, getattr(self, name), tuple, list, np.ndarray)
            checks.finite(name, getattr(self, name))
        if not len(self.preferences) or not len(self.hours) or not len(self.spending):
            raise ValueError("preferences, hours and spending must hold at least one entry each, got none")
        checks.shape("weights", self.weights, (len(self.preferences),))
        checks.integer("num_savings", self.num_savings, at_least=2)
        checks.shape("savings", self.savings, (2,))
        if self.savings[0] >= self.savings[1]:
            raise ValueError(f"savings must be the lowest and the highest, got {self.savings}")
        for name in ("noise", "largest"):
            checks.number(name, getattr(self, name), above=0)
        for name in ("wage", "effort", "debt", "consumption", "revenue"):
            checks.number(name, getattr(self, name), at_least=0)
        if min(self.spending) <= 0:
            raise ValueError(f"spending must be positive, got {min(self.spending)}; utility has no slope at 0")
        checks.number("initial", self.initial, at_least=0, at_most=self.largest)


tax_design = as_function(TaxDesign)
"""The problem that `TaxDesign` describes, from the same arguments."""
