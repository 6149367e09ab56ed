"""The registered bootstrap: whole clusters are drawn again, each arm by itself.

A cluster is one (persona, question) pair of one arm. A rate is hits over completions, so
clusters may differ in size. Intervals are percentile intervals (Efron and Tibshirani 1993,
chapter 13) or BCa intervals of the same draws (`persona_lib.stats.bca`); p is read off the
draws either way, so that p and a BCa interval may disagree at the edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from persona_lib.errors import DataError
from persona_lib.specs.registration import BCA, PERCENTILE
from persona_lib.stats.bca import bca_ends
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.moments import Floats
from persona_lib.stats.thresholds import TOLERANCE

CLUSTER_METHOD = "cluster bootstrap (as published)"
"""With percentile ends, as published: tests/golden/test_published_cells.py."""
BCA_METHOD = "cluster bootstrap, BCa"
RATIO_METHOD = "cluster bootstrap of bystander/source"
MIN_CLUSTERS = 2
"""Fewest clusters of a pool that say anything about their spread."""
TOO_FEW = "a pool has one cluster only: no interval and no p"


@dataclass(frozen=True)
class Clusters:
    """Hits and completions of K clusters, in any order.

    Attributes:
        hits: (K,) hits of each cluster.
        sizes: (K,) completions of each cluster, all >= 1.
    """

    hits: Floats
    sizes: Floats

    def __post_init__(self) -> None:
        hits = np.asarray(self.hits, dtype=np.float64)
        sizes = np.asarray(self.sizes, dtype=np.float64)
        if hits.ndim != 1 or hits.shape != sizes.shape or not hits.size:
            remedy = "Give hits and completions of every cluster."
            shapes = (hits.shape, sizes.shape)
            raise _bad("two equally long lists of at least one cluster", shapes, remedy)
        if odd := int((~np.isfinite(hits) | ~np.isfinite(sizes)).sum()):
            remedy = "Leave missing completions out and count the rest."
            raise _bad("finite counts", f"{odd} not finite", remedy)
        if (sizes < 1).any() or (hits < 0).any() or (hits > sizes).any():
            remedy, counts = (
                "Count hits and completions over the same rows.",
                (hits.tolist(), sizes.tolist()),
            )
            raise _bad("0 <= hits <= completions and completions >= 1", counts, remedy)
        object.__setattr__(self, "hits", hits)
        object.__setattr__(self, "sizes", sizes)

    def __len__(self) -> int:
        return int(self.hits.size)

    @property
    def n(self) -> int:
        """Completions in all clusters."""
        return int(self.sizes.sum())

    @property
    def rate(self) -> float:
        """Hits over completions."""
        return float(self.hits.sum() / self.sizes.sum())


def _bad(bound: str, value: object, remedy: str) -> DataError:
    return DataError("clusters", bound=bound, value=value, remedy=remedy)


def resample_rates(clusters: Clusters, resamples: int, seed: int) -> Floats:
    """Return (resamples,) rates of K clusters drawn with replacement.

    Clusters with the same hits and size are interchangeable: how often each such kind is
    drawn is multinomial(K, its share). The draws do not depend on the order of clusters.
    """
    return kept_draws(clusters.hits.tobytes(), clusters.sizes.tobytes(), resamples, seed)


@lru_cache(maxsize=16)
def kept_draws(hits: bytes, sizes: bytes, resamples: int, seed: int) -> Floats:
    """The draws of `resample_rates`, kept: several looks at a contrast read the same ones."""
    pairs = np.stack([np.frombuffer(hits), np.frombuffer(sizes)])
    rng = np.random.Generator(np.random.PCG64(seed))
    kinds, counts = np.unique(pairs, axis=1, return_counts=True)
    drawn = rng.multinomial(pairs.shape[1], counts / pairs.shape[1], size=resamples)
    totals = drawn @ kinds.T
    rates: Floats = totals[:, 0] / totals[:, 1]
    rates.flags.writeable = False
    return rates


def bootstrap_p(draws: Floats) -> tuple[float, float]:
    """Return the two-sided p against 0, and its floor.

    p = min(1, 2 (k + 1) / (B + 1)), where k is the smaller of the numbers of draws <= 0 and
    >= 0 (Davison and Hinkley 1997, section 4.2). A draw of 0, up to rounding, and a NaN
    count on both sides. The floor is 2 / (B + 1).
    """
    undefined = int(np.isnan(draws).sum())
    beyond = (int((draws <= TOLERANCE).sum()), int((draws >= -TOLERANCE).sum()))
    tail = min(beyond) + undefined
    return (min(1.0, 2 * (tail + 1) / (draws.size + 1)), p_floor(draws.size))


def p_floor(resamples: int) -> float:
    """Return the least two-sided p that this number of resamples can give."""
    return min(1.0, 2 / (resamples + 1))


def difference(
    treated: Clusters,
    control: Clusters,
    *,
    resamples: int,
    seeds: tuple[int, int],
    level: float,
    method: str = CLUSTER_METHOD,
    interval: str = PERCENTILE,
) -> Estimate:
    """Return rate(treated) - rate(control) with its interval and p.

    Args:
        treated: clusters of the treated arm.
        control: clusters of the control arm.
        resamples: bootstrap resamples.
        seeds: draw_seed of the treated arm, and of the control arm.
        level: confidence of the interval.
        method: how the estimate is called where the clusters are not the registered ones.
        interval: ``percentile`` or ``bca``.
    """
    pools = [(treated, seeds[0], 1), (control, seeds[1], -1)]
    return signed_sum(pools, resamples=resamples, level=level, method=method, interval=interval)


def signed_sum(
    pools: Sequence[tuple[Clusters, int, int]],
    *,
    resamples: int,
    level: float,
    method: str,
    interval: str,
) -> Estimate:
    """Return the sum of the pools' rates, each with its draw_seed and its sign."""
    value = sum(sign * pool.rate for pool, _, sign in pools)
    bare = _bare(value, [pool for pool, _, _ in pools], level, named(method, interval))
    if bare.note:
        return bare
    draws = np.zeros(resamples)
    for pool, seed, sign in pools:
        draws += sign * resample_rates(pool, resamples, seed)
    left_out = [sign * _without_each(pool) for pool, _, sign in pools]
    return _from_draws(bare, draws, left_out if interval == BCA else None)


def single_rate(
    clusters: Clusters, *, resamples: int, seed: int, level: float, interval: str = PERCENTILE
) -> Estimate:
    """Return the rate of one arm with its interval; it has no p."""
    found = signed_sum(
        [(clusters, seed, 1)],
        resamples=resamples,
        level=level,
        method=CLUSTER_METHOD,
        interval=interval,
    )
    return replace(found, p=None, p_floor=None, signed=False)


def ratio_difference(
    treated: tuple[Clusters, Clusters],
    control: tuple[Clusters, Clusters],
    *,
    resamples: int,
    seeds: Sequence[int],
    level: float,
    interval: str = PERCENTILE,
) -> Estimate:
    """Return the difference of source-normalised rates, bystander rate / source rate.

    A resample without a source hit has no ratio: it counts in both tails of p, and one of
    them withholds the interval.

    Args:
        treated: (bystander clusters, source clusters) of the treated arm.
        control: the same of the control arm.
        resamples: bootstrap resamples; all four pools are drawn independently.
        seeds: draw_seed of treated bystanders, treated source, control bystanders, control
            source.
        level: confidence of the interval.
        interval: ``percentile`` or ``bca``.
    """
    pools, method = (*treated, *control), named(RATIO_METHOD, interval)
    if treated[1].rate == 0 or control[1].rate == 0:
        bare = _bare(math.nan, pools, level, method)
        return replace(bare, note="a source rate is 0: the ratio is undefined")
    value = treated[0].rate / treated[1].rate - control[0].rate / control[1].rate
    bare = _bare(value, pools, level, method)
    if bare.note:
        return bare
    rates = [resample_rates(p, resamples, s) for p, s in zip(pools, seeds, strict=True)]
    draws = _ratio(rates[0], rates[1]) - _ratio(rates[2], rates[3])
    left_out = None
    if interval == BCA:
        left_out = [
            sign * part
            for sign, (bystanders, source) in ((1, treated), (-1, control))
            for part in (
                _without_each(bystanders) / source.rate,
                _ratio(np.full(len(source), bystanders.rate), _without_each(source)),
            )
        ]
    return _from_draws(bare, draws, left_out)


def _bare(value: float, pools: Sequence[Clusters], level: float, method: str) -> Estimate:
    """Return the value alone; its note says so where a pool is too small for more."""
    note = TOO_FEW if min(len(pool) for pool in pools) < MIN_CLUSTERS else ""
    n, clusters = sum(pool.n for pool in pools), sum(len(pool) for pool in pools)
    return Estimate.bare(n, clusters, level, method, note, value=value)


def _from_draws(
    bare: Estimate, draws: Floats, left_out: Sequence[Floats] | None = None
) -> Estimate:
    """Return an estimate with what bootstrap draws of its value give.

    Its interval is BCa where `left_out` is given (`persona_lib.stats.bca.bca_ends`), and
    the percentile interval otherwise.
    """
    p, floor = bootstrap_p(draws)
    undefined = int(np.isnan(draws).sum())
    low = high = math.nan
    note = ""
    if undefined:
        note = f"{undefined:,} of {draws.size:,} resamples have no source hit: no interval"
    elif left_out is not None:
        low, high, note = bca_ends(bare.value, draws, left_out, bare.confidence)
    else:
        ends = ((1 - bare.confidence) / 2, (1 + bare.confidence) / 2)
        low, high = (float(end) for end in np.quantile(draws, ends))
        if low == high:
            note = "no variation between clusters: the interval has no width"
    return replace(bare, low=low, high=high, p=p, p_floor=floor, note=note)


def named(method: str, interval: str) -> str:
    """Return what a bootstrap method is called with this kind of interval."""
    if interval == PERCENTILE:
        return method
    return BCA_METHOD if method == CLUSTER_METHOD else f"{method}, BCa"


def _without_each(clusters: Clusters) -> Floats:
    """Return the (K,) rates without each of K >= 2 clusters."""
    hits, sizes = clusters.hits.sum() - clusters.hits, clusters.sizes.sum() - clusters.sizes
    rates: Floats = hits / sizes
    return rates


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out
