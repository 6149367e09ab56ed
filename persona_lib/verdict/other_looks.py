"""Other looks at a contrast: printed beside the registered rule, deciding nothing.

A new estimator is one function (evidence, claim, treated, control) -> estimates,
added to `LOOKS`. One that cannot speak on this evidence returns nothing: the
evidence itself says what is unavailable and why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from persona_lib.evidence.evidence import Evidence
from persona_lib.records import POST
from persona_lib.specs.registration import TriageClaim
from persona_lib.stats.equivalence import equivalence
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.mixed import random_intercept
from persona_lib.stats.moments import Floats, question_moments
from persona_lib.stats.proportions import naive_z
from persona_lib.stats.targets import (
    QUESTION_METHOD,
    persona_t,
    persona_totals_t,
    question_t,
    sign_flip,
    these_personas,
)
from persona_lib.verdict.length_looks import at_equal_length, on_finished, on_first_tokens
from persona_lib.verdict.training_runs import difference_over_runs, rates_of_runs

EQUIVALENCE_ALPHA = 0.05
"""Level of each of the two tests of equality: the interval beside them has 90 %."""

Look = Callable[[Evidence, str, str, str], tuple[Estimate, ...]]


def minus_false_positives(
    evidence: Evidence, claim: str, treated: str, control: str
) -> tuple[Estimate, ...]:
    """The contrast after each arm's own false positives are subtracted."""
    return (evidence.corrected_contrast(claim, treated, control),)


def source_normalised(
    evidence: Evidence, claim: str, treated: str, control: str
) -> tuple[Estimate, ...]:
    """The contrast of bystander rate / source rate."""
    return (evidence.ratio_contrast(claim, treated, control),)


def other_interval(
    evidence: Evidence, claim: str, treated: str, control: str
) -> tuple[Estimate, ...]:
    """The registered contrast with the other kind of interval: BCa beside percentile ends."""
    found = evidence.other_interval(claim, treated, control)
    return () if found is None else (found,)


def mixed_model(
    evidence: Evidence,
    claim: str,  # noqa: ARG001  (every look has the same arguments)
    treated: str,
    control: str,
) -> tuple[Estimate, ...]:
    """The linear mixed model with a persona random intercept."""
    one, two = (evidence.by_persona(arm) for arm in (treated, control))
    if one is None or two is None:
        return ()
    return (random_intercept(*one, *two, confidence=evidence.registration.statistics.confidence),)


def naive(
    evidence: Evidence,
    claim: str,  # noqa: ARG001
    treated: str,
    control: str,
) -> tuple[Estimate, ...]:
    """The naive z, tagged."""
    a, b = (evidence.count(arm, "bystander") for arm in (treated, control))
    if a.hits is None or b.hits is None:
        return ()
    return (naive_z(a.hits, a.n, b.hits, b.n, evidence.registration.statistics.confidence),)


def each_seed(
    evidence: Evidence,
    claim: str,  # noqa: ARG001
    treated: str,
    control: str,
) -> tuple[Estimate, ...]:
    """The effect of every training run by itself, for display."""
    confidence = evidence.registration.statistics.confidence
    looks = []
    for seed, (a, b) in evidence.per_seed(treated, control).items():
        value, method = a.rate - b.rate, f"seed {seed} alone"
        looks.append(Estimate.bare(a.n + b.n, None, confidence, method, value=value))
    return tuple(looks)


def for_each_target(
    evidence: Evidence,
    claim: str,  # noqa: ARG001
    treated: str,
    control: str,
) -> tuple[Estimate, ...]:
    """The difference for these personas, for personas at large, and over training runs."""
    cells = _cells(evidence, treated, control)
    if cells is None:
        return _from_totals(evidence, treated, control)
    n, confidence = _size(cells), evidence.registration.statistics.confidence
    a, b = (arm.rates for arm in cells)
    runs = (rates_of_runs(evidence, treated) or {}, rates_of_runs(evidence, control) or {})
    return (
        question_t(a, b, n=n, confidence=confidence, runs=evidence.runs),
        persona_t(a, b, n=n, confidence=confidence),
        sign_flip(a, b, n=n, confidence=confidence),
        *difference_over_runs(evidence, (treated, control), runs, n),
    )


def _from_totals(evidence: Evidence, treated: str, control: str) -> tuple[Estimate, ...]:
    """The difference for personas at large, where each persona's total is known but no cell."""
    one, two = (evidence.by_persona(arm) for arm in (treated, control))
    if one is None or two is None:
        return ()
    n, confidence = int(one[1].sum() + two[1].sum()), evidence.registration.statistics.confidence
    a, b = (hits / completions for hits, completions in (one, two))
    return (
        persona_totals_t(a, b, n=n, confidence=confidence),
        sign_flip(a[:, None], b[:, None], n=n, confidence=confidence),
    )


def equality(evidence: Evidence, claim: str, treated: str, control: str) -> tuple[Estimate, ...]:
    """TOST within the null band of a triage, for these personas in these runs."""
    registered = evidence.registration.claim(claim)
    cells = _cells(evidence, treated, control)
    if cells is None or not isinstance(registered, TriageClaim):
        return ()
    a, b = (arm.rates for arm in cells)
    found = equivalence(
        question_moments(a - b),
        registered.null_effect,
        over=QUESTION_METHOD,
        n=_size(cells),
        clusters=a.shape[1],
        alpha=EQUIVALENCE_ALPHA,
    )
    return (replace(found, target=these_personas(evidence.runs)),)


@dataclass(frozen=True)
class _Cells:
    """One arm's bystanders, on the questions that were asked.

    Attributes:
        hits, n: (S, G, Q) hits and completions by seed, persona and question.
    """

    hits: Floats
    n: Floats

    @property
    def rates(self) -> Floats:
        """(G, Q) rates, all seeds pooled."""
        return np.asarray(self.hits.sum(axis=0) / self.n.sum(axis=0))


def _cells(evidence: Evidence, treated: str, control: str) -> tuple[_Cells, _Cells] | None:
    """Return both arms' cells, None where only totals are known."""
    grid = evidence.grid()
    if grid is None:
        return None
    members = [grid.personas.index(persona) for persona in evidence.members("bystander")]
    at = [grid.models.index((POST, arm)) for arm in (treated, control)]
    asked = grid.n[at][:, :, members].sum(axis=(0, 1, 2)) > 0
    one, two = (
        _Cells(grid.hits[i][:, members][..., asked], grid.n[i][:, members][..., asked]) for i in at
    )
    return one, two


def _size(cells: tuple[_Cells, _Cells]) -> int:
    """Return the completions of both arms."""
    return int(sum(arm.n.sum() for arm in cells))


LOOKS: tuple[Look, ...] = (
    for_each_target,
    equality,
    other_interval,
    minus_false_positives,
    source_normalised,
    at_equal_length,
    on_finished,
    on_first_tokens,
    mixed_model,
    naive,
    each_seed,
)


def other_looks(evidence: Evidence, claim: str, treated: str, control: str) -> tuple[Estimate, ...]:
    """Return every other look at a contrast, in the order of `LOOKS`."""
    return tuple(e for look in LOOKS for e in look(evidence, claim, treated, control))
