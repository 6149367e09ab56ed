"""Several claims at once: Holm's correction beside the registered Bonferroni.

No claim is decided here. A registration holds its level after Bonferroni; what stands
beside it are the adjusted p of all claims, which exist only where all were judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from persona_lib.specs.registration import Registration
from persona_lib.stats.equivalence import holm
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.targets import QUESTION_METHOD
from persona_lib.verdict.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Family:
    """The p of every claim by one method, and what correction makes of them.

    Attributes:
        method: what gave the p.
        claims: names, in registered order.
        p: as printed for each claim; None where there is none.
        bonferroni: p times the number of claims, at most 1.
        holm: Holm's adjusted p.
    """

    method: str
    claims: tuple[str, ...]
    p: tuple[float | None, ...]
    bonferroni: tuple[float | None, ...]
    holm: tuple[float | None, ...]

    def to_json(self) -> dict[str, Any]:
        """Return strict JSON data."""
        return {
            "method": self.method,
            "claims": list(self.claims),
            "p": list(self.p),
            "bonferroni": list(self.bonferroni),
            "holm": list(self.holm),
        }


def families(registration: Registration, verdicts: Sequence[Verdict]) -> tuple[Family, ...]:
    """Return the registered p and those of these personas, adjusted over all claims.

    A claim without a p counts in both corrections, as one whose p is 1. Where a claim
    was not judged there is no family, and nothing is returned.
    """
    judged = {verdict.name: verdict for verdict in verdicts}
    names = tuple(claim.name for claim in registration.claims)
    if not set(names) <= set(judged):
        return ()
    effects = [judged[name].effect for name in names]
    looks = [_question(judged[name]) for name in names]
    found = [_family(effects[0].method, names, effects)]
    if any(look is not None and look.p is not None for look in looks):
        found.append(_family(QUESTION_METHOD, names, looks))
    return tuple(found)


def _question(verdict: Verdict) -> Estimate | None:
    return next((e for e in verdict.estimates if e.method == QUESTION_METHOD), None)


def _family(method: str, names: tuple[str, ...], estimates: Sequence[Estimate | None]) -> Family:
    p = tuple(None if e is None else e.p for e in estimates)
    ranked = holm([1.0 if x is None else x for x in p])
    return Family(
        method=method,
        claims=names,
        p=p,
        bonferroni=tuple(None if x is None else min(1.0, len(names) * x) for x in p),
        holm=tuple(None if x is None else y for x, y in zip(p, ranked, strict=True)),
    )
