"""The bi-level problem: what the leader sets, what it minimizes, and within which limits."""

from bilevel_rl.formulation.games import LeaderPolicy as LeaderPolicy, MarkovGame as MarkovGame
from bilevel_rl.formulation.names import (
    GraphLayout as GraphLayout,
    GridLayout as GridLayout,
    Names as Names,
)
from bilevel_rl.formulation.problem import BilevelProblem as BilevelProblem
from bilevel_rl.formulation.scales import ProblemScales as ProblemScales, measure_scales as measure_scales
from bilevel_rl.formulation.upper_objectives import (
    OccupancyCost as OccupancyCost,
    OccupancyFunctional as OccupancyFunctional,
    PolicyLoss as PolicyLoss,
    TrajectoryLoss as TrajectoryLoss,
    UpperObjective as UpperObjective,
)
