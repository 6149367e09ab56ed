"""Clustered shares and medians, and differences and ratios of two intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from persona_lib.errors import DataError
from persona_lib.stats.clustered import Crossed, difference, median, median_ratio, ratio, share
from persona_lib.stats.estimate import Estimate
from tests.uneven import Ends, clustered, effective

HITS = np.array([9.0, 7, 10, 3, 8, 6, 10, 9, 2, 5])
N = np.full(10, 10.0)


def counted(hits: np.ndarray, n: np.ndarray, confidence: float = 0.95) -> Ends:
    """The share of these hits of each question, and its ends."""
    rows = [
        {"y": at < h, "persona": "one", "question": q}
        for q, (h, m) in enumerate(zip(hits, n, strict=True))
        for at in range(int(m))
    ]
    return clustered(rows, lambda row: row["y"], confidence)


def width(of: Estimate) -> float:
    return of.high - of.low


@pytest.mark.parametrize("confidence", [0.90, 0.95, 0.99])
@pytest.mark.parametrize(
    ("hits", "n"),
    [
        (HITS, N),
        (0 * N, N),
        (N, N),
        (np.array([10.0, 10, 0, 0]), np.full(4, 10.0)),
        (np.array([5.0, 5, 5, 5]), np.full(4, 10.0)),  # less spread than chance: deff is 1
        (np.array([1.0, 7, 3]), np.array([2.0, 20, 5])),
    ],
)
def test_share_agrees_with_statsmodels(hits: np.ndarray, n: np.ndarray, confidence: float) -> None:
    found = share(hits, n, confidence)
    expected = counted(hits, n, confidence)
    assert (found.value, found.low, found.high) == pytest.approx(expected, abs=1e-9)
    assert (found.n, found.clusters) == (int(n.sum()), hits.size)


def cells(shape: tuple[int, int], seed: int, spread: tuple[float, float]) -> np.ndarray:
    """Rows of 0 and 1 with their persona and question: 4 to 6 in each cell."""
    rng = np.random.default_rng(seed)
    persona, question = (sd * rng.standard_normal(k) for sd, k in zip(spread, shape, strict=True))
    rows = [
        (float(rng.random() < 1 / (1 + math.exp(1 - persona[g] - question[q]))), g, q)
        for g in range(shape[0])
        for q in range(shape[1])
        for _ in range(int(rng.integers(4, 7)))
    ]
    return np.array(rows)


def crossed(rows: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    hits, n = np.zeros(shape), np.zeros(shape)
    for y, g, q in rows:
        hits[int(g), int(q)] += y
        n[int(g), int(q)] += 1
    return hits, n


@pytest.mark.parametrize("spread", [(2.0, 0.0), (0.0, 2.0), (1.5, 1.5), (0.0, 0.0)])
@pytest.mark.parametrize("shape", [(11, 20), (4, 30), (20, 5)])
def test_two_way_share_agrees_with_statsmodels(
    shape: tuple[int, int], spread: tuple[float, float]
) -> None:
    """Uneven cells; V = V_persona + V_question - V_cell, or the larger of the first two."""
    rows = cells(shape, 7, spread)
    found = share(*crossed(rows, shape), 0.95)
    listed = [{"y": y, "persona": g, "question": q} for y, g, q in rows.tolist()]
    assert (found.value, found.low, found.high) == pytest.approx(
        clustered(listed, lambda row: row["y"]), abs=1e-9
    )
    assert found.clusters == shape[1]


def test_one_persona_is_no_cluster_and_an_empty_one_is_left_out() -> None:
    alone = share(HITS[None, :], N[None, :], 0.95)
    assert alone == share(HITS, N, 0.95)
    two = np.stack([HITS, np.roll(HITS, 1)])
    padded = np.insert(two, 1, 0.0, axis=0)
    n = np.insert(np.stack([N, N]), 1, 0.0, axis=0)
    assert share(padded, n, 0.95) == share(two, np.stack([N, N]), 0.95)


def test_one_question_has_no_interval_and_none_has_nothing() -> None:
    lone = share(np.array([3.0]), np.array([10.0]), 0.95)
    assert lone.value == 0.3
    assert math.isnan(lone.low)
    assert math.isnan(lone.high)
    empty = share(np.array([0.0]), np.array([0.0]), 0.95)
    assert (empty.n, empty.clusters) == (0, 0)
    assert math.isnan(empty.value)
    assert empty.interval_text == "not computable"
    assert "no interval" in lone.interval_text


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
    _, low, high = counted(below, np.full(20, 10.0))
    # The k-th smallest of 0 .. 199 is k - 1; the quantile of p is the ceil(200 p)-th.
    assert (found.low, found.high) == (math.ceil(200 * low) - 1, math.ceil(200 * high) - 1)
    assert (found.n, found.clusters) == (200, 20)


def test_median_of_personas_that_differ_is_wide() -> None:
    """Woodruff's interval of the two-way share below the median, by statsmodels."""
    rng = np.random.default_rng(9)
    persona, question = np.repeat(np.arange(11), 40), np.tile(np.repeat(np.arange(20), 2), 11)
    values = np.rint(60 * np.exp(0.5 * rng.standard_normal(11)[persona] + rng.normal(size=440) / 2))
    found = median(values, question, 0.95, persona)
    middle = float(np.median(values))
    listed = [
        {"y": y, "persona": g, "question": q}
        for y, g, q in zip(values.tolist(), persona.tolist(), question.tolist(), strict=True)
    ]
    worth = min(
        effective(listed, lambda row, f=f: float(f(row["y"], middle)))
        for f in (np.less, np.less_equal)
    )
    shares = proportion_confint(worth / 2, worth, method="wilson")
    expected = [np.sort(values)[math.ceil(440 * p) - 1] for p in shares]
    assert (found.value, found.low, found.high) == (middle, *expected)
    assert width(found) > 2 * width(median(values, question, 0.95))


def shared_lengths(seed: int, own: float) -> tuple[Crossed, Crossed, np.ndarray]:
    """Lengths after and before of eleven personas; `own` is what an arm does to each."""
    rng = np.random.default_rng(seed)
    persona, question = np.repeat(np.arange(11), 100), np.tile(np.repeat(np.arange(20), 5), 11)
    both, logs = 0.8 * rng.standard_normal(11), []
    for _ in range(2):
        logs.append((both + own * rng.standard_normal(11))[persona] + 0.4 * rng.normal(size=1_100))
    after, before = (Crossed(np.exp(x), question, persona) for x in logs)
    under = [np.array(x < np.median(x), dtype=float) - 0.5 for x in logs]
    return after, before, np.stack([u.reshape(11, 20, 5).sum(axis=2) for u in under])


@pytest.mark.parametrize("own", [0.0, 0.3, 2.0])
def test_what_personas_do_to_both_medians_cancels_in_their_ratio(own: float) -> None:
    """The correlation over clusters, from numpy's covariances, in Fieller's theorem."""
    after, before, rest = shared_lengths(4, own)
    covariance = 11 * np.cov(rest.sum(axis=2)) + 20 * np.cov(rest.sum(axis=1))
    covariance -= 220 * np.cov(rest.reshape(2, -1))
    for i in range(2):
        one_way = (11 * np.cov(rest.sum(axis=2))[i, i], 20 * np.cov(rest.sum(axis=1))[i, i])
        covariance[i, i] = max(covariance[i, i], *one_way)
    r = float(np.clip(covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1]), -1, 1))
    found, one, two = median_ratio(after, before, 0.95)
    assert one == median(after.values, after.questions, 0.95, after.personas)

    def gap(x: float, sign: int) -> float:
        """The end of one - x two, by Newcombe with a correlation, in units of that end."""
        near, far = (one.value - one.low, two.high - two.value)
        if sign < 0:
            near, far = (one.high - one.value, two.value - two.low)
        half = math.sqrt(near**2 + (x * far) ** 2 - 2 * r * near * x * far)
        return one.value - x * two.value - sign * half

    ends = [
        optimize.brentq(lambda x, s=s: gap(x, s), *b)
        for s, b in ((1, (0, found.value)), (-1, (found.value, 50)))
    ]
    assert (found.low, found.high) == pytest.approx(ends, abs=1e-9)
    independent = ratio(one, two)
    saved = width(found) / width(independent)
    assert saved < 0.5 if own == 0.0 else saved > 0.3


def test_medians_of_one_persona_are_correlated_over_its_questions() -> None:
    rng = np.random.default_rng(12)
    question = np.repeat(np.arange(20), 10)
    lengths = np.exp(rng.standard_normal(20))[question]
    after, before = (
        Crossed(lengths * np.exp(0.1 * rng.normal(size=200)), question, np.zeros(200, dtype=int))
        for _ in range(2)
    )
    found, one, two = median_ratio(after, before, 0.95)
    assert width(found) < 0.4 * width(ratio(one, two))


def test_medians_on_other_questions_are_independent() -> None:
    """A model before coupling that answered half of the questions: labels of its own half."""
    after, before, _ = shared_lengths(4, 0.3)
    few = before.questions < 10
    part = Crossed(before.values[few], before.questions[few], before.personas[few])
    found, one, two = median_ratio(after, part, 0.95)
    assert (one.clusters, two.clusters, found.clusters) == (20, 10, 10)
    assert found.low < found.value < found.high


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
        Estimate.plain(value=k / size, low=ends[0], high=ends[1], n=size, clusters=size)
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
        Estimate.plain(value=v, low=v - z * e, high=v + z * e, n=50, clusters=10)
        for v, e in ((x, s), (y, t))
    )
    a, b, c = y**2 - (z * t) ** 2, -2 * x * y, x**2 - (z * s) ** 2
    root = math.sqrt(b * b - 4 * a * c)
    expected = ((-b - root) / (2 * a), (-b + root) / (2 * a))
    found = ratio(one, two)
    assert found.value == 1.5
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)
    assert (found.n, found.clusters) == (100, 10)


def test_ratio_keeps_its_order_where_a_denominator_may_be_nothing() -> None:
    two = Estimate.plain(0.05, 0.0, 0.2, n=20, clusters=10)
    found = ratio(Estimate.plain(0.5, 0.3, 0.7, n=20, clusters=10), two)
    assert 0 < found.low < found.value == 10
    assert found.high == math.inf
    nothing = ratio(two, Estimate.plain(value=0.0, low=0.0, high=0.1, n=20, clusters=10))
    assert math.isnan(nothing.value)
    assert math.isnan(nothing.low)
    zero = ratio(Estimate.plain(value=0.0, low=0.0, high=0.1, n=9, clusters=3), two)
    assert zero.value == 0
    assert zero.low == 0


def test_one_side_without_an_interval_gives_none() -> None:
    known = Estimate.plain(value=0.5, low=0.4, high=0.6, n=20, clusters=10)
    unknown = Estimate.plain(0.5, n=5, clusters=1)
    for joined in (ratio, difference):
        for pair in ((known, unknown), (unknown, known)):
            found = joined(*pair)
            assert math.isfinite(found.value)
            assert math.isnan(found.low)
            assert math.isnan(found.high)
            assert found.clusters == 1
