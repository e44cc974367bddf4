"""Fresh followers: exact in tables, trained from samples close to it, and what is refused."""

import jax
import numpy as np
import pytest

import bilevel_rl as brl
from followers.test_rollout import line
from garnets import random_problem

KEY = jax.random.key(0)


def test_the_exact_answer_costs_what_the_oracle_says():
    problem = random_problem(seed=2)
    x = np.asarray(problem.initial_x) + 0.2
    found = brl.followers.train(problem, x, KEY, None)
    np.testing.assert_allclose(found.objectives, [brl.exact.hyper_objective(problem, x, entropy_weight=0.01)])
    assert (found.num_transitions, found.episodes) == (0, [])


@pytest.mark.long
def test_followers_that_learn_from_samples_get_close_to_the_exact_answer():
    problem = random_problem(seed=2)
    x = np.asarray(problem.initial_x) + 0.2
    step_sizes = brl.StepSizes.constant_entropy(actor=0.5, critic=1.0, entropy=0.1)
    algorithm = brl.SingleLoopActorCritic(problem, step_sizes, brl.Followers(8))
    found = brl.followers.train(problem, x, KEY, 40_003, num_followers=2, algorithm=algorithm)
    assert found.num_transitions == 40_000
    assert found.objectives.shape == (2,)
    assert not np.array_equal(*found.policies)
    best = brl.exact.hyper_objective(problem, x, entropy_weight=0.1)
    chance = brl.exact.upper_value(problem, x, np.full((5, 3), 1 / 3))
    assert np.abs(found.objectives - best).max() < 0.15 * abs(chance - best)


def test_what_cannot_be_trained_is_refused():
    problem, *_ = line("host")
    with pytest.raises(ValueError, match=r"must not be a HostEnvironment.*as_gymnasium_wrapper"):
        brl.followers.train(problem, 1.0, KEY, 100)
    with pytest.raises(ValueError, match="has no tables"):
        brl.followers.train(line("JAX")[0], 1.0, KEY, None)
    with pytest.raises(ValueError, match="num_transitions must be at least 1"):
        brl.followers.train(random_problem(seed=2), random_problem(seed=2).initial_x, KEY, 0)
