"""A bound of rewards or costs that is too small is refused at the start, and told once in a run."""

import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import (
    BilevelProblem,
    Followers,
    FunctionalEnvironment,
    OccupancyCost,
    SingleLoopActorCritic,
    StepSizes,
    run,
)
from bilevel_rl.runs.bounds import exceeded, largest_at
from bilevel_rl.runs.start import check_start
from garnets import garnet


def build(*, reward_bound=np.inf, cost_bound=np.inf, initial_x=1.0, environment=None) -> BilevelProblem:
    """|r| ≤ 4 |x| and |c| ≤ 2 at every x."""
    return BilevelProblem(
        environment=garnet(0) if environment is None else environment,
        reward=lambda x, s, a: -x * s,
        upper=OccupancyCost(cost=lambda x, s, a: a - 0.0 * s, regularizer=lambda x: -x, cost_bound=cost_bound),
        initial_x=initial_x,
        reward_bound=reward_bound,
    )


def algorithm_of(problem: BilevelProblem) -> SingleLoopActorCritic:
    return SingleLoopActorCritic(problem, StepSizes.decaying(upper=0.1, actor=0.5, critic=1.0), Followers(4))


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (
            {"reward_bound": 3.9},
            r"^reward_bound must be at least 4, the largest size at initial_x, got 3\.9; .* raise it",
        ),
        (
            {"cost_bound": 0.01},
            r"^cost_bound must be at least 2, the largest size at initial_x, got 0\.01; .* raise it",
        ),
    ],
)
def test_a_bound_that_is_exceeded_at_the_start_is_refused(bounds, message):
    with pytest.raises(ValueError, match=message):
        run(algorithm_of(build(**bounds)), jax.random.key(0), 1, 10, progress=False)


def test_true_bounds_and_none_pass():
    check_start(build(reward_bound=4.0, cost_bound=2.0))
    check_start(build(reward_bound=4.0 * (1 - 1e-6), cost_bound=2.0))
    check_start(build())


def test_a_bound_that_x_outgrows_is_told_once():
    algorithm = algorithm_of(build(reward_bound=4.5, cost_bound=2.0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run(algorithm, jax.random.key(0), 2, 40, log_every=10, progress=False)
    assert result.x.min() > 1.5
    told = [str(warning.message) for warning in caught if "bound" in str(warning.message)]
    assert len(told) == 1
    assert told[0].startswith("reward_bound must be at least ")
    assert "the largest size at iteration 10, got 4.5" in told[0] or "at iteration 20" in told[0]


def test_where_there_are_no_tables_the_means_of_samples_count():
    walk = FunctionalEnvironment(
        initial=jax.random.normal,
        transition=lambda s, a, key: s + a,
        observe=lambda s: s[None],
        discount=0.9,
        num_actions=2,
    )
    problem = build(environment=walk, reward_bound=2.0, cost_bound=1.0)
    info = SimpleNamespace(mean_reward=jnp.array([[0.5, -3.0]]), mean_cost=jnp.array([0.25, 0.5]))
    largest = largest_at(problem, np.ones(1), info)
    assert largest == (3.0, 0.5)
    assert [text.partition(" ")[0] for text in exceeded(problem, largest, "at iteration 7")] == ["reward_bound"]
    check_start(problem)
