"""Statistics against values worked out by hand, and against enumerating what chance can do."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from scipy import stats

from textsam.errors import DataError
from textsam.metrics.statistics import (
    bootstrap_mean,
    compare_paired,
    mean_std,
    paired_t_test,
    wilcoxon_signed_rank,
)

BEFORE = [0.50, 0.60, 0.70, 0.40, 0.55]
AFTER = [0.52, 0.65, 0.69, 0.50, 0.58]  # differences in hundredths: 2, 5, -1, 10, 3


def test_mean_and_std_by_hand() -> None:
    # 2, 4, 4, 4, 5, 5, 7, 9: the mean is 5, the squares of the deviations add up to 32, 32/8 = 4.
    assert mean_std([2, 4, 4, 4, 5, 5, 7, 9]) == pytest.approx((5.0, 2.0))
    assert mean_std([0.25]) == (0.25, 0.0)


def test_paired_t_test_by_hand() -> None:
    """Differences 2, 5, -1, 10, 3: mean 3.8, squared deviations 66.8, variance 66.8/4 = 16.7."""
    found = paired_t_test(BEFORE, AFTER)
    statistic = 3.8 / math.sqrt(16.7 / 5)
    assert found.statistic == pytest.approx(statistic)
    # With 4 degrees of freedom the distribution function has a closed form.
    x = statistic / math.sqrt(4 + statistic**2)
    assert found.p_value == pytest.approx(1 - x * (3 - x**2) / 2)
    assert found.p_value == pytest.approx(0.1061, abs=0.0001)
    back = paired_t_test(AFTER, BEFORE)
    assert (back.statistic, back.p_value) == pytest.approx((-found.statistic, found.p_value))


def test_wilcoxon_by_counting_signs() -> None:
    """Ranks of the absolute differences: 2, 4, 1, 5, 3; the only negative one has rank 1."""
    found = wilcoxon_signed_rank(BEFORE, AFTER)
    assert found.statistic == 1
    ranks = [2, 4, 1, 5, 3]
    sums = [
        min(plus, 15 - plus)
        for signs in itertools.product((0, 1), repeat=5)
        for plus in [sum(r for r, s in zip(ranks, signs, strict=True) if s)]
    ]
    assert found.p_value == pytest.approx(sum(s <= 1 for s in sums) / 32)
    assert found.p_value == pytest.approx(4 / 32)


def test_wilcoxon_ties_do_not_depend_on_rounding() -> None:
    """Seven steps of +0.1 and one of -0.1: all ranks are 4.5, so the smaller sum is 4.5."""
    tenths = [1, 2, 3, 4, 5, 6, 7, 8], [2, 3, 4, 5, 6, 7, 8, 7]
    first, second = ([value / 10 for value in values] for values in tenths)
    found = wilcoxon_signed_rank(first, second)
    assert found.statistic == 4.5
    assert found == wilcoxon_signed_rank(*tenths)
    assert found == wilcoxon_signed_rank(*([value * 1e-5 for value in v] for v in tenths))


def test_wilcoxon_of_many_cases_is_close_to_the_normal_approximation() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(0.7, 0.1, 200)
    after = before + rng.normal(0.01, 0.05, 200)
    ranks = stats.rankdata(np.abs(after - before))
    plus = ranks[after > before].sum()
    z = (plus - 200 * 201 / 4) / math.sqrt(200 * 201 * 401 / 24)
    found = wilcoxon_signed_rank(before.tolist(), after.tolist())
    assert found.p_value == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), rel=0.02)


@pytest.mark.parametrize("better", [1, 3, 5, 8])
def test_wilcoxon_of_a_few_cases_that_differ_among_many_is_exact(better: int) -> None:
    """Of all 2^n signs of n differences one gives as large a sum, and one as small."""
    after = [0.01 * (i + 1) if i < better else 0.0 for i in range(100)]
    assert wilcoxon_signed_rank([0.0] * 100, after).p_value == pytest.approx(2 / 2**better)


@pytest.mark.parametrize("test", [paired_t_test, wilcoxon_signed_rank])
def test_no_difference_and_the_same_difference(test: object) -> None:
    assert callable(test)
    same = test([0.5, 0.75, 1.0], [0.5, 0.75, 1.0])
    assert (same.statistic, same.p_value) == (0.0, 1.0)
    up = test([0.25, 0.5, 0.75], [0.5, 0.75, 1.0])
    assert up.p_value <= 0.25  # 2 of the 8 patterns of signs
    assert paired_t_test([0.5, 0.75], [0.25, 0.5]).statistic == -math.inf
    assert paired_t_test([0.25, 0.5], [0.5, 0.75]).p_value == 0.0


def test_the_same_difference_but_for_rounding() -> None:
    # 0.2 - 0.1, 0.3 - 0.2 and 0.4 - 0.3 are three different numbers.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = paired_t_test([0.1, 0.2, 0.3], [0.2, 0.3, 0.4])
        none = paired_t_test([0.3, 0.7], [0.1 + 0.2, 0.7])
    assert (found.statistic, found.p_value) == (math.inf, 0.0)
    assert (none.statistic, none.p_value) == (0.0, 1.0)


def test_bootstrap_of_two_values_by_hand() -> None:
    """Of 0 and 1, a resample's mean is 0, 0.5 or 1 with probability 1/4, 1/2, 1/4."""
    assert bootstrap_mean([0.0, 1.0]).low == 0.0
    assert bootstrap_mean([0.0, 1.0]).high == 1.0
    middle = bootstrap_mean([0.0, 1.0], confidence=0.4)  # from 30 % to 70 %
    assert (middle.low, middle.high, middle.confidence) == (0.5, 0.5, 0.4)


def test_bootstrap_against_enumeration() -> None:
    """All 5^5 resamples of five values have equal chances; their means' quantiles are exact."""
    means = [np.mean(drawn) for drawn in itertools.product(AFTER, repeat=5)]
    interval = bootstrap_mean(AFTER, resamples=20_000, seed=3)
    assert interval.low == pytest.approx(np.percentile(means, 2.5), abs=0.003)
    assert interval.high == pytest.approx(np.percentile(means, 97.5), abs=0.003)


def test_bootstrap_of_many_values_is_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(0.8, 0.15, 800)
    interval = bootstrap_mean(values.tolist())
    half = 1.96 * values.std() / math.sqrt(800)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.001)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.001)


def test_bootstrap_depends_on_the_seed_alone() -> None:
    one = bootstrap_mean(AFTER, seed=1)
    assert one == bootstrap_mean(AFTER, seed=1)
    other = bootstrap_mean(AFTER, seed=2, resamples=500)
    assert (other.low, other.high) != (one.low, one.high)
    constant = bootstrap_mean([0.7, 0.7, 0.7])
    assert (constant.low, constant.high) == pytest.approx((0.7, 0.7))


def test_resampling_in_small_batches_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bootstrap_mean(AFTER, seed=5)
    monkeypatch.setattr("textsam.metrics.statistics._BATCH_VALUES", 50)
    assert bootstrap_mean(AFTER, seed=5) == whole


def test_a_comparison_is_its_parts() -> None:
    found = compare_paired(BEFORE, AFTER, seed=4)
    assert found.n == 5
    assert (found.mean_first, found.mean_second) == pytest.approx((0.55, 0.588))
    assert found.mean_difference == pytest.approx(0.038)
    assert found.t_test == paired_t_test(BEFORE, AFTER)
    assert found.wilcoxon == wilcoxon_signed_rank(BEFORE, AFTER)
    differences = [b - a for a, b in zip(BEFORE, AFTER, strict=True)]
    assert found.interval == bootstrap_mean(differences, seed=4)
    assert found.interval.low < 0.038 < found.interval.high


def test_values_that_cannot_be_used() -> None:
    with pytest.raises(DataError, match=r"values has the shape \(0,\)"):
        mean_std([])
    with pytest.raises(DataError, match=r"values has the shape \(1,\); give a list of 2"):
        bootstrap_mean([0.5])
    with pytest.raises(DataError, match="first has 2 values and second 3"):
        paired_t_test([1, 2], [1, 2, 3])
    with pytest.raises(DataError, match=r"second\[1\] is inf; leave out"):
        wilcoxon_signed_rank([1.0, 2.0], [1.0, math.inf])
    with pytest.raises(DataError, match="confidence is 95"):
        bootstrap_mean([1, 2], confidence=95)
    with pytest.raises(DataError, match="resamples is 10"):
        bootstrap_mean([1, 2], resamples=10)
    with pytest.raises(DataError, match="values holds no list of numbers"):
        mean_std(["high", "low"])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"resamples is 150\.5; give a whole number"):
        bootstrap_mean([1, 2], resamples=150.5)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="seed is -1; give a whole number"):
        bootstrap_mean([1, 2], seed=-1)
