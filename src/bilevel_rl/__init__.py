"""Bi-level reinforcement learning: move a reward to where the agent that optimizes it does what you want."""

from bilevel_rl import exact as exact, problems as problems
from bilevel_rl.algorithms import SingleLoopActorCritic as SingleLoopActorCritic
from bilevel_rl.environments import TabularMDP as TabularMDP
from bilevel_rl.problems import BilevelProblem as BilevelProblem, OccupancyCost as OccupancyCost
from bilevel_rl.run import RunResult as RunResult, run as run
from bilevel_rl.schedules import PowerDecay as PowerDecay, StepSizes as StepSizes
