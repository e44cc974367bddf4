"""What is solved."""

from bilevel_rl.problems.control import cartpole_design as cartpole_design, pendulum_design as pendulum_design
from bilevel_rl.problems.four_rooms import four_rooms as four_rooms
from bilevel_rl.problems.goal_placement import goal_placement as goal_placement
from bilevel_rl.problems.goal_position import goal_position as goal_position
from bilevel_rl.problems.grid import Grid as Grid
from bilevel_rl.problems.mountain_car import mountain_car_shaping as mountain_car_shaping
from bilevel_rl.problems.problem import BilevelProblem as BilevelProblem
from bilevel_rl.problems.reward_learning import (
    inverse_rl as inverse_rl,
    preference_learning as preference_learning,
    target_visitation as target_visitation,
)
from bilevel_rl.problems.scales import ProblemScales as ProblemScales, measure_scales as measure_scales
from bilevel_rl.problems.shared_goal import shared_goal as shared_goal
from bilevel_rl.problems.upper_objectives import (
    OccupancyCost as OccupancyCost,
    OccupancyFunctional as OccupancyFunctional,
    PolicyLoss as PolicyLoss,
    TrajectoryLoss as TrajectoryLoss,
    UpperObjective as UpperObjective,
)
from bilevel_rl.problems.wind_design import wind_design as wind_design
