"""Four Rooms by the published protocol of HPGD, and by other methods at 10⁶ and 10⁷ transitions.

    python -m benchmarks.four_rooms_hpgd --entropy-weight 0.003 --beta 1 --seeds 10
    python -m benchmarks.four_rooms_hpgd --method single-loop

Source of protocol and published values: Thoma, Pásztor, Krause, Ramponi, Hu, NeurIPS 2024. SGD with gradients shortened
to length 1, the best learning rate of {.5, .1, .05, .01}, 10,000 outer iterations of 10,000 environment steps, and F
averaged over the last 1,000 iterations (here over those of them that are logged). The learning rate is chosen on two
seeds that are not among those reported. Length and learning rate are those of their F; the library minimizes
−(1 − γ) F, so its step is η / (1 − γ) and its length 1 − γ. Runs are kept in a folder, and the same command goes on
where it was killed.
"""

import argparse
import time
import warnings
from pathlib import Path

import jax
import numpy as np

import bilevel_rl as brl
from bilevel_rl.algorithms import Algorithm, PlannedHPGD
from bilevel_rl.algorithms.implicit_gradient import Estimator
from bilevel_rl.algorithms.step_sizes import ScheduleWarning
from bilevel_rl.runs import compiler
from bilevel_rl.runs.compiled import Layout, Loop

LEARNING_RATES = 0.5, 0.1, 0.05, 0.01
NUM_ITERATIONS, LOG_EVERY, NUM_LAST = 10_000, 50, 1_000
ACTOR, CRITIC, PENALTY = 10.0, 8.0, 1.0
"""Step sizes of the single loop."""
CHOICE, REPORT = 1, 0
"""Keys of the seeds that choose the learning rate, and of those that are reported."""
PUBLISHED_MICROSECONDS = 11.0
PUBLISHED = {
    (0.001, 1.0): "0.91 ± 0.088",
    (0.001, 3.0): "0.51 ± 0.006",
    (0.001, 5.0): "0.46 ± 0.006",
    (0.003, 1.0): "0.95 ± 0.002",
    (0.003, 3.0): "0.73 ± 0.001",
    (0.003, 5.0): "0.29 ± 0.003",
    (0.005, 1.0): "1.17 ± 0.011",
    (0.005, 3.0): "1.01 ± 0.002",
    (0.005, 5.0): "0.87 ± 0.003",
}


def planned_hpgd(problem: brl.BilevelProblem, learning_rate: float, estimator: Estimator = "tables") -> PlannedHPGD:
    """10 walks of 1,000 steps in episodes of at most 200; with rollouts 25 · 5 of 80 steps, which are long enough."""
    walks, steps = (10, 200) if estimator == "tables" else (25, 80)
    γ = problem.environment.discount
    sizes = brl.StepSizes.fixed_target(
        upper=learning_rate / (1 - γ), entropy=problem.entropy_weight or 0.0, exponents=(0.0, 0.0, 0.0, 0.0, 0.0)
    )
    return PlannedHPGD(problem, sizes, walks, num_rollout_steps=steps, estimator=estimator, max_global_norm=1 - γ)


def unbiased_hpgd(problem: brl.BilevelProblem, learning_rate: float) -> PlannedHPGD:
    return planned_hpgd(problem, learning_rate, "rollouts")


def single_loop(problem: brl.BilevelProblem, upper: float) -> brl.SingleLoopActorCritic:
    """Constant entropy weight: it is the follower's own here."""
    sizes = brl.StepSizes.constant_entropy(
        upper=upper, actor=ACTOR, critic=CRITIC, penalty=PENALTY, entropy=problem.entropy_weight or 0.0
    )
    return brl.SingleLoopActorCritic(problem, sizes, brl.Followers(16, coupled=False))


METHODS = {
    "hpgd": planned_hpgd,
    "hpgd-unbiased": unbiased_hpgd,
    "single-loop": single_loop,
}


def values(algorithm: Algorithm, key: int, num_seeds: int, num_iterations: int, log_every: int, folder: Path):
    """F at every log point, shape (log points, seeds), and the iterations of the log points."""
    result = brl.run(
        algorithm,
        jax.random.key(key),
        num_seeds,
        num_iterations,
        log_every,
        folder=folder,
        evaluation_entropy_weight=algorithm.problem.entropy_weight or 0.0,
    )
    F = -result.metrics["upper_objective"] / (1 - algorithm.problem.environment.discount)
    return F.reshape(-1, num_seeds), result.metrics["num_iterations"].reshape(-1, num_seeds)[:, 0]


def microseconds_per_transition(algorithm: Algorithm, num_iterations: int) -> float:
    """CPU time of the compiled loop without measurements."""
    loop = Loop(algorithm, jax.random.key(0), Layout.plan(algorithm, 1))
    states = jax.block_until_ready(loop.advance(loop.start(), 0, 1))[0]
    begin = time.process_time()
    jax.block_until_ready(loop.advance(states, 1, 1 + num_iterations))
    return 1e6 * (time.process_time() - begin) / num_iterations / algorithm.num_transitions_per_iteration


def summary(F: np.ndarray) -> str:
    error = f" ± {F.std(ddof=1) / len(F) ** 0.5:.3f}" if len(F) > 1 else ""
    return f"{F.mean():.3f}{error} (lowest {F.min():.3f}, highest {F.max():.3f})"


def protocol(arguments: argparse.Namespace, problem: brl.BilevelProblem, folder: Path):
    """Chooses the learning rate, then runs and reports."""
    make = METHODS[arguments.method]

    def last_mean(rate: float, key: int, num_seeds: int) -> np.ndarray:
        run_folder = folder / f"rate-{rate}-key-{key}-seeds-{num_seeds}"
        F, k = values(make(problem, rate), key, num_seeds, arguments.iterations, LOG_EVERY, run_folder)
        return F[k > arguments.iterations - NUM_LAST].mean(0)

    rate = arguments.learning_rate
    if rate is None:
        means = {rate: last_mean(rate, CHOICE, 2) for rate in LEARNING_RATES}
        for each, F in means.items():
            print(f"learning rate {each:<5} F on two other seeds {summary(F)}", flush=True)
        rate = max(means, key=lambda each: means[each].mean())
    F = last_mean(rate, REPORT, arguments.seeds)
    published = PUBLISHED.get((arguments.entropy_weight, arguments.beta), "not published")
    print(f"{arguments.method}, learning rate {rate}: F {summary(F)} of {arguments.seeds} seeds; published {published}")
    cost = microseconds_per_transition(make(problem, rate), 200)
    print(f"{cost:.3f} µs of CPU per environment step; published code {PUBLISHED_MICROSECONDS:.0f} µs")


def samples(arguments: argparse.Namespace, problem: brl.BilevelProblem, folder: Path):
    """F at 10⁶ and 10⁷ transitions."""
    algorithm = single_loop(problem, arguments.upper)
    per_iteration = algorithm.num_transitions_per_iteration
    iterations = [round(number / per_iteration) for number in (1e6, 1e7)]
    F, k = values(
        algorithm, REPORT, arguments.seeds, iterations[-1], iterations[0], folder / f"upper-{arguments.upper}"
    )
    for number in (0, *iterations):
        at = summary(F[np.argmax(k == number)])
        print(f"{arguments.method}: F {at} of {arguments.seeds} seeds after {number * per_iteration:.0e} transitions")
    cost = microseconds_per_transition(algorithm, 20_000)
    print(f"{cost:.3f} µs of CPU per environment step")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, default="hpgd")
    parser.add_argument("--entropy-weight", type=float, default=0.003)
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=NUM_ITERATIONS, help="outer iterations of HPGD")
    parser.add_argument("--learning-rate", type=float, help="of HPGD; by default the best of the published four")
    parser.add_argument("--upper", type=float, default=30.0, help="step of the single loop's x")
    parser.add_argument("--folder", type=Path, default=Path("runs/four-rooms"))
    arguments = parser.parse_args()
    compiler.fuse_small_loops(None)
    warnings.filterwarnings("ignore", category=ScheduleWarning)
    problem = brl.problems.four_rooms(arguments.entropy_weight, arguments.beta)
    name = f"{arguments.method}-{arguments.entropy_weight}-{arguments.beta}"
    (samples if arguments.method == "single-loop" else protocol)(arguments, problem, arguments.folder / name)


if __name__ == "__main__":
    main()
