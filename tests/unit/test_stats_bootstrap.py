"""The cluster bootstrap and the estimate that it returns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats

from persona_lib.errors import DataError
from persona_lib.stats.bca import bca_ends
from persona_lib.stats.bootstrap import (
    Clusters,
    bootstrap_p,
    difference,
    ratio_difference,
    resample_rates,
    single_rate,
)
from persona_lib.stats.estimate import Estimate
from tests.pace import allowed

SEEDS = (1, 2)


def clusters(hits: Sequence[float], sizes: Sequence[float] | None = None) -> Clusters:
    return Clusters(np.array(hits), np.array(sizes or [10.0] * len(hits)))


def compare(a: Clusters, b: Clusters, resamples: int = 10_000, **options: Any) -> Estimate:
    return difference(a, b, resamples=resamples, seeds=SEEDS, level=0.95, **options)


def ratios(*pools: Clusters, resamples: int, seeds: Any = (1, 2, 3, 4), **options: Any) -> Estimate:
    """Compare bystanders and source of one arm with those of another."""
    one, two = pools[:2], pools[2:]
    return ratio_difference(one, two, resamples=resamples, seeds=seeds, level=0.95, **options)


def test_rate_is_a_ratio_of_sums() -> None:
    assert clusters([1, 9], [10, 90]).rate == pytest.approx(0.1)  # mean of rates as well
    assert clusters([10, 0], [10, 90]).rate == pytest.approx(0.1)  # mean of rates: 0.5


def test_draws_are_those_of_clusters_drawn_one_by_one() -> None:
    """Against an independent loop, on unequal clusters: mean, spread and tails."""
    sizes = [5, 10, 20, 10, 10, 15, 10, 10]
    hits = [5, 0, 3, 10, 2, 9, 1, 7]
    rng = np.random.default_rng(0)
    loop = []
    for _ in range(10_000):
        drawn = rng.integers(0, len(hits), len(hits))
        loop.append(np.take(hits, drawn).sum() / np.take(sizes, drawn).sum())
    draws = resample_rates(clusters(hits, sizes), 20_000, seed=5)
    assert draws.mean() == pytest.approx(np.mean(loop), abs=0.005)
    assert draws.std() == pytest.approx(np.std(loop), rel=0.03)
    for q in (0.025, 0.25, 0.75, 0.975):
        assert np.quantile(draws, q) == pytest.approx(np.quantile(loop, q), abs=0.012)


def test_draws_are_kept_for_their_own_counts_seed_and_number_only() -> None:
    one = clusters([5, 0, 3], [10, 10, 10])
    kept = resample_rates(one, 50, 1)
    assert resample_rates(clusters([5, 0, 3]), 50, 1) is kept
    for other in (
        resample_rates(clusters([5, 0, 4]), 50, 1),
        resample_rates(clusters([5, 0, 3], [10, 10, 11]), 50, 1),
        resample_rates(one, 50, 2),
    ):
        assert (other != kept).any()
    assert resample_rates(one, 51, 1).size == 51
    with pytest.raises(ValueError, match="read-only"):
        kept += 1.0


def test_p_counts_the_smaller_tail_and_is_never_zero() -> None:
    assert bootstrap_p(np.array([1.0] * 97 + [-1.0] * 2)) == (2 * 3 / 100, 2 / 100)
    assert bootstrap_p(np.array([0.5] * 99)) == (2 / 100, 2 / 100)
    assert bootstrap_p(np.array([-0.5] * 99)) == (2 / 100, 2 / 100)
    assert bootstrap_p(np.array([0.0] * 99)) == (1.0, 2 / 100)
    # Undefined draws count in both tails.
    assert bootstrap_p(np.array([1.0] * 95 + [math.nan] * 4))[0] == 2 * 5 / 100


@pytest.mark.parametrize("rounding", [0.0, 1e-17, -1e-17, 1e-10, -1e-10])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_draws_of_zero_count_in_both_tails_whatever_rounding_leaves(
    rounding: float, side: float
) -> None:
    """9 draws of 0 and 90 on one side: the smaller tail is the 9, p = 2 (9 + 1) / 100."""
    draws = np.array([rounding] * 9 + [0.5 * side] * 90)
    assert bootstrap_p(draws) == (pytest.approx(0.2), 2 / 100)


def test_floor_of_p_is_printed_with_its_resamples() -> None:
    found = compare(clusters([9, 10, 9, 8] * 5), clusters([1, 0, 1, 2] * 5))
    assert found.p == pytest.approx(2 / 10_001)
    assert found.p_text == "p <= 2.0e-4 (0 of 10,000)"
    assert replace(found, p=0.0123).p_text == "p = 0.0123"
    assert replace(found, p=0.0004).p_text == "p = 4.0e-4"
    assert replace(found, p=None).p_text == "no p"


def test_no_width_is_said_and_no_hits_are_no_difference() -> None:
    found = compare(clusters([10] * 6), clusters([0] * 6))
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    assert "no width" in found.note
    none = compare(clusters([0] * 6), clusters([0] * 6))
    assert (none.value, none.p) == (0.0, 1.0)


def test_one_cluster_has_neither_interval_nor_p() -> None:
    for found in (
        compare(clusters([3]), clusters([1, 2])),
        single_rate(clusters([3]), resamples=100, seed=1, level=0.95),
    ):
        assert not found.has_interval
        assert found.p is None
        assert "one cluster" in found.note
    assert found.interval_text == "0.300 [no interval]"  # a rate: no sign


def test_ratio_difference_against_a_loop() -> None:
    """Bystanders and source drawn independently within each arm."""
    rng = np.random.default_rng(11)
    pools = [rng.binomial(10, p, k) for p, k in ((0.5, 70), (0.7, 10), (0.2, 70), (0.8, 10))]
    loop = []
    for _ in range(4_000):
        a, s, b, t = (rng.choice(p, p.size).sum() / p.size for p in pools)
        loop.append(a / s - b / t)
    found = ratios(*(clusters(p.tolist()) for p in pools), resamples=8_000)
    expected = pools[0].mean() / pools[1].mean() - pools[2].mean() / pools[3].mean()
    assert found.value == pytest.approx(expected)
    assert found.low == pytest.approx(np.quantile(loop, 0.025), abs=0.015)
    assert found.high == pytest.approx(np.quantile(loop, 0.975), abs=0.015)


def test_ratio_without_source_hits_is_undefined() -> None:
    a, zero, some = clusters([5, 6]), clusters([0, 0]), clusters([9, 9])
    found = ratios(a, zero, a, some, resamples=99)
    assert math.isnan(found.value)
    assert found.p is None
    assert "source rate is 0" in found.note


def test_resamples_without_source_hits_withhold_the_interval() -> None:
    a, rare, some = clusters([9, 9]), clusters([1, 0]), clusters([9, 9])
    found = ratios(a, rare, a, some, resamples=999)
    assert not found.has_interval
    assert "resamples have no source hit" in found.note
    assert found.p is not None
    assert found.p > 0.3  # a quarter of the draws is undefined and counts in both tails


@pytest.mark.parametrize(
    ("hits", "sizes"),
    [([], []), ([1.0], [1.0, 2.0]), ([math.nan], [1.0]), ([2.0], [1.0]), ([0.0], [0.0])],
)
def test_impossible_clusters_are_refused(hits: list[float], sizes: list[float]) -> None:
    with pytest.raises(DataError, match="clusters"):
        Clusters(np.array(hits), np.array(sizes))


def test_estimate_refuses_p_of_zero() -> None:
    with pytest.raises(DataError, match="p is never 0"):
        replace(compare(clusters([1, 2]), clusters([1, 2])), p=0.0)


# --- BCa ---------------------------------------------------------------------------------

DIGITS = 12
"""scipy counts ties exactly: differences of equal counts must not differ in a last digit."""


def pool_of(seed: int, k: int, p: float, *, unequal: bool) -> Clusters:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(4, 30, k) if unequal else np.full(k, 10)
    rates = rng.beta(3 * p, 3 * (1 - p), k)
    return clusters(rng.binomial(sizes, rates).tolist(), sizes.tolist())


def scipy_bca(
    pools: Sequence[Clusters], statistic: Callable[..., Any], draws: Any, level: float
) -> tuple[float, float]:
    """scipy's BCa ends for the same draws.

    scipy resamples numbers, and a cluster is two: it is handed the index of each cluster.
    """

    def of_indices(*indices: Any, axis: int = -1) -> Any:
        rates = [
            np.take(pool.hits, index).sum(axis=axis) / np.take(pool.sizes, index).sum(axis=axis)
            for pool, index in zip(pools, indices, strict=True)
        ]
        return np.round(statistic(*rates), DIGITS)

    found = scipy.stats.bootstrap(
        [np.arange(len(pool)) for pool in pools],
        of_indices,
        method="BCa",
        confidence_level=level,
        n_resamples=0,
        bootstrap_result=SimpleNamespace(bootstrap_distribution=np.round(draws, DIGITS)),
        vectorized=True,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


@pytest.mark.parametrize("level", [0.95, 0.9])
@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize(("k", "p"), [(140, 0.3), (20, 0.05), (9, 0.9)])
def test_bca_of_one_rate_is_scipys(k: int, p: float, unequal: bool, level: float) -> None:
    pool = pool_of(k, k, p, unequal=unequal)
    found = single_rate(pool, resamples=4_000, seed=5, level=level, interval="bca")
    draws = resample_rates(pool, 4_000, 5)
    expected = scipy_bca([pool], lambda rate: rate, draws, level)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)
    assert (found.p, found.note, found.signed) == (None, "", False)
    assert found.method == "cluster bootstrap, BCa"


@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("sizes", [(140, 140), (30, 12), (7, 200)])
def test_bca_of_a_difference_is_scipys(sizes: tuple[int, int], unequal: bool) -> None:
    """Pools of unlike length too: each pool's jackknife is scaled by its own K."""
    a, b = (pool_of(3 + k, k, p, unequal=unequal) for k, p in zip(sizes, (0.6, 0.1), strict=True))
    found = compare(a, b, 4_000, interval="bca")
    draws = resample_rates(a, 4_000, 1) - resample_rates(b, 4_000, 2)
    expected = scipy_bca([a, b], lambda x, y: x - y, draws, 0.95)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)
    plain = compare(a, b, 4_000)
    assert (found.low, found.high) != (plain.low, plain.high)
    assert (found.value, found.p, found.p_floor) == (plain.value, plain.p, plain.p_floor)
    assert plain.method == "cluster bootstrap (as published)"
    assert found.method == "cluster bootstrap, BCa"


@pytest.mark.parametrize("unequal", [False, True])
def test_bca_of_a_difference_of_ratios_is_scipys(unequal: bool) -> None:
    shapes = ((140, 0.5), (20, 0.6), (140, 0.2), (20, 0.8))
    pools = [pool_of(20 + i, k, p, unequal=unequal) for i, (k, p) in enumerate(shapes)]
    found = ratios(*pools, resamples=4_000, interval="bca")
    rates = [resample_rates(p, 4_000, s) for p, s in zip(pools, (1, 2, 3, 4), strict=True)]
    draws = rates[0] / rates[1] - rates[2] / rates[3]
    expected = scipy_bca(pools, lambda a, s, b, t: a / s - b / t, draws, 0.95)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)
    assert found.method == "cluster bootstrap of bystander/source, BCa"


def test_half_of_the_ties_count_and_rounding_moves_none_of_them() -> None:
    """40 draws below, 30 at the estimate, 30 above: z0 is the quantile of 0.55.

    The jackknife is symmetric, so that a = 0 and the ends are the quantiles of the draws
    at Phi(2 z0 -+ 1.96).
    """
    at, values = 0.3, (np.array([-1.0, 0.0, 1.0]),)
    draws = np.concatenate([np.linspace(0.1, 0.2, 40), np.full(30, at), np.linspace(0.4, 0.5, 30)])
    z0 = scipy.stats.norm.ppf(0.55)
    expected = np.quantile(draws, scipy.stats.norm.cdf([2 * z0 - 1.959964, 2 * z0 + 1.959964]))
    for rounding in (0.0, 1e-17, -1e-17, 1e-12, -1e-12):
        moved = draws.copy()
        moved[40:70] += rounding
        assert bca_ends(at, moved, values, 0.95)[:2] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("draws", "left_out", "why"),
    [
        ([0.3] * 9, [-1.0, 0.0, 1.0], "no variation between clusters"),
        ([0.4] * 8 + [0.5], [-1.0, 0.0, 1.0], "all draws lie on one side of the estimate"),
        ([0.1] * 8 + [0.2], [-1.0, 0.0, 1.0], "all draws lie on one side of the estimate"),
        ([0.2, 0.4] * 5, [0.3, 0.3, 0.3], "undefined without one of the clusters"),
        ([0.2, 0.4] * 5, [0.3, math.nan, 0.2], "undefined without one of the clusters"),
        ([0.2] * 9 + [0.4], [0.0] + [1.0] * 300, "the acceleration 0.17 is too large"),
    ],
)
def test_where_bca_is_undefined_there_is_no_interval_and_the_note_says_why(
    draws: list[float], left_out: list[float], why: str
) -> None:
    low, high, note = bca_ends(0.3, np.array(draws), (np.array(left_out),), 0.9999999)
    assert math.isnan(low)
    assert math.isnan(high)
    assert note.startswith("no BCa interval: ")
    assert why in note


def test_bca_of_pools_without_variation_or_with_one_source_hit_is_withheld() -> None:
    same = compare(clusters([10] * 6), clusters([0] * 6), 99, interval="bca")
    assert not same.has_interval
    assert same.p == pytest.approx(2 / 100)
    assert "no variation" in same.note
    one = single_rate(clusters([3]), resamples=99, seed=1, level=0.95, interval="bca")
    assert (one.method, one.has_interval) == ("cluster bootstrap, BCa", False)
    # All source hits in one cluster of many: every resample may have it, no jackknife has.
    a, lone = clusters([5, 6] * 9), clusters([9] + [0] * 3)
    seeds = (4, 1, 3, 4)
    found = ratios(a, lone, a, clusters([9, 8]), resamples=2, seeds=seeds, interval="bca")
    assert not found.has_interval
    assert found.note


@pytest.mark.parametrize("interval", ["percentile", "bca"])
def test_one_contrast_costs_milliseconds(interval: str) -> None:
    """The promise is 0.05 s; the best of three is least disturbed by what else runs."""
    a, b = (pool_of(seed, 140, 0.4, unequal=False) for seed in (1, 2))
    compare(a, b)
    best = math.inf
    for seed in (10, 20, 30):  # draws of one seed are kept
        start = time.process_time()
        difference(a, b, resamples=10_000, seeds=(seed, seed + 1), level=0.95, interval=interval)
        best = min(best, time.process_time() - start)
    assert best < allowed(0.05)
