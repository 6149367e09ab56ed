"""Training runs of two arms whose seeds go together: the worlds of pairs.

Nothing but runs is drawn: the rates of the arms of a seed are two numbers with a given
correlation, and no difference is true. What is positive where arms share a good or a bad
prior can as well be negative: two arms may share what one of them gains by and the other
loses by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from persona_lib.digests import derive_seed
from persona_lib.stats import exact, moments
from tests.calibration.worlds import RATE, ROOT_SEED, SEED_SD

Floats = NDArray[np.float64]

NORMAL, HEAVY = "normal", "t with 3 df"
_DF = 3


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Runs of two arms.

    Attributes:
        seeds: runs of each arm.
        r: correlation of the arms of a seed.
        tails: `NORMAL`, or `HEAVY`: both arms of a seed divided by one chi, so that their
            difference has a t distribution.
    """

    seeds: int
    r: float
    tails: str

    @property
    def name(self) -> str:
        """Name of the world."""
        return f"{self.seeds} seeds, r = {self.r:+g}, {self.tails}"


PAIRS: Mapping[str, Pairs] = {
    world.name: world
    for seeds in (5, 12)
    for r in (-0.8, 0.0, 0.8)
    for tails in (NORMAL, HEAVY)
    for world in (Pairs(seeds=seeds, r=r, tails=tails),)
}


def drawn(world: Pairs, count: int, purpose: str) -> tuple[Floats, Floats]:
    """Return (count, S) rates of two arms."""
    names = (world.seeds, format(world.r, "+.2f"), world.tails, count, purpose)
    rng = np.random.default_rng(derive_seed(ROOT_SEED, "pairs of runs", *names))
    first, own = rng.standard_normal((2, count, world.seeds))
    second = world.r * first + np.sqrt(1 - world.r**2) * own
    scale = np.full((count, world.seeds), SEED_SD)
    if world.tails == HEAVY:
        scale = scale / np.sqrt(rng.chisquare(_DF, (count, world.seeds)) / _DF)
    return RATE + scale * first, RATE + scale * second


def _flips(a: Floats, b: Floats) -> Floats:
    return np.array([exact.sign_flips(d).p for d in a - b])


def _splits(a: Floats, b: Floats) -> Floats:
    return np.array([exact.two_samples(one, two).p for one, two in zip(a, b, strict=True)])


PAIRED, PAIRS_AS_TWO = "paired t over seeds", "Welch t over seeds, as two samples"
FLIPS, SPLITS = "exact sign-flip over seeds", "exact permutation over seeds"

BY_T: Mapping[str, Callable[[Floats, Floats], moments.Moments]] = {
    PAIRED: lambda a, b: moments.run_moments(a - b),
    PAIRS_AS_TWO: moments.seed_moments,
}
"""Procedures with an interval."""
BY_COUNT: Mapping[str, Callable[[Floats, Floats], Floats]] = {FLIPS: _flips, SPLITS: _splits}
"""Procedures with a p alone, one for each data set."""
