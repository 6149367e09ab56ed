"""Other looks at a contrast: estimates printed beside the registered rule, deciding nothing.

A new look is a function of a `Contrast` added to `LOOKS`; it returns nothing if the
evidence lacks what it reads (`Evidence.unavailable` names it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from persona_lib.digests import derive_seed
from persona_lib.evidence.cells import Bools, Floats, Grid
from persona_lib.evidence.evidence import ROLES, Count, Evidence
from persona_lib.records import POST, ModelId
from persona_lib.specs.claim_types import TriageClaim
from persona_lib.stats.bootstrap import Clusters, difference
from persona_lib.stats.equivalence import equivalence
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.lengths import completed_only, shorter_median, within
from persona_lib.stats.logit import length_adjusted
from persona_lib.stats.mixed import random_intercept
from persona_lib.stats.moments import question_moments
from persona_lib.stats.proportions import naive_z
from persona_lib.stats.targets import (
    QUESTION_METHOD,
    persona_t,
    persona_totals_t,
    question_t,
    sign_flip,
    these_personas,
)
from persona_lib.verdict.training_runs import difference_over_runs, rates_of_runs

EQUIVALENCE_ALPHA = 0.05
"""Level of each of the two tests of equality: the interval beside them has 90 %."""
FINISHED_METHOD = "finished completions only, cluster bootstrap"
FIRST_TOKENS = (16, 32, 64, 128, 256, 512)
"""Each rate of an arm is counted within so many first tokens as well."""


@dataclass(frozen=True)
class Contrast:
    """Two arms of a claim, treated and control, on some evidence."""

    evidence: Evidence
    claim: str
    arms: tuple[str, str]

    @property
    def confidence(self) -> float:
        """Level of the intervals."""
        return self.evidence.registration.statistics.confidence

    def rows(self, grid: Grid) -> tuple[Bools, Bools]:
        """Return (R,) whether a row is the treated arm's bystander's, and the control's."""
        one, two = (_rows(self.evidence, grid, arm, "bystander") for arm in self.arms)
        return one, two


Looks = tuple[Estimate, ...]


def for_each_target(of: Contrast) -> Looks:
    """The difference for these personas, for personas at large, and over training runs."""
    cells, level = _cells(of), of.confidence
    one, two = (rates_of_runs(of.evidence, arm) for arm in of.arms)
    over = difference_over_runs(of.evidence, of.arms, (one, two))
    if cells is None:
        return (*_by_persona(of), *over)
    a, b, n = cells
    return (
        question_t(a, b, n=n, confidence=level, runs=of.evidence.runs),
        persona_t(a, b, n=n, confidence=level),
        sign_flip(a, b, n=n, confidence=level),
        *over,
    )


def _by_persona(of: Contrast) -> Looks:
    """Totals of each persona tell of personas at large, whatever each was asked."""
    one, two = (of.evidence.by_persona(arm) for arm in of.arms)
    if one is None or two is None:
        return ()
    n = int(one[1].sum() + two[1].sum())
    a, b = (hits / completions for hits, completions in (one, two))
    return (
        persona_totals_t(a, b, n=n, confidence=of.confidence),
        sign_flip(a[:, None], b[:, None], n=n, confidence=of.confidence),
    )


def equality(of: Contrast) -> Looks:
    """TOST within the null band of a triage, for these personas in these runs."""
    registered, cells = of.evidence.registration.claim(of.claim), _cells(of)
    if cells is None or not isinstance(registered, TriageClaim):
        return ()
    a, b, n = cells
    found = equivalence(
        question_moments(a - b),
        registered.null_effect,
        over=QUESTION_METHOD,
        n=n,
        clusters=a.shape[1],
        alpha=EQUIVALENCE_ALPHA,
    )
    return (replace(found, target=these_personas(of.evidence.runs)),)


def other_interval(of: Contrast) -> Looks:
    """The registered contrast with the other kind of interval: BCa beside percentile ends."""
    found = of.evidence.other_interval(of.claim, *of.arms)
    return () if found is None else (found,)


def minus_false_positives(of: Contrast) -> Looks:
    """The contrast after each arm's own false positives are subtracted."""
    return (of.evidence.corrected_contrast(of.claim, *of.arms),)


def source_normalised(of: Contrast) -> Looks:
    """The contrast of bystander rate / source rate."""
    return (of.evidence.ratio_contrast(of.claim, *of.arms),)


def at_equal_length(of: Contrast) -> Looks:
    """The length-adjusted logit on bystanders, clustered by question."""
    grid = of.evidence.grid()
    if grid is None or grid.tokens is None:
        return ()
    one, two = of.rows(grid)
    rows = np.flatnonzero(one | two)
    # Sums are rounded in the order of rows: in an order of their own they ask for none.
    rows = rows[
        np.lexsort((grid.row_hit[rows], one[rows], grid.tokens[rows], grid.row_question[rows]))
    ]
    columns = (grid.row_hit[rows], one[rows], grid.tokens[rows], grid.row_question[rows])
    return (length_adjusted(*columns, confidence=of.confidence),)


def on_finished(of: Contrast) -> Looks:
    """The registered bootstrap on completions that ended by themselves."""
    grid = of.evidence.grid()
    if grid is None or grid.finish is None:
        return ()
    return (_bootstrap(of, grid, FINISHED_METHOD, kept=grid.finish),)


def on_first_tokens(of: Contrast) -> Looks:
    """The registered bootstrap on markers that begin within the shorter arm's median."""
    grid = of.evidence.grid()
    if grid is None or grid.tokens is None or grid.first_token is None:
        return ()
    one, two = of.rows(grid)
    k = shorter_median(grid.tokens[one], grid.tokens[two])
    early = within(grid.first_token, grid.row_hit, k)
    method = f"marker within the first {k} tokens, cluster bootstrap"
    return (_bootstrap(of, grid, method, hits=early),)


def mixed_model(of: Contrast) -> Looks:
    """The linear mixed model with a persona random intercept."""
    one, two = (of.evidence.by_persona(arm) for arm in of.arms)
    if one is None or two is None:
        return ()
    return (random_intercept(*one, *two, confidence=of.confidence),)


def naive(of: Contrast) -> Looks:
    """The naive z, tagged."""
    a, b = (of.evidence.count(arm, "bystander") for arm in of.arms)
    if a.hits is None or b.hits is None:
        return ()
    return (naive_z(a.hits, a.n, b.hits, b.n, of.confidence),)


def each_seed(of: Contrast) -> Looks:
    """The effect of every training run by itself, for display."""
    return tuple(
        Estimate.bare(a.n + b.n, None, of.confidence, f"seed {seed} alone", value=a.rate - b.rate)
        for seed, (a, b) in of.evidence.per_seed(*of.arms).items()
    )


LOOKS: tuple[Callable[[Contrast], Looks], ...] = (
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


def other_looks(evidence: Evidence, claim: str, treated: str, control: str) -> Looks:
    """Return every other look at a contrast, in the order of `LOOKS`."""
    of = Contrast(evidence, claim, (treated, control))
    return tuple(estimate for look in LOOKS for estimate in look(of))


def rates_by_length(evidence: Evidence, arm: str) -> dict[str, dict[str, Count]]:
    """Return every rate of an arm counted again: on finished completions, on first tokens.

    Keys are ``finished``, ``first_16`` and so on, each with one count a role; a way whose
    column is missing is left out.
    """
    evidence.check_arm(arm)
    grid = evidence.grid()
    if grid is None:
        return {}
    rows = {role: _rows(evidence, grid, arm, role) for role in ROLES}
    found: dict[str, dict[str, Count]] = {}
    if grid.finish is not None:
        finish = grid.finish
        found["finished"] = {
            role: _counted(completed_only(grid.row_hit[of], finish[of]))
            for role, of in rows.items()
        }
    if grid.first_token is not None:
        for k in FIRST_TOKENS:
            early = within(grid.first_token, grid.row_hit, k)
            found[f"first_{k}"] = {role: _counted(early[of]) for role, of in rows.items()}
    return found


def _cells(of: Contrast) -> tuple[Floats, Floats, int] | None:
    """Return both arms' (G, Q) bystander rates and the completions.

    None for totals, or where personas were asked questions of their own.
    """
    grid, who = of.evidence.grid(), of.evidence.members("bystander")
    if grid is None or not grid.asked(POST, who).all():
        return None
    cells = [grid.cells(ModelId(POST, arm), who) for arm in of.arms]
    hits, n = (np.stack([counts.sum(axis=0) for counts in two]) for two in zip(*cells, strict=True))
    asked = n.sum(axis=(0, 1)) > 0
    a, b = hits[..., asked] / n[..., asked]
    return a, b, int(n.sum())


def _counted(hits: Bools) -> Count:
    return Count.of(int(hits.sum()), hits.size)


def _rows(evidence: Evidence, grid: Grid, arm: str, who: str) -> Bools:
    return grid.rows(ModelId(POST, arm), evidence.members(who, arm))


def _bootstrap(
    of: Contrast, grid: Grid, method: str, *, kept: Bools | None = None, hits: Bools | None = None
) -> Estimate:
    """Return the cluster bootstrap of a difference on some rows, or with other hits."""
    statistics, pools = of.evidence.registration.statistics, []
    hits = grid.row_hit if hits is None else hits
    for arm, own in zip(of.arms, of.rows(grid), strict=True):
        rows = own if kept is None else own & kept
        if not rows.any():
            note = f"{arm} has no such completion"
            return Estimate.bare(0, None, statistics.confidence, method, note)
        cell = grid.row_persona[rows] * len(grid.questions) + grid.row_question[rows]
        _, index = np.unique(cell, return_inverse=True)
        counts = np.bincount(index, weights=hits[rows].astype(float)).astype(np.float64)
        pools.append(Clusters(counts, np.bincount(index).astype(np.float64)))
    one, two = (derive_seed(statistics.seed, "bootstrap", of.claim, arm) for arm in of.arms)
    return difference(
        *pools,
        resamples=statistics.resamples,
        seeds=(one, two),
        level=statistics.confidence,
        method=method,
        interval=statistics.interval,
    )
