"""Means, paired differences and significance of the runs of a benchmark."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

# A difference is called significant at this level, over all methods of a table together.
LEVEL = 0.05
_RESAMPLES = 10_000


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
    seeds = sorted(ours.keys() & baseline.keys())
    if len(seeds) < 2:
        return None
    differences = np.array([ours[seed] - baseline[seed] for seed in seeds])
    mean = float(differences.mean())
    if np.ptp(differences) < 1e-9:
        # No spread, as accuracies on few images have by chance: a t-test would be certain.
        p = 2.0 ** (1 - len(seeds)) if abs(mean) > 1e-9 else 1.0
        return Difference(mean, mean, mean, p, len(seeds))
    interval = stats.bootstrap(
        (differences,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=0
    ).confidence_interval
    p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return Difference(mean, float(interval.low), float(interval.high), p, len(seeds))


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
