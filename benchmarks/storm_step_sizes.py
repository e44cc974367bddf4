"""Step sizes at random, far too large ones among them: every divergence is named, and no row holds an infinite number.

A seed whose x or values end beyond HEALTHY must have been stopped with a reason, or `diagnose` must say what is wrong
with it. Logits may be large: a policy that is certain and right is healthy.

python -m benchmarks.storm_step_sizes --settings 240
"""

import argparse
import csv
import math
import tempfile
import warnings
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import bilevel_rl as brl
from bilevel_rl.runs.diagnosis import HEALTHY as HEALTHY_RUN, NOT_JUDGED, diagnose
from bilevel_rl.runs.folder import RunFolder

HEALTHY = 1e6
"""Rewards and costs are of the order 1 and γ = 0.9: what is larger than this has diverged, or is about to."""


class Reward(eqx.Module):
    """x_s for action 1, and a table: a leaf, so that the problems of all settings share their programs."""

    table: np.ndarray

    def __call__(self, x: jax.Array, s: jax.Array, a: jax.Array) -> jax.Array:
        return x[s] * (a == 1) + jnp.asarray(self.table)[s, a]


class Cost(eqx.Module):
    """A table."""

    table: np.ndarray

    def __call__(self, x: jax.Array, s: jax.Array, a: jax.Array) -> jax.Array:
        return jnp.asarray(self.table)[s, a]


def price(x: jax.Array) -> jax.Array:
    """What the leader pays for x."""
    return 0.1 * jnp.sum(x**2)


def problem_of(generator: np.random.Generator) -> brl.BilevelProblem:
    """A random MDP with a reward and a cost of every pair."""
    kernel = generator.dirichlet(np.ones(4), size=(4, 2))
    table, cost = generator.normal(size=(4, 2)), generator.uniform(size=(4, 2))
    return brl.BilevelProblem(
        brl.TabularMDP.from_dense(kernel, initial=np.ones(4) / 4, discount=0.9),
        Reward(table),
        brl.OccupancyCost(cost=Cost(cost), regularizer=price),
        initial_x=np.zeros(4),
    )


def sizes_of(generator: np.random.Generator) -> tuple[float, ...]:
    """ζ_0, α_0, β_0, w_0 and τ_0, over ten orders of magnitude."""
    return tuple(float(10 ** generator.uniform(*ends)) for ends in ((-3, 6), (-2, 8), (-2, 8), (-4, 2), (-4, 3)))


def main():
    """Prints how many runs diverged, and every one that did so without a word."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    named = diagnosed = wrong = 0
    for number in range(arguments.settings):
        generator = np.random.default_rng((arguments.seed, number))
        problem, (upper, actor, critic, penalty, entropy) = problem_of(generator), sizes_of(generator)
        step_sizes = brl.StepSizes.decaying(upper=upper, actor=actor, critic=critic, penalty=penalty, entropy=entropy)
        followers = brl.Followers(4, coupled=number % 2 == 1, natural=number % 3 == 0)
        algorithm = brl.SingleLoopActorCritic(problem, step_sizes, followers)
        with tempfile.TemporaryDirectory() as folder:
            result = brl.run(algorithm, jax.random.key(number), 2, 2_000, 100, folder=folder, progress=False)
            found = diagnose(RunFolder(folder))
            rows = list(csv.DictReader((Path(folder) / "metrics.csv").open()))
        infinite = {name for row in rows for name, value in row.items() if not math.isfinite(float(value))}
        stopped = {divergence.seed for divergence in result.divergences}
        largest = [
            max(float(np.abs(leaf[seed]).max()) for leaf in (result.x, result.states.parameters[..., -1]))
            for seed in range(2)
        ]
        unnamed = {seed for finding in found if finding.name in (HEALTHY_RUN, NOT_JUDGED) for seed in finding.seeds}
        silent = [seed for seed in unnamed - stopped if not largest[seed] <= HEALTHY]
        diagnosed += sum(not largest[seed] <= HEALTHY for seed in {0, 1} - stopped - unnamed)
        named += len(stopped)
        if infinite or silent:
            wrong += 1
            text = f"ζ {upper:.2g}, α {actor:.2g}, β {critic:.2g}, w {penalty:.2g}, τ {entropy:.2g}"
            print(f"setting {number} ({text}): infinite {sorted(infinite)}, silent {silent}, {largest}", flush=True)
        if number % 20 == 19:
            print(f"{number + 1} settings: {named} stopped, {diagnosed} diagnosed, {wrong} wrong", flush=True)
    print(
        f"{arguments.settings} settings of 2 seeds: {named} seeds stopped by name, {diagnosed} diagnosed, {wrong} wrong"
    )
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
