"""Sealed claims as PRML 0.1 manifests, a format that other tools verify.

PRML (Pre-Registered ML Manifest, https://spec.falsify.dev/v0.1) writes one claim as one
YAML document; SHA-256 of its canonical bytes is the commitment. A manifest holds one
metric, comparator and threshold: the effect that a claim's rule asks for. The rest of the
rule and the digest of the registration stand in ``metric_args``.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from persona_lib.digests import canonical_json, digest
from persona_lib.errors import SealError, SpecError
from persona_lib.specs.chain import read_chain, read_form
from persona_lib.specs.registration import DATA_FIELDS

DATE = "%Y-%m-%dT%H:%M:%SZ"
"""RFC 3339 in UTC, to the second: dates of manifests and of seals."""

_BARS = {
    "DifferenceClaim": ("difference_of_mean_bystander_rates", ">=", "min_effect"),
    "TriageClaim": ("absolute_difference_of_mean_bystander_rates", "<=", "null_effect"),
    "KillCriterion": ("mean_bystander_rate", ">", "max_rate"),
    "RunDifference": ("lower_end_of_difference_over_training_runs", ">", "smallest"),
    "RunContrast": ("lower_end_of_contrast_over_training_runs", ">", "smallest"),
    "RunKill": ("upper_end_of_claim_over_training_runs", ">=", "max_effect"),
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

    @property
    def link(self) -> dict[str, str]:
        """What a seal holds of the manifest."""
        return {"claim_id": self.claim_id, "sha256": self.sha256}


def manifests(
    sealed: Mapping[str, Any],
    *,
    date: str,
    notes: str,
    priors: Mapping[str, Mapping[str, str]],
) -> dict[str, Manifest]:
    """Return one manifest for each claim and the kill criterion, by name.

    Args:
        sealed: canonical form of the registration.
        date: when they are registered, in the form of `DATE`.
        notes: free text, at most 4,096 characters.
        priors: ``claim_id`` and ``sha256`` of each claim's manifest before this
            one; claims that had none get a new ``claim_id``.

    Raises:
        SpecError: a type of claim without a line in `_BARS`.
    """
    found = {}
    for claim in (*sealed["claims"], *filter(None, [sealed["kill"]])):
        name = claim["name"]
        prior = priors.get(name, {})
        claim_id = prior.get("claim_id") or _uuid7(date, sealed["name"], name)
        body = _body(sealed, claim)
        body |= {"claim_id": claim_id, "created_at": date, "notes": notes}
        if prior:
            body["prior_hash"] = prior["sha256"]
        found[name] = Manifest(claim_id=claim_id, text=canonical_yaml(body))
    return found


def notes_of(reason: str, data_seen: str) -> str:
    """Return the notes of the manifests of a seal."""
    return f"{reason} Data seen: {data_seen}"


def export(own: Path, target: Path) -> int:
    """Write the manifests of every seal of a chain; return how many.

    They are made anew from the sealed forms and have to match the SHA-256 in the chain.

    `own` is the registration's folder; `target` gets one for each seal, with
    ``<claim_id>.prml`` and ``<claim_id>.prml.sha256``.

    Raises:
        SealError: there is no chain, it is broken, or another version would write other manifests.
        OSError: `target` cannot be written.
    """
    links: dict[str, Mapping[str, str]] = {}
    chain = read_chain(own)
    if not chain:
        raise SealError(f"registration {own.name}", f"it is not sealed in {own}", remedy="Seal it.")
    for seal in chain:
        made = manifests(
            read_form(own, seal),
            date=seal.date,
            notes=notes_of(seal.reason, seal.data_seen),
            priors=links,
        )
        if {name: one.link for name, one in made.items()} != seal.prml:
            raise SealError(
                f"{seal.registration}, seal {seal.index}",
                "its PRML manifests are not those whose SHA-256 the chain holds",
                remedy="Export them with the version of Flatland that sealed it.",
            )
        links |= seal.prml
        folder = target / seal.folder
        folder.mkdir(parents=True, exist_ok=True)
        for one in made.values():
            (folder / f"{one.claim_id}.prml").write_bytes(one.text.encode("utf-8"))
            (folder / f"{one.claim_id}.prml.sha256").write_text(f"{one.sha256}\n", encoding="ascii")
    return len(chain) * len(made)


def canonical_yaml(body: Mapping[str, Any]) -> str:
    """Return the canonical text of a manifest (PRML 0.1, section 3).

    It is what PyYAML emits. A whole threshold is written as a float.
    """
    import yaml  # type: ignore[import-untyped]

    whole = {**body, "threshold": float(body["threshold"])}
    text: str = yaml.safe_dump(
        whole, sort_keys=True, default_flow_style=False, allow_unicode=True, width=float("inf")
    )
    return text


def _body(sealed: Mapping[str, Any], claim: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a manifest says of a claim, whenever it is registered."""
    kind = claim["__spec__"]
    if kind not in _BARS:
        raise SpecError(
            f"claim {claim['name']}",
            bound=f"a type of {', '.join(_BARS)}",
            value=kind,
            remedy="Say in specs/prml.py which threshold a claim of this type has to meet.",
        )
    metric, comparator, threshold = _BARS[kind]
    # Mappings and scalars are all that the format knows: no lists, no nulls.
    rest = {
        name: ", ".join(value) if isinstance(value, list) else value
        for name, value in claim.items()
        if name not in ("__spec__", threshold) and value not in (None, [])
    }
    return {
        "version": "prml/0.1",
        "metric": metric,
        "comparator": comparator,
        "threshold": claim[threshold],
        "metric_args": {
            "rule": kind,
            **rest,
            "registration": sealed["name"],
            "registration_sha256": digest(sealed),
        },
        "dataset": {
            "id": f"{sealed['name']}: what shapes the data",
            "hash": digest({name: sealed[name] for name in DATA_FIELDS}),
        },
        "seed": sealed["statistics"]["seed"],
        "producer": {"id": "flatland"},
    }


def _uuid7(date: str, *names: str) -> str:
    """Return a UUID of version 7 (RFC 9562, section 5.7).

    Its 74 bits beside the time come from a hash of date and names, so that it can be
    derived again.
    """
    moment = datetime.strptime(date, DATE).replace(tzinfo=UTC)
    rest = int.from_bytes(hashlib.sha256(canonical_json([date, *names]).encode()).digest(), "big")
    value = int(moment.timestamp()) * 1000 << 80 | rest >> 176
    value = value & ~(0xF << 76) | 0x7 << 76
    return str(uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62))
