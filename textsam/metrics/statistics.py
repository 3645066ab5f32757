"""Figures over many cases: spread, bootstrap intervals, and paired tests of two methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from textsam.errors import DataError

__all__ = [
    "Interval",
    "PairedComparison",
    "TestResult",
    "bootstrap_mean",
    "compare_paired",
    "mean_std",
    "paired_t_test",
    "wilcoxon_signed_rank",
]

RESAMPLES = 9999
# Numbers held at once while resampling: 40 MB.
_BATCH_VALUES = 5_000_000
# Part of the largest value below which differences of two differences are rounding.
_ROUNDING = 1e-12
# Part of the largest value to which differences are told apart when they are ranked.
_TIED = 1e-9


@dataclass(frozen=True)
class Interval:
    """A confidence interval, from `low` to `high`, covering with probability `confidence`."""

    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class TestResult:
    """A test's statistic and its two-tailed p value, in [0, 1]."""

    statistic: float
    p_value: float

    # pytest takes a class of this name for a test.
    __test__ = False


@dataclass(frozen=True)
class PairedComparison:
    """Two methods on the same cases.

    Attributes:
        n: pairs.
        mean_first: of the first method.
        mean_second: of the second.
        mean_difference: second minus first.
        interval: bootstrap interval of the mean difference.
        t_test: paired t-test.
        wilcoxon: signed-rank test.
    """

    n: int
    mean_first: float
    mean_second: float
    mean_difference: float
    interval: Interval
    t_test: TestResult
    wilcoxon: TestResult


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of the population (divided by n, not n − 1).

    Args:
        values: at least one, finite.

    Raises:
        DataError: no values, or one that is not finite.
    """
    array = _finite("values", values, least=1)
    return float(array.mean()), float(array.std())


def bootstrap_mean(
    values: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the mean (Efron & Tibshirani 1993, chapter 13).

    The cases are drawn with replacement as if independent; where several are of one patient, the
    interval comes out too narrow.

    Args:
        values: at least two, finite. For a paired difference, the differences.
        confidence: in (0, 1).
        resamples: how often the cases are drawn anew, 100 at least.
        seed: of the draws; the same seed and NumPy give the same interval.

    Raises:
        DataError: fewer than two values, one that is not finite, or settings out of range.
    """
    array = _finite("values", values, least=2)
    if not 0 < confidence < 1:
        raise DataError(f"confidence is {confidence}; give a number between 0 and 1, such as 0.95")
    if not isinstance(resamples, Integral) or resamples < 100:
        raise DataError(f"resamples is {resamples!r}; give a whole number, 100 or more")
    if not isinstance(seed, Integral) or seed < 0:
        raise DataError(f"seed is {seed!r}; give a whole number, 0 or more")
    from scipy.stats import bootstrap

    drawn = bootstrap(
        (array,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _BATCH_VALUES // len(array)),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    interval = drawn.confidence_interval
    return Interval(float(interval.low), float(interval.high), confidence)


def paired_t_test(first: Sequence[float], second: Sequence[float]) -> TestResult:
    """Two-tailed paired t-test of the mean of second minus first, by `scipy.stats.ttest_rel`.

    Args:
        first: one value per case, at least two, finite.
        second: of the same cases in the same order.

    Returns:
        If all differences are 0, statistic 0 and p 1. If all are the same and not 0, the statistic
        is infinite and p is 0.

    Raises:
        DataError: not as many values, fewer than two, or one that is not finite.
    """
    difference = _differences(first, second)
    # All the same but for rounding would be a division by almost 0.
    largest = max(np.abs(first).max(), np.abs(second).max())
    if np.ptp(difference) <= _ROUNDING * largest:
        shift = float(difference[0]) if abs(difference[0]) > _ROUNDING * largest else 0.0
        return TestResult(math.copysign(math.inf, shift), 0.0) if shift else TestResult(0.0, 1.0)
    from scipy.stats import ttest_rel

    found = ttest_rel(np.asarray(second, dtype=np.float64), np.asarray(first, dtype=np.float64))
    return TestResult(float(found.statistic), float(found.pvalue))


def wilcoxon_signed_rank(first: Sequence[float], second: Sequence[float]) -> TestResult:
    """Two-tailed Wilcoxon signed-rank test of second minus first, by `scipy.stats.wilcoxon`.

    Cases without a difference are dropped, as Wilcoxon did. scipy takes the exact distribution for
    few cases and the normal approximation for many.

    Args:
        first: one value per case, at least two, finite.
        second: of the same cases in the same order.

    Returns:
        The smaller of the two sums of ranks, and p; statistic 0 and p 1 if all differences are 0.

    Raises:
        DataError: not as many values, fewer than two, or one that is not finite.
    """
    difference = _differences(first, second)
    # Ranks are of exact numbers: differences that rounding alone tells apart are the same one.
    grain = _TIED * max(np.abs(first).max(), np.abs(second).max())
    difference = np.round(difference / grain) if grain > 0 else difference
    difference = difference[difference != 0]
    if not len(difference):
        return TestResult(0.0, 1.0)
    from scipy.stats import wilcoxon

    # Without zeros: beside them scipy takes the approximation however few other cases there are.
    found = wilcoxon(difference)
    return TestResult(float(found.statistic), float(found.pvalue))


def compare_paired(
    first: Sequence[float],
    second: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedComparison:
    """Compare two methods on the same cases: means, difference with interval, both tests.

    Args:
        first: one value per case, at least two, finite.
        second: of the same cases in the same order.
        confidence, resamples, seed: as for `bootstrap_mean`.

    Raises:
        DataError: as `bootstrap_mean` and `paired_t_test`.
    """
    difference = _differences(first, second)
    return PairedComparison(
        n=len(difference),
        mean_first=float(np.mean(first)),
        mean_second=float(np.mean(second)),
        mean_difference=float(difference.mean()),
        interval=bootstrap_mean(
            [float(d) for d in difference], confidence=confidence, resamples=resamples, seed=seed
        ),
        t_test=paired_t_test(first, second),
        wilcoxon=wilcoxon_signed_rank(first, second),
    )


def _finite(name: str, values: Sequence[float], least: int) -> NDArray[np.float64]:
    if np.ma.is_masked(values):
        raise DataError(f"{name} has masked values; leave these cases out, in both methods alike")
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{name} holds no list of numbers ({error}); give one number per case"
        ) from error
    if array.ndim != 1 or len(array) < least:
        raise DataError(f"{name} has the shape {array.shape}; give a list of {least} or more")
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array))[0])
        raise DataError(
            f"{name}[{bad}] is {array[bad]}; leave out the cases without a finite value, in both "
            "methods alike"
        )
    return array


def _differences(first: Sequence[float], second: Sequence[float]) -> NDArray[np.float64]:
    one, other = _finite("first", first, least=2), _finite("second", second, least=2)
    if one.shape != other.shape:
        raise DataError(
            f"first has {len(one)} values and second {len(other)}; give one pair per case"
        )
    return np.asarray(other - one)
