"""Run folders of three places, written by hand: no run, no compilation."""

import numpy as np

import bilevel_rl as brl
from bilevel_rl.outcome import Answer, Costs, Exact, Optimum, Outcome, Slopes, write_outcome
from bilevel_rl.runs.folder import RunFolder

HOME, PARK, OFFICE = range(3)
STATES = ("home", "park", "office")
GRAPH = brl.GraphLayout([(0, 0), (2, 0), (1, 1)])
GRID = brl.GridLayout([(0, 0), (0, 1), (1, 1)])


def answer(visits, paid=(0.1, 0.2, 0.0)):
    """One action or the other, evenly; the office is the end."""
    occupancy = np.array(visits)[:, None] * [0.5, 0.5]
    return Answer(
        policy=np.full((3, 2), 0.5),
        occupancy=occupancy,
        payments=np.array(paid)[:, None] * [0.5, 0.5],
        flows=np.array([0.4, 0.1, 0.2]),
        drift=np.array([[0.5, 0.0], [0.0, 0.5], [0.0, 0.0]]),
        walks=np.array([[HOME, PARK, OFFICE, OFFICE], [PARK, HOME, PARK, OFFICE]], np.int32),
    )


def hand_outcome(layout=None, question="How high should the subsidy be?", states=STATES):
    names = brl.Names(question, states=states, actions=("go", "stay"), x=("subsidy", "toll"), layout=layout)
    exact = Exact(
        shown_seed=1,
        costs=Costs(np.array([0.9, 0.5, 0.6, 0.7]), np.array([0.9, 0.4, 0.5, 0.6]), np.array([0.0, 0.1, 0.1, 0.1])),
        edges=np.array([[HOME, PARK], [PARK, HOME], [PARK, OFFICE]]),
        terminal=np.array([False, False, True]),
        before=answer((0.6, 0.3, 0.1), (0.6, 0.3, 0.0)),
        after=answer((0.2, 0.3, 0.5), (0.2, 0.3, 0.0)),
        slopes=Slopes(np.array([2.0, -1.0]), np.array([0.0, 400.0]), np.array([1.0, 0.5])),
    )
    best = Optimum(0.4, np.array([0.5, 0.0]), "exact descent")
    return Outcome(names, 0.1, np.zeros(2), np.array([[0.3, 0.1], [0.4, -0.2], [0.6, 0.1]]), best, exact)


def rows(num_seeds=3, metrics=("upper_objective", "upper_value", "lower_residual", "penalized_residual")):
    return [
        {"seed": seed, "num_iterations": k, "num_transitions": 8 * k, "is_sampled": 0}
        | {name: 0.9 / (1 + k / 10) + 0.01 * seed + 0.05 * i for i, name in enumerate(metrics)}
        for k in (0, 10, 20, 30)
        for seed in range(num_seeds)
    ]


def hand_folder(path, outcome=None, *, config=None, metric_rows=None):
    """A finished run's folder."""
    folder = RunFolder(path)
    folder.write_config(config or {"experiment": "places", "options": {"run": {"num_seeds": 3, "progress": False}}})
    folder.append_rows("metrics", rows() if metric_rows is None else metric_rows)
    if outcome is not None:
        write_outcome(folder, outcome)
    return folder
