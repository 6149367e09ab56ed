"""Shares and medians whose completions come in clusters, and intervals of two of them.

Completions of one question are alike, so that n of them tell less than n. Here a share
keeps Wilson's interval with an effective number of completions, a median is read off
the interval of a share, and two such intervals are joined into one of a difference or
of a ratio. Nothing needs draws, and nothing collapses at a share of 0 or 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from persona_lib.errors import DataError
from persona_lib.stats.moments import Floats, level
from persona_lib.stats.proportions import normal_quantile

MIN_UNITS = 2
"""Fewest questions that say anything about how unlike they are."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number with the ends of its interval; NaN where there is none.

    Attributes:
        value: the estimate.
        low, high: ends, low <= value <= high; `high` of a ratio may be infinite.
        n: completions behind it.
        units: questions behind it.
    """

    value: float
    low: float
    high: float
    n: int
    units: int

    def text(self, digits: int = 3) -> str:
        """``0.690 [0.601, 0.766]``."""
        if math.isnan(self.value):
            return "not known"
        ends = f"{self.low:z.{digits}f}, {self.high:z.{digits}f}"
        return f"{self.value:z.{digits}f} [{'no interval' if math.isnan(self.low) else ends}]"


def share(hits: Floats, n: Floats, confidence: float) -> Interval:
    """Return a share of completions with a question-clustered interval.

    Wilson's interval at n / deff * (z / t)^2 completions. deff is the variance of the
    ratio estimator over questions, Q / (Q - 1) sum (h_q - p n_q)^2 / n^2, over the
    binomial p (1 - p) / n, and at least 1; t has Q - 1 degrees of freedom (Korn and
    Graubard 1998, Survey Methodology 24:193; for Wilson's form Dean and Pagano 2015,
    Journal of Survey Statistics and Methodology 3:484). Where all completions agree
    there is no spread to measure and deff is taken as 1.

    Args:
        hits: (Q,) hits of each question.
        n: (Q,) completions of each question. Questions without any are left out.
        confidence: level of the interval.

    Raises:
        DataError: unlike shapes, counts that are impossible, or an impossible confidence.
    """
    hits, n = _counted(hits, n)
    level(confidence)
    total, units = float(n.sum()), int(n.size)
    if not units:
        return Interval(value=math.nan, low=math.nan, high=math.nan, n=0, units=0)
    p = float(hits.sum() / total)
    if units < MIN_UNITS:
        return Interval(value=p, low=math.nan, high=math.nan, n=int(total), units=units)
    low, high = _wilson(p, _effective(hits, n, confidence), normal_quantile(confidence))
    return Interval(value=p, low=low, high=high, n=int(total), units=units)


def median(values: Floats, questions: Floats, confidence: float) -> Interval:
    """Return a median with a question-clustered interval.

    The share of values below the median is 1/2; the quantiles at the ends of that share's
    interval are the ends of the median's (Woodruff 1952, JASA 47:635). Where values tie
    with the median, how unlike the questions are is measured on the share below it and
    on the share up to it, and the larger design effect is used.

    Args:
        values: (N,) a number of each completion.
        questions: (N,) an integer for the question of each.
        confidence: level of the interval.

    Raises:
        DataError: unlike shapes, a value that is not finite, or an impossible confidence.
    """
    values, labels = np.asarray(values, dtype=np.float64), np.asarray(questions)
    if values.shape != labels.shape or values.ndim != 1 or not np.isfinite(values).all():
        raise DataError(
            "values",
            bound="finite numbers, each with its question",
            value=(values.shape, labels.shape),
            remedy="Leave out what is missing, and count it.",
        )
    level(confidence)
    if not values.size:
        return Interval(value=math.nan, low=math.nan, high=math.nan, n=0, units=0)
    middle = float(np.median(values))
    _, index = np.unique(labels, return_inverse=True)
    n = np.bincount(index).astype(np.float64)
    if n.size < MIN_UNITS:
        unknown = math.nan
        return Interval(value=middle, low=unknown, high=unknown, n=values.size, units=n.size)
    effective = min(
        _effective(np.bincount(index, weights=under).astype(np.float64), n, confidence)
        for under in (values < middle, values <= middle)
    )
    shares = _wilson(0.5, effective, normal_quantile(confidence))
    ends = np.quantile(values, shares, method="inverted_cdf")
    low, high = min(float(ends[0]), middle), max(float(ends[1]), middle)
    return Interval(value=middle, low=low, high=high, n=values.size, units=n.size)


def difference(one: Interval, two: Interval) -> Interval:
    """Return one - two with the interval that both intervals give (Newcombe 1998).

    low = d - sqrt((p1 - l1)^2 + (u2 - p2)^2), and its mirror image (Statistics in
    Medicine 17:873, method 10). The two are taken as independent: questions that both
    answer make it wider than it need be, not narrower.
    """
    value = one.value - two.value
    low = value - math.hypot(one.value - one.low, two.high - two.value)
    high = value + math.hypot(one.high - one.value, two.value - two.low)
    return _joined(one, two, value, low, high)


def ratio(one: Interval, two: Interval) -> Interval:
    """Return one / two with the interval that both intervals give (Donner and Zou 2012).

    With A = x1 x2 (Statistical Methods in Medical Research 21:347, MOVER-R)::

        low  = B / (A + sqrt(A^2 - B C)),   B = l1 (2 x1 - l1), C = u2 (2 x2 - u2)
        high = (A + sqrt(A^2 - B C)) / C,   B = u1 (2 x1 - u1), C = l2 (2 x2 - l2)

    The first is the paper's, rationalised, so that it has no pole. Numbers must not be
    negative. A denominator of 0 gives NaN, one whose interval begins at 0 an infinite
    upper end.
    """
    if not two.value > 0:
        return _joined(one, two, math.nan, math.nan, math.nan)
    product = one.value * two.value
    b, c = one.low * (2 * one.value - one.low), two.high * (2 * two.value - two.high)
    below = product + math.sqrt(max(0.0, product**2 - b * c))
    low = b / below if below > 0 else (0.0 if one.value == 0 else math.nan)
    b, c = one.high * (2 * one.value - one.high), two.low * (2 * two.value - two.low)
    high = math.inf
    if not c <= 0:  # NaN goes on: no interval on one side gives none of the ratio
        high = (product + math.sqrt(max(0.0, product**2 - b * c))) / c
    if math.isnan(one.low) or math.isnan(two.low):
        low = high = math.nan
    return _joined(one, two, one.value / two.value, low, high)


def _joined(one: Interval, two: Interval, value: float, low: float, high: float) -> Interval:
    units = min(one.units, two.units)
    return Interval(value=value, low=low, high=high, n=one.n + two.n, units=units)


def _effective(hits: Floats, n: Floats, confidence: float) -> float:
    """Return the completions that so many clustered ones are worth, t for z included."""
    total, units = float(n.sum()), n.size
    p = float(hits.sum() / total)
    binomial, effect = p * (1 - p) / total, 1.0
    if binomial > 0:
        spread = float(np.square(hits - p * n).sum()) * units / (units - 1) / total**2
        effect = max(1.0, spread / binomial)
    t = _student_quantile(units - 1, confidence)
    return total / effect * (normal_quantile(confidence) / t) ** 2


def _counted(hits: Floats, n: Floats) -> tuple[Floats, Floats]:
    hits, n = np.asarray(hits, dtype=np.float64), np.asarray(n, dtype=np.float64)
    fits = hits.shape == n.shape and hits.ndim == 1 and bool(((hits >= 0) & (hits <= n)).all())
    if not fits or not np.isfinite(n).all():
        raise DataError(
            "hits of questions",
            bound="two equally long lists with 0 <= hits <= completions",
            value=(hits.shape, n.shape),
            remedy="Count hits and completions over the same rows.",
        )
    return hits[n > 0], n[n > 0]


def _wilson(p: float, n: float, z: float) -> tuple[float, float]:
    """Return Wilson's interval at a number of completions that need not be whole."""
    square = z * z
    centre = (p + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
    return (max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p)))


def _student_quantile(df: int, confidence: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.5 + confidence / 2))
