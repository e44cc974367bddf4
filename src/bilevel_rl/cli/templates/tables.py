"""How high should a subsidy be? A follower moves between three places; the leader pays it for one of them.

bilevel-rl run my_problem.py                 # learn x from samples
bilevel-rl run my_problem.py --loss 2        # parameters of `problem` are flags
bilevel-rl solve my_problem.py               # exact descent
bilevel-rl compare my_problem.py             # which method is best on it
"""

import jax.numpy as jnp
import numpy as np

import bilevel_rl as brl

HOME, PARK, OFFICE = range(3)
LIKES = np.array([0.7, 1.0, 0.7])


def problem(loss: float = 1.0, largest: float = 2.0, discount: float = 0.9) -> brl.BilevelProblem:
    """The leader wants the follower in the office.

    Args:
        loss: what the leader loses per step that the follower is elsewhere.
        largest: the highest subsidy.
        discount: γ, how far ahead both look.
    """
    # The follower's world: probabilities [state, action, next state]. Action a leads to place a, sometimes elsewhere.
    leads = np.array([0.9 * np.eye(3) + 0.1 / 3] * 3)
    places = brl.TabularMDP.from_dense(leads, initial=[1, 0, 0], discount=discount)

    def reward(x, state, action):
        """What the follower earns per step: what it likes, and the subsidy x. A plain JAX function."""
        return jnp.asarray(LIKES)[state] + x * (state == OFFICE)

    def cost(x, state, action):
        """What the leader pays per step."""
        return jnp.where(state == OFFICE, x, loss)

    return brl.BilevelProblem(
        environment=places,
        reward=reward,
        upper=brl.OccupancyCost(cost),
        initial_x=0.0,  # any array, or a dict of arrays
        project=brl.projections.Box(0.0, largest),  # which x are allowed
    )
