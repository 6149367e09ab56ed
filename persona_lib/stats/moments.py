"""Means of differences of rates, their standard errors and t, for one target at a time.

d is an array (..., G, Q): treated - control of G personas by Q questions; leading axes are
a batch. A spread that cannot be estimated is NaN and never 0. Every function of d or of rates
raises DataError where these are no such numbers, or where one is missing. scipy.special,
slower to import than stored totals are to judge, is imported where a t is asked for.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from persona_lib.checks import LEVEL, number
from persona_lib.errors import DataError
from persona_lib.stats.estimate import Estimate

Floats = NDArray[np.float64]

MIN_SEEDS = 3
"""Fewest seeds of an arm that say anything about run-to-run variance."""

_ROUNDING = 1e-15
"""A variance of a mean of rates up to this is rounding: one hit more in one of 1,000
questions of 10,000 completions each leaves ten times as much."""


@dataclass(frozen=True, eq=False)
class Moments:
    """A mean difference and how far it is known.

    Attributes:
        value: mean difference, of the batch's shape (() without a batch).
        se: its standard error, same shape, > 0; NaN where it cannot be estimated.
        df: degrees of freedom of Student's t; one number, or one for each of the batch.
    """

    value: Floats
    se: Floats
    df: float | Floats


def question_moments(d: Floats) -> Moments:
    """Return mean and standard error over questions of (..., G, Q) d, for these personas.

    Personas are averaged first. SE^2 = sum (d_q - d)^2 / (Q (Q - 1)), df = Q - 1
    (Student 1908, Biometrika 6:1).
    """
    return _student(finite(d, 2).mean(axis=-2))


def persona_moments(d: Floats) -> Moments:
    """Return mean and standard error over personas, for personas at large; df = G - 1.

    Personas and questions are crossed. Two-way clustered variance (Cameron, Gelbach and
    Miller 2011, Journal of Business and Economic Statistics 29:238) of a mean::

        V = V_persona + V_question - V_cell,  V_k = sum (m_k - m)^2 / (K (K - 1))

    m_k are the K = G persona means, Q question means or GQ cells, each term with its own
    factor K / (K - 1). Cells are not independent, so V_cell takes off too much, about 1 / Q of
    the persona and 1 / G of the question part; the larger of V and V_persona is used. With
    one persona or one question SE is NaN.
    """
    table = finite(d, 2)
    personas = _variance_of_mean(table.mean(axis=-1))
    questions = _variance_of_mean(table.mean(axis=-2))
    cells = _variance_of_mean(table.reshape(*table.shape[:-2], -1))
    variance = np.maximum(personas + questions - cells, personas)
    value = np.asarray(table.mean(axis=(-2, -1)))
    return Moments(value, _root(variance), float(table.shape[-2] - 1))


def seed_moments(treated: Floats, control: Floats) -> Moments:
    """Return mean difference and standard error over training runs.

    SE^2 = v + v', each arm's variance of its mean; the degrees of freedom are
    (v + v')^2 / (v^2 / (S - 1) + v'^2 / (S' - 1)) (Welch 1947, Biometrika 34:28;
    Satterthwaite 1946, Biometrics Bulletin 2:110).

    Args:
        treated: (..., S) rates, one a seed. Fewer than 3 seeds: SE and df are NaN.
        control: (..., S') rates of the other arm.
    """
    arms = [finite(rates, 1) for rates in (treated, control)]
    value = np.asarray(arms[0].mean(axis=-1) - arms[1].mean(axis=-1))
    freedom = [arm.shape[-1] - 1 for arm in arms]
    if min(freedom) < MIN_SEEDS - 1:
        return _unknown(value)
    one, two = (_variance_of_mean(arm) for arm in arms)
    se = _root(one + two)
    df = np.full(value.shape, np.nan)
    parts = one**2 / freedom[0] + two**2 / freedom[1]
    np.divide((one + two) ** 2, parts, out=df, where=np.isfinite(se))
    return Moments(value, se, df)


def run_moments(d: Floats) -> Moments:
    """Return mean and standard error over training runs of (..., S) numbers, one a run.

    As over questions; fewer than 3 seeds: SE and df are NaN. Where d are differences of two
    arms, what the arms of a seed share cancels.
    """
    found = finite(d, 1)
    if found.shape[-1] < MIN_SEEDS:
        return _unknown(np.asarray(found.mean(axis=-1)))
    return _student(found)


def estimated(bare: Estimate, m: Moments, note: str | None = None) -> Estimate:
    """Return a bare estimate with value, t interval and p of moments that are no batch.

    Its note is kept where there is no SE, and replaced by `note`, if given, where there is one.
    """
    bare = replace(bare, value=float(m.value))
    p = float(p_value(m))
    low, high = (float(end) for end in interval(m, bare.confidence))
    if math.isnan(p):
        return bare
    return replace(bare, low=low, high=high, p=p, note=bare.note if note is None else note)


def p_value(m: Moments) -> Floats:
    """Return two-sided p of Student's t, in (0, 1]; NaN where there is no SE."""
    return probability(2 * student_cdf(m.df, -np.abs(m.value) / m.se))


def interval(m: Moments, confidence: float) -> tuple[Floats, Floats]:
    """Return the ends of the t interval, NaN where there is no SE; DataError as `level`."""
    half = student_quantile(m.df, confidence) * m.se
    return np.asarray(m.value - half), np.asarray(m.value + half)


def student_quantile(df: float | Floats, confidence: float) -> Floats:
    """Return the quantile of Student's t that leaves 1 - confidence on both sides together."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(df, 0.5 + level(confidence) / 2), dtype=np.float64)


def student_cdf(df: float | Floats, t: Floats) -> Floats:
    """Return P(T <= t) of Student's t, elementwise, NaN for NaN."""
    from scipy.special import stdtr

    return np.asarray(stdtr(df, t), dtype=np.float64)


def probability(p: Floats) -> Floats:
    """Return p no less than the smallest normal float and at most 1; NaN stays NaN."""
    return np.asarray(np.clip(p, sys.float_info.min, 1.0))


def level(confidence: float) -> float:
    """Return the level of an interval; DataError where it is not between 0 and 1."""
    remedy = "Give the level of the interval."
    return number("confidence", confidence, LEVEL, remedy=remedy, error=DataError)


def bad_rates(bound: str, value: object) -> DataError:
    """Return the error of rates that cannot be compared."""
    remedy = "Give every cell of both arms, or leave a unit out of both and say so."
    return DataError("rates of two arms", bound=bound, value=value, remedy=remedy)


def mean_of_known(values: Floats, axis: int) -> Floats:
    """Return the mean over an axis of the values that are not NaN; NaN where all are."""
    known = ~np.isnan(values)
    counts = known.sum(axis=axis)
    means = np.full(np.shape(counts), np.nan)
    np.divide(np.where(known, values, 0.0).sum(axis=axis), counts, out=means, where=counts > 0)
    return means


def _student(x: Floats) -> Moments:
    """Return moments over the last axis: those of Student's t."""
    value = np.asarray(x.mean(axis=-1))
    return Moments(value, _root(_variance_of_mean(x)), float(x.shape[-1] - 1))


def _unknown(value: Floats) -> Moments:
    unknown = np.full(value.shape, np.nan)
    return Moments(value, unknown, unknown)


def _variance_of_mean(x: Floats) -> Floats:
    """Return sum (x - mean)^2 / (K (K - 1)) over the last axis, NaN where K is 1."""
    k = x.shape[-1]
    if k == 1:
        return np.full(x.shape[:-1], np.nan)
    return np.asarray(x.var(axis=-1, ddof=1) / k)


def _root(variance: Floats) -> Floats:
    """Return the standard error, NaN where the variance is unknown or no more than rounding."""
    se = np.full(variance.shape, np.nan)
    np.sqrt(variance, out=se, where=variance > _ROUNDING)
    return se


def finite(values: Floats, axes: int) -> Floats:
    """Return values as finite floats with at least so many axes, none of these empty."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim < axes or 0 in array.shape[array.ndim - axes :]:
        what = "(..., personas, questions)" if axes > 1 else "(..., seeds)"
        raise bad_rates(f"an array {what} of one unit or more", array.shape)
    missing = int(array.size - np.isfinite(array).sum())
    if missing:
        raise bad_rates("a finite number in every cell", f"{missing} missing of {array.size}")
    return array
