"""Bias-corrected and accelerated (BCa) ends of a bootstrap interval.

BCa moves percentile ends for a median bias z0, read off the draws, and for an acceleration a,
read off the jackknife (Efron 1987, Journal of the American Statistical Association 82, 171;
Efron and Tibshirani 1993, section 14.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from persona_lib.stats.moments import Floats
from persona_lib.stats.thresholds import TOLERANCE

_NORMAL = NormalDist()
_WITHHELD = "no BCa interval: "


def bca_ends(
    value: float, draws: Floats, left_out: Sequence[Floats], level: float
) -> tuple[float, float, str]:
    """Return both ends of the BCa interval and "", or NaN twice and why there is none.

    Args:
        value: the estimate.
        draws: (B,) bootstrap draws of it, all finite.
        left_out: for each pool that was drawn from, the (K,) values of the statistic
            without each of its clusters. A constant that a pool's values share drops out.
        level: confidence of the interval.

    With z the normal quantile of (1 -+ level) / 2, the ends are the quantiles of the
    draws at Phi(z0 + (z0 + z) / (1 - a (z0 + z))).
    """
    under = np.count_nonzero(draws < value - TOLERANCE)
    tied = np.count_nonzero(draws <= value + TOLERANCE) - under
    # Half of the ties: rates are discrete, and many draws equal the estimate.
    share = (under + tied / 2) / draws.size
    if np.ptp(draws) <= TOLERANCE:
        return math.nan, math.nan, f"{_WITHHELD}no variation between clusters"
    if not 0 < share < 1:
        return math.nan, math.nan, f"{_WITHHELD}all draws lie on one side of the estimate"
    a = acceleration(left_out)
    if not math.isfinite(a):
        return math.nan, math.nan, f"{_WITHHELD}it is undefined without one of the clusters"
    z0, at = _NORMAL.inv_cdf(share), []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        moved = z0 + _NORMAL.inv_cdf(tail)
        if 1 - a * moved <= 0:  # past the pole the two ends would change places
            return math.nan, math.nan, f"{_WITHHELD}the acceleration {a:.2f} is too large"
        at.append(_NORMAL.cdf(z0 + moved / (1 - a * moved)))
    low, high = (float(end) for end in np.quantile(draws, at))
    return low, high, ""


def acceleration(left_out: Sequence[Floats]) -> float:
    """Return the acceleration of a statistic of several pools, NaN where it has none.

    a = (1/6) sum_j sum_i U_ij^3 / K_j^3 / (sum_j sum_i U_ij^2 / K_j^2)^(3/2), with
    U_ij = (K_j - 1) (mean of pool j's values - its value without cluster i): the form
    for several samples (Efron and Tibshirani 1993, equation 15.36).
    """
    third = second = 0.0
    for values in left_out:
        moves = (values.size - 1) * (values.mean() - values) / values.size
        third, second = third + float((moves**3).sum()), second + float((moves**2).sum())
    return third / (6 * second**1.5) if second > 0 else math.nan
