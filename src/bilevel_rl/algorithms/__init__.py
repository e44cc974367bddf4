"""How it is solved: one file per method."""

from bilevel_rl.algorithms.actor_critic import Info as Info
from bilevel_rl.algorithms.algorithm import Algorithm as Algorithm
from bilevel_rl.algorithms.single_loop import (
    SingleLoopActorCritic as SingleLoopActorCritic,
    SingleLoopState as SingleLoopState,
)
