"""The value that the Four Rooms benchmark reports."""

from jaxtyping import ArrayLike, Float

from bilevel_rl.exact.objectives import hyper_objective
from bilevel_rl.problems import BilevelProblem


def four_rooms_value(
    problem: BilevelProblem, x: Float[ArrayLike, " 105"], *, entropy_weight: float | None = None
) -> float:
    """F(x) = −Φ_λ(x) / (1 − γ): the leader's discounted return, the mean over the goals; larger is better.

    Args:
        problem: from `problems.four_rooms`.
        x: logits of the penalties.
        entropy_weight: λ; by default the problem's own.

    Raises:
        ValueError: x has another shape, or `entropy_weight` is not positive.
        OracleError: the follower's answer does not converge.
    """
    weight = problem.entropy_weight if entropy_weight is None else entropy_weight
    if weight is None:
        raise ValueError("entropy_weight must be given for a problem that has none of its own, got None")
    return -float(hyper_objective(problem, x, entropy_weight=weight)) / (1 - problem.environment.discount)
