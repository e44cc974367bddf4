"""Goal position with neural followers that see (row, col): how close does x come to the optimum of the exact model?

    python -m benchmarks.neural_goal_position                  # 8 seeds of 10⁶ transitions, some minutes on one core
    python -m benchmarks.neural_goal_position --seeds 2 --transitions 4e5

The table shows, every tenth of the run, the largest and the median gap Φ − Φ* of the seeds, and of the residual
J_τ(π_τ*) − J_τ(π_θ) of the lower policies.
"""

import argparse
import time
import warnings

import jax
import numpy as np

import bilevel_rl as brl
from bilevel_rl.algorithms.step_sizes import ScheduleWarning
from bilevel_rl.problems import GoalPosition

EVALUATION_ENTROPY_WEIGHT = 0.01
"""τ at which Φ is measured, as everywhere by default."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--transitions", type=float, default=1e6, help="of each seed, both followers together")
    parser.add_argument("--chains", type=int, default=32)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--upper", type=float, default=0.03)
    parser.add_argument("--actor", type=float, default=1e-3)
    parser.add_argument("--critic", type=float, default=3e-3)
    parser.add_argument("--penalty", type=float, default=1.0)
    parser.add_argument("--entropy", type=float, default=0.1)
    parser.add_argument("--offset", type=float, default=20_000.0)
    parser.add_argument("--shared", action="store_true", help="one trunk for actor and critic")
    parser.add_argument("--uncoupled", action="store_true", help="chains on random numbers of their own")
    arguments = parser.parse_args()

    options = GoalPosition()
    problem = options.problem()
    optimum = options.optimum(problem, EVALUATION_ENTROPY_WEIGHT)
    middle = (options.size - 1) / 2
    policies = brl.NeuralActorCritic.mlp(
        problem.environment,
        lambda state: jax.numpy.stack([state // options.size, state % options.size]) / middle - 1.0,
        width=arguments.width,
        depth=arguments.depth,
        shared=arguments.shared,
    )
    step_sizes = brl.StepSizes.decaying(
        upper=arguments.upper,
        actor=arguments.actor,
        critic=arguments.critic,
        penalty=arguments.penalty,
        entropy=arguments.entropy,
        offset=arguments.offset,
    )
    with warnings.catch_warnings(action="ignore", category=ScheduleWarning):
        algorithm = brl.SingleLoopActorCritic(
            problem, step_sizes, brl.Followers(arguments.chains, coupled=not arguments.uncoupled, policies=policies)
        )
    log_every = max(1, round(arguments.transitions / algorithm.num_transitions_per_iteration / 10))
    begin = time.perf_counter()
    metrics = brl.run(algorithm, jax.random.key(0), arguments.seeds, 10 * log_every, log_every, progress=False).metrics
    seconds = time.perf_counter() - begin

    print(f"{vars(arguments)}\nΦ* = {optimum.objective:.4f} at {np.round(optimum.x, 2)}; {seconds:.0f} s")
    print("| transitions | largest Φ − Φ* | median | largest residual | median |\n|---|---|---|---|---|")
    for k in np.unique(metrics["num_iterations"]):
        rows = metrics["num_iterations"] == k
        gaps, residuals = metrics["upper_objective"][rows] - optimum.objective, metrics["lower_residual"][rows]
        print(
            f"| {metrics['num_transitions'][rows][0]:,} | {gaps.max():.4f} | {np.median(gaps):.4f} "
            f"| {residuals.max():.4f} | {np.median(residuals):.4f} |"
        )
    final = metrics["upper_objective"][-arguments.seeds :] - optimum.objective
    print(f"{np.sum(final < 0.02)} of {arguments.seeds} seeds end within 0.02 of Φ*")


if __name__ == "__main__":
    main()
