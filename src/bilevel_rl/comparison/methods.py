"""The methods that are compared: how each is built from a few numbers, and the space in which these are searched.

Methods are all that are compared, baselines all but Algorithm 1. A method is one entry of `METHODS`.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from bilevel_rl.algorithms import (
    BCHG,
    HPGD,
    PBRL,
    Algorithm,
    BellmanPBRL,
    CertaintyEquivalence,
    ExactDescent,
    FiniteDifference,
    Followers,
    ModelBased,
    NestedLoop,
    PartialSGD,
    PlannedHPGD,
    SingleLoopActorCritic,
    SoBiRL,
    untuned,
)
from bilevel_rl.algorithms.step_sizes import GeometricDecay, PowerDecay, ScheduleWarning, StepSizes
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
        name: on the command line.
        algorithm: builds it from a problem, step sizes and a number of chains, and from every parameter that is not a
            step size, passed by its name.
        ranges: parameter to the ends of the range from which it is drawn log-uniformly.
        choices: parameter to the values among which it is drawn; more inner steps or another exponent, for instance.
        exponents: decay exponents of (upper, actor, critic, penalty, entropy). A parameter `upper_exponent` replaces
            the first.
        is_deterministic: it takes no transitions, so one seed shows all there is.
    """

    name: str
    algorithm: Callable[..., Algorithm]
    ranges: Mapping[str, tuple[float, float]]
    choices: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    exponents: tuple[float, float, float, float, float] = (0.9, 0.5, 0.5, 0.0, 0.0)
    is_deterministic: bool = False

    def build(self, problem: BilevelProblem, parameters: Parameters, num_iterations: Callable[[int], int]) -> Algorithm:
        """The algorithm with these parameters; `ScheduleWarning`s are not shown, since a search crosses all borders.

        A follower with an entropy weight λ of its own keeps it: τ = λ.

        Args:
            problem: what is solved.
            parameters: a value for every entry of `ranges` and `choices`.
            num_iterations: length of the run, from the transitions of an iteration.
        """
        initial = {name: value for name, value in parameters.items() if name in STEP_SIZES}
        if problem.entropy_weight is not None and "entropy" in initial:
            initial["entropy"] = problem.entropy_weight
        others = {name: parameters[name] for name in parameters.keys() - STEP_SIZES.keys() - {"upper_exponent"}}
        exponents = (parameters.get("upper_exponent", self.exponents[0]), *self.exponents[1:])
        if problem.entropy_weight is not None:
            exponents = (*exponents[:-1], 0.0)

        def built(offset: float) -> Algorithm:
            step_sizes = StepSizes.decaying(**initial, offset=offset, exponents=exponents)
            return self.algorithm(problem, step_sizes, NUM_CHAINS, **others)

        with warnings.catch_warnings(action="ignore", category=ScheduleWarning):
            length = num_iterations(built(offset=1.0).num_transitions_per_iteration)
            return built(HOLDING_SHARE * max(1, length))

    @property
    def has_parameters(self) -> bool:
        """Whether there is anything to tune."""
        return bool(self.ranges or self.choices)

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


def _single_loop(problem: BilevelProblem, step_sizes: StepSizes, num_chains: int) -> SingleLoopActorCritic:
    """As published: the chains of the two policies are independent."""
    return SingleLoopActorCritic(problem, step_sizes, Followers(num_chains, coupled=False))


def _coupled_single_loop(problem: BilevelProblem, step_sizes: StepSizes, num_chains: int) -> SingleLoopActorCritic:
    """As the library has it by default."""
    return SingleLoopActorCritic(problem, step_sizes, Followers(num_chains))


def _natural_single_loop(problem: BilevelProblem, step_sizes: StepSizes, num_chains: int) -> SingleLoopActorCritic:
    """Coupled chains, natural actors, and ∇_x r as means over actions. A natural step is |A| times as long."""
    step = replace(step_sizes.actor, initial=step_sizes.actor.initial / problem.mdp.num_actions)
    followers = Followers(num_chains, natural=True)
    return SingleLoopActorCritic(problem, replace(step_sizes, actor=step), followers, expects_actions=True)


def _untuned(problem: BilevelProblem, _: StepSizes, num_chains: int) -> SingleLoopActorCritic:
    return untuned(problem, num_chains)


def _model_based(problem: BilevelProblem, _: StepSizes, num_chains: int) -> ModelBased:
    return ModelBased.untuned(problem, num_chains)


def _certainty_equivalence(problem: BilevelProblem, step_sizes: StepSizes, num_chains: int) -> CertaintyEquivalence:
    """Plans of N steps: held for the first third of them, and annealed as in `_exact`."""
    num_steps = CertaintyEquivalence.num_planning_steps
    upper = replace(step_sizes.upper, offset=num_steps * HOLDING_SHARE)
    planned = replace(step_sizes, upper=upper, entropy=_annealed(problem, step_sizes, num_steps))
    return CertaintyEquivalence(problem, planned, num_chains)


def _with_estimator(algorithm: Callable[..., Algorithm]) -> Callable[..., Algorithm]:
    """HPGD whose estimator of the implicit gradient is chosen by a number, like every other parameter."""

    def build(
        problem: BilevelProblem, step_sizes: StepSizes, num_chains: int, *, uses_tables: float, **others: float
    ) -> Algorithm:
        estimator = "tables" if uses_tables else "rollouts"
        return algorithm(problem, step_sizes, num_chains, estimator=estimator, **others)

    return build


def _exact(problem: BilevelProblem, step_sizes: StepSizes, _: int) -> ExactDescent:
    return ExactDescent(problem, replace(step_sizes, entropy=_annealed(problem, step_sizes, FREE_ITERATIONS)))


def _annealed(problem: BilevelProblem, step_sizes: StepSizes, num_steps: int) -> PowerDecay | GeometricDecay:
    """Down to a small entropy weight in the first half: at small ones Φ_τ has many stationary points."""
    if problem.entropy_weight is not None:
        return step_sizes.entropy
    return GeometricDecay(step_sizes.entropy.initial, final=0.01, num_iterations=num_steps / 2)


_TWO_POLICIES = _ranges("upper", "actor", "critic", "penalty", "entropy")
_ONE_POLICY = _ranges("upper", "actor", "critic", "entropy")
_NO_POLICY = _ranges("upper", "entropy")

_DECAYING = (9 / 10, 1 / 2, 1 / 2, 3 / 20, 1 / 20)
"""The paper's exponents."""

_FIXED_TARGET = (0.9, 0.0, 0.0, 0.0, 0.0)
"""Exponents of methods that solve one regularized problem, with fixed w and τ; that of ζ is tuned."""

_UPPER_EXPONENT: dict[str, tuple[float, ...]] = {"upper_exponent": (0.0, 0.9)}
_TWO_LOOPS = {"num_inner_steps": (2, 5, 20, 80), **_UPPER_EXPONENT}
_ROLLOUTS = {"num_rollout_steps": (25, 100), "uses_tables": (0.0, 1.0), **_UPPER_EXPONENT}
_CLIPPING = {"max_global_norm": (0.03, 30.0)}

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("single-loop", _single_loop, _TWO_POLICIES, exponents=_DECAYING),
        Method("single-loop-coupled", _coupled_single_loop, _TWO_POLICIES, exponents=_DECAYING),
        Method("single-loop-natural", _natural_single_loop, _TWO_POLICIES, exponents=_DECAYING),
        Method("untuned", _untuned, {}),
        Method("model-based", _model_based, {}),
        Method("certainty-equivalence", _certainty_equivalence, _NO_POLICY, _UPPER_EXPONENT, _FIXED_TARGET),
        Method("partial-sgd", PartialSGD, _ONE_POLICY, _UPPER_EXPONENT, exponents=(9 / 10, 1 / 2, 1 / 2, 0.0, 1 / 20)),
        Method("finite-difference", FiniteDifference, _ONE_POLICY | {"radius": (0.1, 3.0)}, _TWO_LOOPS, _FIXED_TARGET),
        Method("nested-loop", NestedLoop, _TWO_POLICIES, _TWO_LOOPS, _FIXED_TARGET),
        Method("pbrl", PBRL, _TWO_POLICIES, _TWO_LOOPS, _FIXED_TARGET),
        Method("pbrl-bellman", BellmanPBRL, _TWO_POLICIES, _TWO_LOOPS, _FIXED_TARGET),
        Method("hpgd", _with_estimator(HPGD), _ONE_POLICY | _CLIPPING, _TWO_LOOPS | _ROLLOUTS, _FIXED_TARGET),
        Method(
            "hpgd-planned",
            _with_estimator(PlannedHPGD),
            _NO_POLICY | _CLIPPING,
            _ROLLOUTS,
            _FIXED_TARGET,
        ),
        Method("sobirl", SoBiRL, _ONE_POLICY, _UPPER_EXPONENT, _FIXED_TARGET),
        Method("bchg", BCHG, _ONE_POLICY, _UPPER_EXPONENT, _FIXED_TARGET),
        Method("exact", _exact, _NO_POLICY, _UPPER_EXPONENT, _FIXED_TARGET, is_deterministic=True),
    )
}
"""Every method by its name on the command line."""
