"""Worked problems, each with its known optimum beside it: a function that builds it, and its arguments as a class."""

from bilevel_rl.problems.building import BuildingControl as BuildingControl, building_control as building_control
from bilevel_rl.problems.control import (
    CartpoleDesign as CartpoleDesign,
    PendulumDesign as PendulumDesign,
    cartpole_design as cartpole_design,
    pendulum_design as pendulum_design,
)
from bilevel_rl.problems.four_rooms import four_rooms as four_rooms, four_rooms_value as four_rooms_value
from bilevel_rl.problems.frozen_lake import FrozenLake as FrozenLake, frozen_lake as frozen_lake
from bilevel_rl.problems.goal_placement import (
    GoalPlacement as GoalPlacement,
    goal_placement as goal_placement,
    goal_placement_optimum as goal_placement_optimum,
    one_cell_objectives as one_cell_objectives,
)
from bilevel_rl.problems.goal_position import GoalPosition as GoalPosition, goal_position as goal_position
from bilevel_rl.problems.grid import Grid as Grid
from bilevel_rl.problems.mountain_car import (
    MountainCarShaping as MountainCarShaping,
    mountain_car_shaping as mountain_car_shaping,
)
from bilevel_rl.problems.patrol import Patrol as Patrol, patrol as patrol
from bilevel_rl.problems.reward_learning import (
    inverse_rl as inverse_rl,
    preference_learning as preference_learning,
    target_visitation as target_visitation,
)
from bilevel_rl.problems.shared_goal import shared_goal as shared_goal
from bilevel_rl.problems.tax_design import TaxDesign as TaxDesign, tax_design as tax_design
from bilevel_rl.problems.wind_design import WindDesign as WindDesign, wind_design as wind_design
from bilevel_rl.problems.worked import WorkedProblem as WorkedProblem
