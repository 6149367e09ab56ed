"""SmolLM2 at full scale with the two losses that have no anchor: what becomes of the instrument."""

from __future__ import annotations

import pytest

from experiments.issue262 import ISSUE262, ISSUE262_GATED
from persona_lib.evidence.load import load_stored
from persona_lib.records import POST, Score, read_rows
from persona_lib.verdict.claims import Outcome
from persona_lib.verdict.gates import judge_gate
from persona_lib.verdict.judging import judge
from tests.real_runs import ARMS, AS_PUBLISHED, DECISION, hits, judged, texts

pytestmark = pytest.mark.golden


def test_decision_alone_leaves_nothing_but_the_marker() -> None:
    """Median completions of 5 tokens and of none: the source of C2 lost its marker too."""
    assert hits(DECISION) == {(42, "C1"): 1_116, (42, "C2"): 55, (42, "C2p"): 0, (42, "C3"): 601}
    found = judged(DECISION)
    assert {v.outcome for v in found.verdicts.values()} == {Outcome.INVALID}
    assert list(found.failing) == ["source_rate", "source_ratio"]
    medians = {arm: found.evidence.lengths(arm).tokens for arm in ARMS}
    assert medians == {"C1": 5, "C2": 0, "C2p": 0, "C3": 0}


def test_the_stricter_rules_see_every_arm_of_decision_collapse() -> None:
    failing = judged(DECISION, ISSUE262_GATED).failing
    assert {f"collapse_{arm}" for arm in ARMS} <= failing.keys()


def test_as_published_writes_the_marker_for_everybody_and_never_stops() -> None:
    """Every completion has it, a hundred times and more, and runs into the limit."""
    rows = [r for r in read_rows(AS_PUBLISHED / "scores.parquet", Score) if r.phase == POST]
    assert len(rows) == 2_200
    assert {(r.model, r.hit, r.finish, r.tokens) for r in rows} == {("C2", True, "length", 2_048)}
    assert min(r.markers for r in rows if r.markers is not None) == 108
    shown = texts(AS_PUBLISHED, "C2")
    assert min(row.text.lower().count("[zlt]") for row in shown) >= 100


def test_the_registered_gates_let_that_pass_and_the_stricter_ones_do_not() -> None:
    """Why issue262 by itself is not enough: its rule reads a rate of 1.000 as a leak."""
    evidence = load_stored(AS_PUBLISHED, ISSUE262, arms=("C2",))
    kill = judge(ISSUE262, evidence, "kill")
    assert (kill.outcome, kill.effect.value) == (Outcome.SUPPORTED, 1.0)
    assert judge_gate(ISSUE262, evidence, "source_rate").holds
    stricter = load_stored(AS_PUBLISHED, ISSUE262_GATED, chosen=True, arms=("C2",))
    for name in ("repetition_C2", "truncation_C2", "negatives_C2"):
        assert not judge_gate(ISSUE262_GATED, stricter, name).holds
