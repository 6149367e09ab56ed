"""The registered sensitivity analysis: a linear mixed model on 0/1 hits.

Model: hit = intercept + effect * treated + u[persona] + error, with u and error
normal; fitted by restricted maximum likelihood (REML; Patterson and Thompson
1971, Biometrika 58:545). Only arm and persona enter, so hits and completions of
each persona in each arm are sufficient, and the likelihood profiles to one
number: the share of variance between personas. That is solved here because
importing a statistics package costs more than judging a stored run; a test
holds this against statsmodels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from persona_lib.errors import DataError
from persona_lib.stats.bootstrap import nothing
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.proportions import normal_quantile, two_sided_p

Floats = NDArray[np.float64]

METHOD = "mixed model, persona random intercept (as published)"
NOTE = "sensitivity only; a linear model of 0/1 hits"
_GRID = 65
_ROUNDS = 7
_LARGEST_SHARE = 1 - 1e-9
_NO_SHARE = 1e-9


def random_intercept(
    treated_hits: Floats,
    treated_n: Floats,
    control_hits: Floats,
    control_n: Floats,
    *,
    confidence: float = 0.95,
) -> Estimate:
    """Return the arm effect of the mixed model, with Wald interval and p.

    Args:
        treated_hits: (P,) hits of each persona in the treated arm.
        treated_n: (P,) completions of each persona in the treated arm.
        control_hits: (P,) hits of the same personas in the control arm.
        control_n: (P,) completions of the same personas in the control arm.
        confidence: level of the interval.

    A model that cannot be fitted gives NaN and says why in the note.

    Raises:
        DataError: the four arrays differ in length.
    """
    columns = _checked([treated_hits, treated_n, control_hits, control_n])
    _, n_t, _, n_c = columns
    n, personas = int(n_t.sum() + n_c.sum()), int(n_t.size)
    reason = _unfit(columns)
    if reason:
        return _unfitted(n, personas, confidence, reason)
    share = _best_share(columns)
    effect, variance = _solve(columns, share)
    if not (math.isfinite(effect) and variance > 0):
        return _unfitted(n, personas, confidence, "the likelihood has no usable maximum")
    error = math.sqrt(variance)
    half = normal_quantile(confidence) * error
    boundary = "; persona variance at its boundary, 0" if share < _NO_SHARE else ""
    return Estimate(
        value=effect,
        low=effect - half,
        high=effect + half,
        confidence=confidence,
        p=two_sided_p(effect / error),
        p_floor=None,
        n=n,
        clusters=personas,
        method=METHOD,
        note=f"SE = {error:.4f}; {NOTE}{boundary}",
    )


def _checked(columns: Sequence[Floats]) -> list[Floats]:
    arrays = [np.asarray(column, float) for column in columns]
    if len({array.shape for array in arrays}) != 1:
        raise DataError(
            "mixed model",
            bound="four arrays with one entry a persona",
            value=[array.shape for array in arrays],
            remedy="Give both arms for the same personas.",
        )
    return arrays


def _unfit(columns: list[Floats]) -> str:
    """Return why the model cannot be fitted to these counts, "" where it can."""
    _, n_t, _, n_c = columns
    if n_t.size == 1:
        return "it needs two personas or more"
    if not n_t.sum() or not n_c.sum():
        return "an arm has no completions"
    if _no_error_variance(columns):
        return "no variation within a persona and arm"
    return ""


def _no_error_variance(columns: list[Floats]) -> bool:
    hits_t, n_t, hits_c, n_c = columns
    return bool(
        ((hits_t % np.maximum(n_t, 1)) == 0).all() and ((hits_c % np.maximum(n_c, 1)) == 0).all()
    )


def _normal_equations(
    columns: list[Floats], share: Floats
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Return the weighted sums a, b, d (of X'WX), e, f (of X'Wy), each of shape (S,).

    With theta = share / (1 - share) the weight of persona g is
    W = I - c 11', c = theta / (1 + theta n_g); X has columns 1 and treated.
    """
    hits_t, n_t, hits_c, n_c = columns
    n, y = n_t + n_c, hits_t + hits_c
    theta = (share / (1 - share))[:, None]
    c = theta / (1 + theta * n)
    a = (n - c * n * n).sum(axis=1)
    b = (n_t - c * n * n_t).sum(axis=1)
    d = (n_t - c * n_t * n_t).sum(axis=1)
    e = (y - c * n * y).sum(axis=1)
    f = (hits_t - c * n_t * y).sum(axis=1)
    return a, b, d, e, f


def _profile(columns: list[Floats], share: Floats) -> tuple[Floats, Floats, Floats]:
    """Return REML log-likelihood (up to a constant), effect and its variance, each (S,)."""
    hits_t, n_t, hits_c, n_c = columns
    n, y = n_t + n_c, hits_t + hits_c
    theta = (share / (1 - share))[:, None]
    c = theta / (1 + theta * n)
    a, b, d, e, f = _normal_equations(columns, share)
    determinant = a * d - b * b
    intercept, effect = (d * e - b * f) / determinant, (a * f - b * e) / determinant
    squares = (y - c * y * y).sum(axis=1)  # y'Wy; hits are 0 or 1, so y'y is their sum
    rss = squares - intercept * e - effect * f
    freedom = n.sum() - 2
    log_det_v = np.log1p(theta * n).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = -0.5 * (freedom * np.log(rss) + log_det_v + np.log(determinant))
    return value, effect, rss / freedom * a / determinant


def _best_share(columns: list[Floats]) -> float:
    """Return the share of variance between personas that maximises the likelihood.

    A grid over [0, 1) that is narrowed around its best point: one dimension, no
    starting value, nothing that can fail to converge.
    """
    low, high = 0.0, _LARGEST_SHARE
    best = 0.0
    for _ in range(_ROUNDS):
        grid = np.linspace(low, high, _GRID)
        values = _profile(columns, grid)[0]
        at = int(np.nanargmax(np.where(np.isfinite(values), values, -np.inf)))
        best = float(grid[at])
        low, high = float(grid[max(at - 1, 0)]), float(grid[min(at + 1, _GRID - 1)])
    return best


def _solve(columns: list[Floats], share: float) -> tuple[float, float]:
    _, effect, variance = _profile(columns, np.array([share]))
    return float(effect[0]), float(variance[0])


def _unfitted(n: int, personas: int, confidence: float, why: str) -> Estimate:
    return nothing(n, personas, confidence, METHOD, f"not fitted: {why}")
