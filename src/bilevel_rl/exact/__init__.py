"""Oracles on a known model: what every stochastic quantity of this library is checked against."""

from bilevel_rl.exact.batch import hyper_gradients as hyper_gradients, hyper_objectives as hyper_objectives
from bilevel_rl.exact.confidence import (
    Confidence as Confidence,
    OptimumConfidence as OptimumConfidence,
    confidence as confidence,
    optimum_confidence as optimum_confidence,
)
from bilevel_rl.exact.coupling import CoupledChains as CoupledChains, upper_variance as upper_variance
from bilevel_rl.exact.evaluation import occupancy as occupancy
from bilevel_rl.exact.objectives import (
    Evaluation as Evaluation,
    evaluate as evaluate,
    hyper_gradient as hyper_gradient,
    hyper_objective as hyper_objective,
    lower_policy as lower_policy,
    lower_residual as lower_residual,
    penalized_policy as penalized_policy,
    penalty_gradient as penalty_gradient,
    penalty_objective as penalty_objective,
    upper_value as upper_value,
)
from bilevel_rl.exact.oracle import OracleError as OracleError
from bilevel_rl.exact.solver import Solution as Solution, Status as Status, solve as solve
