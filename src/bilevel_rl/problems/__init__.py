"""What is solved."""

from bilevel_rl.problems.four_rooms import four_rooms as four_rooms
from bilevel_rl.problems.goal_placement import goal_placement as goal_placement
from bilevel_rl.problems.goal_position import goal_position as goal_position
from bilevel_rl.problems.grid import Grid as Grid
from bilevel_rl.problems.problem import BilevelProblem as BilevelProblem, OccupancyCost as OccupancyCost
from bilevel_rl.problems.scales import ProblemScales as ProblemScales, measure_scales as measure_scales
from bilevel_rl.problems.wind_design import wind_design as wind_design
