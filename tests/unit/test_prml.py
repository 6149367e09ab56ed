"""PRML: claims in a format of others, by its rules and its published test vectors."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from persona_lib.digests import canonical
from persona_lib.errors import SealError, SpecError
from persona_lib.specs.builtin import SEALS
from persona_lib.specs.chain import Seal, read_chain
from persona_lib.specs.prml import canonical_yaml, export
from persona_lib.specs.registration import Registration
from persona_lib.specs.seal import append
from tests.registered import ISSUE262, REGISTRATIONS

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)


def seal(folder: Path, *registrations: Registration) -> Path:
    """Seal registrations one after the other, a day apart; return the folder of issue262."""
    for i, registration in enumerate(registrations):
        date = NOON + timedelta(days=i)
        append(registration, folder, date=date, reason="why " * 500, data_seen="none " * 400)
    return folder / "issue262"


# Vectors TV-001, 003, 006, 008 and 013 of the format's suite, as facts: fields and hashes.

_VECTOR = {
    "version": "prml/0.1",
    "claim_id": "01900000-0000-7000-8000-000000000000",
    "created_at": "2026-05-01T12:00:00Z",
    "metric": "accuracy",
    "comparator": ">=",
    "threshold": 0.85,
    "dataset": {
        "id": "imagenet-val-2012",
        "hash": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    },
    "seed": 42,
    "producer": {"id": "studio-11.co"},
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "1a3466cc08ee7fb60a726ea1c4db6ecf48a9f847b9b7523bfb54b2ffaefee546"),
        ({"threshold": 0.86}, "b96b5b8d613e29d8c28c1cf91c03821b02224c41188c6128743fa2d55639d4bb"),
        (
            {"claim_id": "01900000-0000-7000-8000-000000000003", "threshold": 0.5,
             "dataset": {"id": "test-dataset", "hash": "0" * 64}, "seed": 2**64 - 1,
             "producer": {"id": "edge.example"}},
            "57c71c567e0c4d86c691e311634730cd1ff0c65308f3a917d62d89d36d31c81d",
        ),
        (
            {"claim_id": "01900000-0000-7000-8000-000000000005", "metric": "exact_match",
             "comparator": "==", "threshold": 1.0, "seed": 7,
             "dataset": {"id": "synth-100", "hash": "abcdef0123456789" * 4}},
            "fc2bf632dfb10bac8cf88b0c0756af2b53175c9b3078ae34aaf6ce63102c1b56",
        ),
        (
            {"claim_id": "01900000-0000-7000-8000-00000000000a", "threshold": 90,
             "created_at": "2026-06-01T12:00:00Z", "metric": "accuracy_pct",
             "dataset": {"id": "eval-2k", "hash": "abcd1234" * 8},
             "producer": {"id": "falsify.dev"}},
            "cb9683ce70f5d45d407b827d0b9223d342ebd3600c560ec6a9e76dd336bf007d",
        ),
    ],
)  # fmt: skip
def test_canonical_bytes_are_those_of_the_published_vectors(
    changes: dict[str, Any], expected: str
) -> None:
    text = canonical_yaml({**_VECTOR, **changes})
    assert hashlib.sha256(text.encode()).hexdigest() == expected


Manifests = dict[str, dict[str, Any]]


def exported(own: Path, target: Path) -> list[tuple[Seal, Manifests, Path]]:
    """Each seal of a chain, its manifests by claim as read from YAML, and where they lie."""
    seals = read_chain(own)
    claims = len(REGISTRATIONS[own.name].judged) if own.name in REGISTRATIONS else 4
    assert export(own, target) == claims * len(seals)
    found = []
    for seal in seals:
        folder = target / seal.folder
        names = {name: f"{link['claim_id']}.prml" for name, link in seal.prml.items()}
        assert {path.name for path in folder.iterdir()} == {
            name + end for name in names.values() for end in ("", ".sha256")
        }
        texts = {claim: (folder / name).read_text("utf-8") for claim, name in names.items()}
        found.append((seal, {claim: yaml.safe_load(t) for claim, t in texts.items()}, folder))
    return found


REQUIRED = {
    "version", "claim_id", "created_at", "metric", "comparator", "threshold", "dataset", "seed",
    "producer",
}  # fmt: skip
UUID7 = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def test_manifests_follow_the_rules_of_the_format(tmp_path: Path) -> None:
    """Sections 2, 3, 4 and 6 of PRML 0.1, on a chain with amendments."""
    moved = replace(ISSUE262, kill=replace(ISSUE262.kill, max_rate=0.06))
    own = seal(tmp_path, ISSUE262, moved, ISSUE262)
    chain = exported(own, tmp_path / "prml")
    ids = [{name: link["claim_id"] for name, link in one.prml.items()} for one, _, _ in chain]
    assert ids[0] == ids[1] == ids[2]  # an amendment retains the claim_id
    assert len(set(ids[0].values())) == 4
    before: Seal | None = None
    for one, bodies, folder in chain:
        for name, body in bodies.items():
            path = folder / f"{body['claim_id']}.prml"
            text = path.read_text(encoding="utf-8")
            assert body.keys() - {"metric_args", "notes", "prior_hash"} == REQUIRED
            assert body["version"] == "prml/0.1"
            assert re.fullmatch(UUID7, body["claim_id"])
            # RFC 9562: the first 48 bits are milliseconds since 1970.
            stamp = int(body["claim_id"].replace("-", "")[:12], 16)
            assert stamp == int(NOON.timestamp()) * 1000
            assert body["created_at"] == one.date
            assert body["comparator"] in {">=", ">", "==", "<=", "<"}
            assert type(body["threshold"]) is float
            assert type(body["seed"]) is int
            assert body["dataset"].keys() == {"id", "hash"}
            assert re.fullmatch("[0-9a-f]{64}", body["dataset"]["hash"])
            assert len(body["notes"]) <= 4096
            assert body["notes"].endswith(" Data seen: " + ("none " * 400).strip())
            assert body.get("prior_hash") == (before.prml[name]["sha256"] if before else None)
            assert list(body) == sorted(body)
            assert all(list(v) == sorted(v) for v in body.values() if isinstance(v, dict))
            assert all(type(v) in (str, int, float) for v in body["metric_args"].values())
            assert text.count("\n") == 14 + len(body["metric_args"]) + (before is not None)
            assert text.endswith("\n")
            assert not text.endswith("\n\n")
            assert not re.search(r"[ \r]\n|[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff]", text)
            sha256 = hashlib.sha256(text.encode("utf-8")).hexdigest()
            assert sha256 == one.prml[name]["sha256"]
            assert path.with_suffix(".prml.sha256").read_text() == f"{sha256}\n"
        before = one


def test_only_manifests_that_the_chain_vouches_for_are_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SealError, match="registration issue262: it is not sealed"):
        export(tmp_path / "issue262", tmp_path / "prml")
    own = seal(tmp_path, ISSUE262)
    monkeypatch.setattr("persona_lib.specs.prml.notes_of", lambda *_: "other words")
    with pytest.raises(SealError, match="issue262, seal 0: its PRML manifests are not those"):
        export(own, tmp_path / "prml")
    assert not (tmp_path / "prml").exists()


@pytest.mark.parametrize("fresh", [True, False])
def test_manifests_hold_thresholds_and_bind_the_registration(fresh: bool, tmp_path: Path) -> None:
    own = seal(tmp_path, ISSUE262) if fresh else SEALS / "issue262"
    _, found, _ = exported(own, tmp_path / "prml")[0]
    bars = {name: (m["metric"], m["comparator"], m["threshold"]) for name, m in found.items()}
    difference = "difference_of_mean_bystander_rates"
    assert bars == {
        "H1": (difference, ">=", 0.20),
        "H2": (difference, ">=", 0.15),
        "H3": (f"absolute_{difference}", "<=", 0.05),
        "kill": ("mean_bystander_rate", ">", 0.05),
    }
    assert found["H1"]["metric_args"]["registration_sha256"] == ISSUE262.digest
    assert found["H1"]["seed"] == 262
    assert found["H1"]["dataset"]["hash"] == ISSUE262.data_digest


FIELDS = {
    "DifferenceClaim": "min_effect",
    "TriageClaim": "null_effect",
    "KillCriterion": "max_rate",
    "RunDifference": "smallest",
    "RunContrast": "smallest",
    "RunKill": "max_effect",
}


@pytest.mark.parametrize("name", list(REGISTRATIONS))
def test_newest_manifests_say_what_the_code_says(name: str, tmp_path: Path) -> None:
    """A manifest whose numbers differ from the sealed rule would bind another claim."""
    registration = REGISTRATIONS[name]
    _, found, _ = exported(SEALS / name, tmp_path)[-1]
    assert sorted(found) == sorted(rule.name for rule in registration.judged)
    for claim, body in found.items():
        sentence = {**body["metric_args"], FIELDS[body["metric_args"]["rule"]]: body["threshold"]}
        assert sentence.pop("registration") == name
        assert sentence.pop("registration_sha256") == registration.digest
        rule = canonical(registration.claim(claim))
        rule["rule"] = rule.pop("__spec__")
        texts = {k: ", ".join(v) if isinstance(v, list) else v for k, v in rule.items()}
        assert sentence == {k: v for k, v in texts.items() if v not in (None, "")}


def test_claim_of_an_unknown_type_says_where_it_belongs(tmp_path: Path) -> None:
    class Other(type(ISSUE262.claims[0])):  # type: ignore[misc]
        pass

    strange = Other(**vars(ISSUE262.claims[0]))
    with pytest.raises(SpecError, match=r"claim H1: expected a type of.*specs/prml\.py"):
        seal(tmp_path, replace(ISSUE262, claims=(strange, *ISSUE262.claims[1:])))
    assert not list(tmp_path.iterdir())
