"""Small bonuses on CliffWalking: which squares must carry one so that the walker keeps away from the edge?

    bilevel-rl run examples/cliff_bonuses.py:problem

Gymnasium's slippery CliffWalking, with rewards in hundredths: a step costs 0.01, a fall 1. The walker takes its chances
along the edge, since that way is short. Every step beside the cliff costs the leader 1, and so does every bonus that it
promised: at most 0.1 for a step on a square.

    upper variable      x ∈ [0, 0.1]^48, a bonus for each square
    follower's reward   Gymnasium's / 100 + x_s
    leader's cost       x_s + 1 in the row above the cliff
"""

import jax.numpy as jnp
import numpy as np

import bilevel_rl as brl
from bilevel_rl.environments import gymnasium_reward

WORLD, COLUMNS, EDGE = "CliffWalking-v1", 12, 2


def problem(largest: float = 0.1, discount: float = 0.95) -> brl.BilevelProblem:
    """The walker and who pays it: bonuses of at most `largest` a step."""
    environment = brl.TabularMDP.from_gymnasium(WORLD, is_slippery=True, discount=discount)
    own = gymnasium_reward(WORLD, is_slippery=True) / 100
    is_edge = 1.0 * (np.arange(environment.num_states) // COLUMNS == EDGE)
    return brl.BilevelProblem(
        environment,
        reward=lambda x, s, a: jnp.asarray(own, float)[s, a] + x[s],
        upper=brl.OccupancyCost(lambda x, s, a: x[s] + jnp.asarray(is_edge, float)[s], cost_bound=1 + largest),
        initial_x=np.zeros(environment.num_states),
        project=brl.projections.Box(0.0, largest),
        reward_bound=1 + largest,
        names=brl.Names(
            question="Which squares must carry a bonus so that the walker keeps away from the cliff?",
            actions=("north", "east", "south", "west"),
            layout=brl.GridLayout.of_shape(4, COLUMNS),
        ),
    )
