"""Bi-level reinforcement learning: move a reward to where the agent that optimizes it does what you want."""

from bilevel_rl.compiler import fuse_small_loops

fuse_small_loops()  # Before anything below compiles.

from bilevel_rl import exact as exact, problems as problems, projections as projections  # noqa: E402
from bilevel_rl.algorithms import (  # noqa: E402
    Exact as Exact,
    SingleLoopActorCritic as SingleLoopActorCritic,
    untuned as untuned,
)
from bilevel_rl.environments import (  # noqa: E402
    Contexts as Contexts,
    FunctionalEnvironment as FunctionalEnvironment,
    HostEnvironment as HostEnvironment,
    TabularMDP as TabularMDP,
)
from bilevel_rl.host import run_host as run_host  # noqa: E402
from bilevel_rl.policies import NeuralActorCritic as NeuralActorCritic  # noqa: E402
from bilevel_rl.problems import BilevelProblem as BilevelProblem, OccupancyCost as OccupancyCost  # noqa: E402
from bilevel_rl.run import RunResult as RunResult, run as run  # noqa: E402
from bilevel_rl.schedules import GeometricDecay as GeometricDecay, PowerDecay as PowerDecay, StepSizes as StepSizes  # noqa: E402
