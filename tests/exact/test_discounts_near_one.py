"""Oracles at long horizons, where values are of size 1/(1−γ) and the system's condition is too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import BilevelProblem, OccupancyCost, TabularMDP, exact
from bilevel_rl.exact import evaluation
from bilevel_rl.exact.soft_mdp import soft_optimal
from garnets import UPPERS, random_problem, upper_objective

τ = 0.3
SLOPE, OFFSET = np.array([[1.0, -0.5], [0.2, 0.7], [-1.0, 0.4]]), np.array([[0.1, 0.3], [0.0, -0.2], [0.5, 0.2]])
COST = np.array([[0.4, 1.0], [-0.3, 0.2], [0.9, -0.8]])
NEXT, START = np.array([0.5, 0.2, 0.3]), np.array([0.1, 0.6, 0.3])
DISCOUNTS = (0.999, 0.9999, 0.99999, 0.999999)


def memoryless(discount):
    """Where the next state is drawn from NEXT whatever is done, every state is a bandit."""
    return BilevelProblem(
        TabularMDP.from_dense(np.broadcast_to(NEXT, (3, 2, 3)), initial=START, discount=discount),
        reward=lambda x, s, a: (x * jnp.asarray(SLOPE) + jnp.asarray(OFFSET))[s, a],
        upper=OccupancyCost(lambda x, s, a: jnp.asarray(COST)[s, a]),
        initial_x=0.5,
    )


@pytest.mark.variants(rest="long")
@pytest.mark.parametrize("discount", DISCOUNTS)
def test_bandits_have_closed_forms(discount):
    x, problem = 0.4, memoryless(discount)
    weights = np.exp((x * SLOPE + OFFSET) / τ)
    policy = weights / weights.sum(1, keepdims=True)
    visits = (1 - discount) * START + discount * NEXT
    covariance = (policy * COST * SLOPE).sum(1) - (policy * COST).sum(1) * (policy * SLOPE).sum(1)

    np.testing.assert_allclose(exact.lower_policy(problem, x, entropy_weight=τ), policy, rtol=1e-8)
    np.testing.assert_allclose(
        exact.hyper_objective(problem, x, entropy_weight=τ), visits @ (policy * COST).sum(1), rtol=1e-8
    )
    np.testing.assert_allclose(exact.hyper_gradient(problem, x, entropy_weight=τ), visits @ covariance / τ, rtol=1e-8)


@pytest.mark.variants
@pytest.mark.parametrize("kind", UPPERS)
def test_gradients_are_slopes_of_the_objective(kind):
    problem = random_problem(3, upper=upper_objective(kind), discount=0.99999)
    x, step = problem.initial_x, 1e-4
    gradient = exact.hyper_gradient(problem, x, entropy_weight=τ)
    slopes = [
        np.diff([exact.hyper_objective(problem, x + h * unit, entropy_weight=τ) for h in (-step, step)])[0] / (2 * step)
        for unit in np.eye(len(x))
    ]
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5, atol=1e-6)
    if kind != "policy":  # Its fixed-point iteration does not settle at such a discount, and says so.
        assert np.all(np.isfinite(exact.penalized_policy(problem, x, entropy_weight=τ, penalty=0.3)))


def test_a_long_way_to_a_reward_is_found():
    """Walks of 150 cells to the one place that pays, which a policy iteration finds a few cells at a time."""
    cells, moves = np.arange(150), np.array([-1, 0, 1])
    mdp = TabularMDP.from_successors(
        np.clip(cells[:, None, None] + moves[:, None], 0, 149),
        np.ones((150, 3, 1)),
        initial=cells == 0,
        discount=0.9999,
    )
    with jax.enable_x64(True):
        reward = jnp.zeros((150, 3)).at[149, 1].set(1.0).at[0, 1].set(0.3)
        solution = soft_optimal(mdp, reward, 0.01)
        backup = 0.01 * jax.nn.logsumexp(solution.action_values / 0.01, axis=1)
    np.testing.assert_allclose(solution.values, backup, rtol=1e-10)
    assert np.all(np.argmax(solution.policy[1:149], axis=1) == 2)


def test_sparse_solves_converge_too(monkeypatch):
    problem, x = random_problem(5, discount=0.99999), random_problem(5).initial_x
    dense = exact.hyper_gradient(problem, x, entropy_weight=τ)
    monkeypatch.setattr(evaluation, "DENSE_LIMIT", 0)
    other = random_problem(5, discount=0.99999 - 1e-12)  # which is compiled anew
    np.testing.assert_allclose(exact.hyper_gradient(other, x, entropy_weight=τ), dense, rtol=1e-5)


def test_ties_are_told_from_small_differences():
    """At γ = 0.99999 a reward that is better by 10⁻⁶ is better, and equal ones are equal."""
    better, equal = (
        BilevelProblem(
            TabularMDP.from_dense(np.ones((1, 3, 1)), initial=[1.0], discount=0.99999),
            reward=lambda x, s, a, gap=gap: x + jnp.where(a == 1, gap, 0.0) - (a == 2),
            upper=OccupancyCost(lambda x, s, a: 1.0 * (a == 1)),
            initial_x=0.5,
        )
        for gap in (1e-6, 0.0)
    )
    assert exact.hyper_objective(better, 0.5, entropy_weight=0) == pytest.approx(1.0)
    assert exact.hyper_objective(equal, 0.5, entropy_weight=0) == pytest.approx(0.5)
