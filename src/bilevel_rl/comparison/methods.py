"""The methods that are compared: how each is built from a few numbers, and the space in which these are searched."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from bilevel_rl.algorithms import (
    HPGD,
    PBRL,
    Algorithm,
    BellmanPBRL,
    ExactDescent,
    FiniteDifference,
    Followers,
    NestedLoop,
    PartialSGD,
    PlannedHPGD,
    SingleLoopActorCritic,
    SoBiRL,
)
from bilevel_rl.algorithms.step_sizes import GeometricDecay, ScheduleWarning, StepSizes
from bilevel_rl.formulation import BilevelProblem

NUM_CHAINS = 16
"""Parallel Markov chains per policy, of every method."""

FREE_ITERATIONS = 300
"""Iterations of a method that takes no transitions, whatever the budget."""

HOLDING_SHARE = 1 / 3
"""Share of a run after which step sizes have clearly begun to decay: the offset of all schedules."""

STEP_SIZES: dict[str, tuple[float, float]] = {
    "upper": (1e-3, 10.0),
    "actor": (0.05, 5.0),
    "critic": (0.5, 16.0),
    "penalty": (0.05, 5.0),
    "entropy": (0.02, 0.5),
}
"""Ranges of the initial step sizes, the same for every method that uses them."""

Parameters = Mapping[str, float]


@dataclass(frozen=True)
class Method:
    """A method and what is tuned of it.

    Attributes:
        algorithm: builds it for a problem, from step sizes and further parameters.
        ranges: parameter to the ends of the range from which it is drawn log-uniformly.
        choices: parameter to the values among which it is drawn; more inner steps or another exponent, for instance.
        exponents: decay exponents of (upper, actor, critic, penalty, entropy). A parameter `upper_exponent` replaces
            the first.
        is_deterministic: it takes no transitions, so one seed shows all there is.
    """

    algorithm: Callable[[BilevelProblem, StepSizes, Parameters], Algorithm]
    ranges: Mapping[str, tuple[float, float]]
    choices: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    exponents: tuple[float, float, float, float, float] = (0.9, 0.5, 0.5, 0.0, 0.0)
    is_deterministic: bool = False

    def build(self, problem: BilevelProblem, parameters: Parameters, num_iterations: Callable[[int], int]) -> Algorithm:
        """The algorithm with these parameters; `ScheduleWarning`s are not shown, since a search crosses all borders.

        Args:
            problem: what is solved.
            parameters: a value for every entry of `ranges` and `choices`.
            num_iterations: length of the run, from the transitions of an iteration.
        """
        with warnings.catch_warnings(action="ignore", category=ScheduleWarning):
            draft = self.algorithm(problem, self._step_sizes(parameters, offset=1.0), parameters)
            offset = HOLDING_SHARE * max(1, num_iterations(draft.num_transitions_per_iteration))
            return self.algorithm(problem, self._step_sizes(parameters, offset), parameters)

    def _step_sizes(self, parameters: Parameters, offset: float) -> StepSizes:
        initial = {name: value for name, value in parameters.items() if name in STEP_SIZES}
        upper_exponent = parameters.get("upper_exponent", self.exponents[0])
        return StepSizes.decaying(**initial, offset=offset, exponents=(upper_exponent, *self.exponents[1:]))

    def draw(self, seed: int, trial: int) -> dict[str, float]:
        """The parameters of a trial of random search. Methods that share a parameter try the same values of it."""

        def uniform(name: str) -> float:
            return np.random.default_rng([seed, trial, *name.encode()]).uniform()

        drawn = {name: low * (high / low) ** uniform(name) for name, (low, high) in self.ranges.items()}
        return drawn | {name: values[int(uniform(name) * len(values))] for name, values in self.choices.items()}

    def at_edge(self, parameters: Parameters, margin: float = 0.05) -> list[str]:
        """Parameters in the outer `margin` of their range at either end, or the first or last of three choices or more.

        The best value may then lie outside of what was searched.
        """

        def position(name: str) -> float:
            if name in self.ranges:
                low, high = self.ranges[name]
                return float(np.log(parameters[name] / low) / np.log(high / low))
            values = self.choices[name]
            return values.index(parameters[name]) / (len(values) - 1) if len(values) > 2 else 0.5

        return [name for name in parameters if not margin < position(name) < 1 - margin]


def _ranges(*names: str) -> dict[str, tuple[float, float]]:
    return {name: STEP_SIZES[name] for name in names}


_FIXED_TARGET = (0.9, 0.0, 0.0, 0.0, 0.0)
"""Exponents of methods that solve one regularized problem, with fixed w and τ; that of ζ is tuned."""

_TWO_LOOPS: dict[str, tuple[float, ...]] = {"num_inner_steps": (2, 5, 20, 80), "upper_exponent": (0.0, 0.9)}
_CLIPPING = {"max_global_norm": (0.03, 30.0)}
_ROLLOUTS: dict[str, tuple[float, ...]] = {
    "num_rollout_steps": (25, 100),
    "uses_tables": (0.0, 1.0),
    "upper_exponent": (0.0, 0.9),
}


def _estimator(parameters: Parameters) -> Literal["rollouts", "tables"]:
    """HPGD's estimator of the implicit gradient."""
    return "tables" if parameters["uses_tables"] else "rollouts"


def _exact(problem: BilevelProblem, step_sizes: StepSizes, parameters: Parameters) -> ExactDescent:
    """Annealed to a small entropy weight in the first half: at small ones Φ_τ has many stationary points."""
    annealed = GeometricDecay(initial=parameters["entropy"], final=0.01, num_iterations=FREE_ITERATIONS / 2)
    return ExactDescent(problem, replace(step_sizes, entropy=annealed))


METHODS: dict[str, Method] = {
    "single-loop": Method(
        lambda problem, step_sizes, _: SingleLoopActorCritic(problem, step_sizes, Followers(NUM_CHAINS, coupled=False)),
        _ranges("upper", "actor", "critic", "penalty", "entropy"),
        exponents=(9 / 10, 1 / 2, 1 / 2, 3 / 20, 1 / 20),
    ),
    "partial-sgd": Method(
        lambda problem, step_sizes, _: PartialSGD(problem, step_sizes, NUM_CHAINS),
        _ranges("upper", "actor", "critic", "entropy"),
        {"upper_exponent": (0.0, 0.9)},
        exponents=(9 / 10, 1 / 2, 1 / 2, 0.0, 1 / 20),
    ),
    "finite-difference": Method(
        lambda problem, step_sizes, parameters: FiniteDifference(
            problem,
            step_sizes,
            NUM_CHAINS,
            num_inner_steps=int(parameters["num_inner_steps"]),
            radius=parameters["radius"],
        ),
        _ranges("upper", "actor", "critic", "entropy") | {"radius": (0.1, 3.0)},
        _TWO_LOOPS,
        exponents=_FIXED_TARGET,
    ),
    "nested-loop": Method(
        lambda problem, step_sizes, parameters: NestedLoop(
            problem, step_sizes, NUM_CHAINS, num_inner_steps=int(parameters["num_inner_steps"])
        ),
        _ranges("upper", "actor", "critic", "penalty", "entropy"),
        _TWO_LOOPS,
        exponents=_FIXED_TARGET,
    ),
    "pbrl": Method(
        lambda problem, step_sizes, parameters: PBRL(
            problem, step_sizes, NUM_CHAINS, num_inner_steps=int(parameters["num_inner_steps"])
        ),
        _ranges("upper", "actor", "critic", "penalty", "entropy"),
        _TWO_LOOPS,
        exponents=_FIXED_TARGET,
    ),
    "pbrl-bellman": Method(
        lambda problem, step_sizes, parameters: BellmanPBRL(
            problem, step_sizes, NUM_CHAINS, num_inner_steps=int(parameters["num_inner_steps"])
        ),
        _ranges("upper", "actor", "critic", "penalty", "entropy"),
        _TWO_LOOPS,
        exponents=_FIXED_TARGET,
    ),
    "hpgd": Method(
        lambda problem, step_sizes, parameters: HPGD(
            problem,
            step_sizes,
            NUM_CHAINS,
            num_inner_steps=int(parameters["num_inner_steps"]),
            num_rollout_steps=int(parameters["num_rollout_steps"]),
            estimator=_estimator(parameters),
            max_global_norm=parameters["max_global_norm"],
        ),
        _ranges("upper", "actor", "critic", "entropy") | _CLIPPING,
        _TWO_LOOPS | _ROLLOUTS,
        exponents=_FIXED_TARGET,
    ),
    "hpgd-planned": Method(
        lambda problem, step_sizes, parameters: PlannedHPGD(
            problem,
            step_sizes,
            NUM_CHAINS,
            num_rollout_steps=int(parameters["num_rollout_steps"]),
            estimator=_estimator(parameters),
            max_global_norm=parameters["max_global_norm"],
        ),
        _ranges("upper", "entropy") | _CLIPPING,
        _ROLLOUTS,
        exponents=_FIXED_TARGET,
    ),
    "sobirl": Method(
        lambda problem, step_sizes, _: SoBiRL(problem, step_sizes, NUM_CHAINS),
        _ranges("upper", "actor", "critic", "entropy"),
        {"upper_exponent": (0.0, 0.9)},
        exponents=_FIXED_TARGET,
    ),
    "exact": Method(
        _exact, _ranges("upper", "entropy"), {"upper_exponent": (0.0, 0.9)}, _FIXED_TARGET, is_deterministic=True
    ),
}
"""Every method by its name on the command line."""
