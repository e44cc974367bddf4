"""Statistics of a few seeds, against values worked out by hand."""

import numpy as np
import pytest

from bilevel_rl.runs.statistics import (
    bootstrap_interval,
    holm,
    interquartile_mean,
    paired_p_value,
    transitions_to_reach,
)


def test_the_interquartile_mean_is_that_of_the_middle_half():
    values = np.array([1000.0, 3, 1, 5, 2, 6, 4, 7])
    assert interquartile_mean(values) == pytest.approx((3 + 4 + 5 + 6) / 4)
    np.testing.assert_allclose(interquartile_mean(np.stack([values, -values], axis=1)), [4.5, -4.5])


def test_the_interquartile_mean_bears_as_many_infinite_values_as_it_leaves_out():
    assert interquartile_mean(np.array([1.0, 2, 3, 4, 5, 6, np.inf, np.inf])) == pytest.approx(4.5)
    assert interquartile_mean(np.array([1.0, 2, 3, 4, 5, np.inf, np.inf, np.inf])) == np.inf


@pytest.mark.parametrize(("confidence", "high"), [(0.95, 1.0), (0.8, 0.5)])
def test_the_bootstrap_interval_has_the_percentiles_of_all_resamples(confidence, high):
    # k ones in a resample of (0, 0, 0, 1) give the mean 0 (k < 2), 1/2 (k = 2) or 1 (k > 2), for k ~ Bin(4, 1/4):
    # P(k > 2) = 13/256 = 0.051 and P(k > 1) = 67/256 = 0.26.
    low_bound, high_bound = bootstrap_interval(np.array([0.0, 1.0, 0.0, 0.0]), confidence)
    assert (low_bound, high_bound) == (0.0, high)


def test_bootstrap_intervals_of_a_curve_are_those_of_its_points():
    values = np.random.default_rng(0).normal(size=(9, 3))
    low, high = bootstrap_interval(values)
    for point in range(3):
        assert (low[point], high[point]) == bootstrap_interval(values[:, point])
    assert np.all(low < interquartile_mean(values))
    assert np.all(interquartile_mean(values) < high)


def test_a_single_seed_has_no_interval():
    assert np.isnan(bootstrap_interval(np.array([1.0]))).all()


@pytest.mark.parametrize(
    ("differences", "p_value"),
    [
        ((1, 2, 3), 2 / 8),  # only all signs equal are as extreme
        ((1, -1, 3), 6 / 8),  # sums ±5, ±3 twice, ±1; observed 3
        ((0, 0, 0), 1.0),
        ((5,), 1.0),
    ],
)
def test_the_paired_test_counts_the_flips_that_are_as_extreme(differences, p_value):
    others = np.array([10.0, 20.0, 30.0])[: len(differences)]
    assert paired_p_value(others + differences, others) == pytest.approx(p_value)
    assert paired_p_value(others, others + differences) == pytest.approx(p_value)


def test_the_paired_test_of_many_seeds_is_the_same_each_time():
    rng = np.random.default_rng(1)
    ours, others = rng.normal(size=(2, 20))
    assert paired_p_value(ours, others) == paired_p_value(ours, others) > 0.05
    assert paired_p_value(ours, ours + 1 + 0.1 * others) < 0.001


def test_holm_multiplies_by_the_number_of_tests_left_and_keeps_the_order():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.9})
    assert adjusted == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.9})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_a_gap_is_reached_where_it_stays_below_for_good():
    transitions = np.array([0, 10, 20, 30])
    gaps = np.array(
        [
            [1.0, 0.04, 0.01, 0.02],  # from 10 on
            [2.0, 0.09, 0.2, 0.1],  # above again at 20: from 30 on, where it is exactly at 5 %
            [1.0, 0.01, 0.01, 0.06],  # not at the end
            [1.0, 0.9, 0.8, -0.1],  # below the optimum counts
        ]
    )
    np.testing.assert_array_equal(transitions_to_reach(transitions, gaps, 0.05), [10, 30, np.inf, 30])
