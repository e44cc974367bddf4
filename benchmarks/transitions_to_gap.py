"""How many transitions to a gap of 5 %: Algorithm 1 as printed, with 16 chains, coupled, and coupled with recursion.

    python -m benchmarks.transitions_to_gap

Every setting is tuned for what is measured: random search, `--trials` sets of parameters, the same for all settings
where they share them, `--tuning-seeds` seeds each; the score is the mean over these of the transitions after which
Φ − Φ* stays below 5 % of its start, read at `--log-points` points of `--transitions` transitions, and twice these where
it does not. The table is of other seeds: interquartile means, 95 % bootstrap intervals. Rows are printed as they come.
"""

import argparse
import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

import bilevel_rl as brl
from bilevel_rl.algorithms import UpperSteps
from bilevel_rl.algorithms.step_sizes import PowerDecay, ScheduleWarning, StepSizes
from bilevel_rl.comparison.methods import NUM_CHAINS, STEP_SIZES, Method
from bilevel_rl.problems import GoalPlacement, GoalPosition
from bilevel_rl.runs import compiler
from bilevel_rl.runs.statistics import bootstrap_interval, interquartile_mean, transitions_to_reach

SHARE = 0.05
EVALUATION = 0.01
TUNING, FINAL = 0, 1
RECURSION = {"recursion": (0.01, 1.0)}

PROBLEMS = {
    "goal-position": GoalPosition(),
    "goal-position, installation 0.05": GoalPosition(installation_cost=0.05),
    "goal-placement": GoalPlacement(),
}

Parameters = Mapping[str, float]


def setting(num_chains: int, *, coupled: bool = False, holds: bool = True):
    """Builds Algorithm 1 for a problem, its parameters and a number of transitions.

    Steps hold their first values for a third of the run, as in a comparison, or decay from the first iteration on.
    """

    def build(problem: brl.BilevelProblem, parameters: Parameters, transitions: int) -> brl.SingleLoopActorCritic:
        offset = transitions / (2 * num_chains) / 3 if holds else 1.0
        initial = {name: parameters[name] for name in STEP_SIZES}
        step_sizes = StepSizes.decaying(offset=offset, **initial)  # pyright: ignore[reportArgumentType]
        steps = UpperSteps()
        if "recursion" in parameters:
            steps = UpperSteps(recursion=PowerDecay(parameters["recursion"], 0.5, offset))
        return brl.SingleLoopActorCritic(
            problem, step_sizes, brl.Followers(num_chains, coupled=coupled), upper_steps=steps
        )

    return build


class Candidate(NamedTuple):
    """How it is built, and the ranges from which its parameters are drawn log-uniformly."""

    build: Callable[[brl.BilevelProblem, Parameters, int], brl.SingleLoopActorCritic]
    ranges: Mapping[str, tuple[float, float]]

    def draw(self, trial: int) -> Parameters:
        """Parameters of a trial; candidates that share a parameter try the same place in its range."""
        return Method("", brl.SingleLoopActorCritic, self.ranges).draw(0, trial)


# A single chain's steps are those of one sample, not the sum of sixteen.
ONE_CHAIN = STEP_SIZES | {
    name: (STEP_SIZES[name][0] / NUM_CHAINS, STEP_SIZES[name][1] / NUM_CHAINS) for name in ("actor", "critic")
}
# ζ falls by 10⁵ in a run where it decays at once.
AT_ONCE = ONE_CHAIN | {"upper": (STEP_SIZES["upper"][0], 100 * STEP_SIZES["upper"][1])}

CANDIDATES = {
    "as printed: one chain, c / (k + 1)^p": Candidate(setting(1, holds=False), AT_ONCE),
    "one chain, first steps held": Candidate(setting(1), ONE_CHAIN),
    "16 chains, independent": Candidate(setting(NUM_CHAINS), STEP_SIZES),
    "16 chains, coupled": Candidate(setting(NUM_CHAINS, coupled=True), STEP_SIZES),
    "16 chains, coupled, recursive": Candidate(setting(NUM_CHAINS, coupled=True), STEP_SIZES | RECURSION),
}


def measure(
    algorithm: brl.SingleLoopActorCritic, optimum: float, key: int, seeds: int, arguments: argparse.Namespace
) -> np.ndarray:
    """Transitions of each seed after which its gap stays below 5 %; infinite where it does not, or diverges."""
    num_iterations = arguments.transitions // algorithm.num_transitions_per_iteration
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        result = brl.run(
            algorithm,
            jax.random.fold_in(jax.random.key(0), key),
            seeds,
            num_iterations,
            log_every=-(-num_iterations // arguments.log_points),
            evaluation_entropy_weight=EVALUATION,
            seeds_per_group=1,
            progress=False,
        )
    if result.divergences:
        return np.full(seeds, np.inf)
    objectives, transitions = (
        result.metrics[name].reshape(-1, seeds) for name in ("upper_objective", "num_transitions")
    )
    return transitions_to_reach(transitions[:, 0], objectives.T - optimum, SHARE)


def row(candidate: Candidate, problem: brl.BilevelProblem, optimum: float, arguments: argparse.Namespace) -> str:
    """Tunes a candidate and measures it on other seeds."""
    trials = [candidate.draw(trial) for trial in range(arguments.trials)]
    with warnings.catch_warnings(action="ignore", category=ScheduleWarning):
        algorithms = [candidate.build(problem, parameters, arguments.transitions) for parameters in trials]
        scores = []
        for algorithm in algorithms:
            reached = measure(algorithm, optimum, TUNING, arguments.tuning_seeds, arguments)
            scores.append(np.mean(np.minimum(reached, 2 * arguments.transitions)))
        best = int(np.argmin(scores))
        reached = measure(algorithms[best], optimum, FINAL, arguments.seeds, arguments)
    chosen = ", ".join(f"{name} {value:.3g}" for name, value in trials[best].items())
    arrived = f"{np.isfinite(reached).sum()} of {len(reached)}"
    mean = interquartile_mean(reached)
    if not np.isfinite(mean):
        return f"not reached | – | {arrived} | {chosen}"
    low, high = bootstrap_interval(reached) if np.all(np.isfinite(reached)) else (np.nan, np.nan)
    interval = f"{low:,.0f} to {high:,.0f}" if np.isfinite(low) else "–"
    return f"{mean:,.0f} | {interval} | {arrived} | {chosen}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=["goal-position", "goal-placement"])
    parser.add_argument("--transitions", type=int, default=500_000, help="of every seed")
    parser.add_argument("--log-points", type=int, default=100, help="exact measurements of each run")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--tuning-seeds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    compiler.fuse_small_loops(None)
    compiler.cache_compilations()
    print("| problem | Algorithm 1 | transitions to 5 % | 95 % | seeds | chosen |\n|---|---|---|---|---|---|")
    for name in arguments.problems:
        problem = PROBLEMS[name].problem()
        optimum = PROBLEMS[name].optimum(problem, EVALUATION).objective
        for title, candidate in CANDIDATES.items():
            print(f"| {name} | {title} | {row(candidate, problem, optimum, arguments)} |", flush=True)


if __name__ == "__main__":
    main()
