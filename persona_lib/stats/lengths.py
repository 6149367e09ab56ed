"""Lengths of two arms: the support they share, and rates counted at like length.

`common_support` measures what the arms share before anything is fitted; `completed_only` and
`within` count every rate again where length cannot play the same part. DataError: columns that
are no equally long lists of the kinds wanted, or an arm without usable lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from persona_lib.checks import whole
from persona_lib.errors import DataError
from persona_lib.stats.moments import Floats
from persona_lib.stats.thresholds import at_least, at_most

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

REPORT, WARN, REFUSE = "report", "warn", "refuse"
AUC_REPORT = 0.80
"""Largest AUC of length between arms at which an adjusted effect is simply reported."""
AUC_WARN = 0.90
"""Largest AUC at which it is shown at all, with a warning."""
SHARE_REPORT = 0.75
"""Smallest common support at which an adjusted effect is simply reported."""
SHARE_WARN = 0.50
"""Smallest common support at which it is shown at all, with a warning."""

_TRIM = 100
"""One completion in so many is left out at each end of an arm's range."""


@dataclass(frozen=True, kw_only=True)
class Support:
    """How far two arms share lengths.

    Attributes:
        auc: probability that a completion of one arm is longer than one of the other,
            ties half, whichever arm is the longer: in [0.5, 1].
        share: common support, in [0, 1]: the share of completions inside the common
            range, of the arm that has fewer of them there.
        low: first length of the common range, in tokens.
        high: last length of it; below `low` where the arms have no range in common.
    """

    auc: float
    share: float
    low: float
    high: float

    @property
    def grade(self) -> str:
        """`report`, `warn` or `refuse`; both figures have to keep within their bounds."""
        if at_most(self.auc, AUC_REPORT) and at_least(self.share, SHARE_REPORT):
            return REPORT
        if at_most(self.auc, AUC_WARN) and at_least(self.share, SHARE_WARN):
            return WARN
        return REFUSE

    @property
    def figures(self) -> str:
        """``AUC 0.612, common support 0.950 (12 to 340 tokens)``."""
        span = f"{self.low:g} to {self.high:g} tokens"
        where = span if self.low <= self.high else "no common range"
        return f"AUC {self.auc:.3f}, common support {self.share:.3f} ({where})"

    @property
    def text(self) -> str:
        """The figures and the grade in one line."""
        return f"lengths: {self.figures}: {self.grade}"


def common_support(treated: Floats, control: Floats) -> Support:
    """Return how far two arms share lengths.

    The AUC is the Mann-Whitney statistic over n n' (Mann and Whitney 1947, Annals of
    Mathematical Statistics 18:50), from midranks. Common support is the literature's on
    matching (Dehejia and Wahba 1999, JASA 94:1053; on cuts: Crump, Hotz, Imbens and Mitnik
    2009, Biometrika 96:187). The range, our choice, runs from the larger of the arms' 1st
    percentiles to the smaller of their 99th, both inside. Percentiles are lengths that
    occurred: of n completions ceil(n / 100) - 1 are left out at each end, and the share is
    the same for tokens and their logarithm.

    Args:
        treated: (n,) tokens of each completion of the treated arm.
        control: (n',) tokens of each completion of the other arm.
    """
    one, two = _tokens("treated lengths", treated), _tokens("control lengths", control)
    ranges = (_trimmed(one), _trimmed(two))
    low, high = max(r[0] for r in ranges), min(r[1] for r in ranges)
    shares = [float(((arm >= low) & (arm <= high)).mean()) for arm in (one, two)]
    return Support(auc=_folded_auc(one, two), share=min(shares), low=low, high=high)


def completed_only(hit: Bools, finished: Bools) -> Bools:
    """Return the hits of those completions that ended by themselves.

    One that was cut at the ceiling may have been about to write the marker. The rate
    is the mean of what is returned; its length is the n, 0 where none finished.

    Args:
        hit: (N,) whether each completion holds the marker.
        finished: (N,) whether it ended before the ceiling of tokens.
    """
    _one_each({"hit": (hit, "b"), "finished": (finished, "b")})
    return np.asarray(hit[finished])


def within(first_token: Ints, hit: Bools, k: int) -> Bools:
    """Return the hits whose marker began among the first k tokens.

    A long completion has more places for a marker. Every completion keeps its place
    in the denominator, whatever its length.

    Args:
        first_token: (N,) tokens before the first marker, -1 where there is none.
        hit: (N,) whether each completion holds the marker.
        k: tokens that are looked at; see `shorter_median`.

    Raises:
        DataError: k below 1; a hit without a place, or a place without a hit.
    """
    whole("k", k, 1, remedy="Look at one token or more.", error=DataError)
    _one_each({"first_token": (first_token, "iu"), "hit": (hit, "b")})
    odd = (first_token < -1) | ((first_token >= 0) != hit)
    if odd.any():
        raise DataError(
            "first_token",
            bound=">= 0 for a hit and -1 for any other completion",
            value=f"{int(odd.sum())} others of {odd.size}, the first at {int(odd.argmax())}",
            remedy="Take hits and places from the same scores.",
        )
    return np.asarray(hit & (first_token < k))


def shorter_median(treated_tokens: Floats, control_tokens: Floats) -> int:
    """Return k for `within`: the smaller of two medians of tokens, rounded down, at least 1.

    Half of each arm's completions or more are then as long as what is looked at.
    """
    arms = {"treated tokens": treated_tokens, "control tokens": control_tokens}
    medians = [float(np.median(_tokens(name, tokens))) for name, tokens in arms.items()]
    return max(1, int(min(medians)))


def _trimmed(tokens: Floats) -> tuple[float, float]:
    """Return the 1st and the 99th percentile, both of them lengths that occurred."""
    ordered = np.sort(tokens)
    cut = (ordered.size - 1) // _TRIM
    return float(ordered[cut]), float(ordered[-1 - cut])


def _folded_auc(one: Floats, two: Floats) -> float:
    """Return the larger of P(one > two) and P(two > one), ties half.

    Midranks are doubled and so are whole: nothing is rounded before the division.
    """
    _, place, counts = np.unique(
        np.concatenate([one, two]), return_inverse=True, return_counts=True
    )
    doubled = 2 * np.cumsum(counts) - counts + 1
    rank_sum = int(doubled[place[: one.size]].sum())
    pairs = 2 * one.size * two.size
    wins = rank_sum - one.size * (one.size + 1)
    return max(wins, pairs - wins) / pairs


def _tokens(field: str, values: Floats) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        bound = "a list of one completion or more"
        raise DataError(field, bound=bound, value=array.shape, remedy="Give an arm's lengths.")
    bad = ~(np.isfinite(array) & (array >= 0))
    if bad.any():
        value = f"{int(bad.sum())} others of {bad.size}, the first {array[bad][0]}"
        remedy = "Leave completions without a length out and count them."
        raise DataError(field, bound="finite and >= 0", value=value, remedy=remedy)
    return array


def _one_each(columns: dict[str, tuple[NDArray[np.generic], str]]) -> None:
    shapes = {np.shape(column) for column, _ in columns.values()}
    kinds = [np.asarray(column).dtype.kind in kind for column, kind in columns.values()]
    if len(shapes) != 1 or len(shapes.pop()) != 1 or not all(kinds):
        raise DataError(
            " and ".join(columns),
            bound="lists with one entry a completion, flags as booleans, places as integers",
            value=[(np.shape(c), str(np.asarray(c).dtype)) for c, _ in columns.values()],
            remedy="Give every column of the same completions.",
        )
