"""Means, paired differences and significance of the runs of a benchmark."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

# A difference is called significant at this level, over all methods of a table together.
LEVEL = 0.05
_RESAMPLES = 10_000
_NO_SPREAD = 1e-9


class Summary(NamedTuple):
    """Mean, standard deviation (n - 1; NaN for n = 1) and number of values."""

    mean: float
    deviation: float
    n: int


class Difference(NamedTuple):
    """Mean difference to a baseline over runs with the same seed.

    Attributes:
        mean: Mean of the differences of runs with the same seed.
        low: Lower end of the 95% bootstrap interval.
        high: Upper end.
        p: Of the paired t-test, two-sided; where all differences are equal, of the sign test.
        n: Number of pairs.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int


def summarize(values: Sequence[float]) -> Summary:
    """Compute mean and standard deviation."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return Summary(float(np.mean(values)), deviation, len(values))


def paired(ours: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Compare two methods over the seeds that both have.

    Args:
        ours: Seed to value.
        baseline: Seed to value.

    Returns:
        The difference; None with fewer than two pairs.
    """
    differences = differences_of(ours, baseline)
    if differences.size < 2:
        return None
    mean, p = float(differences.mean()), p_value(differences)
    if np.ptp(differences) < _NO_SPREAD:
        return Difference(mean, mean, mean, p, differences.size)
    interval = stats.bootstrap(
        (differences,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=0
    ).confidence_interval
    return Difference(mean, float(interval.low), float(interval.high), p, differences.size)


def differences_of(ours: Mapping[int, float], baseline: Mapping[int, float]) -> NDArray[np.float64]:
    """Subtract the values of the seeds that both have."""
    return np.array([ours[seed] - baseline[seed] for seed in sorted(ours.keys() & baseline.keys())])


def p_value(differences: NDArray[np.float64]) -> float:
    """Test whether two or more paired differences have mean zero.

    Args:
        differences: One of each pair.

    Returns:
        The p-value of the paired t-test, two-sided; where all differences are equal, as accuracies
        on few images may be by chance, of the sign test, because a t-test would be certain.
    """
    if np.ptp(differences) < _NO_SPREAD:
        return 2.0 ** (1 - differences.size) if abs(differences.mean()) > _NO_SPREAD else 1.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for many comparisons by Holm's method.

    Args:
        p_values: One of each comparison.

    Returns:
        Adjusted, in the same order: reject where below the level, and the chance of even one false
        rejection is below it too.
    """
    order = np.argsort(p_values)
    scaled = np.array(p_values)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(p) for p in adjusted]


def verdict(difference: Difference, adjusted_p: float) -> str:
    """Say in words whether a difference is significant.

    A bootstrap over a handful of seeds is too sure of itself, so the t-test has to agree with it.
    """
    if adjusted_p >= LEVEL or difference.low <= 0 <= difference.high:
        return "not significant"
    return "better" if difference.mean > 0 else "worse"
