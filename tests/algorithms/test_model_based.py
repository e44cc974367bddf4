"""What the single loop on a learned model does, against the oracles of the model that it has counted."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel_rl as brl
from bilevel_rl import exact
from bilevel_rl.algorithms import CertaintyEquivalence, ModelBased
from bilevel_rl.algorithms.certainty_equivalence import _is_time
from bilevel_rl.algorithms.learned_model import Counts
from bilevel_rl.algorithms.upper_steps import UpperSteps
from garnets import random_problem
from mean_steps import one_draw

MANY = 10_000_000
TAU, PENALTY = 0.2, 0.3


def step_sizes(upper=0.0):
    return brl.StepSizes.constant_entropy(upper=upper, entropy=TAU, penalty=PENALTY, exponents=(0.0,) * 5)


@pytest.fixture(scope="module")
def problem():
    return random_problem(seed=15, num_terminal=1)


def knowing(algorithm, state):
    """The state with so many transitions counted that P̂ is P, and ρ̂ is ρ, to seven digits."""
    mdp, possible = algorithm.problem.mdp, algorithm.possible
    probabilities = np.zeros(possible.pairs.shape)
    for place, probability in zip(possible.places.ravel(), mdp.probabilities.ravel(), strict=True):
        probabilities[place] = probability
    counts = Counts(*(jnp.asarray(np.rint(MANY * table), jnp.int32) for table in (probabilities, mdp.initial)))
    return state._replace(counts=counts)


def iterated(algorithm, state, num_iterations):
    step = eqx.filter_jit(algorithm.step)
    for k in range(num_iterations):
        state, info = step(one_draw(algorithm, jax.random.key(k)), state)
    return state, info


def test_where_the_model_is_known_followers_and_gradient_are_the_exact_ones(problem):
    algorithm = ModelBased(problem, step_sizes(), num_chains=2, max_sweeps=500)
    state, info = iterated(algorithm, knowing(algorithm, algorithm.init(jax.random.key(0))), 4)
    weights = {"entropy_weight": TAU, "penalty": PENALTY}
    lower, penalized = np.exp(algorithm.log_policies(state))
    x = np.asarray(state.x, np.float64)
    np.testing.assert_allclose(lower, exact.lower_policy(problem, x, entropy_weight=TAU), atol=2e-3)
    np.testing.assert_allclose(penalized, exact.penalized_policy(problem, x, **weights), atol=2e-3)
    gradient = exact.penalty_gradient(problem, x, **weights)
    np.testing.assert_allclose(info.upper_gradient, gradient, atol=2e-3 * np.abs(gradient).max() / PENALTY)
    assert float(info.unknown_occupancy) == 0
    f = float(info.mean_cost[1]) + float(problem.upper.regularizer(jnp.asarray(x)))
    policy = exact.penalized_policy(problem, x, **weights)
    np.testing.assert_allclose(f, exact.upper_value(problem, x, policy), atol=2e-3)


def test_a_step_of_x_is_along_the_gradient_on_the_estimate(problem):
    algorithm = ModelBased(problem, step_sizes(upper=0.1), 2, upper_steps=UpperSteps(optax.sgd(1.0)))
    state, _ = iterated(algorithm, algorithm.init(jax.random.key(0)), 5)
    after, info = eqx.filter_jit(algorithm.step)(one_draw(algorithm, jax.random.key(9)), state)
    np.testing.assert_allclose(after.x, state.x - 0.1 * info.upper_gradient, rtol=1e-5, atol=1e-6)
    assert np.abs(info.upper_gradient).min() > 1e-3


def test_probabilities_are_never_read(problem):
    """Only where transitions lead tells of them: the iteration is the same with other numbers in their table."""
    mdp = problem.mdp
    even = (mdp.probabilities > 0) / np.sum(mdp.probabilities > 0, axis=-1, keepdims=True)
    blind = eqx.tree_at(lambda p: (p.environment.probabilities, p.environment.initial), problem, (even, np.ones(5) / 5))
    for build in (
        lambda problem: ModelBased(problem, step_sizes(upper=0.1), 4),
        lambda problem: CertaintyEquivalence(problem, step_sizes(upper=0.1), 4, num_planning_steps=3),
    ):
        ends = [iterated(build(p), build(p).init(jax.random.key(1)), 3)[0] for p in (problem, blind)]
        jax.tree.map(np.testing.assert_array_equal, *ends)


@pytest.mark.slow
def test_the_explorer_tries_what_the_follower_would_not():
    """A pair that stays where the reward is lowest, as far as anybody knows, is tried m times all the same."""
    problem = random_problem(seed=15)
    reward = np.asarray(problem.rewards(problem.initial_x, np.arange(5)[:, None], np.arange(3)))
    worst = np.unravel_index(np.argmin(reward), reward.shape)
    tries = {}
    for num_tries in (0, 5):
        algorithm = ModelBased(problem, step_sizes(), 4, num_tries=num_tries)
        state = knowing(algorithm, algorithm.init(jax.random.key(0)))
        is_worst = algorithm.possible.pairs == np.ravel_multi_index(worst, reward.shape)
        outcomes = jnp.where(is_worst, 0, state.counts.outcomes)
        state, info = iterated(algorithm, state._replace(counts=state.counts._replace(outcomes=outcomes)), 30)
        tries[num_tries] = int(algorithm.possible.tries(state.counts)[worst])
    assert tries[0] == 0
    assert 5 <= tries[5] < 20
    assert float(info.unknown_occupancy) == 0


def test_it_is_known_where_a_follower_goes_that_nobody_has_followed():
    algorithm = ModelBased(random_problem(seed=15), step_sizes(), 4, num_tries=1e9)
    _, info = iterated(algorithm, algorithm.init(jax.random.key(0)), 20)
    np.testing.assert_allclose(info.unknown_occupancy, 1.0, rtol=1e-4)


@pytest.mark.long
def test_untuned_steps_have_the_problems_units(problem):
    def x_after(unit_of_reward, unit_of_cost):
        scaled = dataclasses.replace(
            problem,
            reward=lambda x, s, a: unit_of_reward * problem.reward(x, s, a),
            upper=brl.OccupancyCost(
                lambda x, s, a: unit_of_cost * problem.upper.cost(x, s, a),
                cost_bound=unit_of_cost * 2.0,
                regularizer=lambda x: unit_of_cost * problem.upper.regularizer(x),
            ),
            reward_bound=unit_of_reward * 2.0,
        )
        algorithm = ModelBased.untuned(scaled, 4)
        return iterated(algorithm, algorithm.init(jax.random.key(0)), 5)[0].x

    np.testing.assert_allclose(x_after(4.0, 0.25), x_after(1.0, 1.0), rtol=1e-3)


def test_a_followers_own_entropy_weight_is_kept(problem):
    algorithm = ModelBased.untuned(dataclasses.replace(problem, entropy_weight=0.07))
    assert [float(algorithm.step_sizes(k).entropy) for k in (0, 10_000)] == pytest.approx([0.07, 0.07])


@pytest.mark.slow
def test_a_small_grid_is_solved_from_a_few_thousand_transitions():
    problem = brl.problems.goal_position(size=5, target=(3, 1), initial_x=(1, 3), width=2.0)
    algorithm = ModelBased.untuned(problem)
    result = brl.run(algorithm, jax.random.key(0), 2, 110, log_every=110, progress=False)
    optimum = exact.solve(problem, starts=[np.array([3.0, 1.0])]).objective
    gaps = result.metrics["upper_objective"].reshape(2, 2) - optimum
    assert np.all(gaps[1] < 0.05 * gaps[0])
    assert result.metrics["num_transitions"][-1] < 4_000


@pytest.mark.parametrize("kind", [ModelBased, CertaintyEquivalence])
def test_problems_that_it_cannot_solve_are_refused(kind):
    problem = brl.problems.wind_design()
    with pytest.raises(ValueError, match="outcome_probabilities"):
        kind(problem)
    with pytest.raises(ValueError, match="num_steps must be at least 1"):
        kind(random_problem(seed=0), num_steps=0)


def test_a_plan_is_exact_descent_on_what_was_counted(problem):
    steps = step_sizes(upper=0.05)
    planner = CertaintyEquivalence(problem, steps, 2, num_planning_steps=20)
    state, _ = iterated(planner, knowing(planner, planner.init(jax.random.key(0))), 1)
    descent = brl.ExactDescent(problem, steps)
    expected, _ = iterated(descent, descent.init(jax.random.key(0)), 20)
    np.testing.assert_allclose(state.x, expected.x, rtol=1e-3, atol=1e-4)
    assert np.abs(state.x - problem.initial_x).max() > 0.2


def test_plans_are_made_at_times_that_grow_geometrically():
    times = [k for k in range(1, 60) if _is_time(jnp.int32(k))]
    assert times == [1, 2, 3, 5, 7, 11, 17, 25, 38, 57]


def test_everything_is_tried_evenly(problem):
    planner = CertaintyEquivalence(problem, step_sizes(), 1, num_steps=1, num_planning_steps=1)
    state, _ = iterated(planner, planner.init(jax.random.key(0)), 200)
    tries = np.asarray(planner.possible.tries(state.counts))
    assert tries.sum() == 200
    assert np.ptp(tries, axis=1).max() <= 1
