"""Intervals from logs: laws of models and of estimates in closed form on two states, shrinking, refits, bad input."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import bilevel_rl as brl
from bilevel_rl.exact import Confidence

DISCOUNT = 0.9


def two_state_log(stayed: int, left: int) -> brl.TransitionLog:
    """One action. State 0 leads to itself or to 1, which leads to itself."""
    states, reached = [0] * (stayed + left) + [1], [0] * stayed + [1] * left + [1]
    return brl.TransitionLog.from_arrays(states, [0] * len(states), reached)


def time_spent(leaving):
    """d(0) from state 0, of which a step leads away with this chance."""
    return (1 - DISCOUNT) / (1 - DISCOUNT * (1 - np.asarray(leaving)))


def chance_of_leaving(spent):
    return ((1 - DISCOUNT) / np.asarray(spent) - 1 + DISCOUNT) / DISCOUNT


def two_state_problem(log: brl.TransitionLog) -> brl.BilevelProblem:
    """Φ(x) = x d(0) + x²/2, whose optimum is −d(0)."""
    return brl.BilevelProblem(
        log.mdp(discount=DISCOUNT, initial=[1, 0]),
        reward=lambda x, s, a: 0.0 * x,
        upper=brl.OccupancyCost(lambda x, s, a: x * (s == 0), regularizer=lambda x: x**2 / 2),
        initial_x=0.0,
    )


def phi(log, x=1.0, **options) -> Confidence:
    return brl.exact.confidence(two_state_problem(log), log, x, entropy_weight=0.1, **options)


def test_models_and_estimates_follow_their_laws():
    log, N = two_state_log(14, 6), 20
    found = phi(log, num_models=1_000)
    assert found.estimate == pytest.approx(time_spent(0.3) + 0.5)
    leaving = chance_of_leaving(found.samples - 0.5)
    half = log.counts.fitted_prior() / 2
    assert stats.kstest(leaving, stats.beta(6 + half, 14 + half).cdf).pvalue > 0.01
    counts = chance_of_leaving(found.samples + found.errors - 0.5) * N
    np.testing.assert_allclose(counts, counts.round(), atol=1e-8)
    # Of each model a binomial number of 20: mean 0 and variance 1 when standardized, within five standard errors.
    standardized = (counts - N * leaving) / np.sqrt(N * leaving * (1 - leaving))
    assert abs(standardized.mean()) < 5 / np.sqrt(1_000)
    assert abs(standardized.var() - 1) < 5 * np.sqrt(3 / 1_000)


def test_a_bootstrap_draws_the_shares_of_the_log():
    found = phi(two_state_log(14, 6), num_models=1_000, method="bootstrap")
    counts = chance_of_leaving(found.samples - 0.5) * 20
    np.testing.assert_allclose(counts, counts.round(), atol=1e-8)
    assert abs(counts.mean() - 6) < 5 * np.sqrt(20 * 0.3 * 0.7 / 1_000)
    assert found.errors is None


def test_intervals_shrink_as_the_root_of_the_log():
    widths = []
    for length in (1, 4, 16):
        low, high = phi(two_state_log(70 * length, 30 * length), num_models=1_000).interval()
        widths.append(high - low)
    # Quantiles of 1,000 draws scatter by some 4 %.
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.1)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.1)


def test_an_interval_is_half_way_between_its_two_parts():
    samples = np.linspace(0.0, 10.0, 101)
    errors = np.linspace(-2.0, 1.0, 101)
    found = Confidence(np.float64(4.0), samples, errors)
    # Quantiles: 1 to 9. Estimate less errors: 4 − 0.7 to 4 + 1.7, with errors from −1.7 (20th) to 0.7.
    np.testing.assert_allclose(found.interval(0.8), ((1 + 3.3) / 2, (9 + 5.7) / 2))
    np.testing.assert_allclose(Confidence(found.estimate, samples).interval(0.8), (1, 9))
    assert str(found) == "4 (90 %: 1.825 to 7.675)"
    with pytest.raises(ValueError, match="level must"):
        found.interval(1.0)


@pytest.mark.slow
def test_the_optimum_and_the_regret_of_every_model():
    log = two_state_log(14, 6)
    problem = two_state_problem(log)
    found = brl.exact.optimum_confidence(problem, log, 0.25, entropy_weight=0.1, num_models=4, seed=3)
    spent = phi(log, num_models=4, seed=3).samples - 0.5
    assert found.x.samples.shape == (4, 1)
    np.testing.assert_allclose(found.x.samples[:, 0], -spent, atol=1e-6)
    np.testing.assert_allclose(found.objective.samples, -(spent**2) / 2, atol=1e-9)
    np.testing.assert_allclose(found.regret.samples, (0.25 + spent) ** 2 / 2, atol=1e-9)
    assert found.regret.estimate == pytest.approx((0.25 + time_spent(0.3)) ** 2 / 2)


@pytest.mark.slow
def test_what_else_comes_from_the_log_is_fitted_to_drawn_counts():
    log = brl.TransitionLog.from_arrays([0] * 30 + [1] * 10, [0] * 20 + [1] * 10 + [0] * 10, [0, 1] * 20)
    problem = brl.BilevelProblem(
        log.mdp(discount=0.5), lambda x, s, a: x * s, brl.OccupancyCost(lambda x, s, a: 1.0 * s), 0.0
    )
    tried = []

    def refit(model, visits):
        tried.append(visits)
        return model

    plain = brl.exact.confidence(problem, log, 0.5, entropy_weight=0.1, num_models=100)
    fitted = brl.exact.confidence(problem, log, 0.5, entropy_weight=0.1, num_models=100, refit=refit)
    np.testing.assert_allclose(fitted.estimate, plain.estimate)
    np.testing.assert_array_equal(tried[0], [[20, 10], [10, 0]])
    drawn, seen = np.array(tried[1::2]), np.array(tried[2::2])
    # Gamma laws of the counts, of which the unseen pair has none; logs drawn from them are as long as this one.
    spread = 5 * np.sqrt(np.array([[20, 10], [10, 0]]) / 100)
    assert np.all(np.abs(drawn.mean(0) - tried[0]) <= spread)
    assert np.all(np.abs(drawn.var(0) - tried[0]) <= 10 * np.array([[20, 10], [10, 0]]) / np.sqrt(100) + 1e-12)
    np.testing.assert_array_equal(seen.sum((1, 2)), 40)
    np.testing.assert_array_equal(seen, seen.round())


@pytest.mark.slow
def test_untried_pairs_are_uncertain_unless_they_lead_to_the_trap():
    log = brl.TransitionLog.from_arrays(
        [0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 2, 2], terminated=[0, 0, 1, 1], all_actions=2
    )
    cost = brl.OccupancyCost(lambda x, s, a: 1.0 * (s == 1))

    def both_actions(x, s, a):
        return 0.0 * x

    hopeful = brl.BilevelProblem(log.mdp(discount=0.9, initial=[1, 0, 0]), both_actions, cost, 0.0)
    found = brl.exact.confidence(hopeful, log, 0.0, entropy_weight=1.0, num_models=20)
    assert np.ptp(found.samples) > 0.3
    of_trap = brl.OccupancyCost(lambda x, s, a: 1.0 * (s == 3))
    mdp = log.mdp(discount=0.9, initial=[1, 0, 0], unseen="pessimistic")
    wary = brl.BilevelProblem(mdp, log.with_trap(lambda x, s, a: -1.0 * (s == 1)), of_trap, 0.0)
    found = brl.exact.confidence(wary, log, 0.0, entropy_weight=1.0, num_models=20)
    assert found.samples.min() > 0.05  # Under every model, those who act at random get there.


def test_a_log_that_does_not_fit_is_refused():
    log = two_state_log(3, 3)
    other = brl.TransitionLog.from_arrays([0, 1, 3], [0, 0, 0], [1, 0, 0])
    with pytest.raises(ValueError, match="log must have the states and actions of the problem, 2 and 1, got 4 and 1"):
        brl.exact.confidence(two_state_problem(log), other, 1.0, entropy_weight=0.1)
    driven = brl.BilevelProblem(
        log.mdp(discount=0.9),
        lambda x, s, a: 0.0 * x,
        brl.OccupancyCost(lambda x, s, a: 1.0 * s),
        0.0,
        outcome_probabilities=lambda x, s, a: jnp.array([0.5, 0.5]),
    )
    with pytest.raises(ValueError, match="problem must have dynamics that x leaves alone"):
        brl.exact.confidence(driven, log, 1.0, entropy_weight=0.1)
    ended = brl.TransitionLog.from_arrays([0, 0], [0, 0], [0, 1], terminated=[False, True])
    with pytest.raises(ValueError, match=r"the same states that they end an episode as the problem, \[\], got \[1\]"):
        brl.exact.confidence(two_state_problem(log), ended, 1.0, entropy_weight=0.1)
    with pytest.raises(ValueError, match="num_models must be at least 2, got 1"):
        phi(log, num_models=1)
    with pytest.raises(ValueError, match="entropy_weight must be finite and positive"):
        brl.exact.confidence(two_state_problem(log), log, 1.0, entropy_weight=-1.0)


@pytest.mark.long
def test_nine_intervals_of_ten_hold_the_truth():
    rng, problem = np.random.default_rng(4), two_state_problem(two_state_log(1, 1))
    for length in (10, 40):
        held = 0
        for left in rng.binomial(length, 0.3, size=200):
            log = two_state_log(length - left, left)
            low, high = brl.exact.confidence(problem, log, 1.0, entropy_weight=0.1, num_models=100).interval()
            held += low <= time_spent(0.3) + 0.5 <= high
        assert 0.84 <= held / 200 <= 0.96
