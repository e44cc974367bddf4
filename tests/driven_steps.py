"""The mean of the sampled upper step where x moves the dynamics, against the exact first-order gradient."""

import dataclasses

import jax
import numpy as np

from bilevel_rl import BilevelProblem, Followers, SingleLoopActorCritic, StepSizes, TabularMDP, exact
from mean_steps import (
    NUM_ITERATIONS_BEFORE,
    flat,
    model_of,
    optimal_follower,
    sample_steps,
    softmax,
    state_occupancy,
    stationary,
    unbounded,
    values_at,
    z_scores,
)


def check_mean_of_driven_step(problem: BilevelProblem, x, followers: Followers, entropy=0.3, penalty=0.5):
    """Within four standard errors at the followers' fixed point; without the dynamics' part it is far away."""
    sizes = StepSizes.decaying(upper=0.5, actor=0.8, critic=1.0, penalty=penalty, entropy=entropy, offset=10.0)
    *_, w, τ = values_at(sizes, NUM_ITERATIONS_BEFORE)
    problem = dataclasses.replace(unbounded(problem), project=lambda x: x)  # So that no projection distorts a mean.
    with jax.enable_x64(True):
        there = jax.tree.map(np.asarray, problem.environment_at(x))
    environment = TabularMDP(there.successors, there.probabilities, there.initial, there.discount, there.terminal)
    frozen = BilevelProblem(environment, problem.reward, problem.upper, x)
    model = model_of(frozen, x)
    rewards = model.reward, model.reward - w * model.cost
    tables = np.stack([optimal_follower(model, reward, τ) for reward in rewards])
    laws = [state_occupancy(model, softmax(table[:, :-1])) for table in tables]
    sample = sample_steps(
        lambda num_chains: SingleLoopActorCritic(problem, sizes, dataclasses.replace(followers, num_chains=num_chains)),
        sizes,
        x,
        tables,
        chains_of=stationary(laws),
    )
    expected = flat(exact.penalty_gradient(problem, x, entropy_weight=τ, penalty=w))
    assert z_scores(sample.upper_gradient, expected).max() < 4
    without = flat(exact.penalty_gradient(frozen, x, entropy_weight=τ, penalty=w))
    assert z_scores(sample.upper_gradient, without).max() > 6
    for i in range(2):  # The followers live in the environment at x.
        assert z_scores(sample.follower_steps[:, i], 0.0).max() < 4
