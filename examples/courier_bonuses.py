"""From a log to an incentive with an interval: which bonuses bring couriers to where customers wait?

    bilevel-rl run examples/courier_bonuses.py:Couriers
    bilevel-rl run examples/courier_bonuses.py:Couriers --table my_log.csv

`data/couriers.csv` has a line for each choice of a courier: where he was, which district he went to, where he was next.
An object with a `log` beside its `problem` gets an interval of Φ at the best seed's x.
What the couriers wish is known here; `logged_data.py` finds it out from the same log.

    upper variable      x ∈ [0, 5]^6, a bonus for half an hour that begins in a district
    follower's reward   0.67 (fees + x_s) − 0.50 kilometres + 0.60 shelter
    leader's cost       x_s less what a courier's half hour there is worth
"""

from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import bilevel_rl as brl

FEES = np.array([1.1, 2.0, 0.8, 3.0, 1.0, 2.6])
PLACES = np.array([[0.0, 3.0], [4.0, 0.0], [1.0, 5.0], [2.5, 2.0], [1.0, 1.0], [3.0, 1.0]])
SHELTER = np.array([1.0, 0.0, 0.0, 0.0, 1.0, 1.0])
WORTH = np.array([6.0, 1.0, 7.0, 1.0, 1.0, 1.0])
PLEASURE = 0.67 * FEES - 0.50 * np.linalg.norm(PLACES[:, None] - PLACES, axis=-1) + 0.60 * SHELTER


@dataclass(frozen=True)
class Couriers:
    """A log, and the problem that it amounts to.

    Args:
        table: the log.
        largest: the highest bonus.
    """

    table: Path = Path(__file__).parent / "data" / "couriers.csv"
    largest: float = 5.0

    def log(self) -> brl.TransitionLog:
        """What was seen."""
        return brl.TransitionLog.read(self.table, state="district", action="goes_to", next_state="is_next_in")

    def problem(self) -> brl.BilevelProblem:
        """Couriers of the log, and the platform."""
        log = self.log()
        return brl.BilevelProblem(
            log.mdp(discount=0.9),
            reward=lambda x, s, a: jnp.asarray(PLEASURE)[s, a] + 0.67 * x[s],
            upper=brl.OccupancyCost(lambda x, s, a: x[s] - jnp.asarray(WORTH)[s]),
            initial_x=np.zeros(len(FEES)),
            project=brl.projections.Box(0.0, self.largest),
            entropy_weight=1.0,
            names=brl.Names(
                question="Which bonuses bring couriers to where customers wait?",
                states=log.state_labels or (),
                actions=log.action_labels or (),
                layout=brl.GraphLayout(PLACES),
            ),
        )
