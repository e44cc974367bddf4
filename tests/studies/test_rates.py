"""Fitted rates: known power laws, and intervals that hold the truth."""

import numpy as np
import pytest

from bilevel_rl import exact
from bilevel_rl.runs.statistics import fit_rate
from bilevel_rl.studies.rates import Rates
from garnets import random_problem

TRANSITIONS = np.linspace(1e4, 1e6, 100).astype(int)


def test_the_slope_of_a_power_law_is_its_exponent():
    norms = 3.0 * TRANSITIONS[None] ** -0.4 * np.array([[1.0], [0.2]])
    (slope, low, high), intercept = fit_rate(TRANSITIONS, norms, fitted_from=1e5)
    np.testing.assert_allclose([slope, low, high], -0.4, rtol=1e-9)
    np.testing.assert_allclose(np.exp(intercept), 3.0 * 0.6, rtol=1e-9)


def test_only_the_points_from_the_given_one_on_are_fitted():
    norms = np.where(TRANSITIONS < 1e5, 1e5**1.5 * TRANSITIONS**-2.0, TRANSITIONS**-0.5)[None]
    assert fit_rate(TRANSITIONS, norms, fitted_from=1e5)[0][0] == pytest.approx(-0.5)
    assert fit_rate(TRANSITIONS, norms, fitted_from=1e4)[0][0] < -0.6


@pytest.mark.slow
def test_a_noise_floor_has_slope_zero_however_lucky_single_seeds_are():
    rng = np.random.default_rng(0)
    norms = rng.exponential(size=(1_000, len(TRANSITIONS)))
    (slope, low, high), _ = fit_rate(TRANSITIONS, norms, fitted_from=1e5)
    assert -0.1 < low <= slope <= high <= 0.0
    of_single_seeds = [fit_rate(TRANSITIONS, one[None], fitted_from=1e5)[0][0] for one in norms[:50]]
    assert np.mean(of_single_seeds) < -0.5  # why the mean over the seeds is taken first


def test_the_interval_holds_the_exponent_of_noisy_power_laws():
    covered = 0
    for trial in range(20):
        rng = np.random.default_rng([1, trial])
        of_seeds = -0.3 + 0.1 * rng.normal(size=(16, 1))
        norms = np.exp(of_seeds * np.log(TRANSITIONS / 1e6) + 0.01 * rng.normal(size=(16, len(TRANSITIONS))))
        slope, low, high = fit_rate(TRANSITIONS, norms, fitted_from=1e5)[0]
        assert low <= slope <= high
        covered += low < -0.3 < high
    assert covered >= 15


@pytest.mark.slow
def test_gradients_of_a_batch_are_those_of_its_points():
    problem = random_problem(seed=4, as_dict=True)
    xs = {"shift": np.array([0.1, -1.0]), "tilt": np.array([[0.2, 0.3], [1.0, -0.5]])}
    gradients = exact.hyper_gradients(problem, xs, entropy_weight=0.2)
    for i in range(2):
        alone = exact.hyper_gradient(problem, {name: leaf[i] for name, leaf in xs.items()}, entropy_weight=0.2)
        for name in xs:
            np.testing.assert_allclose(gradients[name][i], alone[name], rtol=1e-10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fit_from": 1.0}, "fit_from must lie in .0, 1., got 1.0"),
        ({"num_inner_steps": 3}, "must be multiples of num_inner_steps, 3"),
        ({"num_inner_steps": 0}, "num_inner_steps must be at least 1, got 0"),
    ],
)
def test_bad_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Rates(**changes).check()
