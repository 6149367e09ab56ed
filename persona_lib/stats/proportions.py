"""Proportions of independent completions: Wilson's interval and the naive z.

Completions to the same question are not independent: Wilson's interval is used where a cell
is shown by itself, and the naive z, which was published, is tagged.
"""

from __future__ import annotations

import math
import sys
from statistics import NormalDist

from persona_lib.errors import DataError
from persona_lib.stats.estimate import Estimate

NAIVE_TAG = "do not interpret"
_NORMAL = NormalDist()


def normal_quantile(confidence: float) -> float:
    """Return z such that a standard normal lies in (-z, z) with this probability."""
    return _NORMAL.inv_cdf(0.5 + confidence / 2)


def two_sided_p(z: float) -> float:
    """Return the two-sided normal p of `z`, at least the smallest positive float."""
    return min(1.0, max(math.erfc(abs(z) / math.sqrt(2)), sys.float_info.min))


def wilson(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (Wilson 1927, JASA 22:209).

    No trials give (NaN, NaN); hits outside [0, n] DataError.
    """
    _check("wilson", hits, n)
    if n == 0:
        return (math.nan, math.nan)
    return wilson_ends(hits / n, n, normal_quantile(confidence))


def wilson_ends(rate: float, n: float, z: float) -> tuple[float, float]:
    """Return Wilson's interval of a rate among n trials, which need not be whole.

    The ends always include the rate; z is the normal quantile.
    """
    square = z * z
    centre = (rate + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(rate * (1 - rate) / n + square / (4 * n * n))
    return max(0.0, min(centre - half, rate)), min(1.0, max(centre + half, rate))


def z_score(hits_a: int, n_a: int, hits_b: int, n_b: int) -> float:
    """Return the two-proportion z with pooled variance, NaN where nothing varies."""
    _check("first sample", hits_a, n_a)
    _check("second sample", hits_b, n_b)
    if not n_a or not n_b:
        return math.nan
    pooled = (hits_a + hits_b) / (n_a + n_b)
    variance = pooled * (1 - pooled) * (1 / n_a + 1 / n_b)
    if variance <= 0:
        return math.nan
    return (hits_a / n_a - hits_b / n_b) / math.sqrt(variance)


def naive_z(hits_a: int, n_a: int, hits_b: int, n_b: int, confidence: float = 0.95) -> Estimate:
    """Return the difference of two rates as if all completions were independent.

    The interval is Wald's (unpooled variance), the p that of `z_score`. The
    note carries z and the tag "do not interpret": clusters are ignored.
    """
    z = z_score(hits_a, n_a, hits_b, n_b)
    value = low = high = math.nan
    if n_a and n_b:
        rate_a, rate_b = hits_a / n_a, hits_b / n_b
        value = rate_a - rate_b
        variance = rate_a * (1 - rate_a) / n_a + rate_b * (1 - rate_b) / n_b
        half = normal_quantile(confidence) * math.sqrt(variance)
        low, high = value - half, value + half
    shown = "z not computable, nothing varies" if math.isnan(z) else f"z = {z:+z.2f}"
    return Estimate(
        value=value,
        low=low,
        high=high,
        confidence=confidence,
        p=None if math.isnan(z) else two_sided_p(z),
        n=n_a + n_b,
        method="naive two-sample z (as published)",
        note=f"{shown}; {NAIVE_TAG}: completions of one cluster are not independent",
    )


def _check(field: str, hits: int, n: int) -> None:
    if not 0 <= hits <= n:
        raise DataError(
            f"{field}: hits",
            bound=f"between 0 and n = {n}",
            value=hits,
            remedy="Count hits and completions over the same rows.",
        )
