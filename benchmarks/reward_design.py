"""Reward design on CartPole or Pendulum against random search over the same rewards, at as many transitions.

    bilevel-rl run cartpole-design --folder runs/cartpole
    python -m benchmarks.reward_design runs/cartpole                     # minutes on one core
    python -m benchmarks.reward_design runs/cartpole --learning 480000   # fewer candidates, which learn for longer

    bilevel-rl run pendulum-design --folder runs/pendulum
    python -m benchmarks.reward_design runs/pendulum --learning 1500000

Every seed of the search draws x uniformly from its box, trains a follower on each, watches it for a while, and keeps
the x whose follower cost the designer least. What is learned and watched counts; as many candidates are tried as the
transitions of one seed of the run allow. The best x is then judged as the run's are: by a follower that is trained on
it from scratch, and watched afresh, by other random numbers.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from bilevel_rl.followers import learn, rollout
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.statistics import bootstrap_interval, interquartile_mean
from bilevel_rl.studies.registry import open_study
from bilevel_rl.studies.reward_design import RewardDesign

NUM_EPISODES, NUM_STEPS = 64, 500
"""By which a candidate is watched; 32,000 transitions."""


def search(config: RewardDesign, budget: int, num_learning: int, seed: int) -> tuple[np.ndarray, float, int]:
    """The best x of a random search, its cost as the search saw it, and the number of candidates."""
    algorithm = config.algorithm()
    num_candidates = budget // (num_learning + NUM_EPISODES * NUM_STEPS)
    if num_candidates < 1:
        raise ValueError(f"--learning must leave {budget:,} transitions room for a candidate, got {num_learning:,}")
    candidates = np.random.default_rng([config.run.seed, seed]).uniform(
        size=(num_candidates, *algorithm.problem.initial_x.shape)
    )
    costs = []
    for i, x in enumerate(candidates.astype(np.float32)):
        learning, watching = jax.random.split(jax.random.fold_in(jax.random.key(seed), i))
        follower = learn(algorithm, x, learning, num_learning)
        seen = rollout(algorithm.problem, follower, x, watching, num_episodes=NUM_EPISODES, num_steps=NUM_STEPS)
        costs.append(seen.upper_value)
    best = int(np.argmin(costs))
    return candidates[best].astype(np.float32), costs[best], num_candidates


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of cartpole-design or pendulum-design")
    parser.add_argument(
        "--learning", type=float, default=240_000, help="transitions that a candidate's follower learns"
    )
    arguments = parser.parse_args()
    folder = RunFolder.open(arguments.run)
    config = open_study(folder)
    if not isinstance(config, RewardDesign):
        parser.error(f"{arguments.run} must hold a run of cartpole-design or pendulum-design, got {config.name}")
    data = folder.read_arrays("followers")
    algorithm = config.algorithm()
    budget = config.run.num_iterations * algorithm.num_transitions_per_iteration
    print(
        "| seed | candidates | as the search saw it | judged | single loop, judged |\n|---|---|---|---|---|", flush=True
    )
    judged = []
    for seed in range(config.run.num_seeds):
        x, seen, num_candidates = search(config, budget, int(arguments.learning), seed)
        judged.append(config.judge(algorithm, x, seed).upper_value)
        print(f"| {seed} | {num_candidates} | {seen:.3f} | {judged[-1]:.3f} | {data['after'][seed]:.3f} |", flush=True)
    for name, values in (("random search", np.array(judged)), *((key, data[key]) for key in ("after", "before"))):
        low, high = bootstrap_interval(values)
        print(f"{name}: interquartile mean {interquartile_mean(values):.3f}, 95 % interval [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
