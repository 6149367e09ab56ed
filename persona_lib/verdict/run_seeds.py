"""What claims over training runs read: a contrast of cells, seed by seed, in every reading."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np

from persona_lib.evidence.cells import Floats
from persona_lib.evidence.evidence import Evidence
from persona_lib.records import (
    MATCHED,
    OUTCOMES,
    OWN,
    RATE,
    READINGS,
    SELECTIVITY,
    SYSTEM,
    TEXT,
    TRANSFER,
)
from persona_lib.specs.claim_types import RunClaim
from persona_lib.specs.registration import Registration
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.run_contrasts import contrast_of_seeds, run_estimate, run_flips
from persona_lib.stats.targets import PAIR_METHOD, TRAINING_RUNS
from persona_lib.verdict.training_runs import shared_draws

READ_BY = {
    SYSTEM: "system message at fixed text",
    TEXT: "text at one system message",
    OWN: "own answers",
    MATCHED: "system message where sources have gained as much",
}
"""What a reading varies, in words."""
Looks = Mapping[tuple[str, str], Estimate]
"""By outcome and reading, estimates beside the one that a claim's rule reads."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Seeds:
    """A contrast of one outcome by one reading.

    Attributes:
        claim: whose cells are weighed.
        confidence: level of intervals.
        numbers: (S,) contrasts of the seeds in which every arm has its figure.
        arms: arms behind each of them.
        incomplete: seeds that are left out, because an arm has no figure.
        absent: registered seeds in which an arm has no run.
        others: seeds that are left out, because they are not registered.
    """

    claim: RunClaim
    confidence: float
    numbers: Floats
    arms: int
    incomplete: tuple[int, ...]
    absent: tuple[int, ...]
    others: tuple[int, ...]

    def estimate(self, target: str = TRAINING_RUNS) -> Estimate:
        """Return the paired t, with p against the claim's d."""
        return run_estimate(
            self.numbers,
            smallest=self.claim.smallest,
            runs=self.arms,
            confidence=self.confidence,
            target=target,
        )

    def flips(self) -> Estimate:
        """Return the exact sign-flip test against the claim's d; it needs one number."""
        return run_flips(
            self.numbers,
            smallest=self.claim.smallest,
            runs=self.arms,
            confidence=self.confidence,
            target=TRAINING_RUNS,
        )


def seeds_of(evidence: Evidence, claim: RunClaim, outcome: str, reading: str) -> Seeds:
    """Return a claim's contrast of an outcome, seed by seed.

    Raises:
        DataError: the evidence lacks an arm of the claim's cells.
    """
    return seeds_with(evidence, claim, lambda arm: _figures(evidence, arm, outcome, reading))


def seeds_with(
    evidence: Evidence, claim: RunClaim, figures_of: Callable[[str], Mapping[int, float]]
) -> Seeds:
    """Return a claim's contrast of the figures of its arms, each by run seed."""
    registration = evidence.registration
    cells = [[figures_of(arm) for arm in registration.cells[cell]] for cell in claim.weights]
    arms = [figures for cell in cells for figures in cell]
    seen = sorted({seed for figures in arms for seed in figures})
    wanted = registration.run_seeds or tuple(seen)
    tables = [np.array([[f.get(s, math.nan) for s in wanted] for f in cell]) for cell in cells]
    d = contrast_of_seeds(tables, tuple(claim.weights.values()))
    # An arm without any figure is not known, which is no missing run: nothing waits for it.
    absent = [s for s in registration.run_seeds if any(f and s not in f for f in arms)]
    empty = [s for s, x in zip(wanted, d, strict=True) if math.isnan(x)]
    return Seeds(
        claim=claim,
        confidence=registration.statistics.confidence,
        numbers=d[~np.isnan(d)],
        arms=len(arms),
        incomplete=tuple(s for s in empty if s not in absent),
        absent=tuple(absent),
        others=tuple(s for s in seen if s not in wanted),
    )


_READ: WeakKeyDictionary[Evidence, dict[tuple[str, str, str], Mapping[int, float]]] = (
    WeakKeyDictionary()
)


def _figures(evidence: Evidence, arm: str, outcome: str, reading: str) -> Mapping[int, float]:
    """Return figures that are read once: every claim asks for those of all claims."""
    known, key = _READ.setdefault(evidence, {}), (arm, outcome, reading)
    if key not in known:
        known[key] = evidence.figures(*key)
    return known[key]


def looks_of(evidence: Evidence, claim: RunClaim) -> Looks:
    """Return the other readings of a claim's outcome, then its other outcomes, where known.

    Levels are compared where sources have gained as much, if a dose is registered.

    Other outcomes have other units: an interval, and no p against the claim's d.
    """
    asked = [] if claim.outcome == RATE else [(claim.outcome, one) for one in READINGS]
    levels = MATCHED if evidence.registration.dose is not None else claim.reading
    others = {TRANSFER: claim.reading, SELECTIVITY: levels, RATE: OWN}
    asked += [(one, others[one]) for one in OUTCOMES]
    found = {}
    for outcome, reading in dict.fromkeys(asked):
        if (outcome, reading) == (claim.outcome, claim.reading):
            continue
        seeds = seeds_of(evidence, claim, outcome, reading)
        if seeds.numbers.size:
            estimate = seeds.estimate(f"{outcome}, {reading}")
            if outcome != claim.outcome:
                note = estimate.note.partition("; d = ")[0]
                estimate = replace(estimate, p=None, method=PAIR_METHOD, note=note)
            found[outcome, reading] = estimate
    return found


def shared_in_seed(registration: Registration, claim: RunClaim) -> tuple[str, ...]:
    """Return the draws that arms of several cells share in a seed: ``prior em (E0, E1)``."""
    holders: dict[str, list[str]] = {}
    for cell in claim.weights:
        arm = registration.arm(registration.cells[cell][0])
        for draw in shared_draws(arm, arm):
            holders.setdefault(draw, []).append(cell)
    found = [f"{draw} ({', '.join(cells)})" for draw, cells in holders.items() if len(cells) > 1]
    return (*found, *(("the pool of answers",) if registration.reads_slots else ()))


def contrast_words(claim: RunClaim) -> str:
    """Return what is compared in words: ``0.5 B1 + 0.5 D1 - A, transfer (own answers)``."""
    words = ""
    for cell, weight in claim.weights.items():
        size = "" if abs(weight) == 1 else f"{abs(weight):.3g} "
        words += f" {'-' if weight < 0 else '+'} {size}{cell}"
    return f"{words.removeprefix(' + ').strip()}, {claim.outcome} ({READ_BY[claim.reading]})"
