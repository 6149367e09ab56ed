"""Thresholds: both sides of each, whatever binary fractions make of them, and how they print."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from persona_lib.evidence.from_totals import AggregateEvidence
from persona_lib.specs.claim_types import DifferenceClaim, TriageClaim
from persona_lib.stats.thresholds import above, at_least, at_most, below, shown
from persona_lib.verdict.claims import Outcome
from persona_lib.verdict.gate_result import GateOutcome
from persona_lib.verdict.gates import judge_gate
from persona_lib.verdict.judging import judge
from tests.registered import ISSUE262
from tests.synthetic import FEW, evidence

AGGREGATES = Path(__file__).resolve().parents[2] / "golden" / "published" / "aggregates.json"
H1, H2, H3 = FEW.claims


def quoted(
    control: str, hits: int, *, low: float, high: float, tail: int = 0, **pools: Any
) -> AggregateEvidence:
    """The published totals, with this many hits in `control` and this interval of C2 - control."""
    body: Any = json.loads(AGGREGATES.read_text())
    body["arms"][control]["bystanders"]["hits"] = hits
    for arm, pool in pools.items():
        body["arms"][arm]["bystanders"] = pool
    # Counts by persona would contradict the totals that are moved here.
    for arm in (control, *pools):
        for persona in ISSUE262.roster.bystanders:
            body["arms"][arm]["personas"].pop(persona)
        body["arms"][arm].pop("quoted", None)
    interval = {"low": low, "high": high, "tail": tail, "value": round((806 - hits) / 1400, 3)}
    body["contrasts"] = [
        {**q, **interval} for q in body["contrasts"] if q["control"] == control and not pools
    ]
    return AggregateEvidence(ISSUE262, body)


@pytest.mark.parametrize(
    ("low", "outcome"),
    [
        (-0.05, Outcome.INCONCLUSIVE),
        (-0.05 + 1e-12, Outcome.INCONCLUSIVE),  # -0.05 after rounding
        (-0.0499, Outcome.SUPPORTED),
    ],
)
def test_the_lower_end_of_h3_lies_above_its_threshold(low: float, outcome: Outcome) -> None:
    assert (
        judge(ISSUE262, quoted("C2p", 806, low=low, high=0.04, tail=5000), "H3").outcome is outcome
    )


@pytest.mark.parametrize(
    ("hits", "high", "label"),
    [
        (666, 0.15, "cannot tell"),
        (666, 0.15 - 1e-12, "cannot tell"),  # 0.15 after rounding
        (666, 0.1499, "effect too small"),
        (946, 0.0, "effect too small"),
        (946, -1e-12, "effect too small"),  # 0 after rounding
        (946, -0.0001, "sign flipped"),
    ],
)
def test_an_interval_ends_below_a_threshold_or_at_it(hits: int, high: float, label: str) -> None:
    found = judge(ISSUE262, quoted("C3", hits, low=-0.2, high=high), "H2")
    assert found.label == label
    assert any("flipped" in note for note in found.notes) == (label == "sign flipped")


@pytest.mark.parametrize(
    ("rate", "triggered"), [(0.05, True), (0.05 + 1e-12, True), (0.0501, False)]
)
def test_the_kill_rate_is_part_of_the_kill(rate: float, triggered: bool) -> None:
    found = quoted("C1", 383, low=0, high=0, C2={"rate": rate, "n": 1400})
    kill, h1 = (judge(ISSUE262, found, claim) for claim in ("kill", "H1"))
    assert (kill.outcome is Outcome.REFUTED) == triggered
    assert (h1.label == "kill criterion") == triggered


@pytest.mark.parametrize(
    ("compare", "at", "inside", "outside"),
    [
        (at_least, True, 0.2001, 0.1999),
        (at_most, True, 0.1999, 0.2001),
        (above, False, 0.2001, 0.1999),
        (below, False, 0.1999, 0.2001),
    ],
)
def test_comparisons_with_thresholds(
    compare: Callable[[float, float], bool], at: bool, inside: float, outside: float
) -> None:
    for equal in (0.2, 0.60 - 0.40, 0.1 + 0.1 + 1e-10, 0.2 - 1e-10):
        assert compare(equal, 0.2) is at
    for near in (1e-8, 1 / 1400):
        assert compare(0.2 + math.copysign(near, inside - 0.2), 0.2)
        assert not compare(0.2 + math.copysign(near, outside - 0.2), 0.2)
    assert not compare(math.nan, 0.2)


@pytest.mark.parametrize(
    ("threshold", "text"),
    [
        (0.2, "0.20"),
        (0.125, "0.125"),
        (0.005, "0.005"),
        (0.0167, "0.0167"),
        (0.00001, "0.00001"),
        (0, "0.00"),
        (1.0, "1.00"),
        (-0.05, "-0.05"),
        (12.5, "12.50"),
    ],
)
def test_thresholds_are_printed_whole(threshold: float, text: str) -> None:
    assert shown(threshold) == text


def test_rules_and_gates_print_their_thresholds_whole() -> None:
    assert isinstance(H1, DifferenceClaim)
    assert isinstance(H3, TriageClaim)
    h1 = replace(H1, min_effect=0.125, max_p=0.0125)
    h3 = replace(H3, null_effect=0.025, null_min_p=0.125, artefact_effect=0.155)
    kill = replace(FEW.kill, max_rate=0.005)
    rate, ratio, false = FEW.gates
    gates = (
        replace(rate, min_rate=0.505),
        replace(ratio, min_ratio=0.505),
        replace(false, max_rate=0.001),
    )
    fine = replace(FEW, claims=(h1, H2, h3), kill=kill, gates=gates)
    found = evidence(questions=2, samples=2, registration=fine)
    rules = [judge(fine, found, claim).rule for claim in ("H1", "H3", "kill")]
    assert "d >= 0.125 and p < 0.0125" in rules[0]
    assert "|d| <= 0.025 and p > 0.125 and lower end > -0.025" in rules[1]
    assert "d >= 0.155" in rules[1]
    assert rules[2] == "triggered: C2 bystander rate <= 0.005"
    assert "> 0.005" in judge(fine, found, "kill").reason
    lines = [judge_gate(fine, found, gate.name).text for gate in fine.gates]
    assert [line.rpartition("needs ")[2] for line in lines] == [
        "rate >= 0.505",
        "ratio >= 0.505",
        "each rate <= 0.001",
    ]


def test_gates_forgive_what_rounding_leaves() -> None:
    """Published rates come as decimals: one that misses its bound by 1e-12 is at it."""
    exact = replace(ISSUE262, gates=(*ISSUE262.gates[:2], replace(ISSUE262.gates[2], max_rate=0.1)))
    body: Any = json.loads(AGGREGATES.read_text())
    for error, outcome in ((1e-12, GateOutcome.HOLDS), (1e-6, GateOutcome.FAILS)):
        body["arms"]["C1"]["personas"]["librarian"] = {"rate": 1.0, "n": 200}
        body["arms"]["C2"]["personas"]["librarian"] = {"rate": 0.5 - error, "n": 200}
        body["false_positives"]["em"] = {"rate": 0.1 + error, "n": 50}
        found = AggregateEvidence(exact, body)
        for gate in ("source_rate", "source_ratio", "false_positive"):
            assert judge_gate(exact, found, gate).outcome is outcome
        assert "em 0.100 (about 5/50)" in judge_gate(exact, found, "false_positive").text
