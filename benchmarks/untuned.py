"""Every tabular problem of the library with `untuned` steps: one setting, no option, the same transitions for all.

    python -m benchmarks.untuned
    python -m benchmarks.untuned --problems goal-placement wind-design --chains coupled

A seed's gap is Φ(x) − Φ* at the problem's evaluation entropy weight, as a share of the gap at the start. It is solved
where the last share is at most 5 %, and 5 % is reached at the first log point after which its share stays there. Φ* is
from exact descent on the known model (but for the two that follow), from enumeration and descent (goal placement), or
the best value that is known (Four Rooms, docs/reports/problems/four_rooms.md).
"""

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bilevel_rl as brl
from bilevel_rl import exact
from bilevel_rl.algorithms import ExactDescent
from bilevel_rl.algorithms.step_sizes import StepSizes
from bilevel_rl.environments import gymnasium_reward
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.runs import compiler
from bilevel_rl.studies import reward_learning
from examples import frozen_lake as frozen_lake_example

SOLVED = 0.05


class Case(NamedTuple):
    """A problem, the entropy weight at which Φ is measured, and how Φ* is known."""

    problem: Callable[[], BilevelProblem]
    entropy_weight: float
    optimum: Callable[[BilevelProblem, float], float]


def goal_position(size: int = 10, installation_cost: float = 0.0) -> BilevelProblem:
    """The default problem with all lengths in proportion to the grid."""
    unit = (size - 1) / 9
    return brl.problems.goal_position(
        size=size,
        target=(7 * unit, 3 * unit),
        width=4 * unit,
        initial_x=(2 * unit, 7 * unit),
        installation_cost=installation_cost,
    )


def descended(problem: BilevelProblem, entropy_weight: float) -> float:
    """Exact descent from the cell of least cost."""
    size = int(problem.mdp.num_states**0.5)
    costs = problem.costs(problem.initial_x, np.arange(size**2), np.zeros(size**2, int))
    start = np.array(divmod(int(np.argmin(costs)), size), float)
    return exact.solve(problem, entropy_weight=entropy_weight, starts=[start], max_iterations=30).objective


def enumerated(problem: BilevelProblem, entropy_weight: float) -> float:
    """The best of all single cells and of some exact descents."""
    return brl.problems.goal_placement_optimum(problem, entropy_weight=entropy_weight).objective


def annealed(problem: BilevelProblem, entropy_weight: float) -> float:
    """Exact descent with Adam, as the experiment wind-design does it."""
    algorithm = ExactDescent(problem, StepSizes.constant_entropy(upper=0.1, entropy=entropy_weight))
    options = {"evaluation_entropy_weight": entropy_weight, "progress": False}
    return float(brl.run(algorithm, jax.random.key(0), 1, 1_500, 1_500, **options).metrics["upper_objective"][-1])


def known(value: float) -> Callable[[BilevelProblem, float], float]:
    """From the benchmark's value F, the best seed of exact descent with transfers."""
    return lambda problem, _: -(1 - problem.environment.discount) * value


def frozen_lake() -> BilevelProblem:
    """That of the example, whose follower values entropy."""
    problem = frozen_lake_example.frozen_lake()
    arguments = problem.environment, problem.reward, problem.upper, problem.initial_x, problem.project
    weight = frozen_lake_example.ENTROPY_WEIGHT
    return BilevelProblem(*arguments, reward_bound=problem.reward_bound, entropy_weight=weight)


def cliff_walking(discount: float = 0.95, by_rows: bool = False) -> BilevelProblem:
    """Bonuses of at most a tenth lure the follower from the cliff: a step costs it 0.01, and a fall 1."""
    table = gymnasium_reward("CliffWalking-v1", is_slippery=True) / 100
    environment = brl.TabularMDP.from_gymnasium("CliffWalking-v1", is_slippery=True, discount=discount)
    rows = np.arange(environment.num_states) // 12
    unwanted = rows / 3 if by_rows else 1.0 * (rows == 2)
    return BilevelProblem(
        environment,
        lambda x, s, a: jnp.asarray(table, float)[s, a] + x[s],
        brl.OccupancyCost(lambda x, s, a: x[s] + jnp.asarray(unwanted, float)[s], cost_bound=1.1),
        initial_x=np.zeros(environment.num_states),
        project=brl.projections.Box(0.0, 0.1),
        reward_bound=1.1,
    )


def cliff_optimum(problem: BilevelProblem, entropy_weight: float) -> float:
    """Exact descent, annealed."""
    return exact.solve(problem, entropy_weight=(0.1, 0.03, 0.01, entropy_weight)).objective


def solved(problem: BilevelProblem, entropy_weight: float) -> float:
    """Exact descent from the start."""
    return exact.solve(problem, entropy_weight=entropy_weight).objective


CASES = {
    "goal-position": Case(goal_position, 0.01, descended),
    "goal-position, installation 0.05": Case(lambda: goal_position(installation_cost=0.05), 0.01, descended),
    "goal-position, installation 0.3": Case(lambda: goal_position(installation_cost=0.3), 0.01, descended),
    "goal-position, size 5": Case(lambda: goal_position(5), 0.01, descended),
    "goal-position, size 20": Case(lambda: goal_position(20), 0.01, descended),
    "goal-placement": Case(brl.problems.goal_placement, 0.01, enumerated),
    "wind-design": Case(brl.problems.wind_design, 0.1, annealed),
    "shared-goal": Case(brl.problems.shared_goal, 0.01, solved),
    "frozen-lake": Case(frozen_lake, 0.05, solved),
    "cliff-walking, edge": Case(cliff_walking, 0.0019, cliff_optimum),
    "cliff-walking, edge, γ 0.99": Case(lambda: cliff_walking(0.99), 0.0019, cliff_optimum),
    "cliff-walking, rows": Case(lambda: cliff_walking(by_rows=True), 0.0019, cliff_optimum),
    "cliff-walking, rows, γ 0.99": Case(lambda: cliff_walking(0.99, by_rows=True), 0.0019, cliff_optimum),
    "target-visitation": Case(reward_learning.TargetVisitation().problem, 0.1, solved),
    "inverse-rl": Case(reward_learning.InverseRL().problem, 0.1, solved),
    "preferences": Case(reward_learning.Preferences().problem, 0.3, solved),
    "four-rooms, λ 0.001, β 1": Case(lambda: brl.problems.four_rooms(0.001), 0.001, known(1.177)),
    "four-rooms, λ 0.005, β 1": Case(lambda: brl.problems.four_rooms(0.005), 0.005, known(1.474)),
}


def measure(case: Case, coupled: bool, arguments: argparse.Namespace) -> str:
    """One row of the table."""
    problem = case.problem()
    optimum = case.optimum(problem, case.entropy_weight)
    algorithm = brl.untuned(problem, coupled=coupled)
    num_iterations = arguments.transitions // algorithm.num_transitions_per_iteration
    log_every = -(-num_iterations // arguments.log_points)
    options = {"evaluation_entropy_weight": case.entropy_weight, "progress": False}
    begin = time.perf_counter()
    result = brl.run(algorithm, jax.random.key(arguments.seed), arguments.seeds, num_iterations, log_every, **options)
    seconds = time.perf_counter() - begin
    gaps = result.metrics["upper_objective"].reshape(-1, arguments.seeds) - optimum
    transitions = result.metrics["num_transitions"].reshape(gaps.shape)[:, 0]
    shares = gaps / gaps[0]
    is_solved = shares <= SOLVED
    # The log points from which on a seed is never above the limit again.
    first = len(shares) - np.cumprod(is_solved[::-1], axis=0).sum(0)
    reached = np.append(transitions / 1e6, np.inf)[first]
    millions = [f"{value:.1f}" if np.isfinite(value) else "never" for value in (np.median(reached), reached.max())]
    percent = [f"{100 * value:.2f} %" for value in (shares[-1].max(), np.median(shares[-1]))]
    return (
        f"{'coupled' if coupled else 'independent'} | {optimum:.4f} | {gaps[0].mean():.4f} | {percent[0]} | "
        f"{percent[1]} | {is_solved[-1].sum()} of {arguments.seeds} | {millions[0]} | {millions[1]} | {seconds:.0f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--chains", nargs="+", choices=("coupled", "independent"), default=["coupled", "independent"])
    parser.add_argument("--transitions", type=int, default=4_000_000, help="of every seed")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--log-points", type=int, default=40, help="exact measurements of each run")
    parser.add_argument("--seed", type=int, default=0, help="root of all randomness")
    arguments = parser.parse_args()
    compiler.fuse_small_loops(None)
    compiler.cache_compilations()
    print(
        "| problem | chains | Φ* | gap at the start | largest share left | median | solved | "
        "10⁶ transitions to 5 %, median | slowest seed | seconds |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for name in arguments.problems:
        for chains in arguments.chains:
            print(f"| {name} | {measure(CASES[name], chains == 'coupled', arguments)} |", flush=True)


if __name__ == "__main__":
    main()
