"""How few hits come by chance where clusters are uneven, which a bound on a rate has to rule out.

Where a rate is low and clusters are few, the sample hides how unlike they are, and an interval
that measures its own spread is too short. Here the spread is supposed: logits of the clusters'
rates are normal with an SD of `WORST_SD`, their mean rate is the bound, completions of a cluster
are independent. A bound may be taken as kept only where one of two things is improbable then:

- so few hits in all: the convolution over clusters, which shows a low uneven rate;
- so few in the worst cluster: a product over clusters, which shows a low even rate.

Together they err in at most twice the level of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from persona_lib.stats.clustered import MIN_UNITS, share
from persona_lib.stats.moments import Floats
from persona_lib.stats.thresholds import at_most

WORST_SD = 2.0
"""SD in logits of the worst clusters that are covered: about the published control arm's (2.2)."""

_WIDEST = 8.5
"""SDs of a standard normal that are summed over: 2e-17 lies outside."""
_COARSE = 0.1
_HALVINGS = 60
_MOST = 1_000_000
_BLOCK = 512
"""Numbers of hits whose probabilities are calculated at once: megabytes, whatever the size."""


@dataclass(frozen=True)
class Chance:
    """Probabilities in the world of a bound.

    Attributes:
        all_hits: of no more hits in all than were seen.
        worst: of no cluster with a larger share of hits than the worst one seen.
    """

    all_hits: float
    worst: float

    def rules_out(self, level: float) -> bool:
        """Return whether either is improbable: a rate at the bound is ruled out."""
        return min(self.all_hits, self.worst) <= level


def chance_of(hits: Floats, n: Floats, bound: float, sd: float = WORST_SD) -> Chance:
    """Return how probable so few hits are where the clusters' mean rate is the bound.

    Args:
        hits: (K,) hits of each cluster, whole numbers.
        n: (K,) completions of each, whole numbers above 0.
        bound: mean rate. At 0 nothing is improbable, at 1 everything is.
        sd: of the clusters' logits.
    """
    if not 0 < bound < 1:
        of_either = 1.0 if bound <= 0 else 0.0
        return Chance(of_either, of_either)
    sizes = tuple(sorted(int(size) for size in n))
    all_hits = float(_of_sum(sizes, bound, sd)[round(float(hits.sum()))])
    # Of a cluster of another size: as many hits as have at most the same share.
    most = np.floor(np.array(sizes) * float((hits / n).max()) + 1e-9).astype(int)
    worst = float(np.prod([_of_one(k, bound, sd)[m] for k, m in zip(sizes, most, strict=True)]))
    return Chance(all_hits, worst)


def most_hits(sizes: Iterable[int], bound: float, level: float) -> tuple[int, int]:
    """Return the most hits, in all and of each cluster, that are improbable at the bound.

    -1 where even no hit is not. The second is meant for clusters of one size.
    """
    sizes = tuple(sorted(sizes))
    of_all, of_one = _of_sum(sizes, bound, WORST_SD), _of_one(sizes[-1], bound, WORST_SD)
    improbable = (np.searchsorted(p, level, side="right") for p in (of_all, of_one ** len(sizes)))
    in_all, in_each = (int(count) - 1 for count in improbable)
    return in_all, in_each


@lru_cache(maxsize=64)
def samples_needed(personas: int, questions: int, bound: float, confidence: float) -> int | None:
    """Return the least completions of a cell among which no hit at all keeps the bound.

    The clustered interval has to end at the bound or below it, and no hit has to be
    improbable at it for uneven personas and for uneven questions. None where there is
    one question, and no interval, or where a million completions of a cell are too few.
    """
    if questions < MIN_UNITS or not 0 < bound < 1:
        return None
    tail = (1 - confidence) / 2

    def enough(samples: int) -> bool:
        n = np.full((personas, questions), float(samples))
        return at_most(share(0 * n, n, confidence).high, bound) and all(
            units < MIN_UNITS or _of_none(samples * others, bound, WORST_SD) ** units <= tail
            for units, others in ((personas, questions), (questions, personas))
        )

    return _least(enough)


def _least(enough: Callable[[int], bool]) -> int | None:
    """Return the least n with enough(n), which stays true from there on; None up to `_MOST`."""
    high = 1
    while not enough(high):
        high *= 2
        if high > _MOST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@lru_cache(maxsize=256)
def _of_sum(sizes: tuple[int, ...], bound: float, sd: float) -> Floats:
    """Return (N + 1,) P(hits of all clusters <= k)."""
    length = sum(sizes) + 1
    transform = np.ones(length // 2 + 1, dtype=np.complex128)
    for size in set(sizes):
        one = np.diff(_of_one(size, bound, sd), prepend=0.0)
        transform *= np.fft.rfft(one, length) ** sizes.count(size)
    cumulated: Floats = np.cumsum(np.fft.irfft(transform, length))
    return np.clip(cumulated, 0.0, 1.0)


@lru_cache(maxsize=256)
def _of_one(size: int, bound: float, sd: float) -> Floats:
    """Return (n + 1,) P(hits of one cluster <= k): binomial, its rate logit-normal."""
    from scipy.special import gammaln, log_expit

    nodes, weights = _nodes(size, sd)
    logits = _location(bound, sd) + sd * nodes
    hit, miss = log_expit(logits), log_expit(-logits)
    probabilities = np.empty(size + 1)
    for start in range(0, size + 1, _BLOCK):
        k = np.arange(start, min(start + _BLOCK, size + 1), dtype=np.float64)
        ways = gammaln(size + 1) - gammaln(k + 1) - gammaln(size - k + 1)
        logs = ways[:, None] + np.outer(k, hit) + np.outer(size - k, miss)
        with np.errstate(under="ignore"):  # what is that improbable adds nothing
            probabilities[start : start + k.size] = np.exp(logs) @ weights
    return np.clip(np.cumsum(probabilities), 0.0, 1.0)


def _of_none(size: int, bound: float, sd: float) -> float:
    """Return P(a cluster has no hit)."""
    from scipy.special import log_expit

    nodes, weights = _nodes(size, sd)
    logs = size * log_expit(-(_location(bound, sd) + sd * nodes))
    with np.errstate(under="ignore"):
        return float(np.exp(logs) @ weights)


@lru_cache(maxsize=64)
def _location(bound: float, sd: float) -> float:
    """Return the mean logit at which the mean rate is the bound, by bisection."""
    from scipy.special import expit

    nodes, weights = _nodes(0, sd)
    low, high = -60.0, 60.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = float(expit(middle + sd * nodes) @ weights) < bound
        low, high = (middle, high) if below else (low, middle)
    return (low + high) / 2


def _nodes(size: int, sd: float) -> tuple[Floats, Floats]:
    """Return points and weights of a sum over a standard normal.

    Equal steps: their error falls geometrically with the step (Trefethen and Weideman
    2014, SIAM Review 56:385), while Gauss-Hermite nodes are too far apart for the narrow
    likelihood of many completions, whose SD in logits is at least 2 / sqrt(n).
    """
    step = min(_COARSE, 1.4 / (max(sd, 1e-9) * np.sqrt(max(size, 1))))
    count = int(np.ceil(_WIDEST / step))
    nodes = np.arange(-count, count + 1) * step
    weights = np.exp(-np.square(nodes) / 2)
    return nodes, weights / weights.sum()
