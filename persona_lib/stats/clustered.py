"""Shares and medians of clustered completions, and intervals of two of them.

Completions of one question are alike, and so are those of one persona. A share keeps Wilson's
interval with an effective number of completions, a median is read off the interval of a
share, and two such intervals are joined into one of a difference or of a ratio; nothing is
drawn. Where hits are too few to show how unlike the clusters are, such an interval is too
short: `persona_lib.stats.uneven` says when. DataError: unlike shapes, impossible counts, a
value that is not finite, an impossible confidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from persona_lib.errors import DataError
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.moments import Floats, level, student_quantile
from persona_lib.stats.proportions import normal_quantile, wilson_ends

Ints = NDArray[np.int64]

MIN_UNITS = 2
"""Fewest questions that say anything about how unlike they are."""


def share(hits: Floats, n: Floats, confidence: float) -> Estimate:
    """Return a share of completions with a clustered interval.

    Wilson's interval at n / deff * (z / t)^2 completions. deff is the variance of the
    ratio estimator over clusters, `_variance`, over the binomial p (1 - p) / n, and at
    least 1; t has the degrees of freedom of the fewer clusters (Korn and Graubard 1998,
    Survey Methodology 24:193; for Wilson's form Dean and Pagano 2015, Journal of Survey
    Statistics and Methodology 3:484). Where all completions agree there is no spread to
    measure and deff is taken as 1.

    Args:
        hits: (Q,) hits of each question, or (G, Q) of each persona and question, whose
            personas could have been others as well.
        n: completions of each, of the same shape. Personas and questions without any are
            left out; with one persona left, its questions alone are clusters.
        confidence: level of the interval.
    """
    hits, n = _counted(hits, n)
    level(confidence)
    total, units = float(n.sum()), int(n.shape[-1])
    if not n.size:
        return Estimate.plain(math.nan, n=0, clusters=0)
    p = float(hits.sum() / total)
    if units < MIN_UNITS:
        return Estimate.plain(p, n=int(total), clusters=units)
    ends = wilson_ends(p, _effective(hits, n, confidence), normal_quantile(confidence))
    return Estimate.plain(p, *ends, n=int(total), clusters=units)


@dataclass(frozen=True, eq=False)
class Crossed:
    """A number of each completion, with its clusters.

    Attributes:
        values: (N,) finite numbers.
        questions, personas: (N,) the question and the persona of each, counted from 0.
            Personas that are all one are no clusters.
    """

    values: Floats
    questions: Ints
    personas: Ints

    def table(self, weights: Floats | None = None, shape: tuple[int, int] = (0, 0)) -> Floats:
        """Return (G, Q) sums over cells, or counts, in a table no smaller than `shape`."""
        rows, columns = (int(x.max()) + 1 for x in (self.personas, self.questions))
        rows, columns = max(rows, shape[0]), max(columns, shape[1])
        cell = self.personas * columns + self.questions
        sums = np.bincount(cell, weights, minlength=rows * columns)
        return sums.astype(np.float64).reshape(rows, columns)


def median(
    values: Floats, questions: Ints | Floats, confidence: float, personas: Ints | None = None
) -> Estimate:
    """Return a median with a clustered interval.

    The share of values below the median is 1/2; the quantiles at the ends of that share's
    interval are the ends of the median's (Woodruff 1952, JASA 47:635). Where values tie
    with the median, how unlike the clusters are is measured on the share below it and
    on the share up to it, and the larger design effect is used.

    Args:
        values: (N,) a number of each completion.
        questions: (N,) a whole number from 0 on for the question of each.
        confidence: level of the interval.
        personas: (N,) the same for the persona of each, where personas could have been others
            as well.
    """
    of = _crossed(values, questions, personas)
    level(confidence)
    values = of.values
    if not values.size:
        return Estimate.plain(math.nan, n=0, clusters=0)
    middle = float(np.median(values))
    n = of.table()
    units = int((n.sum(axis=0) > 0).sum())
    if units < MIN_UNITS:
        return Estimate.plain(middle, n=values.size, clusters=units)
    effective = min(
        _effective(*_counted(of.table(under.astype(np.float64)), n), confidence)
        for under in (values < middle, values <= middle)
    )
    shares = wilson_ends(0.5, effective, normal_quantile(confidence))
    ends = np.quantile(values, shares, method="inverted_cdf")
    low, high = min(float(ends[0]), middle), max(float(ends[1]), middle)
    return Estimate.plain(middle, low, high, n=values.size, clusters=units)


def median_ratio(
    one: Crossed, two: Crossed, confidence: float
) -> tuple[Estimate, Estimate, Estimate]:
    """Return the ratio of two medians over the same personas and questions, and both medians.

    What a persona or a question does to both medians cancels: the correlation of the two
    shares below the median, over clusters, goes into the ratio's interval. To first order
    a median moves with that share (Bahadur 1966, Annals of Mathematical Statistics
    37:577), so that the medians are correlated as the shares are.
    """
    first, second = (median(x.values, x.questions, confidence, x.personas) for x in (one, two))
    known = min(first.clusters or 0, second.clusters or 0) >= MIN_UNITS
    joint = _correlation(one, two) if known else 0.0
    return ratio(first, second, joint), first, second


def difference(one: Estimate, two: Estimate) -> Estimate:
    """Return one - two with the interval that both intervals give (Newcombe 1998).

    low = d - sqrt((p1 - l1)^2 + (u2 - p2)^2), and its mirror image (Statistics in
    Medicine 17:873, method 10). The two are taken as independent: questions that both
    answer make it wider than it need be, not narrower.
    """
    value = one.value - two.value
    low = value - math.hypot(one.value - one.low, two.high - two.value)
    high = value + math.hypot(one.high - one.value, two.value - two.low)
    return _joined(one, two, value, low, high)


def ratio(one: Estimate, two: Estimate, correlation: float = 0.0) -> Estimate:
    """Return one / two with the interval that both intervals give (Donner and Zou 2012).

    With r the correlation of the two, and A1 = x1 x2 - r (x1 - l1) (u2 - x2) or
    A2 = x1 x2 - r (u1 - x1) (x2 - l2) (Statistical Methods in Medical Research 21:347,
    MOVER-R)::

        low  = B / (A1 + sqrt(A1^2 - B C)),   B = l1 (2 x1 - l1), C = u2 (2 x2 - u2)
        high = (A2 + sqrt(A2^2 - B C)) / C,   B = u1 (2 x1 - u1), C = l2 (2 x2 - l2)

    The first is the paper's, rationalised, so that it has no pole. Numbers must not be
    negative. A denominator of 0 gives NaN, one whose interval begins at 0 an infinite
    upper end.
    """
    if not two.value > 0:
        return _joined(one, two, math.nan, math.nan, math.nan)
    whole = one.value * two.value
    product = whole - correlation * (one.value - one.low) * (two.high - two.value)
    b, c = one.low * (2 * one.value - one.low), two.high * (2 * two.value - two.high)
    below = product + math.sqrt(max(0.0, product**2 - b * c))
    low = b / below if below > 0 else (0.0 if one.value == 0 else math.nan)
    product = whole - correlation * (one.high - one.value) * (two.value - two.low)
    b, c = one.high * (2 * one.value - one.high), two.low * (2 * two.value - two.low)
    high = math.inf
    if not c <= 0:  # NaN goes on: no interval on one side gives none of the ratio
        high = (product + math.sqrt(max(0.0, product**2 - b * c))) / c
    if math.isnan(one.low) or math.isnan(two.low):
        low = high = math.nan
    return _joined(one, two, one.value / two.value, low, high)


def _joined(one: Estimate, two: Estimate, value: float, low: float, high: float) -> Estimate:
    units = min(one.clusters or 0, two.clusters or 0)
    return Estimate.plain(value, low, high, n=one.n + two.n, clusters=units)


def _effective(hits: Floats, n: Floats, confidence: float) -> float:
    """Return the completions that so many clustered ones are worth, t for z included."""
    total = float(n.sum())
    p = float(hits.sum() / total)
    binomial, effect = p * (1 - p) / total, 1.0
    if binomial > 0:
        effect = max(1.0, _variance(hits - p * n, n) / binomial)
    fewer = min(units for units in n.shape if units > 1)
    t = float(student_quantile(fewer - 1, confidence))
    return total / effect * (normal_quantile(confidence) / t) ** 2


def _variance(rest: Floats, n: Floats) -> float:
    """Return the variance of a share of (G, Q) cells, both kinds of clusters in it.

    V_K = K / (K - 1) sum r_k^2 / n^2 over the residuals r = h - p n of K clusters. Personas
    and questions are crossed: V_persona + V_question - V_cell (Cameron, Gelbach and Miller
    2011, Journal of Business and Economic Statistics 29:238), and the larger of it and of
    either alone, as in `persona_lib.stats.moments.persona_moments`. One persona: V_question.
    """
    personas, questions = (_over(rest.sum(axis=axis)) for axis in (1, 0))
    cells = _over(rest[n > 0])
    found = max(personas, questions, personas + questions - cells)
    return found / float(n.sum()) ** 2


def _correlation(one: Crossed, two: Crossed) -> float:
    """Return the correlation of the shares below two medians, over both kinds of clusters.

    Covariances are taken as `_variance` takes variances; a value at the median counts half.
    """
    shape = tuple(max(a, b) for a, b in zip(one.table().shape, two.table().shape, strict=True))
    rests, tables = [], []
    for of in (one, two):
        middle = np.median(of.values)
        under = (of.values < middle) + 0.5 * (of.values == middle)
        tables.append(n := of.table(shape=shape))
        rests.append(of.table(under - under.mean(), shape) / n.sum())
    both = (tables[0] > 0) & (tables[1] > 0)
    first, second = rests
    joint = sum(_over(first.sum(axis=axis), second.sum(axis=axis)) for axis in (0, 1))
    if 1 not in shape:  # with one persona, cells are its questions
        joint -= _over(first[both], second[both])
    spread = 1.0
    for rest, n in zip(rests, tables, strict=True):
        spread *= max(_variance(rest * n.sum(), n), 0.25 / float(n.sum()))
    return float(np.clip(joint / math.sqrt(spread), -1.0, 1.0))


def _over(rest: Floats, other: Floats | None = None) -> float:
    """Return K / (K - 1) sum r_k r'_k, 0 where there is one cluster and so no spread."""
    if rest.size == 1:
        return 0.0
    return float((rest * (rest if other is None else other)).sum()) * rest.size / (rest.size - 1)


def _crossed(values: Floats, questions: Ints | Floats, personas: Ints | None) -> Crossed:
    values, labels = np.asarray(values, dtype=np.float64), np.asarray(questions)
    others = np.zeros(labels.shape) if personas is None else np.asarray(personas)
    fits = values.shape == labels.shape == others.shape and values.ndim == 1
    if not fits or not np.isfinite(values).all():
        raise DataError(
            "values",
            bound="finite numbers, each with its question and its persona",
            value=(values.shape, labels.shape, others.shape),
            remedy="Leave out what is missing, and count it.",
        )
    return Crossed(values, labels.astype(np.int64), others.astype(np.int64))


def _counted(hits: Floats, n: Floats) -> tuple[Floats, Floats]:
    """Return checked (G, Q) counts without empty personas and questions; (Q,) is one persona."""
    hits, n = np.asarray(hits, dtype=np.float64), np.asarray(n, dtype=np.float64)
    fits = hits.shape == n.shape and hits.ndim in (1, 2) and bool(((hits >= 0) & (hits <= n)).all())
    if not fits or not np.isfinite(n).all():
        raise DataError(
            "hits of questions",
            bound="two tables of one shape with 0 <= hits <= completions",
            value=(hits.shape, n.shape),
            remedy="Count hits and completions over the same rows.",
        )
    hits, n = np.atleast_2d(hits), np.atleast_2d(n)
    if n.size and n.min() > 0:
        return hits, n
    kept = np.ix_(n.sum(axis=1) > 0, n.sum(axis=0) > 0)
    return hits[kept], n[kept]
