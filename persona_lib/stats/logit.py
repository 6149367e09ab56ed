"""The effect between arms at equal length: a logit on completions, clusters respected.

logit P(hit) = a + b treated + c log(tokens), one slope for both arms, by maximum
likelihood. It is a sensitivity only: the arm changes length itself, and a hit is longer by
its own marker. It is solved here because importing statsmodels takes 1.1 s, more than a
third of what a stored verdict may; tests hold both together.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from persona_lib.errors import DataError
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.lengths import (
    AUC_WARN,
    REFUSE,
    SHARE_WARN,
    WARN,
    Bools,
    Ints,
    common_support,
)
from persona_lib.stats.moments import Floats, Moments, interval, level, p_value
from persona_lib.stats.thresholds import shown

METHOD = "length-adjusted logit, cluster-robust"
REFUSED = "not identified: the arms share no lengths"
LITTLE = "little common support"
SEPARATED = "separated"
UNFITTED = "not fitted"
NOTE = "sensitivity only: length is an outcome of the arm too"

_MOST_STEPS = 100
_STEP = 1e-8
"""A Newton step this small beside the coefficients is the last: the next is its square."""
_SINGULAR = 1e-12
"""Smallest eigenvalue of an information matrix of unit diagonal that is inverted."""
_ROUNDING = 1e-8
"""A standard error up to this is what rounding leaves where every cluster's score is 0."""


def length_adjusted(
    hits: Bools | Floats,
    treated: Bools | Ints | Floats,
    tokens: Ints | Floats,
    clusters: Ints,
    *,
    confidence: float,
) -> Estimate:
    """Return the difference of two arms' rates at equal length.

    The value is the average marginal effect (Lane and Nelder 1982, Biometrics 38:613): the
    mean over all completions of P(hit | treated, its length) - P(hit | control, its
    length). Its standard error is the delta method's, lengths taken as they are, on the
    covariance of `_robust`; interval and p are Student's t, clusters - 1 degrees of freedom.
    The note has b, the log-odds, with its interval.

    `common_support` of the lengths refuses, warns or lets pass first. 0 tokens count as 1;
    log(tokens) is left out where all completions have one length. What cannot be fitted is
    NaN, and the note says why. Without a usable standard error there is no interval.

    Args:
        hits: (N,) 0 or 1, whether each completion holds the marker.
        treated: (N,) 0 or 1, its arm.
        tokens: (N,) its length.
        clusters: (N,) integers, its cluster; a cluster may be in both arms, as a
            question is, and is then one cluster.
        confidence: level of the interval.

    Raises:
        DataError: columns of unequal length or with other values, a missing value, an
            arm without completions, or an impossible confidence.
    """
    level(confidence)
    y, arm, counted, unit = _columns(hits, treated, tokens, clusters)
    bare = Estimate.bare(y.size, int(unit.max()) + 1, confidence, METHOD)
    support = common_support(counted[arm], counted[~arm])
    x = np.log(np.maximum(counted, 1.0))
    if support.grade == REFUSE:
        bounds = f"needs AUC <= {shown(AUC_WARN)} and common support >= {shown(SHARE_WARN)}"
        return replace(bare, note=f"{REFUSED}: {support.figures}; {bounds}")
    if why := separation(y, arm, x):
        return replace(bare, note=why)
    design = _design(arm, x)
    fitted = _maximum(design, y)
    if isinstance(fitted, str):
        return replace(bare, note=f"{UNFITTED}: {fitted}")
    effects = _effects(design, y, unit, *fitted)
    known, words = _with_spread(replace(bare, value=float(effects.value[0])), effects)
    first = [f"{LITTLE}: {support.figures}"] if support.grade == WARN else []
    last = [NOTE] if first else [f"lengths: {support.figures}", NOTE]
    if not np.ptp(x):
        last.insert(0, "all completions have the same length: log(tokens) left out")
    return replace(known, note="; ".join([*first, words, *last]))


def separation(hits: Bools, treated: Bools, x: Floats) -> str:
    """Return what separates hits from misses so that no estimate is finite, "" if nothing.

    The likelihood has no maximum if and only if some (a, b, c), not zero for every
    completion, has a + b treated + c x >= 0 at each hit and <= 0 at each miss (Albert and
    Anderson 1984, Biometrika 71:1). With c = 0 an arm has no misses, or no hits; otherwise
    each arm has a threshold with every hit on one side and every miss on the other, ties
    allowed on both.

    Args:
        hits: (N,) whether each completion holds the marker.
        treated: (N,) its arm, both occur.
        x: (N,) its length on any increasing scale.
    """
    arms = {"treated": treated, "control": ~treated}
    constant = [
        f"{'every' if hits[arm].all() else 'no'} completion of the {name} arm is a hit"
        for name, arm in arms.items()
        if hits[arm].all() or not hits[arm].any()
    ]
    if constant:
        return f"{SEPARATED}: {' and '.join(constant)}"
    if not any(np.ptp(x[arm]) for arm in arms.values()):
        return ""  # x is constant within arms: a threshold at it separates nothing
    for sign, word in ((1, "shorter"), (-1, "longer")):
        if all(
            (sign * x[arm & ~hits]).max() <= (sign * x[arm & hits]).min() for arm in arms.values()
        ):
            return f"{SEPARATED}: within each arm no hit is {word} than a miss"
    return ""


def _columns(
    hits: Bools | Floats, treated: Bools | Ints | Floats, tokens: Ints | Floats, clusters: Ints
) -> tuple[Bools, Bools, Floats, Ints]:
    """Return hits, arms and lengths, and clusters numbered from 0, all (N,) and checked."""
    given = {"hits": hits, "treated": treated, "tokens": tokens, "clusters": clusters}
    arrays = {name: np.asarray(column) for name, column in given.items()}
    shapes = [array.shape for array in arrays.values()]
    if len(set(shapes)) != 1 or len(shapes[0]) != 1 or not shapes[0][0]:
        raise _bad("columns", "four lists with one entry a completion", shapes)
    for name in ("hits", "treated"):
        odd = ~np.isin(arrays[name], (0, 1))
        if odd.any():
            value = f"{int(odd.sum())} others of {odd.size}, the first {arrays[name][odd][0]}"
            raise _bad(name, "0 or 1", value)
    y, arm = arrays["hits"].astype(np.bool_), arrays["treated"].astype(np.bool_)
    if arm.all() or not arm.any():
        raise _bad("treated", "completions of both arms", f"{int(arm.sum())} of {arm.size} treated")
    if arrays["clusters"].dtype.kind not in "iu":
        raise _bad("clusters", "integers", arrays["clusters"].dtype)
    unit = np.unique(arrays["clusters"], return_inverse=True)[1].astype(np.int64)
    return y, arm, arrays["tokens"].astype(np.float64), unit


def _bad(column: str, bound: str, value: object) -> DataError:
    remedy = "Give every column of the same completions; leave missing ones out and count them."
    return DataError(f"length-adjusted logit: {column}", bound=bound, value=value, remedy=remedy)


def _design(arm: Bools, x: Floats) -> Floats:
    """Return (N, 3): control, treated, x in standard units; (N, 2) where x does not vary.

    It is the same model, better conditioned.
    """
    columns = [(~arm).astype(np.float64), arm.astype(np.float64)]
    if np.ptp(x):
        columns.append((x - x.mean()) / x.std())
    return np.column_stack(columns)


def _rates(linear: Floats) -> Floats:
    """Return 1 / (1 + exp(-linear)), without overflow and exact far below 0."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -linear)))


def _maximum(design: Floats, y: Bools) -> tuple[Floats, Floats] | str:
    """Return (K,) coefficients of greatest likelihood and (K, K) inverse information.

    Newton's method from 0: the likelihood is concave. Without an answer, the reason in words.
    """
    sign = np.where(y, 1.0, -1.0)
    now = np.zeros(design.shape[1])
    last = False
    for _ in range(_MOST_STEPS):
        inverse = _inverse_information(design, now)
        if inverse is None:
            return "the information matrix is singular"
        if last:
            return now, inverse
        step = inverse @ (design.T @ _residuals(design, sign, now))
        now = now + step
        last = bool(np.abs(step).max() <= _STEP * (1 + np.abs(now).max()))
    return f"hits and misses are all but separated, no convergence in {_MOST_STEPS} steps"


def _residuals(design: Floats, sign: Floats, coefficients: Floats) -> Floats:
    """Return y - p, (N,), with `sign` +1 for a hit and -1 for a miss."""
    return sign * _rates(-sign * (design @ coefficients))


def _inverse_information(design: Floats, coefficients: Floats) -> Floats | None:
    """Return the inverse of X' diag(p (1 - p)) X, None where it is singular to rounding."""
    linear = design @ coefficients
    information = (design.T * (_rates(linear) * _rates(-linear))) @ design
    scale = np.sqrt(np.diag(information))
    if not scale.all():
        return None
    values, vectors = np.linalg.eigh(information / np.outer(scale, scale))
    if values[0] <= _SINGULAR:
        return None
    return np.asarray((vectors / values) @ vectors.T / np.outer(scale, scale))


def _effects(
    design: Floats, y: Bools, unit: Ints, coefficients: Floats, inverse: Floats
) -> Moments:
    """Return average marginal effect and log-odds, (2,), with errors over G - 1 df.

    The gradient of p = rate(linear) is p (1 - p) times the row.
    """
    rows = [design.copy(), design.copy()]
    rows[0][:, :2], rows[1][:, :2] = (0.0, 1.0), (1.0, 0.0)
    linear = [row @ coefficients for row in rows]
    rates = [_rates(line) for line in linear]
    slopes = [rate * _rates(-line) for rate, line in zip(rates, linear, strict=True)]
    gradients = np.zeros((2, coefficients.size))
    gradients[0] = (slopes[0] @ rows[0] - slopes[1] @ rows[1]) / y.size
    gradients[1, :2] = -1.0, 1.0
    values = np.array([(rates[0] - rates[1]).mean(), gradients[1] @ coefficients])
    groups = int(unit.max()) + 1
    errors = np.full(2, np.nan)
    if groups > 1:
        covariance = _robust(design, y, unit, coefficients, inverse)
        variances = ((gradients @ covariance) * gradients).sum(axis=1)
        np.sqrt(variances, out=errors, where=variances > _ROUNDING**2)
    return Moments(values, errors, float(groups - 1))


def _robust(design: Floats, y: Bools, unit: Ints, coefficients: Floats, inverse: Floats) -> Floats:
    """Return the (K, K) covariance that lets completions of a cluster depend on each other.

    V = c A^-1 (sum over clusters g of s_g s_g') A^-1, A the information and s_g the sum
    of the cluster's scores (y - p) x (Liang and Zeger 1986, Biometrika 73:13);
    c = G / (G - 1) * (N - 1) / (N - K) and t with G - 1 degrees of freedom (Cameron and
    Miller 2015, Journal of Human Resources 50:317).
    """
    groups, (n, k) = int(unit.max()) + 1, design.shape
    scores = design * _residuals(design, np.where(y, 1.0, -1.0), coefficients)[:, None]
    sums = np.stack([np.bincount(unit, weights=column, minlength=groups) for column in scores.T])
    factor = groups / (groups - 1) * (n - 1) / (n - k)
    return np.asarray(factor * inverse @ (sums @ sums.T) @ inverse)


def _with_spread(bare: Estimate, effects: Moments) -> tuple[Estimate, str]:
    """Return the estimate with interval and p, and the words on log-odds and errors."""
    odds = f"log-odds {float(effects.value[1]):+z.3f}"
    if not np.isfinite(effects.se).all():
        what = "one cluster" if bare.clusters == 1 else "no variation over clusters"
        return bare, f"{odds}; {what}: no interval, no p"
    low, high = interval(effects, bare.confidence)
    known = replace(bare, low=float(low[0]), high=float(high[0]), p=float(p_value(effects)[0]))
    ends = f"[{float(low[1]):+z.3f}, {float(high[1]):+z.3f}]"
    spread = f"SE = {float(effects.se[0]):.3g}, df = {float(effects.df):.3g}"
    return known, f"{odds} {ends}; {spread}"
