"""Every gate is read once a judging, and a session judges once for each set of arms."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from persona_lib.commands.profiles import choose_profile
from persona_lib.specs.registration import Registration
from persona_lib.verdict import claims, gates
from persona_lib.verdict.judging import Judging
from tests.healthy import GATED, evidence_of, healthy
from tests.registered import CHECKS, ISSUE262, ISSUE262_GATED, session_under

ROOT = Path(__file__).resolve().parents[2]
Read = Counter[tuple[str, tuple[str, ...]]]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Readings by gate and arms of the evidence."""
    found: Read = Counter()
    honest = gates._read

    def counted(gate: gates.Gate, evidence: gates.Evidence) -> gates.Reading:
        found[gate.name, tuple(evidence.arms)] += 1
        return honest(gate, evidence)

    monkeypatch.setattr(gates, "_read", counted)
    monkeypatch.setattr(claims, "other_looks", lambda *_: ())
    return found


@pytest.mark.parametrize(
    ("registration", "stricter"), [(GATED, None), (ISSUE262, ISSUE262_GATED)], ids=["gated", "twin"]
)
def test_a_verdict_reads_each_gate_once(
    registration: Registration, stricter: Registration | None, read: Read
) -> None:
    """All claims, all gates, checks and summary of one evidence."""
    judging = Judging(registration, evidence_of(healthy(), registration), stricter=stricter)
    for _ in range(2):
        for claim in registration.judged:
            judging.claim(claim.name)
        for gate in registration.gates:
            judging.gate(gate.name)
        assert len(judging.summary["checks"]) == (0 if stricter is None else len(CHECKS))
    assert set(read.values()) == {1}
    assert len(read) == len(ISSUE262_GATED.gates) == 29


@pytest.mark.parametrize("registration", [ISSUE262, ISSUE262_GATED], ids=lambda r: r.name)
def test_a_session_reads_each_gate_once_for_each_set_of_arms(
    registration: Registration, read: Read
) -> None:
    session = session_under(
        registration,
        profile=choose_profile("tiny"),
        stored=(ROOT / "golden" / "tiny",),
        chosen=True,
    )
    for claim in registration.judged:
        judging = session.judging(claim.name)
        judging.claim(claim.name)
        assert judging.summary
    for gate in registration.gates:
        judging = session.judging(gate.name)
        judging.gate(gate.name)
        assert judging.summary
    assert set(read.values()) == {1}
    assert {name for name, _ in read} == {gate.name for gate in ISSUE262_GATED.gates}
