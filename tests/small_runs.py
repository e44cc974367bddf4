"""A tiny problem for tests of the runner. All its numbers are leaves: all tests of one process share a program.

Beyond an edge in x it breaks: past `cost_edge` in x[0] the cost is NaN, which spoils the followers; past `slope_edge`
in x[1] the regularizer's gradient is NaN, which spoils x. Without edges the program is the same, and so are all bits.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bilevel_rl import Followers, OccupancyCost, SingleLoopActorCritic, StepSizes, run
from bilevel_rl.runs.compiled import length_of_block
from garnets import random_problem

KEY = jax.random.key(0)
NUM_SEEDS = 3
NUM_ITERATIONS = 200
NUM_CHAINS = 4

LONE_SEED, SLOPE_EDGE = 1, 0.3
"""x[1] of this seed alone goes beyond the edge, half-way."""
COST_EDGE = 1.31
"""x[0] of seeds 1 and 2 goes beyond it, in the last quarter."""


class NanBeyond(eqx.Module):
    """The function, and NaN where x[0] > edge; its gradient stays finite."""

    function: Callable
    edge: np.ndarray

    def __call__(self, x, state, action):
        return jnp.where(x[0] > self.edge, jnp.nan, self.function(x, state, action))


class SteepBeyond(eqx.Module):
    """The function, with a gradient of NaN where x[1] > edge."""

    function: Callable
    edge: np.ndarray

    def __call__(self, x):
        return jnp.where(x[1] > self.edge, jnp.nan, 1.0) * self.function(x)


def small_algorithm(*, cost_edge=np.inf, slope_edge=np.inf, upper=0.05, num_chains=NUM_CHAINS, discount=0.9):
    problem = random_problem(seed=3, num_states=4, num_actions=2, num_successors=2, discount=discount)
    cost = NanBeyond(problem.upper.cost, np.asarray(cost_edge, float))
    regularizer = SteepBeyond(problem.upper.regularizer, np.asarray(slope_edge, float))
    problem = dataclasses.replace(problem, upper=OccupancyCost(cost, regularizer=regularizer, cost_bound=2.0))
    step_sizes = StepSizes.decaying(upper=upper, actor=0.5, critic=1.0, offset=400.0)
    return SingleLoopActorCritic(problem, step_sizes, Followers(num_chains, coupled=False))


def small_run(algorithm=None, *, key=KEY, num_seeds=NUM_SEEDS, num_iterations=NUM_ITERATIONS, log_every=50, **options):
    """With a folder, a checkpoint at every log point."""
    algorithm = small_algorithm() if algorithm is None else algorithm
    options = {"progress": False, "checkpoint_every": 0.0} | options
    return run(algorithm, key, num_seeds, num_iterations, log_every, **options)


def start_of(algorithm, seed, key=KEY):
    """The state that a seed's run starts from, made without the loop."""
    return algorithm.init(jax.random.fold_in(jax.random.fold_in(key, seed), np.uint32(2**32 - 1)))


def noises_of(algorithm, seed, first, last, key=KEY):
    """The randomness of a seed's iterations first … last−1: of k entry k % T of the block k // T."""
    length = length_of_block(algorithm)
    for block in range(first // length, -(-last // length)):
        noise = algorithm.draw(jax.random.fold_in(jax.random.fold_in(key, seed), block), length)
        for i in range(max(first - block * length, 0), min(last - block * length, length)):
            yield jax.tree.map(operator.itemgetter(i), noise)


def noise_of(algorithm, seed, k, key=KEY):
    """That of iteration k."""
    return next(noises_of(algorithm, seed, k, k + 1, key))


@functools.cache
def every_iteration():
    """The metrics of the run without edges, at every iteration."""
    return small_run(log_every=1).metrics


def first_beyond(column, edge):
    """For each seed the first iteration at which the column exceeds the edge, None where it never does."""
    paths = edge < every_iteration()[column].reshape(NUM_ITERATIONS + 1, NUM_SEEDS).T
    return [int(path.argmax()) if path.any() else None for path in paths]
