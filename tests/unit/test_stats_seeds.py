"""Inference over training runs, against scipy and against counting by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from persona_lib.errors import DataError
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.exact import MOST_SPLITS, two_samples
from persona_lib.stats.targets import (
    seeds_flipped,
    seeds_paired,
    seeds_permuted,
    seeds_rate,
)

C2 = np.array([0.0178571, 0.0528571, 0.1285714, 0.0264286, 0.0335714])
C2P = np.array([0.0014286, 0.1335714, 0.0, 0.015, 0.0121429])
"""Rates of five runs of two arms that share their prior, rounded."""


def call(test: object, a: np.ndarray, b: np.ndarray, confidence: float = 0.95) -> Estimate:
    assert callable(test)
    found = test(a, b, n=2800, confidence=confidence)
    assert isinstance(found, Estimate)
    return found


@pytest.mark.parametrize("seeds", [3, 5, 12])
@pytest.mark.parametrize("confidence", [0.90, 0.95])
def test_paired_t_agrees_with_scipy(seeds: int, confidence: float) -> None:
    rng = np.random.default_rng(seeds)
    a = rng.uniform(0, 1, seeds)
    b = 0.7 * a + rng.uniform(0, 0.3, seeds)
    expected = stats.ttest_rel(a, b)
    found = call(seeds_paired, a, b, confidence)
    assert found.value == pytest.approx(np.mean(a - b), abs=1e-12)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    low, high = expected.confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert (found.clusters, found.target) == (seeds, "training runs")
    assert found.method == "paired t over seeds"


@pytest.mark.parametrize("sizes", [(3, 3), (5, 5), (3, 6), (6, 3), (4, 5)])
@pytest.mark.parametrize("shift", [0.0, 0.2, -0.9])
def test_permutation_agrees_with_scipys_exact_test(sizes: tuple[int, int], shift: float) -> None:
    rng = np.random.default_rng(sum(sizes))
    a, b = rng.exponential(0.2, sizes[0]) + shift, rng.exponential(0.2, sizes[1])
    expected = stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
        vectorized=True,
        n_resamples=np.inf,
    )
    found = call(seeds_permuted, a, b)
    assert found.p == pytest.approx(expected.pvalue, abs=1e-12)
    assert found.value == pytest.approx(a.mean() - b.mean(), abs=1e-12)
    assert found.p_floor == pytest.approx(2 / math.comb(sum(sizes), sizes[0]))
    assert (found.clusters, found.method) == (sum(sizes), "exact permutation over seeds")
    assert not found.has_interval


def test_permutation_counts_every_split_with_ties() -> None:
    """Tenths, whose sums differ by rounding alone; every split counted with whole numbers."""
    a, b = [3, 3, 1, 2], [1, 2, 2, 3, 1]
    pool = a + b
    observed = 5 * sum(a) - 4 * sum(b)
    found = []
    for chosen in itertools.combinations(range(9), 4):
        one = sum(pool[i] for i in chosen)
        found.append(5 * one - 4 * (sum(pool) - one))
    above = sum(x >= observed for x in found)
    below = sum(x <= observed for x in found)
    expected = min(1.0, 2 * min(above, below) / 126)
    assert two_samples(np.array(a) / 10, np.array(b) / 10).p == pytest.approx(expected)


def test_floor_of_five_and_five_runs() -> None:
    """2 of 252 splits: as they were, and the mirror."""
    a, b = np.linspace(0.5, 0.6, 5), np.linspace(0.1, 0.2, 5)
    found = call(seeds_permuted, a, b)
    assert found.p == found.p_floor == pytest.approx(2 / 252)
    assert round(2 / 252, 4) == 0.0079
    assert found.p_text == "p = 0.0079"
    assert "2 of 252 splits" in found.note
    assert "the smallest possible p is 2/252 = 0.00794" in found.note


def test_sign_flip_over_seeds_agrees_with_scipy_and_has_its_floor() -> None:
    expected = stats.permutation_test(
        (C2 - C2P,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    found = call(seeds_flipped, C2, C2P)
    assert found.p == pytest.approx(expected.pvalue, abs=1e-12)
    assert (found.method, found.clusters) == ("exact sign-flip over seeds", 5)
    assert found.p_floor == 2 / 2**5
    lowest = call(seeds_flipped, C2 + 1, C2P)
    assert (lowest.p, lowest.p_text) == (0.0625, "p = 0.0625")


def test_beyond_what_is_enumerated_there_is_no_p_and_a_reason() -> None:
    """12 + 12 runs are 2,704,156 splits; 13 + 12 are 5,200,300."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 0.1, 13), rng.normal(0.4, 0.1, 12)
    assert math.comb(24, 12) <= MOST_SPLITS < math.comb(25, 12)
    found = call(seeds_permuted, a, b)
    assert (found.p, found.p_floor) == (None, None)
    assert found.note == "no exact p: 5,200,300 splits, 3,000,000 at most are enumerated"
    many = call(seeds_flipped, rng.normal(0, 1, 41), rng.normal(0, 1, 41))
    assert many.p is None
    assert many.note == "no exact p: 41 seeds, 40 at most are enumerated"
    assert call(seeds_paired, np.tile(C2, 5), np.tile(C2P, 5)).p is not None


def test_twelve_and_twelve_runs_are_near_t() -> None:
    """At 2,704,156 splits of normal rates the two p agree to a few per cent."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.5, 0.1, 12), rng.normal(0.4, 0.1, 12)
    expected = stats.ttest_ind(a, b).pvalue
    assert call(seeds_permuted, a, b).p == pytest.approx(expected, rel=0.15)


def test_rate_over_runs_agrees_with_scipy() -> None:
    found = seeds_rate(C2, n=7_000, confidence=0.95)
    low, high = stats.ttest_1samp(C2, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert (found.p, found.signed, found.clusters) == (None, False, 5)
    assert not seeds_rate(C2[:2], n=1, confidence=0.95).has_interval


def test_few_seeds_unlike_lists_and_holes_are_refused() -> None:
    few = call(seeds_paired, C2[:2], C2P[:2])
    assert (few.p, few.has_interval) == (None, False)
    assert "run-to-run variance not estimable: 2 pairs of runs, 3 are needed" in few.note
    same = call(seeds_paired, C2, C2 - 0.1)
    assert "no variation over seeds: no interval, no p" in same.note
    for test in (seeds_paired, seeds_flipped):
        with pytest.raises(DataError, match="same seeds"):
            call(test, C2, C2P[:4])
    for test in (seeds_paired, seeds_flipped, seeds_permuted):
        with pytest.raises(DataError, match="1 missing of 5"):
            call(test, np.where(C2 > 0.1, np.nan, C2), C2P)
        with pytest.raises(DataError, match="one rate a seed"):
            call(test, C2[None], C2P[None])
