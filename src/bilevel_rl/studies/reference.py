"""What exact descent finds, for experiments whose optimum is not known otherwise."""

import warnings

import jax

from bilevel_rl.algorithms import ExactDescent
from bilevel_rl.algorithms.step_sizes import ScheduleWarning, StepSizes
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.runs.run import RunResult, run


def exact_descent(
    problem: BilevelProblem, entropy_weight: float, evaluation: float, *, upper: float, num_iterations: int
) -> RunResult:
    """Exact descent with Adam steps `upper` from the problem's start, at the follower's own entropy weight.

    Φ is measured at the entropy weight `evaluation`, at the start and at the end.
    """
    with warnings.catch_warnings(action="ignore", category=ScheduleWarning):
        return run(
            ExactDescent(problem, StepSizes.constant_entropy(upper=upper, entropy=entropy_weight)),
            jax.random.key(0),
            1,
            num_iterations,
            log_every=num_iterations,
            evaluation_entropy_weight=evaluation,
            progress=False,
        )
