"""Every row of the decision table; every gate and claim flips when its data are broken."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest

from persona_lib.errors import DataError, DoesNotHoldError, InvalidClaimError, SpecError
from persona_lib.specs.claim_types import DifferenceClaim
from persona_lib.specs.gate_types import SourceRatioGate
from persona_lib.verdict import gates
from persona_lib.verdict.claims import Outcome
from persona_lib.verdict.gate_result import GateOutcome, Reading
from persona_lib.verdict.gates import judge_gate
from persona_lib.verdict.judging import judge
from persona_lib.verdict.verdict import require_holds, require_valid
from tests.synthetic import BYSTANDERS, FEW, evidence, verdict

H1, H2, H3 = FEW.claims
NO_MARKER = {**dict.fromkeys(BYSTANDERS, 0.9), "C2": 0.1}
"""Source rates, of which C2's is below its gate."""
STRICT_RATIO = replace(
    FEW,
    gates=tuple(
        replace(g, min_ratio=1.8) if isinstance(g, SourceRatioGate) else g for g in FEW.gates
    ),
)
"""A source ratio of 1.8 is asked for: equal sources do not give it."""


@pytest.mark.parametrize(
    ("claim", "rates", "outcome", "label"),
    [
        ("H1", {}, Outcome.SUPPORTED, "rule met"),
        ("H2", {}, Outcome.SUPPORTED, "rule met"),
        ("H3", {}, Outcome.SUPPORTED, "non_text_distribution"),
        ("kill", {}, Outcome.SUPPORTED, "not triggered"),
        # H1: with the kill criterion not triggered, a rule that is not met claims nothing.
        ("H1", {"C1": 0.45}, Outcome.INCONCLUSIVE, "ambiguous zone"),
        ("H1", {"C1": 0.60}, Outcome.INCONCLUSIVE, "ambiguous zone"),
        ("H1", {"C1": 0.90}, Outcome.INCONCLUSIVE, "ambiguous zone"),
        ("H1", {"C2": 0.05, "C1": 0.05}, Outcome.REFUTED, "kill criterion"),
        ("H1", {"C2": 0.00, "C1": 0.00}, Outcome.REFUTED, "kill criterion"),
        # H2: an interval below the threshold refutes, one across it does not.
        ("H2", {"C3": 0.95}, Outcome.REFUTED, "sign flipped"),
        ("H2", {"C3": 0.55}, Outcome.REFUTED, "effect too small"),
        ("H2", {"C3": 0.60}, Outcome.REFUTED, "effect too small"),
        ("H2", {"C3": 0.46}, Outcome.INCONCLUSIVE, "cannot tell"),
        # H3: three ways.
        ("H3", {"C2p": 0.10}, Outcome.REFUTED, "coupling_text_distribution"),
        ("H3", {"C2p": 0.50}, Outcome.INCONCLUSIVE, "ambiguous"),
        ("H3", {"C2p": 0.90}, Outcome.INCONCLUSIVE, "ambiguous"),
        ("kill", {"C2": 0.05}, Outcome.REFUTED, "triggered"),
        ("kill", {"C2": 0.00}, Outcome.REFUTED, "triggered"),
        ("kill", {"C2": 0.06}, Outcome.SUPPORTED, "not triggered"),
    ],
)
def test_holding_data_support_every_claim_and_broken_data_flip_it(
    claim: str, rates: dict[str, float], outcome: Outcome, label: str
) -> None:
    found = verdict(claim, rates=rates)
    assert (found.outcome, found.label) == (outcome, label), found.text
    assert found.holds is (outcome is Outcome.SUPPORTED)
    # Whatever the outcome, the effect is that of the rates, and it is shown.
    now = {**BYSTANDERS, **rates}
    control = {"H1": "C1", "H2": "C3", "H3": "C2p"}.get(claim)
    assert found.effect.value == pytest.approx(now["C2"] - (now[control] if control else 0))
    assert found.effect.interval_text in found.text
    flipped = found.effect.has_interval and found.effect.high < 0
    assert any("sign is flipped" in note for note in found.notes) is flipped


def test_h1_needs_its_p_as_well_as_its_effect() -> None:
    """Few completions: the effect is large enough, the p is not small enough."""
    found = verdict("H1", rates={"C1": 0.35}, questions=2, samples=2)
    assert found.effect.value >= 0.20
    assert found.effect.p is not None
    assert found.effect.p >= 0.001
    assert found.outcome is Outcome.INCONCLUSIVE


def test_h3_needs_its_p_and_its_lower_end_as_well_as_a_small_effect() -> None:
    """First the p is too small, then the interval reaches too low; the effect is in the band."""
    small_p = verdict("H3", rates={"C2p": 0.555})
    assert small_p.effect.value <= 0.05
    assert small_p.effect.low > -0.05
    assert small_p.effect.p is not None
    assert small_p.effect.p <= 0.10
    wide = verdict("H3", questions=2, samples=5)
    assert wide.effect.value == 0
    assert wide.effect.p == 1
    assert wide.effect.low <= -0.05
    for found in (small_p, wide):
        assert (found.outcome, found.label) == (Outcome.INCONCLUSIVE, "ambiguous")


@pytest.mark.parametrize("claim", ["H1", "H2", "H3", "kill"])
@pytest.mark.parametrize(("rate", "valid"), [(0.49, False), (0.50, True), (0.0, False)])
def test_a_source_below_its_gate_makes_claims_invalid(claim: str, rate: float, valid: bool) -> None:
    source = {"C1": 0.6, "C2": rate, "C2p": 0.9, "C3": 0.9}
    found = verdict(claim, source=source)
    assert (found.outcome is not Outcome.INVALID) == valid, found.text
    assert math.isfinite(found.effect.value)
    if not valid:
        assert found.label == "source_rate"
        assert f"{rate:.3f}" in found.reason
        assert found.gates[0].outcome is GateOutcome.FAILS


def test_an_invalid_claim_is_an_error_where_it_has_to_be_read() -> None:
    """The message is the whole verdict, line by line, and nothing that steers a terminal."""
    invalid = verdict("H1", source=NO_MARKER)
    with pytest.raises(InvalidClaimError) as caught:
        require_valid(invalid)
    assert str(caught.value) == invalid.text
    assert str(caught.value).splitlines()[0] == "H1: INVALID (source_rate)"
    with pytest.raises(InvalidClaimError) as caught:
        require_valid(replace(invalid, label="\x1b[1mbold\x07"))
    assert str(caught.value).splitlines()[0] == "H1: INVALID (bold)"
    for rates in ({}, {"C2": 0.0}, {"C1": 0.9}):
        require_valid(verdict("H1", rates=rates))
    killed = verdict("kill", rates={"C2": 0.0}, source=NO_MARKER)
    assert killed.outcome is Outcome.INVALID  # gates come before the kill criterion


def test_whatever_does_not_hold_is_an_error_of_its_whole_text() -> None:
    """No assert decides: Python may leave it out."""
    require_holds(verdict("H1", rates={}))
    refuted = verdict("H1", rates={"C2": 0.0})
    invalid = verdict("H1", source=NO_MARKER)
    for found in (refuted, invalid, invalid.gates[0]):
        with pytest.raises(DoesNotHoldError) as caught:
            require_holds(found)
        assert str(caught.value) == found.text
    require_holds(refuted.gates[0])
    assert repr(refuted) == "<Verdict H1 REFUTED>"
    assert repr(refuted.gates[0]) == f"<GateResult {refuted.gates[0].name} HOLDS>"


def test_a_source_ratio_that_fails_asks_for_bystander_over_source() -> None:
    """C2 leaks more in the raw, and no more for its source: 0.60 / 0.60 against 0.35 / 0.35."""
    rates = {"C1": 0.35, "C2": 0.60}
    source = {**dict.fromkeys(BYSTANDERS, 0.9), "C1": 0.35, "C2": 0.60}
    held = verdict("H1", rates=rates, source=source)
    assert held.outcome is Outcome.SUPPORTED
    assert "no condition on bystander/source" in held.rule
    assert verdict("H1", STRICT_RATIO).outcome is Outcome.SUPPORTED
    tightened = verdict("H1", STRICT_RATIO, rates=rates, source=source)
    assert tightened.outcome is Outcome.INCONCLUSIVE
    assert "d of bystander/source >= 0.20 and p of bystander/source < 0.001" in tightened.rule
    assert "bystander/source" in tightened.reason
    assert any(g.name == "source_ratio" and not g.holds for g in tightened.gates)


def test_a_tightened_rule_without_a_kill_criterion_is_refuted_by_its_ratio() -> None:
    assert isinstance(H2, DifferenceClaim)
    claims = (H1, replace(H2, ratio_gate="source_ratio"), H3)
    tightened = replace(STRICT_RATIO, claims=claims)
    source = {**dict.fromkeys(BYSTANDERS, 0.9), "C3": 0.30}
    rates = {"C2": 0.45, "C3": 0.25}
    assert verdict("H2", rates=rates, source=source).outcome is Outcome.SUPPORTED
    found = verdict("H2", tightened, rates=rates, source=source)
    assert found.outcome is Outcome.REFUTED, found.text
    assert "bystander/source" in found.reason


def test_a_model_that_was_not_evaluated_leaves_the_gate_open() -> None:
    found = judge_gate(FEW, evidence(priors=("raw", "benign")), "false_positive")
    assert found.outcome is GateOutcome.CANNOT_TELL
    assert "em not evaluated" in found.text
    failing = evidence(priors=("raw", "benign"), false={"raw": 0.01})
    found = judge_gate(FEW, failing, "false_positive")
    assert found.outcome is GateOutcome.FAILS
    assert "raw 11/1100" in found.text


def test_too_few_resamples_for_a_threshold_is_an_error() -> None:
    few = replace(FEW, statistics=replace(FEW.statistics, resamples=1_999))
    with pytest.raises(SpecError, match=r"resamples.*2000.*H1"):
        verdict("H1", few, questions=2, samples=2)
    enough = replace(FEW, statistics=replace(FEW.statistics, resamples=2_000))
    assert verdict("H1", enough).outcome is Outcome.SUPPORTED


def test_a_claim_on_an_arm_that_was_not_run_is_an_error() -> None:
    found = evidence(questions=2, samples=2, arms=("C1", "C2"))
    assert judge(FEW, found, "h1").name == "H1"
    with pytest.raises(DataError, match="C3"):
        judge(FEW, found, "H2")


def test_a_rate_has_no_sign_and_a_difference_has_one() -> None:
    assert verdict("kill").effect.interval_text.startswith("0.600 [0.5")
    assert verdict("H1").effect.interval_text.startswith("+0.350 [+0.3")


def test_text_says_everything() -> None:
    text = verdict("H1").text
    for word in (
        "H1: SUPPORTED",
        "d >= 0.20 and p < 0.001",
        "C2 - C1",
        "+0.350 [",
        "p <= 6.7e-4 (0 of 3,000)",
        "n = 1,400, 140 clusters",
        "gate source_rate: HOLDS",
        "minus false positives",
        "mixed model",
        "do not interpret",
        "run-to-run variance not estimable",
        FEW.digest[:12],
        "seeds 42",
    ):
        assert word in text


def test_several_seeds_are_shown_one_by_one() -> None:
    found = verdict("H1", seeds=(1, 2, 3))
    assert found.seeds == (1, 2, 3)
    assert sum("alone" in e.method for e in found.estimates) == 3
    assert "run-to-run variance not estimable" not in found.text
    # Synthetic seeds are alike, and a spread of 0 is none.
    assert "; over training runs: not estimable: no variation over seeds\n" in found.text


def test_a_new_gate_type_needs_one_function() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Weather:
        name: str = "weather"
        statement: str = "it does not rain"
        arms: tuple[str, ...] = ()

    registration = replace(FEW, gates=(*FEW.gates, Weather()))  # type: ignore[arg-type]
    found = evidence(questions=2, samples=2)
    with pytest.raises(SpecError, match=r"gate weather: expected a type of Source.*'Weather'"):
        judge_gate(registration, found, "weather")
    gates.rule.register(Weather, lambda _gate, _found: Reading(GateOutcome.HOLDS, 0.0, 1.0, "dry"))
    assert judge_gate(registration, found, "weather").text == "dry"
