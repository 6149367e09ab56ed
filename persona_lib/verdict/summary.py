"""The evidence as JSON data: all that a report shows besides verdicts and gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from persona_lib.evidence.evidence import Count, Evidence, PersonaRow, priors_of
from persona_lib.specs.registration import Registration
from persona_lib.stats.estimate import none_if_nan
from persona_lib.verdict.gate_result import GateResult
from persona_lib.verdict.other_looks import rates_by_length

if TYPE_CHECKING:
    from persona_lib.specs.seal import SealState


def summary(
    registration: Registration,
    evidence: Evidence,
    *,
    checks: Sequence[GateResult] = (),
    seal: SealState | None = None,
) -> dict[str, Any]:
    """Return the evidence on every arm as strict JSON data.

    Rates are proportions, lengths tokens; null is not known. ``order`` is the place of an arm
    or prior in the registration, by which summaries are merged; ``persona`` is an arm's source,
    for which other sources are reported.

    Args:
        registration: names everything.
        evidence: what is summarised.
        checks: gates that are shown and decide nothing.
        seal: the registration's seal, None if it was not checked.
    """
    sealed = seal_fields(seal)
    return {
        "registration": registration.name,
        "digest": registration.digest,
        "title": registration.title,
        "roster": {
            role: list(names) if isinstance(names, tuple) else names
            for role, names in asdict(registration.roster).items()
        },
        "confidence": registration.statistics.confidence,
        "kind": evidence.kind,
        "origin": evidence.origin,
        "seeds": list(evidence.seeds),
        "runs": evidence.runs,
        "arms": [_arm(registration, evidence, arm) for arm in evidence.arms],
        "priors": [_prior(registration, evidence, prior) for prior in priors_of(evidence)],
        "unavailable": list(evidence.unavailable),
        "checks": [gate.to_json() for gate in checks],
        **sealed,
        "seen": [asdict(one) for one in sealed["seen"]],
    }


def seal_fields(seal: SealState | None) -> dict[str, Any]:
    """Return what verdicts and summaries say of a seal; empty if it was not checked."""
    return {
        "sealed": "" if seal is None else seal.date,
        "amendments": None if seal is None else seal.amendments,
        "seal_reason": "" if seal is None else seal.reason,
        "seen": () if seal is None else seal.seen,
    }


def _arm(registration: Registration, evidence: Evidence, name: str) -> dict[str, Any]:
    arm, roster = registration.arm(name), registration.roster_of(name)
    source, pool = evidence.count(name, "source"), evidence.count(name, "bystander")
    after, before = evidence.lengths(name), evidence.pre_lengths(arm.prior)
    length_ratio = after.tokens / before.tokens if before.tokens > 0 else None
    return {
        "name": arm.name,
        "order": [a.name for a in registration.arms].index(arm.name),
        "label": arm.label,
        "cell": arm.cell or arm.name,
        "persona": roster.source,
        "prior": arm.prior,
        "source": _count(evidence, source),
        "negatives": {p: _count(evidence, evidence.count(name, p)) for p in roster.negatives},
        "bystanders": _count(evidence, pool),
        "reported": {p: _count(evidence, evidence.count(name, p)) for p in roster.reported},
        "bystander_source": none_if_nan(pool.rate / source.rate) if source.rate else None,
        "by_length": {
            way: {role: _count(evidence, count) for role, count in counts.items()}
            for way, counts in rates_by_length(evidence, name).items()
        },
        "by_seed": [
            {
                "seed": run.seeds[0],
                "source": _count(evidence, run.count(name, "source")),
                "bystanders": _count(evidence, run.count(name, "bystander")),
            }
            for run in evidence.single_runs()
            if run.seeds and run.count(name, "bystander").n
        ],
        "split": {key: _count(evidence, c) for key, c in evidence.split(name).items()},
        "length_statistic": after.statistic,
        "tokens": none_if_nan(after.tokens),
        "baseline_tokens": none_if_nan(before.tokens),
        "length_ratio": none_if_nan(length_ratio),
        "finished": none_if_nan(after.finished),
        "baseline_finished": none_if_nan(before.finished),
        "personas": [_persona(row) for row in evidence.personas(name)],
    }


def _persona(row: PersonaRow) -> dict[str, Any]:
    names = {"pre_rate": "baseline", "pre_tokens": "baseline_tokens"}
    rest = {names.get(name, name): value for name, value in asdict(row).items()}
    count = rest.pop("count")
    rate = {"hits": count["hits"], "n": count["n"], "rate": row.count.rate}
    return _strict({**rest, **rate, "minus_baseline": row.minus_pre})


def _count(evidence: Evidence, count: Count) -> dict[str, Any]:
    low, high = count.interval(evidence.registration.statistics.confidence)
    return _strict({**asdict(count), "low": low, "high": high})


def _strict(body: dict[str, Any]) -> dict[str, Any]:
    return {name: none_if_nan(value) for name, value in body.items()}


def _prior(registration: Registration, evidence: Evidence, prior: str) -> dict[str, Any]:
    count = evidence.pre_count(prior)
    return {
        "name": prior,
        "order": registration.priors.index(prior),
        "false_positives": None if count is None else _count(evidence, count),
    }
