"""Oracles of upper objectives that are not means of costs, against finite differences and brute force."""

import itertools

import jax
import numpy as np
import pytest

from bilevel_rl import BilevelProblem, OccupancyCost, TabularMDP, exact
from bilevel_rl.formulation import OccupancyFunctional, PolicyLoss, TrajectoryLoss
from garnets import UPPERS, random_policy, random_problem, upper_objective

τ, w = 0.4, 0.3
H = 1e-5


def problem_of(kind, **changes):
    return random_problem(3, upper=upper_objective(kind), **changes)


def central_differences(function, x):
    return np.array([(function(x + H * unit) - function(x - H * unit)) / (2 * H) for unit in np.eye(len(x))])


@pytest.mark.variants(rest="long")
@pytest.mark.parametrize("kind", UPPERS)
def test_implicit_gradients_are_slopes_of_the_objective(kind):
    problem = problem_of(kind, num_terminal=1)
    gradient = exact.hyper_gradient(problem, problem.initial_x, entropy_weight=τ)
    slopes = central_differences(lambda x: exact.hyper_objective(problem, x, entropy_weight=τ), problem.initial_x)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-8)


@pytest.mark.variants
@pytest.mark.parametrize("kind", ["functional", "policy"])
def test_penalty_gradients_are_slopes_of_the_penalty_objective(kind):
    problem, weights = problem_of(kind), {"entropy_weight": τ, "penalty": w}
    gradient = exact.penalty_gradient(problem, problem.initial_x, **weights)
    slopes = central_differences(lambda x: exact.penalty_objective(problem, x, **weights), problem.initial_x)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5, atol=1e-7)


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["functional", "two trajectories"])
def test_no_policy_near_the_penalized_one_is_better(kind):
    problem, x = problem_of(kind), problem_of(kind).initial_x
    best = exact.penalized_policy(problem, x, entropy_weight=τ, penalty=w)
    lowest = exact.penalty_objective(problem, x, entropy_weight=τ, penalty=w)

    def penalized_value(policy):
        return exact.upper_value(problem, x, policy) + exact.lower_residual(problem, x, policy, entropy_weight=τ) / w

    assert penalized_value(best) == pytest.approx(lowest, abs=1e-9)
    rng = np.random.default_rng(1)
    for size in (1e-3, 1e-2, 0.1):
        logits = np.log(best) + size * rng.normal(size=best.shape)
        assert penalized_value(np.exp(logits) / np.exp(logits).sum(1, keepdims=True)) > lowest + 1e-3 * size**2
    assert exact.lower_residual(problem, x, best, entropy_weight=τ, penalty=w) == pytest.approx(0, abs=1e-9)
    answer = exact.lower_policy(problem, x, entropy_weight=τ)
    assert exact.lower_residual(problem, x, answer, entropy_weight=τ, penalty=w) > 1e-5


@pytest.mark.long
@pytest.mark.parametrize("kind", ["functional"])
def test_implicit_gradients_where_the_dynamics_depend_on_x(kind):
    static = problem_of(kind)
    tilts = np.random.default_rng(9).normal(size=(5, 3, 3, 3))

    def outcome_probabilities(x, s, a):
        return jax.nn.softmax(jax.numpy.asarray(tilts)[s, a] @ x)

    problem = BilevelProblem(
        static.environment,
        static.reward,
        static.upper,
        static.initial_x,
        outcome_probabilities=outcome_probabilities,
    )
    gradient = exact.hyper_gradient(problem, problem.initial_x, entropy_weight=τ)
    slopes = central_differences(lambda x: exact.hyper_objective(problem, x, entropy_weight=τ), problem.initial_x)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-8)
    weights = {"entropy_weight": τ, "penalty": w}
    slopes = central_differences(lambda x: exact.penalty_objective(problem, x, **weights), problem.initial_x)
    np.testing.assert_allclose(exact.penalty_gradient(problem, problem.initial_x, **weights), slopes, rtol=1e-5)


@pytest.mark.long
def test_a_linear_functional_is_an_occupancy_cost():
    costs = np.random.default_rng(4).normal(size=(5, 3))
    as_cost = random_problem(3, upper=OccupancyCost(lambda x, s, a: jax.numpy.asarray(costs)[s, a]))
    as_functional = random_problem(3, upper=OccupancyFunctional(lambda x, d: jax.numpy.sum(d * costs)))
    x, weights = as_cost.initial_x, {"entropy_weight": τ, "penalty": w}
    for oracle in (exact.penalized_policy, exact.penalty_gradient, exact.penalty_objective):
        np.testing.assert_allclose(oracle(as_cost, x, **weights), oracle(as_functional, x, **weights), atol=1e-9)


def test_trajectories_are_those_of_the_environment():
    """Every sequence of states and actions, possible or not, in plain loops."""
    kernel = np.array([[[0.2, 0.8], [1.0, 0.0]], [[0.7, 0.3], [0.0, 1.0]]])
    initial, policy = np.array([0.6, 0.4]), random_policy(1, 2, 2)

    def loss(x, states, actions):
        code = states @ np.array([1.0, 2.0, 4.0]) + actions @ np.array([0.3, 0.5, 0.7])
        return x * code[0] ** 2 + code[0] * code[1] - code[1]

    upper = TrajectoryLoss(loss, num_steps=3)
    mdp = TabularMDP.from_dense(kernel, initial=initial, discount=0.9)
    problem = BilevelProblem(mdp, lambda x, s, a: x, upper, 0.0)
    sequences = []
    for states, actions in itertools.product(itertools.product(range(2), repeat=3), repeat=2):
        chance = initial[states[0]] * np.prod([policy[s, a] for s, a in zip(states, actions, strict=True)])
        for t in range(2):
            chance *= kernel[states[t], actions[t], states[t + 1]]
        sequences.append((chance, states, actions))
    expected = 0.0
    for (p, s, a), (q, other_s, other_a) in itertools.product(sequences, repeat=2):
        expected += p * q * loss(1.5, np.array([s, other_s]), np.array([a, other_a]))
    assert exact.upper_value(problem, 1.5, policy) == pytest.approx(expected, rel=1e-12)


def test_too_many_trajectories_have_no_exact_value():
    upper = TrajectoryLoss(lambda x, s, a: x[0], num_steps=6)
    problem = random_problem(3, upper=upper)
    assert not problem.upper.has_exact_value
    with pytest.raises(ValueError, match=r"trajectories of 6 steps, too many .* diagnostics='sampled'"):
        exact.hyper_objective(problem, problem.initial_x, entropy_weight=τ)


@pytest.mark.parametrize(
    ("upper", "message"),
    [
        (lambda: PolicyLoss([0, 5], [0, 1]), r"upper\.states must lie in 0\.\.4, got 0\.\.5"),
        (lambda: PolicyLoss([0, 1], [0, 3]), r"upper\.actions must lie in 0\.\.2, got 0\.\.3"),
        (lambda: TrajectoryLoss(lambda x, s, a: 0.0, 0), "num_steps must be at least 1, got 0"),
        (lambda: TrajectoryLoss(lambda x, s, a: 0.0, 2, 3), "num_trajectories must be at most 2, got 3"),
        (lambda: TrajectoryLoss(lambda x, s, a: x, 2), r"upper\.loss must return a scalar .*shape \(3,\)"),
        (lambda: OccupancyFunctional(lambda x, d: d), r"upper\.functional must return a scalar .*shape \(5, 3\)"),
        (
            lambda: OccupancyFunctional(lambda x, d: 0.0, tracking_step=0.0),
            r"tracking_step must lie in \(0, 1\], got 0",
        ),
        (lambda: OccupancyFunctional(lambda x, d: 0.0, cost_bound=0.0), "cost_bound must be positive"),
    ],
)
def test_malformed_objectives_are_refused(upper, message):
    with pytest.raises(ValueError, match=message):
        random_problem(3, upper=upper())


def demonstrated(states, actions):
    problem = random_problem(3, upper=PolicyLoss(states, actions))
    return exact.hyper_objective(problem, problem.initial_x, entropy_weight=τ)


STATES, ACTIONS = np.array([[0, 4, 2], [1, 1, 3]]), np.array([[2, 0, 1], [1, 2, 0]])


@pytest.mark.parametrize("kind", [int, float, np.int8, np.uint64, np.float16])
@pytest.mark.parametrize("shape", [(2, 3), (6, 1), (3, 1, 2)], ids=str)
def test_demonstrations_of_any_shape_and_type_are_a_list_of_pairs(shape, kind):
    reshaped = (pairs.reshape(shape).astype(kind) for pairs in (STATES, ACTIONS))
    assert demonstrated(*reshaped) == demonstrated(STATES.ravel(), ACTIONS.ravel())


@pytest.mark.parametrize(
    ("states", "actions", "message"),
    [
        (STATES, ACTIONS.T, r"^states and actions must have the same shape, .* got \(2, 3\) and \(3, 2\)"),
        (STATES.reshape(6, 1), ACTIONS.ravel(), r"^states and actions must have the same shape"),
        ([0, 1], [0], r"^states and actions must have the same shape, .* got \(2,\) and \(1,\)"),
        ([], [], "^states must not be empty"),
        ([0, 1], [0.5, 1], r"^actions must hold whole numbers .* got 0\.5"),
        ([0, 2**32], [0, 1], r"^states must hold whole numbers from 0 to 2,147,483,647, got 4294967296"),
        ([0, -1], [0, 1], "^states must hold whole numbers .* got -1"),
        ([0, 1], [0, np.nan], "^actions must hold whole numbers .* got nan"),
        ([[0], [1, 2]], [0, 1], "^states must be an array with rows of one length"),
    ],
)
def test_demonstrations_that_are_no_pairs_are_refused(states, actions, message):
    with pytest.raises(ValueError, match=message):
        PolicyLoss(states, actions)
