"""Bi-level reinforcement learning: move a reward to where the agent that optimizes it does what you want."""

from importlib.metadata import version as _version

from bilevel_rl.runs.compiler import fuse_small_loops

fuse_small_loops()  # Before anything below compiles.

from bilevel_rl import (  # noqa: E402
    exact as exact,
    followers as followers,
    formulation as formulation,
    policies as policies,
    problems as problems,
    results as results,
)
from bilevel_rl.algorithms import (  # noqa: E402
    ExactDescent as ExactDescent,
    Followers as Followers,
    ModelBased as ModelBased,
    SingleLoopActorCritic as SingleLoopActorCritic,
    UpperSteps as UpperSteps,
    untuned as untuned,
)
from bilevel_rl.algorithms.step_sizes import (  # noqa: E402
    GeometricDecay as GeometricDecay,
    PowerDecay as PowerDecay,
    StepSizes as StepSizes,
)
from bilevel_rl.environments import (  # noqa: E402
    Contexts as Contexts,
    FunctionalEnvironment as FunctionalEnvironment,
    HostEnvironment as HostEnvironment,
    TabularMDP as TabularMDP,
    TransitionLog as TransitionLog,
)
from bilevel_rl.followers import LearnedReward as LearnedReward, rollout as rollout  # noqa: E402
from bilevel_rl.formulation import (  # noqa: E402
    BilevelProblem as BilevelProblem,
    GraphLayout as GraphLayout,
    GridLayout as GridLayout,
    LeaderPolicy as LeaderPolicy,
    MarkovGame as MarkovGame,
    Names as Names,
    OccupancyCost as OccupancyCost,
    OccupancyFunctional as OccupancyFunctional,
    PolicyLoss as PolicyLoss,
    TrajectoryLoss as TrajectoryLoss,
    projections as projections,
)
from bilevel_rl.policies import NeuralActorCritic as NeuralActorCritic  # noqa: E402
from bilevel_rl.results import RunFolderError as RunFolderError, open_run as open_run  # noqa: E402
from bilevel_rl.runs.host import run_host as run_host  # noqa: E402
from bilevel_rl.runs.result import RunResult as RunResult  # noqa: E402
from bilevel_rl.runs.run import run as run  # noqa: E402

__version__ = _version("bilevel-rl")
