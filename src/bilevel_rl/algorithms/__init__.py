"""How it is solved: one file per method."""

from bilevel_rl.algorithms.algorithm import Algorithm as Algorithm
from bilevel_rl.algorithms.exact_descent import Exact as Exact, ExactInfo as ExactInfo, ExactState as ExactState
from bilevel_rl.algorithms.single_loop import (
    SingleLoopActorCritic as SingleLoopActorCritic,
    SingleLoopInfo as SingleLoopInfo,
    SingleLoopState as SingleLoopState,
)
