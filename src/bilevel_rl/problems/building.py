"""Thermal design of a building: insulation and airflow move the dynamics that a heating controller lives in."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bilevel_rl import checks
from bilevel_rl.exact import Solution, lqr
from bilevel_rl.formulation.names import Names
from bilevel_rl.formulation.problem import BilevelProblem
from bilevel_rl.formulation.projections import Box
from bilevel_rl.problems.worked import as_function

HOURS = 0.5
"""Of a step."""

CAPACITY = 2.0
"""Heat capacity of a zone, kWh/K."""

WALLS = ((0, 1), (2, 3), (0, 2), (1, 3))
INNER_CONDUCTANCE = 0.1
"""Zones with a wall between them, and how it conducts, kW/K."""

OUTER_CONDUCTANCE = np.array([0.5, 0.5, 0.35, 0.35])
"""Of the outer walls without insulation, kW/K: the two zones in the north have more of them."""

INSULATED = 4.0
"""Full insulation adds so many times the resistance of the bare wall."""

UNITS = ((0, 1), (2, 3))
"""Each unit stands in the first of its zones, and its fan blows air between both."""

AIR_CONDUCTANCE = 0.8
"""Of the air that a fan moves at full speed, kW/K."""

LEAST_EFFECTIVENESS = 0.5
"""Share of a unit's heat that reaches its zone without its fan; all of it does at full speed."""

POWER = 5.0
"""Heat of an action of size 1, kW."""

FLUCTUATION = 0.3
"""Standard deviation of what people and weather add in a step, K."""

START = 2.0
"""Standard deviation of the temperatures at the start, K."""

SEEN = 5.0
"""Kelvin that a policy sees as 1."""

LIKED = 0.05
"""What a squared kelvin off the set point counts for the follower, in each zone."""


@dataclass(frozen=True)
class BuildingControl:
    """x ∈ [0, 1]⁴ is a building's insulation (north, south) and the airflow of its two units; it moves the dynamics.

    Four zones lose heat through outer walls and exchange it through inner ones; two heating units stand in zones 0 and
    2, and their fans carry warm air to zones 1 and 3. With temperatures T in kelvin above the set point, and
    U_i = u_i / (1 + 4 insulation_i), a step of half an hour is

        C (T'_i − T_i) / h = U_i (outside − T_i) + Σ_walls k (T_j − T_i) + airflow k_air (T_j − T_i) + heat_i + noise,

    where a unit's heat is 5 a kW times its effectiveness, ½ + ½ airflow. The follower runs the units: its reward is
    −0.05 Σ T_i² − effort Σ a². The owner's cost is

        comfort Σ T_i² / 4 + energy Σ a² + insulation_price (x_0 + x_1) + airflow_price (x_2³ + x_3³),

    since a fan's power grows as the cube of its speed. Rewards and costs are quadratic and dynamics linear, so that
    `linear_quadratic` knows the answer: `optimum`.

    Args:
        outside: temperature outside, in kelvin above the set point.
        effort: price of a squared action for the follower.
        comfort: what a squared kelvin counts for the owner.
        energy: price of a squared action for the owner.
        insulation_price: of full insulation of one side.
        airflow_price: of a fan at full speed.
        discount: discount factor γ.
        transition: how samples tell of the dynamics, along paths or by their density.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a price is negative, `effort` is not positive, there is no such `transition`, or as
            `BilevelProblem`.

    Example:
        >>> import bilevel_rl as brl
        >>> building = brl.problems.BuildingControl()
        >>> optimum = building.optimum(building.problem(), entropy_weight=0.1)
        >>> optimum.x.round(2).tolist()
        [0.81, 0.6, 0.76, 0.72]
    """

    outside: float = -15.0
    effort: float = 0.05
    comfort: float = 0.05
    energy: float = 1.0
    insulation_price: float = 1.0
    airflow_price: float = 0.5
    discount: float = 0.9
    transition: Literal["pathwise", "score"] = "pathwise"

    def linear_quadratic(self) -> lqr.LinearQuadraticProblem:
        """The problem as its oracle knows it; states are the four temperatures."""
        checks.number("outside", self.outside)
        checks.number("effort", self.effort, above=0)
        for name in ("comfort", "energy", "insulation_price", "airflow_price"):
            checks.number(name, getattr(self, name), at_least=0)
        return lqr.LinearQuadraticProblem(
            self._at,
            np.zeros(4),
            START * np.eye(4),
            initial_x=np.full(4, 0.1),
            discount=self.discount,
            regularizer=lambda x: self.insulation_price * (x[0] + x[1]) + self.airflow_price * jnp.sum(x[2:] ** 3),
            feasible=Box(0.0, 1.0),
            independent=True,
        )

    def problem(self) -> BilevelProblem:
        """What is solved; states are the four temperatures, actions two."""
        names = Names(
            "How much insulation and airflow should a building have, given how its heating will be run?",
            x=("insulation north", "insulation south", "airflow north", "airflow south"),
        )
        problem = self.linear_quadratic().sampled(self.transition)
        environment = dataclasses.replace(problem.environment, observe=lambda temperatures: temperatures / SEEN)
        return dataclasses.replace(problem, environment=environment, names=names)

    def optimum(self, problem: BilevelProblem, entropy_weight: float) -> Solution:
        """The known optimum, by exact descent from the start."""
        return lqr.solve(self.linear_quadratic(), entropy_weight=entropy_weight)

    def _at(self, x: Float[Array, "4"]) -> lqr.LinearQuadratic:
        insulation, airflow = jnp.repeat(x[:2], 2), x[2:]
        outer = jnp.asarray(OUTER_CONDUCTANCE, float) / (1 + INSULATED * insulation)
        flows = jnp.zeros((4, 7)).at[jnp.arange(4), jnp.arange(4)].add(-outer).at[:, -1].add(outer * self.outside)
        exchanges = [(pair, INNER_CONDUCTANCE) for pair in WALLS]
        exchanges += [(pair, AIR_CONDUCTANCE * airflow[u]) for u, pair in enumerate(UNITS)]
        for (i, j), conductance in exchanges:
            for here, there in ((i, j), (j, i)):
                flows = flows.at[here, there].add(conductance).at[here, here].add(-conductance)
        for u, (zone, _) in enumerate(UNITS):
            effectiveness = LEAST_EFFECTIVENESS + (1 - LEAST_EFFECTIVENESS) * airflow[u]
            flows = flows.at[zone, 4 + u].add(POWER * effectiveness)
        return lqr.LinearQuadratic(
            transition=jnp.eye(4, 7) + HOURS / CAPACITY * flows,
            noise=FLUCTUATION * jnp.eye(4),
            loss=_weighed(LIKED, self.effort),
            cost=_weighed(self.comfort / 4, self.energy),
        )


building_control = as_function(BuildingControl)
"""The problem that `BuildingControl` describes, from the same arguments."""


def _weighed(of_temperature: float, of_action: float) -> Float[Array, "7 7"]:
    return jnp.diag(jnp.array([of_temperature] * 4 + [of_action] * 2 + [0.0]))
