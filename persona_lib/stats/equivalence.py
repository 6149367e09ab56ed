"""Evidence for equality, and several claims at once: TOST and Holm's procedure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from persona_lib.checks import POSITIVE, Bound, number
from persona_lib.errors import DataError
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.moments import Floats, Moments, estimated, probability, student_cdf
from persona_lib.stats.thresholds import shown

_ALPHA = Bound("between 0 and 0.5, both excluded", lambda x: 0 < x < 0.5)  # noqa: PLR2004


def tost(m: Moments, band: float) -> Floats:
    """Return p against a difference of -band or less, or of +band or more: two one-sided tests.

    The larger p of two one-sided t tests, t = (d + band) / SE against d <= -band and
    t = (d - band) / SE against d >= band (Schuirmann 1987, Journal of
    Pharmacokinetics and Biopharmaceutics 15:657). p < alpha exactly where the
    1 - 2 alpha interval lies inside the band.

    Args:
        m: moments of any target, of any batch shape; NaN where there is no SE.
        band: half the width of the band around 0, > 0.

    Returns:
        p of the batch's shape, in (0, 1], NaN where there is no SE.

    Raises:
        DataError: `band` is not a finite number > 0.
    """
    number("band", band, POSITIVE, remedy="Name a difference that matters.", error=DataError)
    not_below = student_cdf(m.df, -(m.value + band) / m.se)
    not_above = student_cdf(m.df, (m.value - band) / m.se)
    return probability(np.maximum(not_below, not_above))


def equivalence(
    m: Moments, band: float, *, over: str, n: int, clusters: int, alpha: float = 0.05
) -> Estimate:
    """Return the difference with its 1 - 2 alpha interval and the p of `tost`.

    A p below `alpha` shows equivalence. Any other p shows nothing: neither
    equivalence nor a difference.

    Args:
        m: moments of a single difference, not of a batch.
        band: half the width of the band around 0, > 0.
        over: method that gave the moments, as printed ("question-level paired t").
        n: completions behind them.
        clusters: questions, personas or seeds behind them.
        alpha: level of each of the two tests.

    Raises:
        DataError: a batch, or `band` or `alpha` out of bounds.
    """
    if np.ndim(m.value):
        raise DataError(
            "equivalence",
            bound="moments of one difference",
            value=np.shape(m.value),
            remedy="Use tost() for a batch.",
        )
    number("alpha", alpha, _ALPHA, remedy="Give the level of one test.", error=DataError)
    p = float(tost(m, band))
    confidence = 1 - 2 * alpha
    method = f"TOST within +-{shown(band)}, {over}"
    note = "no standard error: equivalence cannot be told"
    bare = Estimate.bare(n, clusters, confidence, method, note)
    finding = "equivalent" if p < alpha else "equivalence not shown"
    note = f"{finding} at alpha = {alpha:g}; p is against a difference as large as the band"
    return replace(estimated(bare, m, note), p=None if math.isnan(p) else p)


def holm(ps: Sequence[float | None]) -> tuple[float | None, ...]:
    """Return Holm's adjusted p of each p, in the order given.

    The i-th smallest of m p is multiplied by m - i + 1; none comes out smaller than
    one before it, nor above 1 (Holm 1979, Scandinavian Journal of Statistics 6:65).
    None and NaN are handed back as they are and are not counted in m.

    Raises:
        DataError: a p outside (0, 1].
    """
    adjusted = list(ps)
    ranked = sorted((p, i) for i, p in enumerate(ps) if p is not None and not math.isnan(p))
    least = 0.0
    for rank, (p, i) in enumerate(ranked):
        if not 0 < p <= 1:
            raise DataError("p", bound="in (0, 1]", value=p, remedy="Give p as they were printed.")
        least = max(least, min(1.0, (len(ranked) - rank) * p))
        adjusted[i] = least
    return tuple(adjusted)
