"""Looks at lengths: an arm that writes more has more room for a marker.

Three looks at a contrast (at equal length, on finished completions only, on the first
tokens only), and every rate of an arm counted again in the last two ways. They decide
nothing. Evidence that lacks a column returns nothing: `Evidence.unavailable` says what
is missing.
"""

from __future__ import annotations

import numpy as np

from persona_lib.digests import derive_seed
from persona_lib.evidence.cells import Bools, Grid
from persona_lib.evidence.evidence import ROLES, Count, Evidence
from persona_lib.records import POST
from persona_lib.stats.bootstrap import Clusters, difference
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.lengths import completed_only, shorter_median, within
from persona_lib.stats.logit import length_adjusted

FINISHED_METHOD = "finished completions only, cluster bootstrap"
FIRST_TOKENS = (16, 32, 64, 128, 256, 512)
"""Each rate of an arm is counted within so many first tokens as well."""


def at_equal_length(
    evidence: Evidence,
    claim: str,  # noqa: ARG001  (every look has the same arguments)
    treated: str,
    control: str,
) -> tuple[Estimate, ...]:
    """The length-adjusted logit on bystanders, clustered by question."""
    grid = evidence.grid()
    if grid is None or grid.tokens is None:
        return ()
    one, two = (_rows(evidence, grid, arm, "bystander") for arm in (treated, control))
    rows = np.flatnonzero(one | two)
    # Sums are rounded in the order of rows: in an order of their own they ask for none.
    rows = rows[
        np.lexsort((grid.row_hit[rows], one[rows], grid.tokens[rows], grid.row_question[rows]))
    ]
    return (
        length_adjusted(
            grid.row_hit[rows],
            one[rows],
            grid.tokens[rows],
            grid.row_question[rows],
            confidence=evidence.registration.statistics.confidence,
        ),
    )


def on_finished(evidence: Evidence, claim: str, treated: str, control: str) -> tuple[Estimate, ...]:
    """The registered bootstrap on completions that ended by themselves."""
    grid = evidence.grid()
    if grid is None or grid.finish is None:
        return ()
    kept = grid.finish
    return (_bootstrap(evidence, grid, claim, (treated, control), FINISHED_METHOD, kept=kept),)


def on_first_tokens(
    evidence: Evidence, claim: str, treated: str, control: str
) -> tuple[Estimate, ...]:
    """The registered bootstrap on markers that begin within the shorter arm's median."""
    grid = evidence.grid()
    if grid is None or grid.tokens is None or grid.first_token is None:
        return ()
    tokens = grid.tokens
    one, two = (tokens[_rows(evidence, grid, arm, "bystander")] for arm in (treated, control))
    k = shorter_median(one, two)
    early = within(grid.first_token, grid.row_hit, k)
    method = f"marker within the first {k} tokens, cluster bootstrap"
    return (_bootstrap(evidence, grid, claim, (treated, control), method, hits=early),)


def rates_by_length(evidence: Evidence, arm: str) -> dict[str, dict[str, Count]]:
    """Return every rate of an arm counted again: on finished completions, on first tokens.

    Keys are ``finished`` and ``first_16`` and so on, each with one count a role; a way
    of counting for which a column is missing is left out.
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


def _counted(hits: Bools) -> Count:
    return Count.of(int(hits.sum()), hits.size)


def _rows(evidence: Evidence, grid: Grid, arm: str, who: str) -> Bools:
    """Return (R,) whether a row is of this arm and one of these personas."""
    members = [grid.personas.index(persona) for persona in evidence.members(who)]
    return grid.of_model((POST, arm)) & np.isin(grid.row_persona, members)


def _bootstrap(
    evidence: Evidence,
    grid: Grid,
    claim: str,
    arms: tuple[str, str],
    method: str,
    *,
    kept: Bools | None = None,
    hits: Bools | None = None,
) -> Estimate:
    """Return the cluster bootstrap of a difference on some rows, or with other hits."""
    statistics, pools = evidence.registration.statistics, []
    hits = grid.row_hit if hits is None else hits
    for arm in arms:
        rows = _rows(evidence, grid, arm, "bystander")
        rows = rows if kept is None else rows & kept
        if not rows.any():
            note = f"{arm} has no such completion"
            return Estimate.bare(0, None, statistics.confidence, method, note)
        cell = grid.row_persona[rows] * len(grid.questions) + grid.row_question[rows]
        _, index = np.unique(cell, return_inverse=True)
        counts = np.bincount(index, weights=hits[rows].astype(float)).astype(np.float64)
        pools.append(Clusters(counts, np.bincount(index).astype(np.float64)))
    return difference(
        pools[0],
        pools[1],
        resamples=statistics.resamples,
        seeds=(
            derive_seed(statistics.seed, "bootstrap", claim, arms[0]),
            derive_seed(statistics.seed, "bootstrap", claim, arms[1]),
        ),
        level=statistics.confidence,
        method=method,
        interval=statistics.interval,
    )
