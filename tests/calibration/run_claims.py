"""Claims over training runs where the truth is known: cells, sources and seeds of a factorial.

The figure of a cell, source and seed is the cell's mean, plus a number of the cell and seed that
all sources share (their prior), plus one of its own. Both parts are correlated at r between the
cells that a claim compares. S1 to S4 are those of the registration: E1 - B1, E0 - B0, their
difference, and the mean of B1 and D1 minus A. Estimates, Holm's p and the rule are called as they
are shipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from persona_lib.digests import derive_seed
from persona_lib.stats import moments
from persona_lib.stats.equivalence import holm
from persona_lib.stats.run_contrasts import contrast_of_seeds, p_against
from persona_lib.verdict.run_claims import OUTCOME_OF, REFUTED, SUPPORTED, decided
from tests.calibration.repeats import HEAVY, NORMAL
from tests.calibration.worlds import PERSONAS, QUESTIONS, RATE, ROOT_SEED, SAMPLES, Floats

Bools = NDArray[np.bool_]
CELLS = ("A", "B0", "B1", "D1", "E0", "E1")
CLAIMS: Mapping[str, Mapping[str, float]] = {
    "S1": {"E1": 1, "B1": -1},
    "S2": {"E0": 1, "B0": -1},
    "S3": {"E1": 1, "E0": -1, "B1": -1, "B0": 1},
    "S4": {"B1": 0.5, "D1": 0.5, "A": -1},
}
SOURCES = 2
SMALLEST = 0.10
"""d of every claim."""
SD = 0.03
"""SD of a figure over seeds; where tails are heavy, the scale of its t."""
FAR = 5.0
"""So far from d that a claim is always decided, and no p of the others is held back by Holm."""
CONFIDENCE = 0.95
_SIDES = {"A": 1, "B0": -1, "B1": -1, "D1": -1, "E0": 1, "E1": 1}
"""Where r < 0, cells of other sides are correlated at r and cells of one side at -r."""
_DF = 3
CHUNK = 5_000


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """A world.

    Attributes:
        seeds: training runs of each arm.
        r: correlation of the arms of a seed that a claim compares.
        icc: share of a figure's variance that the sources of a seed share.
        tails: `NORMAL`, or `HEAVY`: all arms of a seed divided by one chi, so that every contrast
            has a t distribution.
    """

    seeds: int
    r: float
    icc: float
    tails: str

    @property
    def name(self) -> str:
        """Name of the world."""
        return f"{self.seeds} seeds, r = {self.r:+g}, ICC {self.icc:g}, {self.tails}"


SEEDED: Mapping[str, Seeded] = {
    world.name: world
    for seeds in (10, 24)
    for r in (-0.8, 0.0, 0.8)
    for icc in (0.0, 0.5)
    for tails in (NORMAL, HEAVY)
    for world in (Seeded(seeds=seeds, r=r, icc=icc, tails=tails),)
}


def figures(
    world: Seeded, means: Mapping[str, float], count: int, purpose: str
) -> Iterator[Floats]:
    """Yield (B, C, K, S) figures of cells, sources and seeds, `CHUNK` data sets at a time."""
    loading = np.array([_SIDES[cell] if world.r < 0 else 1.0 for cell in CELLS])[:, None, None]
    centre = np.array([means.get(cell, 0.0) for cell in CELLS])[:, None, None]
    names = (world.name, *(f"{cell} {means.get(cell, 0.0):.3f}" for cell in CELLS), purpose)
    for start in range(0, count, CHUNK):
        rng = np.random.default_rng(derive_seed(ROOT_SEED, "claims over runs", *names, start))
        size = min(CHUNK, count - start)

        def correlated(sources: int, rng: np.random.Generator = rng, size: int = size) -> Floats:
            common = rng.standard_normal((size, 1, sources, world.seeds))
            own = rng.standard_normal((size, len(CELLS), sources, world.seeds))
            r = abs(world.r)
            both: Floats = np.sqrt(r) * loading * common + np.sqrt(1 - r) * own
            return both

        noise = np.sqrt(world.icc) * correlated(1) + np.sqrt(1 - world.icc) * correlated(SOURCES)
        if world.tails == HEAVY:
            chi = rng.chisquare(_DF, (size, 1, 1, world.seeds))
            noise = noise / np.sqrt(chi / _DF)
        yield centre + SD * noise


def contrasts(drawn: Floats, claim: Mapping[str, float]) -> Floats:
    """Return (B, S) numbers, one a seed: all seeds of all data sets, as if of one."""
    sets, _, sources, seeds = drawn.shape
    cells = [
        drawn[:, CELLS.index(cell)].transpose(1, 0, 2).reshape(sources, sets * seeds)
        for cell in claim
    ]
    return contrast_of_seeds(cells, tuple(claim.values())).reshape(sets, seeds)


def labels(drawn: Floats) -> Mapping[str, NDArray[np.str_]]:
    """Return the (B,) labels of every claim, among all of them, by the shipped rule."""
    found = {name: moments.run_moments(contrasts(drawn, claim)) for name, claim in CLAIMS.items()}
    p = np.stack([p_against(m, SMALLEST) for m in found.values()], axis=1)
    adjusted = np.array([holm(row) for row in p.tolist()], dtype=np.float64)
    ends = {name: moments.interval(m, CONFIDENCE) for name, m in found.items()}
    return {
        name: decided(*ends[name], of, smallest=SMALLEST, confidence=CONFIDENCE)
        for name, of in zip(ends, adjusted.T, strict=True)
    }


def _gives(found: NDArray[np.str_], outcome: object) -> Bools:
    return np.isin(found, [label for label, gives in OUTCOME_OF.items() if gives is outcome])


BELOW, COVERS, WRONG = "p < 0.05", "interval holds the truth", "some outcome is wrong"
HELD, DENIED = "SUPPORTED", "REFUTED"


def _rule(drawn: Floats, truth: float) -> dict[str, Bools]:
    m = moments.run_moments(contrasts(drawn, CLAIMS["S1"]))
    low, high = moments.interval(m, CONFIDENCE)
    outcomes = labels(drawn)["S1"]
    return {
        BELOW: p_against(m, SMALLEST) < 0.05,
        COVERS: (low <= truth) & (truth <= high),
        HELD: _gives(outcomes, SUPPORTED),
        DENIED: _gives(outcomes, REFUTED),
    }


def _family(drawn: Floats, truth: float) -> dict[str, Bools]:
    """At d no outcome but INCONCLUSIVE is right; above it REFUTED is wrong, below it SUPPORTED."""
    means, wrong = family_means(truth), np.zeros(len(drawn), dtype=np.bool_)
    for name, found in labels(drawn).items():
        effect = sum(weight * means.get(cell, 0.0) for cell, weight in CLAIMS[name].items())
        if effect < SMALLEST + 1e-9:
            wrong |= _gives(found, SUPPORTED)
        if effect > SMALLEST - 1e-9:
            wrong |= _gives(found, REFUTED)
    return {WRONG: wrong}


def _as_blocks(drawn: Floats, truth: float) -> dict[str, Bools]:  # noqa: ARG001
    both = drawn[:, CELLS.index("E1")] - drawn[:, CELLS.index("B1")]
    m = moments.run_moments(both.reshape(len(both), -1))
    return {BELOW: moments.p_value(m) < 0.05}


def _as_two(drawn: Floats, truth: float) -> dict[str, Bools]:  # noqa: ARG001
    one, two = (drawn[:, CELLS.index(cell)].mean(axis=1) for cell in ("E1", "B1"))
    return {BELOW: moments.p_value(moments.seed_moments(one, two)) < 0.05}


def rule_means(truth: float) -> dict[str, float]:
    """Return means of cells with E1 - B1 = truth.

    At d the other claims are far from it, so that S1 is judged at its own p; elsewhere S2 and S4
    are at d, so that Holm is as strict as it gets.
    """
    far = FAR if truth == SMALLEST else SMALLEST
    return {"E1": truth, "E0": far, "A": -far}


def family_means(truth: float) -> dict[str, float]:
    """Return means with S1 = truth and S2 = S4 = d: at 2 d S3 is d as well, at d it is 0."""
    return {"E1": truth, "E0": SMALLEST, "A": -SMALLEST}


RULE, FAMILY = "claim over training runs", "claims S1 to S4 with Holm"
BLOCKS, TWO = "t over blocks of seed x source", "Welch t over seeds of a factorial"
Apply = Callable[[Floats, float], dict[str, Bools]]
PROCEDURES: Mapping[str, tuple[Apply, Callable[[float], Mapping[str, float]]]] = {
    RULE: (_rule, rule_means),
    FAMILY: (_family, family_means),
    BLOCKS: (_as_blocks, lambda _: {}),
    TWO: (_as_two, lambda _: {}),
}
"""What is done with a batch, and the cells' means by the true effect of S1."""


def answers(
    procedure: str, world: str, truth: float, count: int, purpose: str
) -> Sequence[dict[str, Bools]]:
    """Return what a procedure had in each data set, by event, a batch at a time."""
    apply, means = PROCEDURES[procedure]
    return [apply(drawn, truth) for drawn in figures(SEEDED[world], means(truth), count, purpose)]


# The published bootstrap on the same runs: what it is told are completions.

POOLED = "published bootstrap, runs pooled"
RUN_SD, PERSONA_SD, CELL_SD = 0.13, 0.5, 0.8
"""SD of an arm's rate over seeds, between the 12 and 14 points of docs/statistics.md; of personas
and of their questions, in logits."""


def pooled_hits(world: Seeded, count: int, purpose: str) -> Iterator[tuple[Floats, int]]:
    """Yield (2, G, Q) hits of two arms that are runs of one kind, all runs together, and of n.

    Personas and questions are the same for both arms and all runs; a run shifts its arm's logits.
    """
    names = (world.name, count, purpose)
    rng = np.random.default_rng(derive_seed(ROOT_SEED, "pooled runs", *names))
    cells, location, scale = _pooled()
    for _ in range(count):
        first, own = rng.standard_normal((2, world.seeds))
        shifts = np.stack([first, world.r * first + np.sqrt(1 - world.r**2) * own])
        rates = expit(location + scale * shifts[..., None, None] + cells)
        yield rng.binomial(SAMPLES, rates).sum(axis=1).astype(float), world.seeds * SAMPLES


@lru_cache
def _pooled() -> tuple[Floats, float, float]:
    """Return (G, Q) logits of cells, and mean and SD of a run's shift."""
    rng = np.random.default_rng(derive_seed(ROOT_SEED, "cells of pooled runs"))
    cells = PERSONA_SD * rng.standard_normal((PERSONAS, 1))
    cells = cells + CELL_SD * rng.standard_normal((PERSONAS, QUESTIONS))
    z = rng.standard_normal(4_000)
    location, scale = -1.0, 0.7
    for _ in range(60):  # each step corrects the mean and the SD of the rates of runs
        rates = expit(location + scale * z[:, None] + cells.ravel()).mean(axis=1)
        location += (RATE - rates.mean()) / (RATE * (1 - RATE))
        scale *= RUN_SD / rates.std()
    return cells, float(location), float(scale)
