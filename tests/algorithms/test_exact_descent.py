import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel_rl import ExactDescent, GeometricDecay, PowerDecay, StepSizes, run
from bilevel_rl.exact import hyper_gradient, hyper_objective, lower_policy, solve
from bilevel_rl.problems import four_rooms
from garnets import random_problem

TAU = 0.2


def step_sizes(upper=0.3, entropy=TAU, exponent=0.0) -> StepSizes:
    constant = StepSizes.constant_entropy()
    return dataclasses.replace(constant, upper=PowerDecay(upper, exponent), entropy=PowerDecay(entropy, 0.0))


@pytest.fixture(scope="module")
def problem():
    return random_problem(seed=5, num_terminal=1)


def states_of(algorithm, num_iterations):
    states, step = [algorithm.init(jax.random.key(0))], jax.jit(lambda state: algorithm.step((), state)[0])
    for _ in range(num_iterations):
        states.append(step(states[-1]))
    return states


def test_in_double_precision_a_step_is_one_along_the_exact_gradient(problem):
    with jax.enable_x64(True):
        states = states_of(ExactDescent(problem, step_sizes(exponent=0.5), optax.sgd(2.0)), 3)
        xs = [np.asarray(state.x) for state in states]
    assert xs[0].dtype == np.float64
    for k in range(3):
        gradient = hyper_gradient(problem, xs[k], entropy_weight=TAU)
        np.testing.assert_allclose(xs[k + 1], xs[k] - 2.0 * 0.3 * (k + 1) ** -0.5 * gradient, rtol=1e-9)
        assert np.linalg.norm(gradient) > 0.01


def test_the_entropy_weight_is_that_of_the_iteration(problem):
    annealed = dataclasses.replace(step_sizes(), entropy=GeometricDecay(0.8, 0.2, num_iterations=2))
    with jax.enable_x64(True):
        xs = [np.asarray(state.x) for state in states_of(ExactDescent(problem, annealed, optax.sgd(1.0)), 4)]
    for k, weight in enumerate([0.8, 0.4, 0.2, 0.2]):
        gradient = hyper_gradient(problem, xs[k], entropy_weight=weight)
        np.testing.assert_allclose(xs[k + 1], xs[k] - 0.3 * gradient, rtol=1e-8, atol=1e-12)


def test_a_momentum_is_kept_between_iterations(problem):
    with jax.enable_x64(True):
        xs = [np.asarray(s.x) for s in states_of(ExactDescent(problem, step_sizes(), optax.sgd(1.0, momentum=0.5)), 2)]
    first, second = (hyper_gradient(problem, x, entropy_weight=TAU) for x in xs[:2])
    np.testing.assert_allclose(xs[2], xs[1] - 0.3 * (second + 0.5 * first), rtol=1e-9)


@pytest.mark.slow
def test_the_policies_are_the_followers_answer_and_the_info_its_cost(problem):
    algorithm = ExactDescent(problem, step_sizes())
    with jax.enable_x64(True):
        state = states_of(algorithm, 2)[-1]
        policies = np.exp(np.asarray(algorithm.log_policies(state)))
        info = algorithm.step((), state)[1]
        price = float(problem.upper.regularizer(state.x))
        x = np.asarray(state.x)
    np.testing.assert_allclose(policies, [lower_policy(problem, x, entropy_weight=TAU)], atol=1e-9)
    cost = hyper_objective(problem, x, entropy_weight=TAU) - price
    np.testing.assert_allclose(info.mean_cost, [cost], rtol=1e-9)


@pytest.mark.slow
def test_a_run_ends_at_a_stationary_point_with_no_transitions(problem):
    result = run(ExactDescent(problem, step_sizes()), jax.random.key(0), 2, 200, log_every=100, progress=False)
    stationary = solve(problem, entropy_weight=TAU)
    final = hyper_objective(problem, result.x[0], entropy_weight=TAU)
    assert final < hyper_objective(problem, problem.initial_x, entropy_weight=TAU) - 0.1
    assert final == pytest.approx(stationary.objective, abs=1e-4)
    assert not result.metrics["num_transitions"].any()
    np.testing.assert_array_equal(result.x[0], result.x[1])
    np.testing.assert_allclose(result.metrics["lower_residual"], 0, atol=1e-6)


def test_a_step_stays_feasible(problem):
    start = np.clip(problem.initial_x, -0.1, 0.1)
    box = dataclasses.replace(problem, project=lambda x: jnp.clip(x, -0.1, 0.1), initial_x=start)
    states = states_of(ExactDescent(box, step_sizes(upper=10.0), optax.sgd(1.0)), 2)
    np.testing.assert_allclose(np.abs(states[-1].x).max(), 0.1, rtol=1e-6)


@pytest.mark.long
def test_single_precision_resolves_four_rooms_at_its_smallest_entropy_weight():
    problem = four_rooms(entropy_weight=0.001, beta=3.0)
    xs = 3 * np.random.default_rng(0).normal(size=(4, 105))
    step = jax.jit(lambda state: ExactDescent(problem, step_sizes(1.0, 0.001), optax.sgd(1.0)).step((), state)[0])
    start = ExactDescent(problem, step_sizes(1.0, 0.001), optax.sgd(1.0)).init(jax.random.key(0))
    for x in xs.astype(np.float32):
        move = np.asarray(step(start._replace(x=jnp.asarray(x))).x, np.float64) - x
        gradient = hyper_gradient(problem, x, entropy_weight=0.001)
        assert np.linalg.norm(move + gradient) < 0.01 * np.linalg.norm(gradient) + 1e-6


@pytest.mark.slow
def test_an_answer_that_does_not_converge_stops_the_seed_and_says_why(problem):
    algorithm = ExactDescent(problem, step_sizes(entropy=1e-30))
    with pytest.warns(RuntimeWarning, match=r"seed 0 diverged: .*the follower's exact answer did not converge"):
        result = run(algorithm, jax.random.key(0), 1, 20, log_every=10, progress=False)
    assert [divergence.num_iterations for divergence in result.divergences] == [0]
    np.testing.assert_allclose(result.x[0], problem.initial_x, rtol=1e-6)
