"""What do cyclists want? Weights of one's own features, learned from a table of rides (inverse reinforcement learning).

    bilevel-rl run examples/demonstrations.py:problem
    bilevel-rl run examples/demonstrations.py:problem --rides my_rides.csv

`data/rides.csv` has a line for every step of every ride: ride, crossing, turn (north, east, south, west). The town is a
grid of 5 × 5 crossings; everybody wants to get to the station in the south-east. Each street has three features: how
many cars it has, how steep it is, and whether there is a bicycle lane.

    upper variable      w ∈ R³, how much each feature counts; −1 for every street beside it
    follower's reward   −1 + w · features of the street, 0 at the station
    leader's objective  mean of −log π(turn | crossing) over the table: the weights that make the rides most likely
"""

import csv
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import bilevel_rl as brl

SIZE, VARIETY = 5, 0.3
TURNS = {"north": (-1, 0), "east": (0, 1), "south": (1, 0), "west": (0, -1)}
FEATURES = "cars", "climb", "lane"
RIDES = Path(__file__).parent / "data" / "rides.csv"
ROWS, PLACES = np.divmod(np.arange(SIZE**2), SIZE)
NEXT = np.stack(
    [np.clip(ROWS + r, 0, SIZE - 1) * SIZE + np.clip(PLACES + c, 0, SIZE - 1) for r, c in TURNS.values()], 1
)
HEIGHT = 1.5 * np.exp(-((ROWS - 1.0) ** 2 + (PLACES - 3.0) ** 2) / 3)
CLIMB = np.maximum(0.0, HEIGHT[NEXT] - HEIGHT[:, None])
HAS_CARS, HAS_LANE = ((along == at)[:, None] & (along[NEXT] == at) for along, at in ((ROWS, 2), (PLACES, 1)))
OF_STREETS = np.stack([HAS_CARS, CLIMB, HAS_LANE], -1).astype(float)
"""Features of the street that a turn leads into, of shape (crossing, turn, 3)."""


def town() -> brl.TabularMDP:
    """Every crossing may be the start; rides end at the station."""
    is_station = np.arange(SIZE**2) == SIZE**2 - 1
    initial = ~is_station / (SIZE**2 - 1)
    probabilities = np.ones((*NEXT.shape, 1))
    return brl.TabularMDP.from_successors(
        NEXT[..., None], probabilities, initial=initial, discount=0.95, terminal=is_station
    )


def reward(w, s, a):
    """r_w(s, a)."""
    return jnp.asarray(OF_STREETS, float)[s, a] @ w - 1.0


def problem(rides: Path = RIDES) -> brl.BilevelProblem:
    """Inverse reinforcement learning from the table `rides`."""
    with rides.open() as file:
        steps = [(int(row["crossing"]), list(TURNS).index(row["turn"])) for row in csv.DictReader(file)]
    states, turns = np.array(steps).T
    names = brl.Names(
        "What do cyclists want?",
        actions=tuple(TURNS),
        x=FEATURES,
        layout=brl.GridLayout.of_shape(SIZE, SIZE),
    )
    loss = brl.PolicyLoss(states, turns)
    return brl.BilevelProblem(town(), reward, loss, initial_x=np.zeros(3), entropy_weight=VARIETY, names=names)
