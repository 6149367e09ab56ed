"""Clustered shares and medians, and differences and ratios of two intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from persona_lib.errors import DataError
from persona_lib.stats.clustered import Interval, difference, median, ratio, share

HITS = np.array([9.0, 7, 10, 3, 8, 6, 10, 9, 2, 5])
N = np.full(10, 10.0)


def rows(hits: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y = np.concatenate(
        [np.r_[np.ones(int(h)), np.zeros(int(m - h))] for h, m in zip(hits, n, strict=True)]
    )
    return y, np.repeat(np.arange(hits.size), n.astype(int))


def by_statsmodels(hits: np.ndarray, n: np.ndarray, confidence: float) -> tuple[float, float]:
    """A regression on a constant gives the clustered variance; Wilson's interval the ends."""
    y, groups = rows(hits, n)
    fit = sm.OLS(y, np.ones_like(y)).fit(cov_type="cluster", cov_kwds={"groups": groups})
    p, total, units = y.mean(), y.size, hits.size
    # statsmodels multiplies by Q / (Q - 1) * (n - 1) / (n - 1), so by Q / (Q - 1) alone.
    effect = max(1.0, float(fit.bse[0]) ** 2 / (p * (1 - p) / total))
    z, t = stats.norm.ppf(0.5 + confidence / 2), stats.t.ppf(0.5 + confidence / 2, units - 1)
    effective = total / effect * (z / t) ** 2
    low, high = proportion_confint(p * effective, effective, alpha=1 - confidence, method="wilson")
    return float(low), float(high)


@pytest.mark.parametrize("confidence", [0.90, 0.95, 0.99])
@pytest.mark.parametrize(
    ("hits", "n"),
    [
        (HITS, N),
        (np.array([10.0, 10, 0, 0]), np.full(4, 10.0)),
        (np.array([5.0, 5, 5, 5]), np.full(4, 10.0)),  # less spread than chance: deff is 1
        (np.array([1.0, 7, 3]), np.array([2.0, 20, 5])),
    ],
)
def test_share_agrees_with_statsmodels(hits: np.ndarray, n: np.ndarray, confidence: float) -> None:
    found = share(hits, n, confidence)
    assert found.value == pytest.approx(hits.sum() / n.sum())
    assert (found.low, found.high) == pytest.approx(by_statsmodels(hits, n, confidence), abs=1e-9)
    assert (found.n, found.units) == (int(n.sum()), hits.size)


def test_share_is_wider_the_more_questions_differ() -> None:
    alike = share(np.full(10, 5.0), N, 0.95)
    unlike = share(np.array([10.0, 0] * 5), N, 0.95)
    assert alike.value == unlike.value == 0.5
    assert unlike.low < alike.low - 0.15


@pytest.mark.parametrize("all_hit", [False, True])
def test_share_of_nothing_and_of_everything_has_a_width(all_hit: bool) -> None:
    found = share(N if all_hit else 0 * N, N, 0.95)
    z, t = stats.norm.ppf(0.975), stats.t.ppf(0.975, 9)
    expected = proportion_confint(100 * (z / t) ** 2 * all_hit, 100 * (z / t) ** 2, method="wilson")
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)
    assert found.high - found.low > 0.03


def test_one_question_has_no_interval_and_none_has_nothing() -> None:
    lone = share(np.array([3.0]), np.array([10.0]), 0.95)
    assert lone.value == 0.3
    assert math.isnan(lone.low)
    assert math.isnan(lone.high)
    empty = share(np.array([0.0]), np.array([0.0]), 0.95)
    assert (empty.n, empty.units) == (0, 0)
    assert math.isnan(empty.value)
    assert empty.text() == "not known"
    assert "no interval" in lone.text()


@pytest.mark.parametrize(
    ("hits", "n"),
    [
        (np.array([11.0]), np.array([10.0])),
        (np.array([-1.0]), np.array([10.0])),
        (np.array([1.0, 2]), np.array([10.0])),
        (np.array([math.nan]), np.array([10.0])),
        (np.array([1.0]), np.array([math.inf])),
    ],
)
def test_impossible_counts_are_refused(hits: np.ndarray, n: np.ndarray) -> None:
    with pytest.raises(DataError, match="hits of questions"):
        share(hits, n, 0.95)


def test_median_reads_its_ends_off_the_interval_of_a_share() -> None:
    rng = np.random.default_rng(5)
    values = rng.permutation(np.arange(200.0))
    questions = np.repeat(np.arange(20), 10).astype(float)
    found = median(values, questions, 0.95)
    assert found.value == 99.5
    below = np.array([(values[questions == q] < 99.5).sum() for q in range(20)], dtype=float)
    low, high = by_statsmodels(below, np.full(20, 10.0), 0.95)
    # The k-th smallest of 0 .. 199 is k - 1; the quantile of p is the ceil(200 p)-th.
    assert (found.low, found.high) == (math.ceil(200 * low) - 1, math.ceil(200 * high) - 1)
    assert (found.n, found.units) == (200, 20)


def test_median_with_ties_holds_its_value() -> None:
    values = np.array([10.0] * 90 + [50.0] * 10)
    found = median(values, np.tile(np.arange(10.0), 10), 0.95)
    assert found.low <= found.value <= found.high
    assert found.value == 10


def test_median_of_a_tie_knows_that_questions_differ() -> None:
    """In 11 of 20 questions everything has 3 tokens, in 9 about 95: nearly half and half.

    Counting half of the tie as below, as if questions were alike, gave [3, 3].
    """
    values = np.concatenate([np.full(110, 3.0), np.tile(np.arange(90.0, 100), 9)])
    found = median(values, np.repeat(np.arange(20.0), 10), 0.95)
    assert (found.value, found.low) == (3, 3)
    assert found.high > 90
    # The tie's share, 0.55, has the variance of 20 questions that are all or nothing.
    z, t = stats.norm.ppf(0.975), stats.t.ppf(0.975, 19)
    effective = 19 / 20 * 200 / 10 * (z / t) ** 2
    high = proportion_confint(effective / 2, effective, method="wilson")[1]
    assert found.high == np.sort(values)[math.ceil(200 * high) - 1]


def test_median_of_one_question_has_no_interval() -> None:
    found = median(np.arange(5.0), np.zeros(5), 0.95)
    assert found.value == 2
    assert math.isnan(found.low)
    assert median(np.zeros(0), np.zeros(0), 0.95).n == 0
    with pytest.raises(DataError, match="values"):
        median(np.array([1.0, math.nan]), np.zeros(2), 0.95)


def test_difference_is_newcombes() -> None:
    """Of two independent proportions: statsmodels' own Newcombe interval."""
    (a, m), (b, n) = (56, 70), (48, 80)
    one, two = (
        Interval(value=k / size, low=ends[0], high=ends[1], n=size, units=size)
        for k, size, ends in (
            (a, m, proportion_confint(a, m, method="wilson")),
            (b, n, proportion_confint(b, n, method="wilson")),
        )
    )
    found = difference(one, two)
    expected = confint_proportions_2indep(a, m, b, n, method="newcomb", compare="diff")
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)
    # Newcombe 1998, table II, example (a): 0.0524 to 0.3339.
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_ratio_of_symmetric_intervals_is_fiellers() -> None:
    """With x +- z s the paper's formula becomes Fieller's theorem (independent terms)."""
    (x, s), (y, t), z = (3.0, 0.4), (2.0, 0.25), 1.96
    one, two = (
        Interval(value=v, low=v - z * e, high=v + z * e, n=50, units=10)
        for v, e in ((x, s), (y, t))
    )
    a, b, c = y**2 - (z * t) ** 2, -2 * x * y, x**2 - (z * s) ** 2
    root = math.sqrt(b * b - 4 * a * c)
    expected = ((-b - root) / (2 * a), (-b + root) / (2 * a))
    found = ratio(one, two)
    assert found.value == 1.5
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)
    assert (found.n, found.units) == (100, 10)


def test_ratio_keeps_its_order_where_a_denominator_may_be_nothing() -> None:
    two = Interval(value=0.05, low=0.0, high=0.2, n=20, units=10)
    found = ratio(Interval(value=0.5, low=0.3, high=0.7, n=20, units=10), two)
    assert 0 < found.low < found.value == 10
    assert found.high == math.inf
    nothing = ratio(two, Interval(value=0.0, low=0.0, high=0.1, n=20, units=10))
    assert math.isnan(nothing.value)
    assert math.isnan(nothing.low)
    zero = ratio(Interval(value=0.0, low=0.0, high=0.1, n=9, units=3), two)
    assert zero.value == 0
    assert zero.low == 0


def test_one_side_without_an_interval_gives_none() -> None:
    known = Interval(value=0.5, low=0.4, high=0.6, n=20, units=10)
    unknown = Interval(value=0.5, low=math.nan, high=math.nan, n=5, units=1)
    for joined in (ratio, difference):
        for pair in ((known, unknown), (unknown, known)):
            found = joined(*pair)
            assert math.isfinite(found.value)
            assert math.isnan(found.low)
            assert math.isnan(found.high)
            assert found.units == 1
