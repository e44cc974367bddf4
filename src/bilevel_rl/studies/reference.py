"""A single loop for x with many entries, and what it is measured by where the optimum is not known otherwise."""

import abc
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
import optax
from jaxtyping import Float, PyTree

from bilevel_rl import exact
from bilevel_rl.algorithms import ExactDescent, Followers, SingleLoopActorCritic, UpperSteps
from bilevel_rl.algorithms.step_sizes import ScheduleWarning, StepSizes
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.runs.run import run
from bilevel_rl.studies.experiment import BesideOptimum


def averaged_adam(problem: BilevelProblem, step_sizes: StepSizes, num_chains: int) -> SingleLoopActorCritic:
    """Algorithm 1 with coupled chains, Adam on x, and averaged iterates."""
    upper_steps = UpperSteps(optax.adam(1.0), averaging=3.0)
    return SingleLoopActorCritic(problem, step_sizes, Followers(num_chains), upper_steps=upper_steps)


@dataclass(frozen=True)
class BesideDescent(BesideOptimum):
    """Algorithm 1 with Adam on an x of many entries, beside what exact descent finds from the same start."""

    reference: ClassVar[str] = "Φ of exact descent"
    descent: ClassVar[Mapping[str, Any]]
    """step of Adam, `upper`, and `num_iterations` of the descent"""

    @abc.abstractmethod
    def problem(self) -> BilevelProblem:
        """What is solved."""

    def algorithm(self) -> SingleLoopActorCritic:
        """What runs; building it checks every option."""
        return averaged_adam(self.problem(), self.schedule.step_sizes(), self.schedule.num_chains)

    def descended(self, problem: BilevelProblem) -> dict[str, np.ndarray]:
        """What exact descent finds."""
        τ, evaluation = self.schedule.entropy_weight, self.run.evaluation_entropy_weight
        found = exact_descent(problem, τ, evaluation, **self.descent)
        return {"optimal_objective": np.array(found.objective), "optimum": found.x}


def exact_descent(
    problem: BilevelProblem, entropy_weight: float, evaluation: float, *, upper: float, num_iterations: int
) -> exact.Solution:
    """What exact descent with Adam steps `upper` finds from the problem's start, at the follower's own entropy weight.

    Φ is measured at the entropy weight `evaluation`. The descent is a run, so it is not beside the problem.
    """
    with warnings.catch_warnings(action="ignore", category=ScheduleWarning):
        result = run(
            ExactDescent(problem, StepSizes.constant_entropy(upper=upper, entropy=entropy_weight)),
            jax.random.key(0),
            1,
            num_iterations,
            log_every=num_iterations,
            evaluation_entropy_weight=evaluation,
            progress=False,
        )
    x = np.asarray(result.x[0], np.float64)
    objective, slope = (float(result.metrics[name][-1]) for name in ("upper_objective", "hyper_gradient_norm"))
    return exact.Solution(x, objective, slope, num_iterations, status="iteration limit")


def occupancy(problem: BilevelProblem, x: PyTree, entropy_weight: float) -> Float[np.ndarray, "S A"]:
    """Shares of the time of the best answer to x."""
    policy = exact.lower_policy(problem, x, entropy_weight=entropy_weight)
    return np.asarray(exact.evaluate(problem, x, policy).occupancy)


def visits(problem: BilevelProblem, x: PyTree, entropy_weight: float) -> Float[np.ndarray, " S"]:
    """Share of its time that the best answer to x spends in every state."""
    return occupancy(problem, x, entropy_weight).sum(1)


def annealed_optimum(problem: BilevelProblem, first: float, last: float, *starts: np.ndarray) -> exact.Solution:
    """At a small τ several stationary points are close together; annealing from a large one leads to the lowest."""
    return exact.solve(problem, entropy_weight=np.geomspace(first, last, 5).tolist(), starts=starts)


def objectives_along(
    problem: BilevelProblem, paths: Float[np.ndarray, "seeds points n"], entropy_weight: float
) -> Float[np.ndarray, "seeds points"]:
    """Φ at every x of some paths."""
    xs = paths.reshape(-1, paths.shape[-1])
    return exact.hyper_objectives(problem, xs, entropy_weight=entropy_weight).reshape(paths.shape[:2])
