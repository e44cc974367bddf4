import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import Followers, exact
from bilevel_rl.problems import TaxDesign
from driven_steps import check_mean_of_driven_step

SMALL = TaxDesign(
    preferences=((0.6, 0.3), (0.1, 0.7)),
    weights=(0.25, 0.75),
    hours=(1.0, 4.0),
    spending=(0.5, 2.0),
    num_savings=4,
    savings=(-2.0, 4.0),
    noise=1.5,
    wage=3.0,
    effort=0.2,
    debt=2.5,
    consumption=7.0,
    revenue=4.0,
    largest=0.8,
)
X = np.array([0.1, 0.25, 0.6])


@pytest.fixture(scope="module")
def problem():
    return SMALL.problem()


def normal(value):
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))


def test_a_household_earns_and_the_state_gets_what_the_page_says(problem):
    # Group 1 with savings 2, number 2 of −2, 0, 2, 4; works 4 hours, spends 0.5 and 2: action 1 · 4 + 1.
    state, action = 4 + 2, 5
    got = np.array([0.5 / 1.25, 2 / 1.6])
    reward = np.log(1 + 2 / 20) - 0.2 * 16 + got[0] ** 0.1 * got[1] ** 0.7
    assert float(problem.rewards(X, state, action)) == pytest.approx(reward, rel=1e-5)
    taxes = 0.25 * got[0] + 0.6 * got[1] + 0.1 * 3 * 4
    welfare = 7 * got.mean() / 2 + 4 * np.log(1 + taxes)
    assert float(problem.costs(X, state, action)) == pytest.approx(-welfare, rel=1e-5)


def test_debts_count_for_both(problem):
    # Group 0 with savings −2; works 1 hour, spends 2 and 0.5: action 2.
    got = np.array([2 / 1.25, 0.5 / 1.6])
    reward = 2.5 * -2 - 0.2 + got[0] ** 0.6 * got[1] ** 0.3
    assert float(problem.rewards(X, 0, 2)) == pytest.approx(reward, rel=1e-5)
    welfare = 2.5 * -2 + 7 * got.mean() / 2 + 4 * np.log(1 + 0.25 * got[0] + 0.6 * got[1] + 0.1 * 3)
    assert float(problem.costs(X, 0, 2)) == pytest.approx(-welfare, rel=1e-5)


def test_the_tax_on_income_moves_savings(problem):
    # From savings 2: 2 + 0.9 · 3 · 4 − 2.5 is far above; from −2 with one hour and 1 spent: −0.3.
    expected = -2 + 0.9 * 3 - 1.0
    cuts = [normal((edge - expected) / 1.5) for edge in (-1, 1, 3)]
    found = problem.outcome_probabilities(jnp.asarray(X), jnp.int32(0), jnp.int32(0))
    np.testing.assert_allclose(found, np.diff([0, *cuts, 1]), atol=1e-6)
    law = np.asarray(problem.outcome_probabilities(jnp.asarray(X), jnp.int32(6), jnp.int32(5)))
    assert law[-1] > 0.99


def test_groups_are_drawn_at_the_start_and_keep_to_themselves(problem):
    mdp = problem.environment
    np.testing.assert_allclose(mdp.initial.reshape(2, 4).sum(1), [0.25, 0.75])
    np.testing.assert_allclose(mdp.initial[:4] * 3, mdp.initial[4:])
    assert mdp.successors[:4].max() == 3
    assert mdp.successors[4:].min() == 4
    assert mdp.initial[1] / 0.25 == pytest.approx(normal(1 / math.sqrt(2)) - normal(-1 / math.sqrt(2)), abs=1e-9)


def test_bounds_hold(problem):
    states, actions = np.arange(8)[:, None], np.arange(8)
    for x in (np.zeros(3), np.full(3, 0.8), X):
        assert np.abs(problem.rewards(x, states, actions)).max() <= problem.reward_bound
        assert np.abs(problem.costs(x, states, actions)).max() <= problem.upper.step_cost_bound


def test_the_exact_gradient_is_the_central_difference(problem):
    weights = {"entropy_weight": 0.3}
    found, h = exact.hyper_gradient(problem, X, **weights), 1e-3

    def at(move):
        return float(exact.hyper_objective(problem, X + move, **weights))

    expected = [
        (8 * (at(h * e) - at(-h * e)) - (at(2 * h * e) - at(-2 * h * e))) / (12 * h)  # Of fourth order in h.
        for e in np.eye(3)
    ]
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)


@pytest.mark.slow
def test_the_mean_of_the_sampled_upper_step_is_the_first_order_gradient(problem):
    check_mean_of_driven_step(problem, X, Followers())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preferences": ((0.6,), (0.1, 0.7))}, "preferences"),
        ({"preferences": ()}, "at least one"),
        ({"weights": (1.0,)}, r"weights must have shape \(2,\)"),
        ({"weights": (0.5, 0.6)}, "weights must be positive and sum to 1"),
        ({"num_savings": 1}, "num_savings must be at least 2"),
        ({"savings": (3.0, 1.0)}, "savings must be the lowest and the highest"),
        ({"spending": (0.0, 1.0)}, "spending must be positive"),
        ({"noise": 0.0}, "noise must be"),
        ({"revenue": -1.0}, "revenue must be"),
        ({"initial": 0.9}, r"initial must lie in \[0, 0.8\]"),
        ({"discount": 1.0}, "discount"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **options).problem()
