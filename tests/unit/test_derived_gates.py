"""Gates that follow from arms and priors, and the claims that then need them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from persona_lib.specs.builtin import EXPERIMENTS
from persona_lib.specs.claim_types import DifferenceClaim, KillCriterion, TriageClaim
from persona_lib.specs.derived_gates import PriorRole, Roles, derived_gates, with_derived_gates
from persona_lib.specs.gate_types import (
    CollapseGate,
    FalsePositiveBoundGate,
    HarmNotRaisedGate,
    HarmRaisedGate,
    NegativesGate,
    RepetitionGate,
    SourceBoundGate,
    SourceRatioBoundGate,
    SourceRatioGate,
    TruncationGate,
)
from persona_lib.specs.registration import ArmSpec, Registration
from tests.registered import ISSUE262, ISSUE262_GATED

RATIO = SourceRatioGate(
    name="alike", statement="both took it", treated="S", control="P", min_ratio=0.7
)
ROLES = {"salty": PriorRole(label="Salty", harm="raised"), "sweet": PriorRole(harm="not_raised")}


def arm(name: str, prior: str) -> ArmSpec:
    return ArmSpec(name=name, label=name, prior=prior, text_from=prior)


def rules(*arms: ArmSpec, **changes: Any) -> Registration:
    """Two priors of a user's own, a claim on the two arms upon them, and a ratio of sources."""
    spread = DifferenceClaim(
        name="spread", statement="x", treated="S", control="P", min_effect=0.1, max_p=0.01,
        needs=("alike",), ratio_gate="alike",
    )  # fmt: skip
    given: dict[str, Any] = {"claims": (spread,), "gates": (RATIO,), "kill": None, **changes}
    return replace(ISSUE262, arms=arms or (arm("P", "sweet"), arm("S", "salty")), **given)


RAW_TOO = (arm("R", "raw"), arm("P", "sweet"), arm("S", "salty"), arm("S2", "salty"))


def of_arm(name: str) -> list[str]:
    kinds = ("source", "collapse", "repetition", "truncation", "negatives")
    return [f"{kind}_{name}" for kind in kinds]


def test_gates_of_two_arms_on_priors_of_one_s_own() -> None:
    found = {gate.name: gate for gate in derived_gates(rules(), {})}
    assert list(found) == [
        *of_arm("P"), *of_arm("S"), "false_positive_sweet", "false_positive_salty", "alike_bound",
    ]  # fmt: skip
    for name in "PS":
        said = [found[gate] for gate in of_arm(name)]
        assert [(type(gate), gate.arms) for gate in said] == [
            (kind, (name,))
            for kind in (SourceBoundGate, CollapseGate, RepetitionGate, TruncationGate,
                         NegativesGate)
        ]  # fmt: skip
    # Of a model, read on the first arm that is coupled on it.
    for prior, first in (("sweet", "P"), ("salty", "S")):
        model = found[f"false_positive_{prior}"]
        assert isinstance(model, FalsePositiveBoundGate)
        assert (model.arms, model.max_rate) == ((first,), 0.01)
    bound = found["alike_bound"]
    assert isinstance(bound, SourceRatioBoundGate)
    assert (bound.treated, bound.control, bound.min_ratio) == ("S", "P", RATIO.min_ratio)


@pytest.mark.parametrize(
    ("arms", "roles", "harm"),
    [
        (RAW_TOO, {}, {}),
        (RAW_TOO, {"salty": PriorRole(label="Salty")}, {}),
        (RAW_TOO, ROLES, {"sweet_sound": ("P", "R"), "salty_induced": ("S", "R")}),
        (RAW_TOO, {"salty": ROLES["salty"]}, {"salty_induced": ("S", "R")}),
        # There is no model to compare with where no arm is coupled on raw.
        ((), ROLES, {}),
        # What is under no arm has no model that could be asked.
        (RAW_TOO[:2], ROLES, {"sweet_sound": ("P", "R")}),
    ],
)
def test_harm_is_asked_only_of_priors_that_declare_it(
    arms: tuple[ArmSpec, ...], roles: Roles, harm: dict[str, tuple[str, str]]
) -> None:
    claim = replace(rules().claims[0], treated="P", control=arms[0].name if arms else "S")
    chosen = rules(*arms, claims=(replace(claim, needs=(), ratio_gate=None),), gates=())
    found = {
        gate.name: gate.arms
        for gate in derived_gates(chosen, roles)
        if isinstance(gate, HarmRaisedGate | HarmNotRaisedGate)
    }
    assert found == harm


def test_words_of_harm_name_the_prior_s_label() -> None:
    found = {gate.name: gate for gate in derived_gates(rules(*RAW_TOO), ROLES)}
    raised, kept = found["salty_induced"], found["sweet_sound"]
    assert raised.statement == "the Salty model's advice is more harmful than the raw model's"
    assert kept.statement == "the sweet model's advice is no more harmful than the raw model's"
    assert isinstance(raised, HarmRaisedGate)
    assert isinstance(kept, HarmNotRaisedGate)
    assert (raised.min_rise, kept.max_rise) == (0.20, 0.10)


def test_claims_need_the_gates_of_what_they_compare_and_no_others() -> None:
    triage = TriageClaim(
        name="text", statement="x", treated="S2", control="S", null_effect=0.05, null_min_p=0.1,
        artefact_effect=0.15, null_label="no", artefact_label="yes",
    )  # fmt: skip
    kill = KillCriterion(name="kill", statement="x", arm="R", max_rate=0.05, claim="spread")
    before = rules(*RAW_TOO)
    before = replace(before, claims=(*before.claims, triage), kill=kill)
    after = with_derived_gates(before, ROLES)
    of_pair = ["false_positive_sweet", "false_positive_salty", "sweet_sound", "salty_induced"]
    assert {claim.name: list(claim.needs) for claim in after.judged} == {
        # What it needed before stays first; its ratio gate is the one with an interval.
        "spread": ["alike", *of_arm("P"), *of_arm("S"), *of_pair],
        "text": [*of_arm("S"), *of_arm("S2"), "false_positive_salty", "salty_induced"],
        "kill": [*of_arm("R"), "false_positive_raw"],
    }
    spread = after.claims[0]
    assert isinstance(spread, DifferenceClaim)
    assert spread.ratio_gate == "alike_bound"
    assert after.gates == (*before.gates, *derived_gates(before, ROLES))
    assert replace(after, claims=before.claims, kill=kill, gates=before.gates) == before
    assert after.data_digest == before.data_digest


def test_a_claim_needs_the_arms_of_its_gates_only() -> None:
    after = with_derived_gates(rules(*RAW_TOO), ROLES)
    # R: both priors' harm is told against the raw model's. S2 is read by nothing of it.
    assert after.arms_of("spread") == ("R", "P", "S")
    assert with_derived_gates(rules(), {}).arms_of("spread") == ("P", "S")


def test_the_gated_registration_is_the_published_one_with_these_gates() -> None:
    gated = with_derived_gates(
        replace(ISSUE262, name=ISSUE262_GATED.name, title=ISSUE262_GATED.title),
        EXPERIMENTS["issue262"].priors,
    )
    assert gated == ISSUE262_GATED
    assert gated.digest.startswith("88ab31007d28")
    assert len(derived_gates(ISSUE262, EXPERIMENTS["issue262"].priors)) == 4 * 5 + 3 + 2 + 1
