import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from bilevel_rl import BilevelProblem, TabularMDP
from bilevel_rl.exact import (
    OracleError,
    evaluation,
    hyper_gradient,
    hyper_objective,
    hyper_objectives,
    lower_policy,
    lower_residual,
    penalized_policy,
    penalty_gradient,
    penalty_objective,
    soft_mdp,
    upper_value,
)
from bilevel_rl.problems import goal_position
from dense_reference import occupancy_series, soft_return, soft_value_iteration, table
from garnets import SHARED, Ripple, random_policy, random_problem, shared_garnet

PROBLEMS = {
    "garnet 0": {"seed": 0},
    "garnet 1": {"seed": 1},
    "garnet 2": {"seed": 2},
    "garnet 3": {"seed": 3},
    "one terminal state": {"seed": 4, "num_terminal": 1},
    "two terminal states": {"seed": 5, "num_terminal": 2},
    "x is a dict": {"seed": 6, "num_terminal": 1, "as_dict": True},
}
TAU, W = 0.2, 0.3
cached = functools.cache(random_problem)


def named(name: str) -> BilevelProblem:
    return cached(**PROBLEMS[name])


@pytest.fixture
def problem(request) -> BilevelProblem:
    return named(request.param)


all_problems = pytest.mark.parametrize("problem", PROBLEMS, indirect=True)
some_problems = pytest.mark.parametrize(
    "problem", ["garnet 1", "one terminal state", "two terminal states"], indirect=True
)


def problem_of_tables(mdp: TabularMDP, rewards: list, costs: list) -> BilevelProblem:
    """Reward and cost are given tables, whatever x; g(0) = 0.2. Shares the compilation of the garnets."""
    assert mdp.successors.shape == (5, 3, 3)
    assert mdp.discount == 0.9
    tables = [np.concatenate([np.array(rows, float), np.zeros((5 - len(rows), 3))]) for rows in (rewards, costs)]
    return eqx.tree_at(
        lambda p: (p.environment, p.reward, p.upper.cost, p.upper.regularizer.center, p.initial_x),
        cached(0),
        (
            mdp,
            *(Ripple(base, np.zeros((5, 3, 3)), wave) for base, wave in zip(tables, (jnp.tanh, jnp.sin), strict=True)),
            np.zeros(3),
            np.zeros(3),
        ),
    )


def moves(*rows: list[int], terminal: int | None = None) -> TabularMDP:
    """Deterministic moves from state 0 on; the states that are left stay where they are."""
    successors = np.zeros((5, 3, 3), np.int32)
    successors[..., 0] = np.arange(5)[:, None]
    successors[: len(rows), :, 0] = np.reshape(rows, (-1, 3))
    return TabularMDP.from_successors(
        successors, np.broadcast_to([1.0, 0, 0], (5, 3, 3)), initial=np.eye(5)[0], discount=0.9,
        terminal=np.arange(5) == terminal,
    )  # fmt: skip


def tables(problem: BilevelProblem, x) -> tuple[np.ndarray, np.ndarray, float]:
    """Reward, cost and regularizer at x in double precision, through the problem's own functions one by one."""
    with jax.enable_x64(True):
        x = jax.tree.map(jnp.asarray, x)
        reward = table(problem.reward, x, problem.environment)
        cost = table(problem.upper.cost, x, problem.environment)
        return reward, cost, float(problem.upper.regularizer(x))


def central_differences(function, x, step: float = 1e-5):
    leaves, structure = jax.tree.flatten(x)
    gradient = [np.zeros(np.shape(leaf)) for leaf in leaves]
    for i, leaf in enumerate(leaves):
        for index in np.ndindex(np.shape(leaf)):
            ends = []
            for sign in (1, -1):
                moved = np.array(leaf, float)
                moved[index] += sign * step
                ends.append(function(jax.tree.unflatten(structure, [*leaves[:i], moved, *leaves[i + 1 :]])))
            gradient[i][index] = (ends[0] - ends[1]) / (2 * step)
    return jax.tree.unflatten(structure, gradient)


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def assert_close_as_vectors(actual, expected, tolerance: float):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    error = np.linalg.norm(flat(actual) - flat(expected))
    assert error < tolerance * np.linalg.norm(flat(expected))


# Definitions


@some_problems
def test_lower_and_penalized_policy_are_those_of_value_iteration(problem):
    reward, cost, _ = tables(problem, problem.initial_x)

    lower = lower_policy(problem, problem.initial_x, entropy_weight=TAU)
    penalized = penalized_policy(problem, problem.initial_x, entropy_weight=TAU, penalty=W)

    mdp = problem.environment
    np.testing.assert_allclose(lower, soft_value_iteration(mdp, reward, TAU)[0], rtol=1e-10)
    np.testing.assert_allclose(penalized, soft_value_iteration(mdp, reward - W * cost, TAU)[0], rtol=1e-10)
    assert np.abs(lower - penalized).max() > 1e-2


@some_problems
def test_objectives_follow_their_definitions(problem):
    mdp, x, policy = problem.environment, problem.initial_x, random_policy(0)
    reward, cost, regularizer = tables(problem, x)
    best, _ = soft_value_iteration(mdp, reward, TAU)

    def upper(policy: np.ndarray) -> float:
        return (occupancy_series(mdp, policy, 400) * cost).sum() + regularizer

    assert upper_value(problem, x, policy) == pytest.approx(upper(policy), rel=1e-12)
    assert hyper_objective(problem, x, entropy_weight=TAU) == pytest.approx(upper(best), rel=1e-11)
    gap = soft_return(mdp, best, reward, TAU) - soft_return(mdp, policy, reward, TAU)
    assert gap > 0.01
    assert lower_residual(problem, x, policy, entropy_weight=TAU) == pytest.approx(gap, rel=1e-11)
    penalized, _ = soft_value_iteration(mdp, reward - W * cost, TAU)
    gap = soft_return(mdp, best, reward, TAU) - soft_return(mdp, penalized, reward, TAU)
    assert penalty_objective(problem, x, entropy_weight=TAU, penalty=W) == pytest.approx(
        upper(penalized) + gap / W, rel=1e-10
    )


def test_lower_residual_vanishes_at_the_answers_and_only_there():
    problem, policy = cached(0), random_policy(1)
    x = problem.initial_x
    reward, cost, _ = tables(problem, x)
    residual = functools.partial(lower_residual, problem, x, entropy_weight=TAU)

    lower = lower_policy(problem, x, entropy_weight=TAU)
    penalized = penalized_policy(problem, x, entropy_weight=TAU, penalty=W)

    assert abs(residual(lower)) < 1e-14
    assert abs(residual(penalized, penalty=W)) < 1e-14
    assert residual(penalized) > 1e-4
    assert residual(lower, penalty=W) > 1e-4
    penalized_reward = reward - W * cost
    gap = soft_return(problem.environment, penalized, penalized_reward, TAU) - soft_return(
        problem.environment, policy, penalized_reward, TAU
    )
    assert residual(policy, penalty=W) == pytest.approx(gap, rel=1e-11)


def test_lower_residual_takes_deterministic_policies():
    problem = cached(4, num_terminal=1)
    policy = np.eye(3)[[0, 2, 1, 1, 0]]
    reward, _, _ = tables(problem, problem.initial_x)

    residual = lower_residual(problem, problem.initial_x, policy, entropy_weight=TAU)

    best, _ = soft_value_iteration(problem.environment, reward, TAU)
    gap = soft_return(problem.environment, best, reward, TAU) - soft_return(problem.environment, policy, reward, TAU)
    assert residual == pytest.approx(gap, rel=1e-11)


# Hyper-gradients


@pytest.mark.variants(rest="long")
@all_problems
def test_hyper_gradient_is_the_derivative_of_the_hyper_objective(problem):
    differences = central_differences(lambda x: hyper_objective(problem, x, entropy_weight=TAU), problem.initial_x)

    assert_close_as_vectors(hyper_gradient(problem, problem.initial_x, entropy_weight=TAU), differences, 1e-8)


@pytest.mark.parametrize("problem", list(PROBLEMS)[:-1], indirect=True)
def test_penalty_gradient_is_the_derivative_of_the_penalty_objective(problem):
    weights = {"entropy_weight": TAU, "penalty": W}
    differences = central_differences(lambda x: penalty_objective(problem, x, **weights), problem.initial_x)

    assert_close_as_vectors(penalty_gradient(problem, problem.initial_x, **weights), differences, 1e-8)


@some_problems
def test_the_follower_matters_in_the_hyper_gradient(problem):
    answer = lower_policy(problem, problem.initial_x, entropy_weight=TAU)
    at_fixed_policy = central_differences(lambda x: upper_value(problem, x, answer), problem.initial_x)

    gradient = hyper_gradient(problem, problem.initial_x, entropy_weight=TAU)

    assert np.linalg.norm(flat(gradient) - flat(at_fixed_policy)) > 5e-4


@pytest.mark.parametrize("name", ["garnet 1", "two terminal states"])
def test_penalty_gradient_tends_to_the_hyper_gradient_to_first_order_in_the_penalty(name):
    problem = cached(**PROBLEMS[name])
    limit = hyper_gradient(problem, problem.initial_x, entropy_weight=TAU)
    penalties = 0.1 * 2.0 ** -np.arange(6)

    errors = [
        np.linalg.norm(penalty_gradient(problem, problem.initial_x, entropy_weight=TAU, penalty=w) - limit)
        for w in penalties
    ]

    order = np.polyfit(np.log(penalties), np.log(errors), 1)[0]
    assert 0.9 <= order <= 1.1
    assert errors[-1] < 0.02 * np.linalg.norm(limit)


@some_problems
def test_penalty_objective_tends_to_the_hyper_objective_from_below(problem):
    objective = hyper_objective(problem, problem.initial_x, entropy_weight=TAU)
    gaps = [
        objective - penalty_objective(problem, problem.initial_x, entropy_weight=TAU, penalty=w)
        for w in (0.2, 0.02, 0.002)
    ]

    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[1] / gaps[2] == pytest.approx(10, rel=0.1)


# The penalized problem is a minimum over policies


@some_problems
def test_every_other_policy_has_a_larger_penalized_objective(problem):
    x, weights = problem.initial_x, {"entropy_weight": TAU}
    minimizer = penalized_policy(problem, x, **weights, penalty=W)

    def lagrangian(policy: np.ndarray) -> float:
        return float(upper_value(problem, x, policy) + lower_residual(problem, x, policy, **weights) / W)

    minimum = penalty_objective(problem, x, **weights, penalty=W)
    assert lagrangian(minimizer) == pytest.approx(minimum, rel=1e-11)
    for seed in range(4):
        for step in (1e-3, 1e-2, 0.3):
            other = (1 - step) * minimizer + step * random_policy(seed)
            assert lagrangian(other) > minimum + 1e-3 * step**2
    assert lagrangian(lower_policy(problem, x, **weights)) > minimum


def test_penalty_objective_is_what_a_numerical_minimization_finds():
    problem, τ, w = cached(0), 1.0, 0.8  # so much entropy that the minimum is well conditioned
    mdp, x = problem.environment, problem.initial_x
    reward, cost, regularizer = tables(problem, x)
    best = soft_return(mdp, soft_value_iteration(mdp, reward, τ)[0], reward, τ)

    def softmax(logits: np.ndarray) -> np.ndarray:
        weights = np.exp(logits.reshape(5, 3))
        return weights / weights.sum(-1, keepdims=True)

    def lagrangian(logits: np.ndarray) -> float:
        upper = soft_return(mdp, softmax(logits), cost, 0.0) + regularizer
        return upper + (best - soft_return(mdp, softmax(logits), reward, τ)) / w

    found = minimize(lagrangian, np.zeros(15), options={"gtol": 1e-7})

    objective = penalty_objective(problem, x, entropy_weight=τ, penalty=w)
    assert lagrangian(np.zeros(15)) - objective > 0.1
    assert objective == pytest.approx(found.fun, rel=1e-9)
    policy = penalized_policy(problem, x, entropy_weight=τ, penalty=w)
    np.testing.assert_allclose(policy, softmax(found.x), atol=1e-5)


# Closed forms


def test_the_bandit_has_closed_forms():
    problem = eqx.tree_at(lambda p: p.environment, cached(0), moves())  # state 0 forever
    x, features = problem.initial_x, [p.features[0] for p in (problem.reward, problem.upper.cost)]
    (r, *_), (c, *_), g = tables(problem, x)
    r_x = (1 - np.tanh(features[0] @ x) ** 2)[:, None] * features[0]
    c_x = np.cos(features[1] @ x)[:, None] * features[1]
    with jax.enable_x64(True):
        g_x = np.asarray(jax.grad(problem.upper.regularizer)(jnp.asarray(x)))

    def logsumexp(reward: np.ndarray) -> float:
        return TAU * np.log(np.exp(reward / TAU).sum())

    policy = np.exp((r - logsumexp(r)) / TAU)
    penalized = np.exp((r - W * c - logsumexp(r - W * c)) / TAU)
    np.testing.assert_allclose(lower_policy(problem, x, entropy_weight=TAU)[0], policy, rtol=1e-12)
    assert hyper_objective(problem, x, entropy_weight=TAU) == pytest.approx(policy @ c + g, rel=1e-13)
    covariance = (policy * c) @ r_x - (policy @ c) * (policy @ r_x)
    expected = policy @ c_x + covariance / TAU + g_x
    np.testing.assert_allclose(hyper_gradient(problem, x, entropy_weight=TAU), expected, rtol=1e-11)
    weights = {"entropy_weight": TAU, "penalty": W}
    gap = logsumexp(r) - logsumexp(r - W * c)
    assert penalty_objective(problem, x, **weights) == pytest.approx(gap / W + g, rel=1e-12)
    expected = penalized @ c_x + (policy - penalized) @ r_x / W + g_x
    np.testing.assert_allclose(penalty_gradient(problem, x, **weights), expected, rtol=1e-11)


def test_nothing_accrues_after_the_end_of_an_episode():
    # State 0: action 0 leads to state 1, the others end. State 1: all end. What stands in row 2, the end, is a trap.
    r = np.array([[1.0, 2.0, 1.5], [0.5, -0.3, 0.1], [100.0, 70.0, 50.0]])
    c = np.array([[0.2, -0.4, 0.9], [3.0, 1.0, -2.0], [50.0, -90.0, 20.0]])
    problem = problem_of_tables(moves([1, 2, 2], [2, 2, 2], terminal=2), r, c)
    x, γ, τ = np.zeros(3), 0.9, TAU

    # The optimal policy, backwards through the episode, which lasts two steps.
    value_1 = τ * np.log(np.exp(r[1] / τ).sum())
    policy_1 = np.exp((r[1] - value_1) / τ)
    action_values = r[0] + [γ * value_1, 0, 0]
    value_0 = τ * np.log(np.exp(action_values / τ).sum())
    policy_0 = np.exp((action_values - value_0) / τ)
    cost = policy_0 @ c[0] + γ * policy_0[0] * policy_1 @ c[1]

    policy = lower_policy(problem, x, entropy_weight=τ)
    np.testing.assert_allclose(policy[:3], [policy_0, policy_1, [1 / 3] * 3], rtol=1e-12)
    assert hyper_objective(problem, x, entropy_weight=τ) == pytest.approx((1 - γ) * cost + 0.2, rel=1e-13)

    # Another policy's return, forwards.
    other = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.9, 0.05, 0.05], [1, 0, 0], [0, 1, 0]])
    entropies = -(other[:3] * np.log(other[:3])).sum(-1)
    value = other[0] @ r[0] + τ * entropies[0] + γ * 0.7 * (other[1] @ r[1] + τ * entropies[1])
    residual = lower_residual(problem, x, other, entropy_weight=τ)
    assert residual == pytest.approx((1 - γ) * (value_0 - value), rel=1e-12)
    other_cost = other[0] @ c[0] + γ * 0.7 * other[1] @ c[1]
    assert upper_value(problem, x, other) == pytest.approx((1 - γ) * other_cost + 0.2, rel=1e-13)


# No entropy


def test_ties_are_broken_by_the_maximum_entropy_limit_by_hand():
    # From state 0 two ways are worth the same: to state 1, where all three actions tie, or to state 2, where one is
    # best. The first way keeps γ log 3 nats more to come, so it is taken 3^γ times as often; uniform would be 1/2.
    problem = problem_of_tables(
        moves([1, 2, 3], [3, 3, 3], [3, 3, 3], terminal=3),
        rewards=[[0, 0, 0], [1, 1, 1], [1, 0, 0]],
        costs=[[1, 0, 0]],
    )

    expected = 0.1 * 3**0.9 / (3**0.9 + 1) + 0.2
    assert hyper_objective(problem, np.zeros(3), entropy_weight=0) == pytest.approx(expected, rel=1e-13)
    assert hyper_objective(problem, np.zeros(3), entropy_weight=0.01) == pytest.approx(expected, rel=1e-13)


def test_no_entropy_in_two_states_by_hand():
    # Going to state 1 and staying there is best, though state 0 pays more at once; the leader pays 2 and 3 a step.
    problem = problem_of_tables(
        moves([0, 1, 0], [1, 0, 0]), rewards=[[0.4, 0, 0.3], [1, 1.05, 0]], costs=[[2, 2, 2], [3, 3, 3]]
    )

    objective = hyper_objective(problem, np.zeros(3), entropy_weight=0)

    assert objective == pytest.approx(0.1 * 2 + 0.9 * 3 + 0.2, rel=1e-13)


def test_with_ties_no_entropy_is_the_limit_of_little_entropy():
    rng = np.random.default_rng(12)
    rewards = np.tile([[0.0], [1.0], [0.0], [1.0], [0.0]], 3)  # by state alone: ways to the same place tie
    mdp = moves(*rng.integers(0, 5, size=(5, 3)).tolist())
    problem = problem_of_tables(mdp, rewards, rng.normal(size=(5, 3)))
    x = np.zeros(3)

    limit = hyper_objective(problem, x, entropy_weight=0)

    # Φ_τ − Φ decays like exp(−gap/τ): from one τ to the next it falls by many orders of magnitude.
    errors = [abs(hyper_objective(problem, x, entropy_weight=τ) - limit) for τ in (0.1, 0.05, 0.005)]
    assert errors[0] > 1e-5
    assert errors[1] < errors[0] / 10
    assert errors[2] < 1e-12
    answer = lower_policy(problem, x, entropy_weight=0.005)
    uniform_over_ties = (answer > 1e-6) / (answer > 1e-6).sum(-1, keepdims=True)
    assert abs(upper_value(problem, x, uniform_over_ties) - limit) > 1e-2


def test_without_ties_little_entropy_tends_to_none():
    problem = cached(0)
    limit = hyper_objective(problem, problem.initial_x, entropy_weight=0)

    errors = [abs(hyper_objective(problem, problem.initial_x, entropy_weight=τ) - limit) for τ in (0.2, 0.01, 0.001)]

    assert errors[0] > 1e-2
    assert errors[2] < 1e-12


# Large models, precision and transformations


@pytest.mark.slow
def test_the_sparse_branch_agrees_with_the_dense_one(monkeypatch):
    x = np.array([2.0, 6.5])
    gradient = hyper_gradient(goal_position(size=8), x, entropy_weight=0.1)

    monkeypatch.setattr(evaluation, "DENSE_LIMIT", 63)
    monkeypatch.setattr(evaluation, "_factor", None)
    problem = goal_position(size=8)  # new functions, so that nothing compiled before is used again

    np.testing.assert_allclose(hyper_gradient(problem, x, entropy_weight=0.1), gradient, rtol=1e-8)


@pytest.mark.long
@pytest.mark.variants(rest="long")
@pytest.mark.parametrize("sharing", SHARED)
def test_shared_tables_have_the_objectives_and_gradients_of_tables_written_out(sharing):
    x = np.array([0.4, -0.3, 0.8])
    ours, theirs = (dataclasses.replace(cached(0), environment=mdp) for mdp in shared_garnet(sharing, num_terminal=1))
    answers = [
        (
            hyper_objective(problem, x, entropy_weight=TAU),
            hyper_gradient(problem, x, entropy_weight=TAU),
            penalty_objective(problem, x, entropy_weight=TAU, penalty=W),
            lower_policy(problem, x, entropy_weight=TAU),
            hyper_objective(problem, x, entropy_weight=0.0),
        )
        for problem in (ours, theirs)
    ]
    for answer, expected in zip(*answers, strict=True):
        np.testing.assert_allclose(answer, expected, rtol=1e-12, atol=1e-12)


def test_a_batch_of_objectives_is_the_objectives_one_by_one():
    problem, xs = named("x is a dict"), {"shift": np.array([0.0, 1.0, -2.0]), "tilt": np.arange(6.0).reshape(3, 2)}

    objectives = hyper_objectives(problem, xs, entropy_weight=TAU)

    points = [{"shift": xs["shift"][i], "tilt": xs["tilt"][i]} for i in range(3)]
    expected = [hyper_objective(problem, x, entropy_weight=TAU) for x in points]
    np.testing.assert_allclose(objectives, expected, rtol=1e-13)
    with pytest.raises(ValueError, match=r"^entropy_weight must be finite and positive, got 0"):
        hyper_objectives(problem, xs, entropy_weight=0.0)
    xs["tilt"][1, 0] = np.nan
    with pytest.raises(OracleError, match=r"^hyper_objectives "):
        hyper_objectives(problem, xs, entropy_weight=TAU)


def test_a_living_compiled_function_in_single_precision_does_not_spoil_an_oracle():
    problem = random_problem(1, num_states=4)  # a shape of its own: JAX mixes up only what it compiles anew
    held = jax.jit(lambda: 1 * jnp.asarray(problem.reward.base))

    held()
    objective = hyper_objective(problem, problem.initial_x, entropy_weight=TAU)

    unspoilt = random_problem(1, num_states=4)
    assert objective == hyper_objective(unspoilt, problem.initial_x, entropy_weight=TAU)
    assert held().dtype == jnp.float32


def test_answers_are_in_double_precision_whatever_the_flag():
    problem, policy = cached(1), random_policy(1)
    x, weights = problem.initial_x, {"entropy_weight": TAU, "penalty": W}
    answers = []
    for enabled in (False, True):
        with jax.enable_x64(enabled):
            answers.append(
                [
                    *(f(problem, x, entropy_weight=TAU) for f in (hyper_objective, hyper_gradient, lower_policy)),
                    *(f(problem, x, **weights) for f in (penalty_objective, penalty_gradient, penalized_policy)),
                    lower_residual(problem, x, policy, entropy_weight=TAU),
                    upper_value(problem, x, policy),
                    hyper_objective(problem, x, entropy_weight=0),
                ]
            )

    for single, double in zip(*answers, strict=True):
        assert isinstance(single, np.ndarray | np.float64)
        assert single.dtype == np.float64
        np.testing.assert_array_equal(single, double)


def test_an_x_of_lists_or_jax_arrays_gives_the_same_answer():
    problem, x = cached(0), [0.5, 0.25, -1.5]
    expected = hyper_objective(problem, np.array(x), entropy_weight=TAU)

    assert hyper_objective(problem, x, entropy_weight=TAU) == expected
    assert hyper_objective(problem, tuple(x), entropy_weight=TAU) == expected
    assert hyper_objective(problem, jnp.array(x, jnp.float32), entropy_weight=TAU) == expected
    assert upper_value(problem, x=x, policy=random_policy(0)) == upper_value(problem, np.array(x), random_policy(0))


def test_inside_transformations_the_oracles_follow_the_ambient_precision():
    problem = cached(0)
    xs = np.random.default_rng(0).normal(size=(3, 3))

    def objective(x, entropy_weight):
        return hyper_objective(problem, x, entropy_weight=entropy_weight)

    objectives, gradients = jax.jit(jax.vmap(jax.value_and_grad(objective), in_axes=(0, None)))(xs, TAU)

    assert objectives.dtype == gradients.dtype == jnp.float32
    np.testing.assert_allclose(objectives, [objective(x, TAU) for x in xs], rtol=1e-4)
    expected = [hyper_gradient(problem, x, entropy_weight=TAU) for x in xs]
    np.testing.assert_allclose(gradients, expected, rtol=1e-3, atol=1e-4)


def test_entropy_weights_and_penalties_can_be_mapped_over():
    problem, weights = cached(1), np.array([0.5, 0.2])

    @jax.jit
    @jax.vmap
    def gradients(τ, w):
        return penalty_gradient(problem, problem.initial_x, entropy_weight=τ, penalty=w)

    expected = [penalty_gradient(problem, problem.initial_x, entropy_weight=τ, penalty=2 * τ) for τ in weights]
    with jax.enable_x64(True):
        np.testing.assert_allclose(gradients(weights, 2 * weights), expected, rtol=1e-11)


def test_automatic_derivatives_are_the_implicit_ones():
    problem = named("one terminal state")
    x = problem.initial_x

    def objective(x, entropy_weight):
        return hyper_objective(problem, x, entropy_weight=entropy_weight)

    @jax.jit
    def derivatives(x, entropy_weight):
        by_x, by_weight = jax.grad(objective, argnums=(0, 1))(x, entropy_weight)
        return by_x, by_weight, jax.jacfwd(jax.grad(objective))(x, entropy_weight)

    with jax.enable_x64(True):
        by_x, by_weight, hessian = derivatives(x, TAU)

    np.testing.assert_allclose(by_x, hyper_gradient(problem, x, entropy_weight=TAU), rtol=1e-11)
    assert_close_as_vectors(by_weight, central_differences(lambda τ: objective(x, float(τ)), np.array(TAU)), 1e-7)
    rows = [central_differences(lambda x, i=i: hyper_gradient(problem, x, entropy_weight=TAU)[i], x) for i in range(3)]
    assert_close_as_vectors(hessian, np.array(rows), 1e-8)


# Errors


@pytest.mark.parametrize(
    ("x", "got"),
    [(np.zeros(2), r"\(2,\)"), (np.zeros((3, 1)), r"\(3, 1\)"), (0.0, r"\(\)"), ({"x": np.zeros(3)}, None)],
)
def test_an_x_of_the_wrong_structure_is_refused(x, got):
    if got is None:
        problem, x, got = cached(6, num_terminal=1, as_dict=True), {"shift": 0.0}, r"\{'shift': \(\)\}"
        expected = r"\{'shift': \(\), 'tilt': \(2,\)\}"
    else:
        problem, expected = cached(0), r"\(3,\)"

    with pytest.raises(ValueError, match=rf"^x must have the structure and shapes of .*, {expected}, got {got}$"):
        hyper_objective(problem, x, entropy_weight=TAU)
    with pytest.raises(ValueError, match=rf"^x must have .* got {got}$"):
        upper_value(problem, x, random_policy(0))


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_impossible_weights_are_refused(value):
    problem, x = cached(0), cached(0).initial_x

    for oracle in (hyper_objective, hyper_gradient, lower_policy):
        with pytest.raises(ValueError, match=rf"^entropy_weight must be finite and positive, got {value}"):
            oracle(problem, x, entropy_weight=value)
    for oracle in (penalty_objective, penalty_gradient, penalized_policy):
        with pytest.raises(ValueError, match=rf"^penalty must be finite and positive, got {value}"):
            oracle(problem, x, entropy_weight=TAU, penalty=value)
    with pytest.raises(ValueError, match=rf"^penalty must be finite and positive, got {value}"):
        lower_residual(problem, x, random_policy(0), entropy_weight=TAU, penalty=value)


def test_weights_of_zero_are_refused_where_they_divide():
    problem, x = cached(0), cached(0).initial_x

    with pytest.raises(ValueError, match=r"^entropy_weight .*got 0"):
        hyper_gradient(problem, x, entropy_weight=0.0)
    with pytest.raises(ValueError, match=r"^penalty .*got 0"):
        penalty_gradient(problem, x, entropy_weight=TAU, penalty=0.0)


@pytest.mark.parametrize("table", ["reward", "cost"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_an_error_and_never_a_silent_nan(table, value):
    problem = cached(0)
    where = (lambda p: p.reward.base) if table == "reward" else (lambda p: p.upper.cost.base)
    broken = np.where(np.arange(15).reshape(5, 3) == 4, value, where(problem))
    problem, x = eqx.tree_at(where, problem, broken), problem.initial_x

    for entropy_weight in (TAU, 0):
        with pytest.raises(OracleError, match=r"did not converge or overflowed; likely causes: a reward or cost"):
            hyper_objective(problem, x, entropy_weight=entropy_weight)
    with pytest.raises(OracleError, match=r"^hyper_gradient "):
        hyper_gradient(problem, x, entropy_weight=TAU)
    with pytest.raises(OracleError, match=r"^penalty_gradient "):
        penalty_gradient(problem, x, entropy_weight=TAU, penalty=W)


def test_inside_transformations_an_error_is_nan():
    problem = eqx.tree_at(lambda p: p.reward.base, cached(0), np.full((5, 3), np.nan))

    assert np.isnan(jax.jit(lambda x: hyper_objective(problem, x, entropy_weight=TAU))(problem.initial_x))


@pytest.mark.parametrize("entropy_weight", [TAU, 0])
def test_what_does_not_converge_is_nan(entropy_weight, monkeypatch):
    monkeypatch.setattr(soft_mdp, "MAX_IMPROVEMENTS", 1)
    problem = cached(0)

    assert np.isnan(jax.jit(lambda x: hyper_objective(problem, x, entropy_weight=entropy_weight))(problem.initial_x))
