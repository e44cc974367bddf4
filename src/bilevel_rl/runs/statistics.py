"""Statistics of a few seeds: interquartile means, bootstrap intervals, paired tests, rates."""

from collections.abc import Mapping
from functools import partial

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

TRIMMED = 0.25
"""Share of the values that the interquartile mean leaves out at each end."""

NUM_RESAMPLES = 9_999

NUM_REFITS = 1_000
"""Bootstrap samples of the interval of a slope."""


def interquartile_mean(values: Float[np.ndarray, "seeds *rest"]) -> Float[np.ndarray, "*rest"]:
    """Mean of the middle half of the seeds, ⌊n / 4⌋ of n left out at each end; infinite values are allowed."""
    return np.asarray(stats.trim_mean(values, TRIMMED, axis=0))


def bootstrap_interval(
    values: Float[np.ndarray, "seeds *rest"], confidence: float = 0.95
) -> tuple[Float[np.ndarray, "*rest"], Float[np.ndarray, "*rest"]]:
    """Percentile bootstrap interval of the interquartile mean; always the same resamples. NaN for a single seed."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    interval = stats.bootstrap(
        (values,),
        partial(stats.trim_mean, proportiontocut=TRIMMED),
        n_resamples=NUM_RESAMPLES,
        batch=999,
        vectorized=True,
        axis=0,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return np.asarray(interval.low), np.asarray(interval.high)


def mean_and_error(values: Float[np.ndarray, " seeds"]) -> tuple[float, float]:
    """Mean over the seeds and its standard error; 0 for a single seed."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean()), float(error)


def paired_p_value(ours: Float[np.ndarray, " seeds"], others: Float[np.ndarray, " seeds"]) -> float:
    """Two-sided permutation test that the mean of the seeds' differences is 0: signs of the differences are flipped.

    Exact for up to 13 seeds, from always the same random flips above. The smallest value is 2 / 2ⁿ for n seeds; 1 for a
    single seed.
    """
    if len(ours) < 2:
        return 1.0
    test = stats.permutation_test(
        (ours, others),
        lambda ours, others, axis: np.mean(ours - others, axis=axis),
        permutation_type="samples",
        n_resamples=NUM_RESAMPLES,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values that hold jointly: the i-th smallest of m is multiplied by m − i + 1, and their order is kept."""
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return adjusted


def transitions_to_reach(
    transitions: Int[np.ndarray, " points"], gaps: Float[np.ndarray, "seeds points"], share: float
) -> Float[np.ndarray, " seeds"]:
    """Transitions after which a seed's gap stays at or below a share of its initial one, read at log points.

    Infinite where the last gap is larger.
    """
    is_below = gaps <= share * gaps[:, :1]
    stays_below = np.logical_and.accumulate(is_below[:, ::-1], axis=1)[:, ::-1]
    first = stays_below.argmax(axis=1)
    return np.where(stays_below.any(axis=1), transitions[first].astype(float), np.inf)


def fit_rate(
    transitions: Int[np.ndarray, " points"], squared_norms: Float[np.ndarray, "seeds points"], *, fitted_from: float
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, ""]]:
    """Slope and intercept of log min_{j≤k} mean ‖∇Φ(x_j)‖² against log transitions, by least squares.

    The mean is over the seeds, because the theory bounds an expectation: the smallest norm of a single seed is that of
    a lucky moment of its noise. The slope comes with its bootstrap 95 % interval over the seeds.

    Args:
        transitions: of every log point.
        squared_norms: of every seed.
        fitted_from: transitions of the first point that is fitted.
    """
    is_fitted = transitions >= fitted_from

    def fit(squared_norms: np.ndarray) -> np.ndarray:
        smallest = np.minimum.accumulate(squared_norms.mean(0))[is_fitted]
        return np.polyfit(np.log(transitions[is_fitted]), np.log(smallest), deg=1)

    slope, intercept = fit(squared_norms)
    rng = np.random.default_rng(0)
    num_seeds = len(squared_norms)
    resampled = [fit(squared_norms[rng.integers(num_seeds, size=num_seeds)])[0] for _ in range(NUM_REFITS)]
    return np.array([slope, *np.percentile(resampled, [2.5, 97.5])]), np.array(intercept)
