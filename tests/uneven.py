"""Two-way clusters and uneven worlds, calculated once more: statsmodels and quadrature.

Tests take their expected values from here and not from `persona_lib.stats`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import integrate, optimize, stats
from scipy.special import expit
from statsmodels.stats.proportion import proportion_confint

Floats = NDArray[np.float64]
Ends = tuple[float, float, float]
Row = dict[str, Any]
SD = 2.0
"""Logits; the worst case of `persona_lib.stats.uneven`, stated again."""


def clustered_variance(values: Floats, *groups: Iterable[Any]) -> float:
    """Return the variance of a mean, clustered one way or two: a regression on a constant."""
    codes = [np.unique(list(each), return_inverse=True)[1] for each in groups]
    fit = sm.OLS(values, np.ones_like(values)).fit(
        cov_type="cluster", cov_kwds={"groups": np.column_stack(codes).squeeze()}
    )
    return float(fit.cov_params()[0, 0])


def two_way(values: Floats, personas: Iterable[Any], questions: Iterable[Any]) -> float:
    """Return the larger of the two-way clustered variance and of either one-way variance."""
    groups = (list(personas), list(questions))
    return max(clustered_variance(values, *of) for of in (groups, groups[:1], groups[1:]))


def effective(rows: Iterable[Row], hit: Callable[[Row], float], confidence: float = 0.95) -> float:
    """Return how many completions so many clustered ones are worth, t for z included.

    Questions are clusters, and so are personas where there are several.
    """
    rows = list(rows)
    y = np.array([float(hit(row)) for row in rows])
    personas, questions = ([row[key] for row in rows] for key in ("persona", "question"))
    units, p, n, effect = len(set(questions)), y.mean(), y.size, 1.0
    crossed = len(set(personas)) > 1
    if 0 < p < 1:
        variance = two_way(y, personas, questions) if crossed else clustered_variance(y, questions)
        effect = max(1.0, variance / (p * (1 - p) / n))
    fewer = min(units, len(set(personas))) if crossed else units
    end = 0.5 + confidence / 2
    return float(n / effect * (stats.norm.ppf(end) / stats.t.ppf(end, fewer - 1)) ** 2)


def clustered(rows: Iterable[Row], hit: Callable[[Row], float], confidence: float = 0.95) -> Ends:
    """Return share and ends: Wilson's interval of the completions that they are worth."""
    rows = list(rows)
    p, size = float(np.mean([float(hit(row)) for row in rows])), effective(rows, hit, confidence)
    low, high = proportion_confint(p * size, size, alpha=1 - confidence, method="wilson")
    return p, float(low), float(high)


@cache
def location(bound: float, sd: float = SD) -> float:
    """Return the mean logit at which the mean of normal logits' rates is the bound."""

    def above(middle: float) -> float:
        mean, _ = integrate.quad(lambda x: expit(middle + sd * x) * stats.norm.pdf(x), -9, 9)
        return float(mean) - bound

    return float(optimize.brentq(above, -40, 40, xtol=1e-12))


@cache
def hits_of_one(n: int, bound: float, sd: float = SD) -> Floats:
    """Return (n + 1,) probabilities of the hits of one cluster."""
    middle, k = location(bound, sd), np.arange(n + 1)

    def at(x: float) -> Floats:
        rate = expit(middle + sd * x)
        return np.asarray(stats.binom.pmf(k, n, rate) * stats.norm.pdf(x))

    found, _ = integrate.quad_vec(at, -9, 9, epsabs=1e-11, epsrel=1e-9, limit=2_000)
    return np.asarray(found)


def chances(hits: Iterable[int], sizes: Iterable[int], bound: float) -> tuple[float, float]:
    """Return P(so few hits in all) and P(no cluster with a larger share), at the bound."""
    hits, sizes = list(hits), list(sizes)
    total, worst = np.ones(1), 1.0
    largest = max(h / n for h, n in zip(hits, sizes, strict=True))
    for n in sizes:
        one = hits_of_one(n, bound)
        total = np.convolve(total, one)
        worst *= float(sum(p for k, p in enumerate(one) if k <= n * largest + 1e-9))
    return float(total[: sum(hits) + 1].sum()), worst


def shown(rows: Iterable[Row], hit: Callable[[Row], float], bound: float) -> bool:
    """Return whether so few hits are improbable for uneven personas and uneven questions."""
    rows = list(rows)
    for key in ("persona", "question"):
        hits: dict[Any, int] = {row[key]: 0 for row in rows}
        sizes = dict(hits)
        for row in rows:
            hits[row[key]] += int(hit(row))
            sizes[row[key]] += 1
        if min(chances(hits.values(), sizes.values(), bound)) > 0.025:
            return False
    return True
