"""Linear systems with quadratic losses: closed forms, brute force, central differences, and the penalty's order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from bilevel_rl.exact import OracleError, lqr
from bilevel_rl.exact.lqr.riccati import visited
from bilevel_rl.formulation.projections import Box
from linear_systems import GAMMA, TAU, X, random_system

WEIGHTS = {"entropy_weight": TAU}


@pytest.fixture(scope="module")
def system():
    return random_system()


def at(problem, x):
    with jax.enable_x64(True):
        return lqr.LinearQuadratic(*(np.asarray(part) for part in problem.at(jnp.asarray(x))))


def split(problem, x):
    """A, B and c."""
    n, _ = problem.num_dimensions
    transition = at(problem, x).transition
    return transition[:, :n], transition[:, n:-1], transition[:, -1]


def test_the_gain_is_that_of_scipys_regulator(system):
    n, _ = system.num_dimensions
    model, (A, B, _) = at(system, X), split(system, X)
    answer = lqr.lower_policy(system, X, **WEIGHTS)
    W, root = model.loss, GAMMA**0.5
    plain = scipy.linalg.solve_discrete_are(root * A, root * B, W[:n, :n], W[n:-1, n:-1], s=W[:n, n:-1])
    np.testing.assert_allclose(answer.values[:n, :n], plain, rtol=1e-9)
    precision = W[n:-1, n:-1] + GAMMA * B.T @ plain @ B
    np.testing.assert_allclose(answer.covariance, TAU / 2 * np.linalg.inv(precision), rtol=1e-9)
    assert np.abs(answer.covariance[0, 1]) > 0.05 * answer.covariance[0, 0]
    gain = np.linalg.solve(precision, W[n:-1, :n] + GAMMA * B.T @ plain @ A)
    np.testing.assert_allclose(answer.gain[:, :n], gain, rtol=1e-9)


def test_one_step_is_a_gaussian_by_hand():
    """γ = 0: −a² − 2 a s − (s − 2)² has its best a = −s, of variance τ/2, and V = −(s − 2)² + s² + τ/2 log(πτ)."""
    loss = np.array([[1.0, 1.0, -2.0], [1.0, 1.0, 0.0], [-2.0, 0.0, 4.0]])
    cost = np.diag([0.0, 1.0, 0.0])
    model = lqr.LinearQuadratic(np.ones((1, 3)), np.ones((1, 1)), loss, cost)
    problem = lqr.LinearQuadraticProblem(
        lambda x: model._replace(cost=x[0] * cost), [3.0], [[2.0]], initial_x=[1.0], discount=0.0
    )
    answer = lqr.lower_policy(problem, [1.0], **WEIGHTS)
    np.testing.assert_allclose(answer.gain, [[1.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(answer.covariance, [[TAU / 2]])
    constant = -4 + TAU / 2 * np.log(np.pi * TAU)
    np.testing.assert_allclose(-answer.values, [[0.0, 2.0], [2.0, constant]], atol=1e-12)
    assert lqr.hyper_objective(problem, [1.0], **WEIGHTS) == pytest.approx(9 + 4 + TAU / 2, rel=1e-12)
    assert lqr.hyper_gradient(problem, [5.0], **WEIGHTS) == pytest.approx(9 + 4 + TAU / 2, rel=1e-12)


@pytest.mark.parametrize("independent", [False, True])
def test_value_and_visits_are_those_of_the_law_step_by_step(independent):
    problem = random_system(independent=independent)
    n, _ = problem.num_dimensions
    model, answer = at(problem, X), lqr.lower_policy(problem, X, **WEIGHTS)
    mean, covariance = problem.initial_mean, problem.initial_factor @ problem.initial_factor.T
    A, B, c = split(problem, X)
    K, k = answer.gain[:, :n], answer.gain[:, n]
    moments = np.zeros_like(answer.moments)
    for t in range(2_000):
        of_action = -K @ mean - k
        z = np.concatenate([mean, of_action, [1.0]])
        spread = np.zeros_like(moments)
        lift = np.concatenate([np.eye(n), -K])
        spread[:-1, :-1] = lift @ covariance @ lift.T
        spread[n:-1, n:-1] += answer.covariance
        moments += (1 - GAMMA) * GAMMA**t * (np.outer(z, z) + spread)
        covariance = (
            (A - B @ K) @ covariance @ (A - B @ K).T + B @ answer.covariance @ B.T + model.noise @ model.noise.T
        )
        mean = A @ mean + B @ of_action + c
    np.testing.assert_allclose(answer.moments, moments, rtol=1e-9, atol=1e-10)
    assert answer.moments[-1, -1] == pytest.approx(1.0)
    gained = TAU * float(answer.entropy) - np.sum(model.loss * moments)
    start = np.append(problem.initial_mean, 1.0)
    valued = -start @ answer.values @ start - np.trace(
        answer.values[:n, :n] @ problem.initial_factor @ problem.initial_factor.T
    )
    assert gained == pytest.approx((1 - GAMMA) * valued, rel=1e-9)
    assert (np.abs(answer.covariance[0, 1]) == 0) == independent


@pytest.mark.parametrize("independent", [False, True])
def test_no_other_law_gains_more(independent):
    """J_τ by brute force around the answer: its gradient in K and in the allowed numbers of Σ is 0."""
    problem = random_system(independent=independent)
    answer = lqr.lower_policy(problem, X, **WEIGHTS)
    with jax.enable_x64(True):
        model = lqr.LinearQuadratic(*map(jnp.asarray, at(problem, X)))
        s = jnp.append(jnp.asarray(problem.initial_mean), 1.0)
        start = jnp.outer(s, s).at[:-1, :-1].add(problem.initial_factor @ problem.initial_factor.T)

        def gained(gain, factor):
            covariance = factor @ factor.T
            moments = visited(model, start, GAMMA, gain, covariance)
            _, log_determinant = jnp.linalg.slogdet(2 * jnp.pi * jnp.e * covariance)
            return TAU / 2 * log_determinant - jnp.sum(model.loss * moments)

        factor = jnp.linalg.cholesky(jnp.asarray(answer.covariance))
        slopes = jax.grad(gained, argnums=(0, 1))(jnp.asarray(answer.gain), factor)
        free = np.diagonal(slopes[1]) if independent else np.tril(slopes[1])
        np.testing.assert_allclose(slopes[0], 0.0, atol=1e-9)
        np.testing.assert_allclose(free, 0.0, atol=1e-9)
        assert gained(1.01 * jnp.asarray(answer.gain), factor) < gained(jnp.asarray(answer.gain), factor) - 1e-6


def central_difference(function, x, h=1e-5):
    ends = ([function(x + sign * h * direction) for sign in (1, -1)] for direction in np.eye(len(x)))
    return np.array([(up - down) / (2 * h) for up, down in ends])


@pytest.mark.parametrize(("seed", "independent"), [(0, False), (0, True), (1, False), (2, True)])
def test_gradients_are_central_differences(seed, independent):
    problem = random_system(seed=seed, independent=independent)
    for gradient, objective, options in (
        (lqr.hyper_gradient, lqr.hyper_objective, WEIGHTS),
        (lqr.penalty_gradient, lqr.penalty_objective, WEIGHTS | {"penalty": 0.3}),
    ):
        found = gradient(problem, X, **options)
        expected = central_difference(lambda x, f=objective, o=options: f(problem, x, **o), X)
        assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)


def test_the_penalty_gradient_tends_to_the_implicit_one_with_order_one(system):
    exact = lqr.hyper_gradient(system, X, **WEIGHTS)
    distances = np.array(
        [np.linalg.norm(lqr.penalty_gradient(system, X, penalty=w, **WEIGHTS) - exact) for w in (1e-2, 1e-3, 1e-4)]
    )
    np.testing.assert_allclose(np.log10(distances[:-1] / distances[1:]), 1.0, atol=0.02)
    assert distances[-1] < 1e-3 * np.linalg.norm(exact)


def test_without_the_dynamics_part_the_gradient_would_be_another(system):
    """What would be left of (HG) if x moved rewards and costs alone."""
    model = system.at(jnp.asarray(X))

    def at_x(x):
        moved = system.at(x)
        return moved._replace(transition=model.transition, noise=model.noise)

    frozen = lqr.LinearQuadraticProblem(
        at_x, system.initial_mean, system.initial_factor, initial_x=X, discount=GAMMA, regularizer=system.regularizer
    )
    found, without = (lqr.hyper_gradient(problem, X, **WEIGHTS) for problem in (system, frozen))
    assert np.linalg.norm(found - without) > 0.1 * np.linalg.norm(found)


def test_descent_ends_where_no_neighbour_is_better(system):
    boxed = random_system(feasible=Box(-0.6, 0.6))
    found = lqr.solve(boxed, **WEIGHTS)
    assert (found.status, found.residual < 1e-6) == ("converged", True)
    assert found.objective < lqr.hyper_objective(boxed, X, **WEIGHTS) - 0.01
    gradient = lqr.hyper_gradient(boxed, found.x, **WEIGHTS)
    np.testing.assert_allclose(np.clip(found.x - gradient, -0.6, 0.6), found.x, atol=1e-5)


def scalar_problem(decay=0.5, loss=1.0, of_action=1.0, **options):
    W = np.diag([loss, of_action, 0.0])
    model = lqr.LinearQuadratic(np.array([[decay, 0.0, 0.0]]), np.ones((1, 1)), W, np.diag([1.0, 0.0, 0.0]))
    given = {"initial_mean": [1.0], "initial_factor": [[1.0]], "initial_x": [1.0], "discount": GAMMA} | options
    return lqr.LinearQuadraticProblem(lambda x: model._replace(cost=x[0] * model.cost), **given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of_action": 0.0}, "gains without end"),
        ({"decay": 2.0}, "gains without end"),
        ({"decay": 2.0, "loss": 0.0}, "grows by 2 a step"),
    ],
)
def test_where_there_is_no_answer_it_says_so(options, message):
    with pytest.raises(OracleError, match=message):
        lqr.hyper_objective(scalar_problem(**options), [1.0], **WEIGHTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"discount": 1.0}, "discount must lie in"),
        ({"initial_mean": [1.0, 2.0]}, r"at\(x\).transition must have shape \(2, 3\)"),
        ({"initial_factor": [[1.0], [2.0]]}, "initial_factor must have 1 rows"),
        ({"initial_x": 1.0}, r"initial_x must have 1 axes, got shape \(\)"),
        ({"feasible": Box(2.0, 3.0)}, "initial_x must lie in feasible"),
    ],
)
def test_what_is_no_problem_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        scalar_problem(**options)


def test_what_is_no_argument_is_refused():
    problem = scalar_problem(feasible=Box(0.0, 2.0))
    for x, weight, message in (
        ([1.0, 2.0], TAU, "x must have the shape of initial_x"),
        ([3.0], TAU, "x must lie in the feasible set"),
        ([1.0], 0.0, "entropy_weight must be finite and positive"),
    ):
        with pytest.raises(ValueError, match=message):
            lqr.hyper_objective(problem, x, entropy_weight=weight)
    with pytest.raises(ValueError, match="penalty must be finite and positive"):
        lqr.penalty_gradient(problem, [1.0], entropy_weight=TAU, penalty=-1.0)
