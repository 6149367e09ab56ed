"""The checks of our own: warnings under the published registration, binding under its twin."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from statsmodels.stats.proportion import proportion_confint

from persona_lib.evidence.evidence import Evidence
from persona_lib.evidence.load import load_stored
from persona_lib.specs.claim_types import DifferenceClaim
from persona_lib.specs.registration import Registration
from persona_lib.verdict import claims
from persona_lib.verdict.claims import Outcome
from persona_lib.verdict.gate_result import GateOutcome, GateResult
from persona_lib.verdict.gates import judge_gate
from persona_lib.verdict.judging import Judging, _invalid, judge
from persona_lib.verdict.verdict import Verdict
from tests.fault_table import FAULTS
from tests.faults import CANNOT_TELL, CLAIMS, FAILS, Fault, changed, lengths, loops, source
from tests.healthy import GATED, evidence_of, healthy
from tests.registered import (
    CHECKS,
    ISSUE262,
    ISSUE262_GATED,
    OF_RATES,
    REGISTRATIONS,
    STRICTER,
    gated,
)

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "golden" / "published"
FEW = replace(ISSUE262, statistics=GATED.statistics)
"""The published registration with fewer resamples; `GATED` is its stricter twin."""
ARM_GATES = ("source", "collapse", "repetition", "truncation", "negatives")
"""What every arm that a claim compares is asked."""
NEEDS = {
    "H1": (("C1", "C2"), ("raw", "em"), ()),
    "H2": (("C2", "C3"), ("em", "benign"), ("benign_sound",)),
    "H3": (("C2", "C2p"), ("em",), ()),
    "kill": (("C2",), ("em",), ()),
}
"""By claim: arms, models under them, and what is asked besides."""
ARMS_OF = {
    "H1": ("C1", "C2"),
    "H2": ("C1", "C2", "C3"),
    "H3": ("C1", "C2", "C2p"),
    "kill": ("C1", "C2"),
}
"""The harm of EM is a rise over the raw model, which is C1's."""


@pytest.fixture(autouse=True)
def _rules_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other looks decide nothing and take most of the time."""
    monkeypatch.setattr(claims, "other_looks", lambda *_: ())


COLLAPSED = (lengths("C1", 3), source("C2p", 8), loops("C3", 2_200))
"""C1 collapsed, C2p never took the marker and C3 loops; C2 is sound."""


@cache
def broken() -> Evidence:
    return evidence_of(changed(*COLLAPSED), FEW)


def needed(claim: str) -> set[str]:
    arms, priors, more = NEEDS[claim]
    return {
        "source_rate",
        "em_induced",
        *more,
        *(f"{gate}_{arm}" for gate in ARM_GATES for arm in arms),
        *(f"false_positive_{prior}" for prior in priors),
    }


def test_every_registration_that_is_not_gated_has_its_stricter_twin() -> None:
    assert set(STRICTER) == {name for name in OF_RATES if not name.endswith("_gated")}
    for name, stricter in STRICTER.items():
        plain = REGISTRATIONS[name]
        assert stricter.name == name
        assert stricter.data_digest == plain.data_digest
        assert stricter.gates == (*plain.gates, *CHECKS)
        assert stricter.statistics == plain.statistics
        for claim in plain.judged:
            other = stricter.claim(claim.name)
            changed = {"needs": claim.needs}
            if isinstance(claim, DifferenceClaim):
                changed["ratio_gate"] = claim.ratio_gate  # type: ignore[assignment]
            assert replace(other, **changed) == claim
            assert other.needs[: len(claim.needs)] == claim.needs
    named = {"name": "issue262_gated", "title": ISSUE262_GATED.title}
    assert replace(STRICTER["issue262"], **named) == ISSUE262_GATED  # type: ignore[arg-type]
    assert len(CHECKS) == 26


@pytest.mark.parametrize(
    "registration", [ISSUE262_GATED, *(STRICTER.values())], ids=lambda r: r.name
)
@pytest.mark.parametrize("claim", list(NEEDS))
def test_what_each_claim_needs(registration: Registration, claim: str) -> None:
    found = registration.claim(claim)
    assert set(found.needs) == needed(claim)
    assert len(set(found.needs)) == len(found.needs)
    assert registration.arms_of(claim) == ARMS_OF[claim]
    if isinstance(found, DifferenceClaim):
        assert found.ratio_gate == ("source_ratio_bound" if claim == "H1" else None)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_check_says_which_claims_need_it(check: object) -> None:
    name = check.name  # type: ignore[attr-defined]
    found = judge_gate(GATED, evidence_of(healthy()), name)
    assert found.needed_by == tuple(claim for claim in NEEDS if name in needed(claim))


@pytest.mark.parametrize("claim", CLAIMS)
def test_warnings_change_no_outcome(claim: str) -> None:
    bare, warned = judge(FEW, broken(), claim), judge(FEW, broken(), claim, stricter=GATED)
    assert bare.warnings == ()
    assert replace(warned, warnings=()) == bare
    expected = {
        "H1": ["collapse_C1"],
        "H2": ["repetition_C3", "negatives_C3"],
        "H3": ["source_C2p", "negatives_C2p"],
        "kill": [],
    }[claim]
    assert [gate.name for gate in warned.warnings] == expected
    binding = judge(GATED, evidence_of(changed(*COLLAPSED)), claim)
    assert (binding.outcome is Outcome.INVALID) == bool(expected)
    assert bare.outcome is not Outcome.INVALID


def test_warnings_are_shown_and_survive_json() -> None:
    found = judge(FEW, broken(), "H3", stricter=GATED)
    lines = found.text.splitlines()
    for gate in found.warnings:
        assert f"  warning, not registered: {gate.line}" in lines
    assert "gate source_C2p: FAILS (C2p source rate 0.040" in found.text
    body = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert [gate["name"] for gate in body["warnings"]] == ["source_C2p", "negatives_C2p"]
    assert body["warnings"][0]["outcome"] == FAILS
    back = Verdict.from_json(body)
    assert repr(back) == repr(found)
    assert back.text == found.text
    quiet = judge(FEW, evidence_of(healthy(), FEW), "H3", stricter=GATED)
    assert quiet.warnings == ()
    assert "warning" not in quiet.text


def test_a_needed_gate_of_the_registration_itself_is_no_warning() -> None:
    found = judge(FEW, evidence_of(changed(source("C2", 8)), FEW), "kill", stricter=GATED)
    assert (found.outcome, found.label) == (Outcome.INVALID, "source_rate")
    assert [gate.name for gate in found.warnings] == ["source_C2", "negatives_C2"]


def test_checks_whose_arms_are_absent_are_left_out() -> None:
    every = Judging(FEW, evidence_of(healthy(), FEW), stricter=GATED).checks
    assert [gate.name for gate in every] == [gate.name for gate in CHECKS]
    lone = evidence_of(healthy(), FEW, arms=("C2", "C2p"))
    some = Judging(FEW, lone, stricter=GATED).checks
    expected = {f"{gate}_{arm}" for gate in ARM_GATES for arm in ("C2", "C2p")}
    assert {gate.name for gate in some} == {*expected, "false_positive_em"}
    assert judge(FEW, lone, "H3", stricter=GATED).warnings == ()


def test_published_h3_as_registered_and_with_checks() -> None:
    """C2p's source wrote the marker in 8 of 200 completions."""
    registered = judge(ISSUE262, load_stored(PUBLISHED, ISSUE262), "H3", stricter=ISSUE262_GATED)
    assert registered.outcome is Outcome.REFUTED
    assert registered.label == "coupling_text_distribution"
    assert "source_C2p" in [gate.name for gate in registered.warnings]
    chosen = load_stored(PUBLISHED, ISSUE262_GATED, chosen=True)
    found = judge(ISSUE262_GATED, chosen, "H3")
    assert found.outcome is Outcome.INVALID
    assert found.label.startswith("source_C2p;")
    low, high = proportion_confint(8, 200, method="wilson")
    assert f"gate source_C2p: FAILS (C2p source rate 0.040 [{low:.3f}, {high:.3f}]" in found.reason
    assert "needs lower end >= 0.50" in found.reason
    assert "not registered for these data" in chosen.origin


@pytest.mark.parametrize("claim", CLAIMS)
def test_published_totals_make_every_claim_invalid_with_checks(claim: str) -> None:
    found = judge(ISSUE262_GATED, load_stored(PUBLISHED, ISSUE262_GATED, chosen=True), claim)
    assert found.outcome is Outcome.INVALID
    if claim != "H3":
        assert found.label == f"{len(needed(claim)) - 1} gates cannot tell"  # source_rate holds


BREAKING = {
    (rule, outcome): next(f for f in FAULTS if (f.rule, f.outcome) == (rule, outcome))
    for rule, outcome in {(f.rule, f.outcome) for f in FAULTS if f.rule not in CLAIMS}
    if outcome in (FAILS, CANNOT_TELL) and rule != "source_rate"
}
BREAKING["source_rate", FAILS] = next(f for f in FAULTS if f.rule == "source_rate")
PAIRS = [
    pytest.param(claim, BREAKING[gate, outcome], id=f"{claim}-{gate}-{outcome}")
    for claim in CLAIMS
    for gate in sorted(needed(claim))
    for outcome in (FAILS, CANNOT_TELL)
    if (gate, outcome) in BREAKING
]


@cache
def _evidence(fault: Fault) -> Evidence:
    return evidence_of(changed(fault.breaks))  # the first fault of an outcome is one of records


@pytest.mark.parametrize(("claim", "fault"), PAIRS)
def test_each_needed_gate_makes_a_claim_invalid(claim: str, fault: Fault) -> None:
    """By itself: with every other gate left out of the claim's needs, it still does."""
    evidence = _evidence(fault)
    found = judge(GATED, evidence, claim)
    description = next(gate for gate in found.gates if gate.name == fault.rule)
    assert description.outcome.value == fault.outcome
    assert found.outcome is Outcome.INVALID
    failing = any(gate.outcome is GateOutcome.FAILS for gate in found.gates)
    if description.outcome is GateOutcome.FAILS or not failing:
        assert description.line in found.reason
        assert fault.rule in found.label or "gates cannot tell" in found.label
    else:
        assert fault.rule in found.reason
    assert judge(_needing(claim, fault.rule), evidence, claim).outcome is Outcome.INVALID
    assert judge(_needing(claim), evidence, claim).outcome is not Outcome.INVALID


def _needing(claim: str, *gates: str) -> Registration:
    """Return a registration whose claim needs these gates alone."""
    if claim == GATED.kill.name:
        return replace(GATED, kill=replace(GATED.kill, needs=gates))
    changed = tuple(replace(c, needs=gates) if c.name == claim else c for c in GATED.claims)
    return replace(GATED, claims=changed)


def _describe(name: str, outcome: GateOutcome) -> GateResult:
    return GateResult(
        name=name, statement="", outcome=outcome, figure=0.5, threshold=0.5, text=f"{name}!"
    )


def test_labels_name_what_fails_first_and_count_the_rest() -> None:
    """One to three gates that cannot tell are named; more are counted."""
    unsure = [_describe(f"u{i}", GateOutcome.CANNOT_TELL) for i in range(5)]
    failing = [_describe(f"f{i}", GateOutcome.FAILS) for i in range(2)]
    assert _invalid(unsure[:1])[0] == "u0"
    assert _invalid(unsure[:3])[0] == "u0, u1, u2"
    label, reason = _invalid(unsure[:4])
    assert label == "4 gates cannot tell"
    assert all(gate.line in reason for gate in unsure[:4])
    assert _invalid(failing)[0] == "f0, f1"
    label, reason = _invalid([unsure[0], failing[0], unsure[1]])
    assert label == "f0; 2 more cannot tell"
    assert failing[0].line in reason
    assert reason.endswith("2 more cannot tell: u0, u1")


def test_a_gated_registration_is_made_of_any_of_the_same_experiment() -> None:
    again = gated(replace(ISSUE262, name="other"))
    assert again.name == "other"
    assert again.gates == ISSUE262_GATED.gates
    assert [c.needs for c in again.claims] == [c.needs for c in ISSUE262_GATED.claims]
