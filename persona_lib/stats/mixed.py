"""The registered sensitivity analysis: a linear mixed model on 0/1 hits.

hit = intercept + effect * treated + u[persona] + error, u and error normal, fitted by
restricted maximum likelihood (REML; Patterson and Thompson 1971, Biometrika 58:545). Only
arm and persona enter, so that the likelihood profiles to one number, the share of variance
between personas. It is solved here because importing statsmodels takes 1.1 s, more than a
third of what a stored verdict may; a test holds both together.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from persona_lib.errors import DataError
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.moments import Floats
from persona_lib.stats.proportions import normal_quantile, two_sided_p

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

    All four arrays are (P,), hits and completions of the same personas; DataError where they
    differ in length. A model that cannot be fitted gives NaN and says why in the note.
    """
    given = (treated_hits, treated_n, control_hits, control_n)
    hits_t, n_t, hits_c, n_c = columns = [np.asarray(column, float) for column in given]
    if len({column.shape for column in columns}) != 1:
        raise DataError(
            "mixed model",
            bound="four arrays with one entry a persona",
            value=[column.shape for column in columns],
            remedy="Give both arms for the same personas.",
        )
    bare = Estimate.bare(int(n_t.sum() + n_c.sum()), int(n_t.size), confidence, METHOD)
    if why := _unfit(hits_t, n_t, hits_c, n_c):
        return replace(bare, note=f"not fitted: {why}")
    share = _best_share(columns)
    _, effect, variance = (float(x[0]) for x in _profile(columns, np.array([share])))
    if not (math.isfinite(effect) and variance > 0):
        return replace(bare, note="not fitted: the likelihood has no usable maximum")
    error = math.sqrt(variance)
    half = normal_quantile(confidence) * error
    boundary = "; persona variance at its boundary, 0" if share < _NO_SHARE else ""
    return replace(
        bare,
        value=effect,
        low=effect - half,
        high=effect + half,
        p=two_sided_p(effect / error),
        note=f"SE = {error:.4f}; {NOTE}{boundary}",
    )


def _unfit(hits_t: Floats, n_t: Floats, hits_c: Floats, n_c: Floats) -> str:
    """Return why the model cannot be fitted to these counts, "" where it can."""
    if n_t.size == 1:
        return "it needs two personas or more"
    if not n_t.sum() or not n_c.sum():
        return "an arm has no completions"
    arms = ((hits_t, n_t), (hits_c, n_c))
    if all(((hits % np.maximum(n, 1)) == 0).all() for hits, n in arms):
        return "no variation within a persona and arm"
    return ""


def _profile(columns: list[Floats], share: Floats) -> tuple[Floats, Floats, Floats]:
    """Return REML log-likelihood (up to a constant), effect and its variance, each (S,).

    With theta = share / (1 - share) the weight of a persona of n completions is
    W = I - c 11', c = theta / (1 + theta n); X has columns 1 and treated.
    """
    hits_t, n_t, hits_c, n_c = columns
    n, y = n_t + n_c, hits_t + hits_c
    theta = (share / (1 - share))[:, None]
    c = theta / (1 + theta * n)
    a, b, d = ((u - c * v * u).sum(axis=1) for u, v in ((n, n), (n_t, n), (n_t, n_t)))  # X'WX
    e = (y - c * n * y).sum(axis=1)  # X'Wy
    f = (hits_t - c * n_t * y).sum(axis=1)
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

    A grid over [0, 1) is narrowed around its best point; nothing can fail to converge.
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
