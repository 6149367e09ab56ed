"""The claims of a registration in a format that others verify: PRML 0.1.

PRML (Pre-Registered ML Manifest, https://spec.falsify.dev/v0.1) writes one claim
as one YAML document of fixed canonical bytes; SHA-256 of those bytes is the
commitment, and an amendment names the commitment before it in ``prior_hash``. A
manifest holds one metric, one comparator and one threshold. Here that is the
effect that a claim's rule asks for; the rest of the rule stands in
``metric_args``, and ``registration_sha256`` there binds the whole registration.
docs/usage.md says where the format and a registration do not quite meet.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from persona_lib.digests import canonical, canonical_json
from persona_lib.errors import SpecError
from persona_lib.specs.registration import (
    Claim,
    DifferenceClaim,
    KillCriterion,
    Registration,
    TriageClaim,
)

VERSION = "prml/0.1"
PRODUCER = "flatland"
DATE = "%Y-%m-%dT%H:%M:%SZ"
"""RFC 3339 in UTC, to the second: dates of manifests and of seals."""

_BARS: dict[type[Any], tuple[str, str, str]] = {
    DifferenceClaim: ("difference_of_mean_bystander_rates", ">=", "min_effect"),
    TriageClaim: ("absolute_difference_of_mean_bystander_rates", "<=", "null_effect"),
    KillCriterion: ("mean_bystander_rate", ">", "max_rate"),
}
"""Metric, comparator and field of the threshold that a claim of each type needs to hold."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One manifest.

    Attributes:
        claim_id: a UUID of version 7; an amendment keeps it.
        text: the canonical text.
    """

    claim_id: str
    text: str

    @property
    def sha256(self) -> str:
        """The manifest hash, 64 hexadecimal digits."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()


def manifests(
    registration: Registration,
    *,
    date: str,
    notes: str,
    priors: Mapping[str, Mapping[str, str]],
) -> dict[str, Manifest]:
    """Return one manifest for each claim and the kill criterion, by name.

    Args:
        registration: whose claims.
        date: when they are registered, in the form of `DATE`.
        notes: free text, at most 4,096 characters.
        priors: ``claim_id`` and ``sha256`` of each claim's manifest before this
            one; claims that had none get a new ``claim_id``.

    Raises:
        SpecError: a type of claim without a line in `_BARS`.
    """
    found = {}
    for claim in (*registration.claims, registration.kill):
        prior = priors.get(claim.name, {})
        claim_id = prior.get("claim_id") or _uuid7(date, registration.name, claim.name)
        body = _body(registration, claim)
        body |= {"claim_id": claim_id, "created_at": date, "notes": notes}
        if prior:
            body["prior_hash"] = prior["sha256"]
        found[claim.name] = Manifest(claim_id=claim_id, text=canonical_yaml(body))
    return found


def canonical_yaml(body: Mapping[str, Any]) -> str:
    """Return the canonical text of a manifest (PRML 0.1, section 3).

    Sorted keys, block style, two spaces a level, one line feed at the end. The
    format takes PyYAML's emitter for its norm, so that it is what writes here. A
    whole threshold is written as a float.
    """
    import yaml  # type: ignore[import-untyped]

    whole = {**body, "threshold": float(body["threshold"])}
    text: str = yaml.safe_dump(
        whole, sort_keys=True, default_flow_style=False, allow_unicode=True, width=float("inf")
    )
    return text


def _body(registration: Registration, claim: Claim | KillCriterion) -> dict[str, Any]:
    """Return what a manifest says of a claim, whenever it is registered."""
    if type(claim) not in _BARS:
        raise SpecError(
            f"claim {claim.name}",
            bound=f"a type of {', '.join(known.__name__ for known in _BARS)}",
            value=type(claim).__name__,
            remedy="Say in specs/prml.py which threshold a claim of this type has to meet.",
        )
    metric, comparator, field = _BARS[type(claim)]
    rule = canonical(claim)
    rule["rule"] = rule.pop("__spec__")
    # Mappings and scalars are all that the format knows: no lists, no nulls.
    rest = {
        name: ", ".join(value) if isinstance(value, list) else value
        for name, value in rule.items()
        if name != field and value not in (None, [])
    }
    return {
        "version": VERSION,
        "metric": metric,
        "comparator": comparator,
        "threshold": rule[field],
        "metric_args": {
            **rest,
            "registration": registration.name,
            "registration_sha256": registration.digest,
        },
        "dataset": {
            "id": f"{registration.name}: what shapes the data",
            "hash": registration.data_digest,
        },
        "seed": registration.statistics.seed,
        "producer": {"id": PRODUCER},
    }


def _uuid7(date: str, *names: str) -> str:
    """Return a UUID of version 7 (RFC 9562, section 5.7).

    Its 48 bits of time are milliseconds of the date; its 74 other bits come from
    a hash of date and names instead of a generator, so that it can be derived again.
    """
    moment = datetime.strptime(date, DATE).replace(tzinfo=UTC)
    rest = int.from_bytes(hashlib.sha256(canonical_json([date, *names]).encode()).digest(), "big")
    value = int(moment.timestamp()) * 1000 << 80 | rest >> 176
    value = value & ~(0xF << 76) | 0x7 << 76
    return str(uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62))
