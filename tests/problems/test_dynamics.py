"""Dynamics that depend on x: oracles against finite differences, samples against oracles, whole runs, errors."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import ExactDescent, Followers, SingleLoopActorCritic, StepSizes, exact, run
from bilevel_rl.algorithms import HPGD, PBRL, NestedLoop, PartialSGD
from bilevel_rl.problems import wind_design
from driven_steps import check_mean_of_driven_step
from garnets import _flat, random_problem
from mean_steps import (
    flat,
    moved,
)

TAU, W = 0.4, 0.6
SIZES = StepSizes.decaying(upper=0.5, actor=0.8, critic=1.0, penalty=W, entropy=TAU, offset=10.0)


class Drift(eqx.Module):
    """softmax(base(s, a) + tilt(s, a) · x) over the outcomes."""

    base: np.ndarray
    tilt: np.ndarray

    def __call__(self, x, state, action):
        return jax.nn.softmax(jnp.asarray(self.base)[state, action] + jnp.asarray(self.tilt)[state, action] @ _flat(x))


def driven_problem(seed, **options):
    problem = random_problem(seed=seed, **options)
    rng = np.random.default_rng([seed, 9])
    shape = problem.environment.probabilities.shape
    drift = Drift(rng.normal(size=shape), 0.7 * rng.normal(size=(*shape, 3)))
    return dataclasses.replace(problem, outcome_probabilities=drift)


PROBLEMS = {
    **{f"garnet {seed}": {"seed": seed} for seed in (*range(15), 16)},
    "terminal": {"seed": 15, "num_terminal": 1},
    "two terminal": {"seed": 17, "num_terminal": 2},
    "dict": {"seed": 18, "as_dict": True},
    "dict, terminal": {"seed": 19, "num_terminal": 1, "as_dict": True},
}


def central_difference(function, problem, h=1e-5):
    x, gradient = problem.initial_x, []
    for direction in np.eye(3):
        ends = [function(moved(x, sign * h * direction)) for sign in (1, -1)]
        gradient.append((ends[0] - ends[1]) / (2 * h))
    return np.array(gradient)


@pytest.mark.slow
@pytest.mark.variants(rest="long")
@pytest.mark.parametrize("name", PROBLEMS)
def test_exact_gradients_are_central_differences(name):
    problem = driven_problem(**PROBLEMS[name])
    weights = {"entropy_weight": TAU}
    for gradient, objective, options in (
        (exact.hyper_gradient, exact.hyper_objective, weights),
        (exact.penalty_gradient, exact.penalty_objective, weights | {"penalty": W}),
    ):
        found = flat(gradient(problem, problem.initial_x, **options))
        expected = central_difference(lambda x, f=objective, o=options: f(problem, x, **o), problem)
        assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)
        frozen = dataclasses.replace(problem, environment=problem.environment, outcome_probabilities=None)
        assert np.linalg.norm(flat(gradient(frozen, problem.initial_x, **options)) - expected) > 0.05


def test_the_environment_at_x_has_the_functions_probabilities():
    problem = driven_problem(seed=16, num_terminal=1)
    with jax.enable_x64(True):
        table = np.asarray(problem.environment_at(problem.initial_x).probabilities)
    for (s, a), _ in np.ndenumerate(np.zeros((5, 3))):
        expected = problem.outcome_probabilities(problem.initial_x, s, a)
        if problem.environment.terminal[s]:
            expected = problem.environment.probabilities[s, a]
        np.testing.assert_allclose(table[s, a], expected, rtol=1e-6)
    assert random_problem(seed=0).environment_at(0.0) is not None


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize("coupled", [False, True], ids=["independent", "coupled"])
@pytest.mark.parametrize("name", ["garnet 0", "terminal", "dict"])
def test_at_the_fixed_point_the_mean_of_the_upper_step_is_the_first_order_gradient(name, coupled):
    problem = driven_problem(**PROBLEMS[name])
    check_mean_of_driven_step(problem, problem.initial_x, Followers(coupled=coupled), entropy=TAU, penalty=W)


@pytest.mark.slow
def test_metric_rows_measure_at_the_dynamics_of_x():
    problem = driven_problem(seed=3)
    result = run(
        SingleLoopActorCritic(problem, followers=Followers(4)), jax.random.key(0), 2, 20, log_every=20, progress=False
    )
    for seed in range(2):
        expected = exact.hyper_objective(problem, result.x[seed], entropy_weight=0.01)
        found = result.metrics["upper_objective"][2 + seed]
        assert found == pytest.approx(float(expected), rel=1e-9)
    assert np.all(result.metrics["lower_residual"] >= -1e-9)
    assert np.all(result.metrics["upper_noise"] > 0)


def test_the_exact_variance_of_coupled_chains_says_that_it_does_not_know_the_dynamics():
    policies = (np.full((5, 3), 1 / 3),) * 2
    problem = driven_problem(seed=0)
    with pytest.raises(ValueError, match="outcome_probabilities, whose part of"):
        exact.upper_variance(problem, problem.initial_x, policies, penalty=W, coupled=True)


@pytest.mark.parametrize("method", [PartialSGD, NestedLoop, PBRL, HPGD])
def test_methods_that_cannot_follow_say_so(method):
    with pytest.raises(ValueError, match=f"outcome_probabilities, which {method.__name__} does not follow"):
        method(driven_problem(seed=0))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, s, a: jnp.ones(2) / 2, r"shape \(3,\), got shape \(2,\)"),
        (lambda x, s, a: jnp.ones(3) / 4, r"sum to 1 over the outcomes, got .* in state 0, action 0"),
        (lambda x, s, a: jnp.array([1.5, -0.5, 0.0]), "must be non-negative"),
        (lambda x, s, a: jnp.array([jnp.nan, 0.5, 0.5]), "must be non-negative"),
    ],
)
def test_what_is_no_distribution_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(random_problem(seed=0), outcome_probabilities=function)


def test_wind_blows_where_it_says():
    problem = wind_design(size=3, slip=0.2, goal=(0, 2), target=(2, 0), strength=0.5)
    x = np.zeros((9, 4))
    x[4] = [np.log(3.0), 0.0, 0.0, 0.0]  # shares 3/7 up, 1/7 each other, 1/7 calm
    found = np.asarray(problem.outcome_probabilities(x, 4, 3))
    still = np.array([0.05, 0.05, 0.05, 0.85, 0.0])
    expected = (1 - 0.5 * 6 / 7) * still + 0.5 * np.array([3, 1, 1, 1, 0]) / 7
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    share = (8 * 0.8 + 6 / 7) / 9
    assert float(problem.upper.regularizer(x)) == pytest.approx(0.05 * share, rel=1e-5)


@pytest.mark.long
def test_a_sampled_run_comes_to_where_exact_descent_does():
    problem = wind_design(size=3, goal=(0, 2), target=(2, 0), price=0.02, width=2.0)
    best = run(
        ExactDescent(problem, StepSizes.constant_entropy(upper=0.1, entropy=0.1)),
        jax.random.key(0),
        1,
        400,
        log_every=400,
        evaluation_entropy_weight=0.1,
        progress=False,
    ).metrics["upper_objective"]
    sizes = StepSizes.constant_entropy(upper=3.0, actor=1.0, critic=4.0, penalty=0.3, entropy=0.1, offset=5_000.0)
    algorithm = SingleLoopActorCritic(problem, sizes, Followers(16, coupled=True))
    metrics = run(
        algorithm, jax.random.key(1), 2, 20_000, log_every=20_000, evaluation_entropy_weight=0.1, progress=False
    ).metrics
    assert np.all(np.isfinite(metrics["upper_noise"]))
    sampled = metrics["upper_objective"]
    assert best[0] - best[-1] > 0.1
    assert np.all(sampled[-2:] - best[-1] < 0.1 * (best[0] - best[-1]))
