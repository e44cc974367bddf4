"""An oracle for continuous states and actions: linear dynamics, quadratic reward and cost, both moved by x."""

from bilevel_rl.exact.lqr.leader import (
    hyper_gradient as hyper_gradient,
    hyper_objective as hyper_objective,
    lower_policy as lower_policy,
    penalized_policy as penalized_policy,
    penalty_gradient as penalty_gradient,
    penalty_objective as penalty_objective,
    solve as solve,
)
from bilevel_rl.exact.lqr.model import (
    LinearQuadratic as LinearQuadratic,
    LinearQuadraticProblem as LinearQuadraticProblem,
)
from bilevel_rl.exact.lqr.riccati import LinearGaussian as LinearGaussian
