"""The Four Rooms task of BCHG: one goal, β = 5, and few environment steps between two steps of the leader.

    python -m benchmarks.four_rooms_bchg --steps 100 200 400 1000 --updates 10000 --seeds 10

Source of the task: Kudo, Tanabe, Wachi, Akimoto, arXiv 2603.14867, and its public code: goal (1, 9), five walks, SGD
with gradients shortened to length 1, a follower that plans with the model. Ours differs in the slip, as everywhere
(docs/reports/problems/four_rooms.md), and in that rates are not searched: the rate is 0.5 and the step of the table of
cost values 0.3, both of their grids. Every method takes the same number of environment steps in all. F is the mean over
the log points of the last tenth.
"""

import argparse
import time
import warnings

import jax
import numpy as np

import bilevel_rl as brl
from benchmarks.four_rooms_hpgd import planned_hpgd, single_loop, summary
from bilevel_rl.algorithms import BCHG, Algorithm, PlannedHPGD
from bilevel_rl.algorithms.step_sizes import ScheduleWarning
from bilevel_rl.problems.four_rooms import GOALS
from bilevel_rl.runs import compiler

BETA = 5.0
NUM_WALKS = 5
LEARNING_RATE, TABLE_STEP = 0.5, 0.3
NUM_LOGS = 100


def bchg(problem: brl.BilevelProblem, num_steps: int) -> BCHG:
    """Five chains; the step of a visit is that of the table, however many chains there are."""
    γ = problem.environment.discount
    sizes = brl.StepSizes.fixed_target(
        upper=LEARNING_RATE / (1 - γ),
        critic=TABLE_STEP * NUM_WALKS,
        entropy=problem.entropy_weight or 0.0,
        exponents=(0.0, 0.0, 0.0, 0.0, 0.0),
    )
    num_steps //= NUM_WALKS
    return BCHG(problem, sizes, NUM_WALKS, num_steps=num_steps, is_planned=True, max_global_norm=1 - γ)


def hpgd(problem: brl.BilevelProblem, num_steps: int) -> PlannedHPGD:
    """Two walks, which tables need at least; they are cut into episodes of a tenth of all steps."""
    whole = planned_hpgd(problem, LEARNING_RATE)
    return PlannedHPGD(
        problem,
        whole.step_sizes,
        num_chains=2,
        num_rollout_steps=num_steps // 10,
        estimator="tables",
        max_global_norm=whole.max_global_norm,
    )


METHODS = {"bchg": bchg, "hpgd": hpgd, "single-loop": lambda problem, _: single_loop(problem, 30.0)}


def final_values(algorithm: Algorithm, num_transitions: int, arguments: argparse.Namespace) -> np.ndarray:
    """F of every seed."""
    num_iterations = num_transitions // algorithm.num_transitions_per_iteration
    every = max(1, num_iterations // NUM_LOGS)
    weight = algorithm.problem.entropy_weight or 0.0
    result = brl.run(
        algorithm,
        jax.random.key(arguments.seed),
        arguments.seeds,
        num_iterations,
        every,
        evaluation_entropy_weight=weight,
        progress=False,
    )
    F = -result.metrics["upper_objective"] / (1 - algorithm.problem.environment.discount)
    F, k = (array.reshape(-1, arguments.seeds) for array in (F, result.metrics["num_iterations"]))
    return F[k[:, 0] > 0.9 * num_iterations].mean(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--entropy-weights", type=float, nargs="+", default=[0.001, 0.003, 0.005])
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 200, 400, 1000], help="multiples of 10")
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="root of all randomness")
    arguments = parser.parse_args()
    compiler.fuse_small_loops(None)
    compiler.cache_compilations()
    warnings.filterwarnings("ignore", category=ScheduleWarning)
    for weight in arguments.entropy_weights:
        problem = brl.problems.four_rooms(weight, BETA, goals=GOALS[:1])
        for num_steps in arguments.steps:
            for name in arguments.methods:
                begin = time.process_time()
                F = final_values(METHODS[name](problem, num_steps), num_steps * arguments.updates, arguments)
                seconds = time.process_time() - begin
                print(f"λ {weight} | {num_steps} steps | {name} | F {summary(F)} | {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
