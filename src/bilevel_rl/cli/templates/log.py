"""Which toll empties a bridge? There is no model, only a log of trips.

    bilevel-rl run my_problem.py                 # learn x from samples of the model that the log amounts to
    bilevel-rl solve my_problem.py               # exact descent on that model

`bilevel_rl.exact.confidence` says whether the log suffices (docs/how_to/logged_data.md).
"""

import jax.numpy as jnp
import numpy as np

import bilevel_rl as brl


def trips(num_trips: int = 2_000) -> dict[str, list[str]]:
    """Stands for your log: a row for each transition. Read yours by `TransitionLog.read("trips.csv", …)` below."""
    rng = np.random.default_rng(0)
    towns, roads = ["north", "bridge", "south"], ["ride", "wait"]
    state, action = rng.integers(3, size=num_trips), rng.integers(2, size=num_trips)
    # A ride leads to the next town, and sometimes does not; who waits stays.
    arrives = (action == 0) & (rng.random(num_trips) < 0.9)
    following = np.where(arrives, (state + 1) % 3, state)
    columns = {"from": state, "road": action, "to": following}
    return {name: np.array(roads if name == "road" else towns)[column].tolist() for name, column in columns.items()}


def problem(wish: float = 0.5, largest: float = 1.0) -> brl.BilevelProblem:
    """The leader wants riders off the bridge, and would rather not annoy them.

    Args:
        wish: what an hour on the bridge costs the leader.
        largest: the highest toll.
    """
    log = brl.TransitionLog.read(trips(), state="from", action="road", next_state="to")
    bridge, ride = log.state("bridge"), log.action("ride")

    def reward(x, state, action):
        """Riders like to ride, and pay the toll x for every hour on the bridge."""
        return 0.3 * (action == ride) - x * (state == bridge)

    return brl.BilevelProblem(
        environment=log.mdp(discount=0.9),
        reward=reward,
        upper=brl.OccupancyCost(
            lambda x, state, action: wish * (state == bridge), regularizer=lambda x: 0.02 * jnp.sum(x**2)
        ),
        initial_x=0.0,
        project=brl.projections.Box(0.0, largest),  # which x are allowed
        reward_bound=0.3 + largest,
    )
