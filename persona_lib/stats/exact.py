"""Exact p of two rearrangement tests: sign flips of differences, splits of two samples.

p is 2 min(lower, upper) / N, at most 1, over all N arrangements that the null hypothesis makes
equally likely: so many have a mean at most, and at least, the observed one. Its floor is 2 / N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from persona_lib.stats.moments import Floats

MOST_FLIPPED = 40
"""Most differences whose sign vectors are counted: two halves of 2^20 sums each."""
MOST_SPLITS = 3_000_000
"""Most splits that are enumerated: two samples of 12 have 2,704,156."""

_TIE = 1e-12
"""Means of rates this close are equal: sums in another order differ by rounding."""


@dataclass(frozen=True)
class Exact:
    """An exact two-sided p, counted.

    Attributes:
        extreme: arrangements as far out as the observed one, twice those of its side.
        arrangements: all of them.
    """

    extreme: int
    arrangements: int

    @property
    def p(self) -> float:
        """The p, in (0, 1]: the observed arrangement is always counted."""
        return self.extreme / self.arrangements

    @property
    def floor(self) -> float:
        """The least p that so many arrangements can give."""
        return min(1.0, 2 / self.arrangements)


def flip_floor(units: int) -> float:
    """Return the least p of a sign-flip test, 2 / 2^G: all signs alike, and its mirror."""
    return 2.0 ** (1 - units)


def sign_flips(differences: Floats) -> Exact:
    """Return the sign-flip test of (G,) differences (Fisher 1935, The Design of Experiments).

    Without an effect each difference could as well have had the other sign: 2^G sign
    vectors. Every sum is one of a first half's and one of a second half's, so that those as
    far out are found by sorting one half (Horowitz and Sahni 1974, Journal of the ACM
    21:277). G is at most `MOST_FLIPPED`; the caller refuses more.
    """
    size = differences.size
    one, other = (_signed_sums(half) for half in np.array_split(differences, 2))
    rest = np.sort(other)
    observed = float(one[0] + other[0])  # the first sums keep the signs as they were observed
    tie = _TIE * size
    above = int((rest.size - np.searchsorted(rest, observed - tie - one, side="left")).sum())
    below = int(np.searchsorted(rest, observed + tie - one, side="right").sum())
    return _two_sided(above, below, 2**size)


def _signed_sums(differences: Floats) -> Floats:
    sums = np.zeros(1)
    for one in differences:
        sums = np.concatenate([sums + one, sums - one])
    return sums


def splits(sizes: tuple[int, int]) -> int:
    """Return how many ways there are to split both samples anew."""
    return math.comb(sum(sizes), sizes[0])


def two_samples(treated: Floats, control: Floats) -> Exact:
    """Return the permutation test of two samples' means (Pitman 1937, JRSS Supplement 4:119).

    Without an effect any S of the S + S' values could have been the first sample's. With
    unequal sizes the distribution is not symmetric, which is why p doubles a tail. There
    are at most `MOST_SPLITS`; the caller refuses more.
    """
    size, other = treated.size, control.size
    values = np.concatenate([treated, control])
    # by_count[k]: the sum of every subset of k of the values that were passed so far.
    by_count = {0: np.zeros(1)}
    for passed, value in enumerate(values):
        left = values.size - passed - 1
        grown: dict[int, list[Floats]] = {}
        for k, sums in by_count.items():
            if k + left >= size:
                grown.setdefault(k, []).append(sums)
            if k < size:
                grown.setdefault(k + 1, []).append(sums + value)
        by_count = {k: np.concatenate(parts) for k, parts in grown.items()}
    means = by_count[size] / size
    differences = means - (values.sum() - by_count[size]) / other
    return _counted(differences, float(treated.mean() - control.mean()))


def _counted(found: Floats, observed: float) -> Exact:
    above = int((found >= observed - _TIE).sum())
    below = int((found <= observed + _TIE).sum())
    return _two_sided(above, below, found.size)


def _two_sided(above: int, below: int, arrangements: int) -> Exact:
    return Exact(min(2 * min(above, below), arrangements), arrangements)
