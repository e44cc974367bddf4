"""How often intervals of `exact.confidence` hold the true Φ: 90 % are asked for, over simulated logs of four problems.

    python -m benchmarks.confidence_coverage --file coverage.jsonl

Logs of 3, 10 and 40 transitions per pair on average, 200 logs each, 100 models a log. Φ is asked for at
x_0, and at the x̂ that exact descent finds on the log's own model (its kernel of maximum likelihood): what is chosen on
a log looks better on it than it is. Each log is a line of the file; what is there is not done again.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np

import bilevel_rl as brl
from bilevel_rl import exact
from bilevel_rl.exact.worlds import Method

LENGTHS = 3, 10, 40
METHODS: dict[str, Method] = {"x_0": "dirichlet", "x̂": "dirichlet", "x_0, bootstrap": "bootstrap"}
PARTS = "quantiles of models", "estimate less quantiles of errors"
"""The two intervals at x_0 that `Confidence.interval` is half way between."""


class Case(NamedTuple):
    """A problem, the follower's τ, and the policy that wrote the log."""

    problem: brl.BilevelProblem
    entropy_weight: float
    behaviour: np.ndarray


class Lookup(eqx.Module):
    """base(s, a) + features(s, a) · x, bounded."""

    base: np.ndarray
    features: np.ndarray

    def __call__(self, x, state, action):
        return jnp.tanh(jnp.asarray(self.base)[state, action] + jnp.asarray(self.features)[state, action] @ x)


def even(mdp: brl.TabularMDP) -> np.ndarray:
    return np.full((mdp.num_states, mdp.num_actions), 1 / mdp.num_actions)


def goal_position() -> Case:
    """25 cells, 5 actions, slips; walkers that go anywhere."""
    problem = brl.problems.goal_position(size=5, target=(3, 1), initial_x=(1, 3), width=2.0)
    return Case(problem, 0.1, even(problem.mdp))


def garnet() -> Case:
    """8 states, 3 actions, 3 random successors a pair with random chances; rewards and costs without symmetries."""
    rng = np.random.default_rng(19)
    successors = np.argsort(rng.random((8, 3, 8)), axis=-1)[..., :3]
    mdp = brl.TabularMDP.from_successors(
        successors, rng.dirichlet(np.ones(3), size=(8, 3)), initial=rng.dirichlet(np.ones(8)), discount=0.9
    )
    tables = [Lookup(rng.uniform(-1, 1, (8, 3)), rng.normal(size=(8, 3, 2))) for _ in range(2)]
    upper = brl.OccupancyCost(tables[1], regularizer=lambda x: 0.1 * jnp.sum(x**2))
    problem = brl.BilevelProblem(mdp, tables[0], upper, np.zeros(2), project=brl.projections.Box(-1.0, 1.0))
    return Case(problem, 0.2, even(mdp))


def tolls() -> Case:
    """12 junctions with 3 roads each, tolls on the roads of three districts. The log is of the drivers themselves."""
    rng = np.random.default_rng(5)
    junctions = np.arange(12)
    roads = (junctions[:, None] + [1, 3, 7]) % 12
    office, homes = 8, np.isin(junctions, (0, 1, 2)) / 3
    kernel = np.zeros((12, 3, 12))
    for road, leads_to in enumerate(roads.T):
        kernel[junctions, road, leads_to] += 0.8
        kernel[junctions, road, junctions] += 0.15  # A jam.
        kernel[junctions, road, np.roll(leads_to, 5)] += 0.05  # A wrong turn.
    kernel[office] = homes  # The next trip.
    lengths = rng.uniform(0.1, 0.9, roads.shape) * (junctions != office)[:, None]
    is_noisy = rng.random(roads.shape) < 0.4
    problem = brl.BilevelProblem(
        brl.TabularMDP.from_dense(kernel, initial=homes, discount=0.9),
        reward=lambda x, s, a: (
            1.0 * (s == office) - jnp.asarray(lengths)[s, a] - x[s // 4] * jnp.asarray(is_noisy)[s, a]
        ),
        upper=brl.OccupancyCost(lambda x, s, a: 1.0 * jnp.asarray(is_noisy)[s, a] - 2.0 * (s == office)),
        initial_x=np.full(3, 0.1),
        project=brl.projections.Box(0.0, 1.0),
    )
    return Case(problem, 0.2, np.asarray(exact.lower_policy(problem, problem.initial_x, entropy_weight=0.5)))


def shared_goal() -> Case:
    """48 states of three followers, 5 actions; nothing about the intervals was chosen on it."""
    problem = brl.problems.shared_goal(size=4, homes=((0, 0), (3, 1), (1, 3)), target=(2, 2), initial_x=(1, 1))
    return Case(problem, 0.1, even(problem.mdp))


CASES: dict[str, Callable[[], Case]] = {
    "goal-position": goal_position,
    "garnet": garnet,
    "tolls": tolls,
    "shared-goal": shared_goal,
}


def simulated_log(case: Case, num_transitions: int, rng: np.random.Generator) -> brl.TransitionLog:
    """One chain of the behaviour, restarted with probability 1 − γ after each transition."""
    mdp = case.problem.mdp
    S, A = mdp.num_states, mdp.num_actions
    chances = np.cumsum(np.broadcast_to(mdp.probabilities, (S, A, mdp.successors.shape[2])), axis=-1)
    successors = np.broadcast_to(mdp.successors, chances.shape)
    policy = np.cumsum(case.behaviour, axis=1)
    starts = rng.choice(S, size=num_transitions, p=mdp.initial)
    restarts = rng.random(num_transitions) < 1 - mdp.discount
    rows, state = [], starts[0]
    for of_action, of_outcome, start, restart in zip(*rng.random((2, num_transitions)), starts, restarts, strict=True):
        action = min(int(np.sum(of_action >= policy[state])), A - 1)
        outcome = min(int(np.sum(of_outcome >= chances[state, action])), chances.shape[2] - 1)
        rows.append((state, action, successors[state, action, outcome]))
        state = start if restart else rows[-1][2]
    return brl.TransitionLog.from_arrays(*np.array(rows).T, all_states=S, all_actions=A)


def measured(case: Case, log: brl.TransitionLog, num_models: int, seed: int) -> dict:
    """Where the true Φ lies among the models' for each of `METHODS`, as a share, and how wide the intervals are."""
    problem, mdp = case.problem, case.problem.mdp
    estimate = log.posterior(unseen="prior").padded(8)  # As many successors in every log: one program.
    estimated = brl.TabularMDP(estimate.successors, estimate.mean(), mdp.initial, mdp.discount)
    own = eqx.tree_at(lambda solved: solved.environment, problem, estimated)
    chosen = exact.solve(own, entropy_weight=case.entropy_weight, max_iterations=100).x
    row: dict = {"unseen": len(log.unseen) / log.visits().size}
    for name, method in METHODS.items():
        x = chosen if name == "x̂" else problem.initial_x
        true = float(exact.hyper_objective(problem, x, entropy_weight=case.entropy_weight))
        found = exact.confidence(
            problem, log, x, entropy_weight=case.entropy_weight, num_models=num_models, method=method, seed=seed
        )
        ends = {name: found.interval()}
        if name == "x_0" and found.errors is not None:
            ends[PARTS[0]] = exact.Confidence(found.estimate, found.samples).interval()
            ends[PARTS[1]] = exact.Confidence(found.estimate, found.estimate - found.errors).interval()
        for kind, (low, high) in ends.items():
            row[kind] = {"true": true, "low": float(low), "high": float(high), "estimate": float(found.estimate)}
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, default=Path("confidence_coverage.jsonl"))
    parser.add_argument("--problems", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--logs", type=int, default=200)
    parser.add_argument("--models", type=int, default=100)
    arguments = parser.parse_args()
    lines = arguments.file.read_text().splitlines() if arguments.file.exists() else []
    rows = {(row["problem"], row["length"], row["log"]): row for row in map(json.loads, lines)}
    print("problem | transitions per pair | never tried | " + " | ".join((*METHODS, *PARTS)) + "  (covered, width)")
    for problem in arguments.problems:
        case = CASES[problem]()
        for length in arguments.lengths:
            for number in range(arguments.logs):
                if (problem, length, number) not in rows:
                    rng = np.random.default_rng([list(CASES).index(problem), length, number])
                    log = simulated_log(case, length * case.problem.mdp.num_states * case.problem.mdp.num_actions, rng)
                    row = {"problem": problem, "length": length, "log": number}
                    row |= measured(case, log, arguments.models, seed=number)
                    rows[problem, length, number] = row
                    with arguments.file.open("a") as file:
                        file.write(json.dumps(row) + "\n")
            print(summary([rows[problem, length, number] for number in range(arguments.logs)]), flush=True)


def summary(rows: list[dict]) -> str:
    cells = [rows[0]["problem"], str(rows[0]["length"]), f"{np.mean([row['unseen'] for row in rows]):.1%}"]
    for name in (*METHODS, *PARTS):
        covered = np.mean([row[name]["low"] <= row[name]["true"] <= row[name]["high"] for row in rows])
        width = np.mean([row[name]["high"] - row[name]["low"] for row in rows])
        cells.append(f"{covered:.1%}, {width:.3f}")
    return " | ".join(cells)


if __name__ == "__main__":
    main()
