"""Tolls on a road network: drivers take the cheapest way to work; which tolls keep them off the quiet streets?

    bilevel-rl run examples/road_tolls.py:problem
    bilevel-rl run examples/road_tolls.py:problem --burden 0.3

Thirty crossings lie on a bent grid. A driver enters in the west and wants to get to the office in the east. Every road
costs time; a road in the middle runs past homes, and each car there costs the town `NOISE`. The town may ask a toll for
entering each of the eight crossings in the middle. Tolls are a burden too: the town counts `burden` of what is paid.

    upper variable      x ∈ [0, 3]^8, a toll for each crossing in the middle
    follower's reward   −(minutes on the road) − toll of the crossing that it leads to
    leader's cost       noise of the road + burden · toll paid + 0.1 · minutes
"""

import jax.numpy as jnp
import numpy as np

import bilevel_rl as brl

ROWS, COLUMNS, OFFICE, NOISE, VARIETY = 5, 6, 17, 2.0, 0.2
PLACES = np.array(
    [(c + 0.25 * np.sin(2.0 * r), r + 0.3 * np.cos(1.5 * c)) for r in range(ROWS) for c in range(COLUMNS)]
)
NEIGHBOURS = [
    [
        r2 * COLUMNS + c2
        for r2, c2 in ((r, c + 1), (r + 1, c), (r, c - 1), (r - 1, c))
        if r2 in range(ROWS) and c2 in range(COLUMNS)
    ]
    for r in range(ROWS)
    for c in range(COLUMNS)
]
ROADS = np.array([(near + near[:1] * 4)[:4] for near in NEIGHBOURS])
"""Crossing that the a-th road out of s leads to; where there are fewer than four, the first again."""
MINUTES = np.linalg.norm(PLACES[ROADS] - PLACES[:, None], axis=-1)
QUIET = np.array([r * COLUMNS + c for r in (1, 2, 3) for c in (2, 3)] + [13, 16])
TOLL_OF = np.full(ROWS * COLUMNS, len(QUIET))
TOLL_OF[QUIET] = np.arange(len(QUIET))
IS_QUIET = np.isin(ROADS, QUIET)


def problem(burden: float = 0.1, largest: float = 3.0) -> brl.BilevelProblem:
    """Drivers and the town; `burden` is what a unit of toll counts for the town, `largest` the highest toll."""
    environment = brl.TabularMDP.from_successors(
        ROADS[..., None],
        np.ones((*ROADS.shape, 1)),
        initial=np.isin(np.arange(ROWS * COLUMNS), [0, 6, 12, 18, 24]) / 5,
        discount=0.95,
        terminal=np.arange(ROWS * COLUMNS) == OFFICE,
    )

    def toll(x, s, a):
        return jnp.append(x, 0.0)[jnp.asarray(TOLL_OF)[jnp.asarray(ROADS)[s, a]]]

    return brl.BilevelProblem(
        environment,
        reward=lambda x, s, a: -jnp.asarray(MINUTES)[s, a] - toll(x, s, a),
        upper=brl.OccupancyCost(
            lambda x, s, a: (
                NOISE * jnp.asarray(IS_QUIET)[s, a] + burden * toll(x, s, a) + 0.1 * jnp.asarray(MINUTES)[s, a]
            )
        ),
        initial_x=np.zeros(len(QUIET)),
        project=brl.projections.Box(0.0, largest),
        entropy_weight=VARIETY,
        names=brl.Names(
            question="Which tolls keep drivers off the streets past homes?",
            states=[f"crossing {s}" for s in range(len(ROADS))],
            x=[f"toll at {s}" for s in QUIET],
            layout=brl.GraphLayout(PLACES),
        ),
    )
