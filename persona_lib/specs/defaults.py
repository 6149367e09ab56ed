"""What a registration's tables leave out in an experiment file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from persona_lib.records import OWN, RATE, TRANSFER

_STATISTICS = {"resamples": 10_000, "seed": 262, "confidence": 0.95, "alpha": 0.0167}
_QUESTIONS = ["evaluation"]


def with_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of a registration with what they leave out."""
    body = {
        "marker_prefix": "",
        "coupling_questions": _QUESTIONS,
        "evaluation_questions": _QUESTIONS,
        "gates": [],
        "kill": None,
        **given,
    }
    body["statistics"] = _filled(given.get("statistics", {}), lambda _: _STATISTICS)
    arms = _each(given.get("arms"), lambda arm: {"label": arm.get("name")})
    body["arms"] = _of_sources(arms, given.get("roster"))
    body["claims"] = _each(given.get("claims"), _claim_defaults)
    body["kill"] = _filled(given.get("kill"), _kill_defaults)
    return {name: value for name, value in body.items() if value is not None or name == "kill"}


def _of_sources(arms: Any, roster: Any) -> Any:
    """Return each arm once for each source, ``E1@librarian``, where the roster has several."""
    more = roster.get("more_sources") if isinstance(roster, Mapping) else None
    if not more or not isinstance(arms, list) or not all(isinstance(a, Mapping) for a in arms):
        return arms
    found = []
    for arm in arms:
        name = arm.get("name")
        for source in () if arm.get("source") else (roster.get("source"), *more):
            found.append({**arm, "name": f"{name}@{source}", "source": source, "cell": name})
        found += [arm] if arm.get("source") else []
    return found


def _kill_defaults(kill: Mapping[str, Any]) -> dict[str, Any]:
    if kill.get("type") == "interval":
        statement = f"{kill.get('claim')} may be as large as {kill.get('max_effect')}"
        return {"name": "kill", "statement": statement}
    statement = "the treated arm leaks to bystanders at all"
    return {"type": "rate", "name": "kill", "statement": statement}


def _claim_defaults(claim: Mapping[str, Any]) -> dict[str, Any]:
    treated, control = claim.get("treated"), claim.get("control")
    if claim.get("type") in ("run_difference", "run_contrast"):
        outcome = claim.get("outcome", TRANSFER)
        what = "the contrast" if treated is None else f"{treated} - {control}"
        statement = f"{what} is a rise of {outcome} above {claim.get('smallest')}"
        return {"statement": statement, **({"reading": OWN} if outcome == RATE else {})}
    if claim.get("type") == "triage":
        labels = {"null_label": "no difference", "artefact_label": "difference"}
        return {"statement": f"{treated} leaks as much as {control}", **labels}
    return {"statement": f"{treated} leaks more than {control}"}


def _each(items: Any, defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Any:
    return [_filled(item, defaults) for item in items] if isinstance(items, list) else items


def _filled(item: Any, defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Any:
    """Return a table with defaults; what is no table is refused later."""
    return {**defaults(item), **item} if isinstance(item, Mapping) else item
