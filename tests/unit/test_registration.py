"""Registrations: what they refuse, which arms a rule reads, what their digests hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from persona_lib.errors import SpecError
from persona_lib.specs.arms import DoseSpec, Roster
from persona_lib.specs.claim_types import DifferenceClaim
from persona_lib.specs.registration import Registration
from tests.registered import (
    ISSUE262,
    ISSUE262_BOTH,
    ISSUE262_GATED,
    ISSUE262_HELD_OUT,
)

H1, H2, H3 = ISSUE262.claims
SOURCE_RATE, SOURCE_RATIO, FALSE_POSITIVE = ISSUE262.gates
KILL = ISSUE262.kill
RULES: dict[str, Any] = {rule.name: rule for rule in (*ISSUE262_GATED.rules, *ISSUE262.rules)}


def with_claim(claim: Any) -> Registration:
    return replace(
        ISSUE262, claims=tuple(claim if c.name == claim.name else c for c in (H1, H2, H3))
    )


@pytest.mark.parametrize(
    ("rule", "field", "inside", "outside"),
    [
        ("H1", "min_effect", (0.0, 0.125, 1.0), (-0.01, 1.01, 20, math.nan)),
        ("H1", "max_p", (0.0001, 0.0167, 0.999), (0.0, 1.0, -0.1, 5, math.nan)),
        ("H3", "null_effect", (0.0, 0.149), (-0.01, 1.01, math.nan)),
        ("H3", "null_min_p", (0.001, 0.999), (0.0, 1.0, 10, math.nan)),
        ("H3", "artefact_effect", (0.051, 1.0), (-0.01, 1.01, math.nan)),
        ("kill", "max_rate", (0.0, 1.0), (-0.01, 1.01, 5, math.nan)),
        ("source_rate", "min_rate", (0.0, 1.0), (-0.01, 1.01, 50, math.nan)),
        ("source_ratio", "min_ratio", (0.01, 1.0, 1.8), (0.0, -1.0, math.inf, math.nan)),
        ("false_positive", "max_rate", (0.0, 1.0), (-0.01, 1.01, math.nan)),
        ("false_positive_em", "max_rate", (0.0, 1.0), (-0.01, 1.01, math.nan)),
        ("source_C2p", "min_rate", (0.0, 1.0), (-0.01, 1.01, 50, math.nan)),
        ("source_ratio_bound", "min_ratio", (0.01, 1.8), (0.0, -1.0, math.inf, math.nan)),
        ("collapse_C1", "min_ratio", (0.01, 1.99), (0.0, -1.0, math.inf, math.nan)),
        ("collapse_C1", "max_ratio", (0.51, 9.0), (0.0, -1.0, math.inf, math.nan)),
        ("repetition_C3", "max_share", (0.0, 1.0), (-0.01, 1.01, 5, math.nan)),
        ("truncation_C3", "max_share", (0.0, 1.0), (-0.01, 1.01, 10, math.nan)),
        ("negatives_C2", "min_gap", (0.0, 0.2), (-0.01, math.inf, math.nan)),
        ("em_induced", "min_rise", (0.0, 1.0), (-0.01, 1.01, 20, math.nan)),
        ("benign_sound", "max_rise", (0.0, 1.0), (-0.01, 1.01, 10, math.nan)),
    ],
)
def test_thresholds_have_bounds(
    rule: str, field: str, inside: tuple[float, ...], outside: tuple[float, ...]
) -> None:
    for value in inside:
        assert getattr(replace(RULES[rule], **{field: value}), field) == value
    for value in (*outside, "0.5", None, True):
        with pytest.raises(SpecError) as caught:
            replace(RULES[rule], **{field: value})
        assert caught.value.field == f"{rule}.{field}"
        assert repr(caught.value.value) == repr(value)
        assert caught.value.bound
        assert caught.value.remedy.endswith(".")


REFUSED: list[tuple[Callable[[], object], str]] = [
    *((partial(replace, H3, artefact_effect=artefact),
       r"H3\.artefact_effect: expected above null_effect = 0\.05") for artefact in (0.05, 0.04)),
    *((partial(replace, RULES["collapse_C1"], max_ratio=most),
       r"collapse_C1\.max_ratio: expected above 0\.5") for most in (0.5, 0.4)),
    *((partial(replace, RULES[rule], control="C2"), rf"{rule}\.control: expected another arm.*'C2'")
      for rule in ("H1", "H3", "source_ratio", "source_ratio_bound", "em_induced")),
    *((lambda field=field: with_claim(replace(H2, **{field: "C7"})),
       rf"H2\.{field}: expected one of C1, C2, C2p, C3, got 'C7'")
      for field in ("treated", "control")),
    (lambda: replace(ISSUE262, kill=replace(KILL, arm="C7")), r"kill\.arm: expected one of"),
    *((lambda name=name: with_claim(replace(H1, ratio_gate=name)),
       rf"H1\.ratio_gate: expected one of source_ratio, got '{name}'")
      for name in ("source_rate", "false_positive", "no_gate")),
    (lambda: with_claim(replace(H2, needs=("rain",))), r"H2\.needs: expected one of source_rate"),
    (lambda: replace(ISSUE262, kill=replace(KILL, needs=("rain",))),
     r"kill\.needs: expected one of source_rate"),
    (lambda: replace(ISSUE262, kill=replace(KILL, claim="H9")),
     r"kill\.claim: expected one of H1, H2, H3, got 'H9'"),
    (lambda: replace(ISSUE262, gates=(*ISSUE262.gates, replace(FALSE_POSITIVE, name="H1"))),
     "claims, kill and gates: expected distinct names"),
    (lambda: replace(ISSUE262, arms=(*ISSUE262.arms, ISSUE262.arms[0])),
     r"arms: expected distinct names, got 'C1'"),
    # H2's 0.0167 equals the registered level; a hair more is another test than was registered.
    (lambda: with_claim(replace(H2, max_p=0.0168)),
     r"H2\.max_p: expected <= statistics\.alpha = 0\.0167, got 0\.0168"),
    (lambda: replace(ISSUE262, statistics=replace(ISSUE262.statistics, alpha=0.01)),
     r"H2\.max_p: expected <= statistics\.alpha = 0\.01"),
    *((partial(replace, ISSUE262.statistics, interval=kind),
       r"statistics\.interval: expected one of percentile, bca")
      for kind in ("BCa", "", "basic", None, 3)),
    *((partial(replace, ISSUE262.statistics, **{field: value}), rf"statistics\.{field}: expected")
      for field, values in {"resamples": (0, -1, 1.5, True), "confidence": (0.0, 1.0, 95, math.nan),
                            "alpha": (0.0, 1.0, 5.0, math.nan)}.items() for value in values),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_rules_that_do_not_fit_together_are_refused_by_name(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        make()


def test_bounds_that_are_met_are_allowed() -> None:
    assert isinstance(H2, DifferenceClaim)
    assert H2.max_p == ISSUE262.statistics.alpha
    assert with_claim(replace(H1, ratio_gate=None))


def test_rules_say_which_arms_they_read() -> None:
    assert {rule.name: rule.arms for rule in ISSUE262.rules} == {
        "H1": ("C2", "C1"),
        "H2": ("C2", "C3"),
        "H3": ("C2", "C2p"),
        "kill": ("C2",),
        "source_rate": ("C2",),
        "source_ratio": ("C2", "C1"),
        "false_positive": None,
    }


def bare(**changes: Any) -> Registration:
    """H2 compares C2p and C3, needs no gate and has no kill criterion; `changes` are to it."""
    assert isinstance(H2, DifferenceClaim)
    return with_claim(replace(H2, **{"treated": "C2p", "control": "C3", "needs": (), **changes}))


def test_a_rule_needs_the_arms_of_all_that_is_judged_with_it() -> None:
    assert bare().arms_of("H2") == ("C2p", "C3")
    assert bare(needs=("source_rate",)).arms_of("H2") == ("C2", "C2p", "C3")
    assert bare(ratio_gate="source_ratio").arms_of("H2") == ("C1", "C2", "C2p", "C3")
    assert bare(needs=("false_positive",)).arms_of("H2") == ("C1", "C2", "C2p", "C3")
    bound = replace(bare(), kill=replace(KILL, claim="H2", arm="C1", needs=()))
    assert bound.arms_of("H2") == ("C1", "C2p", "C3")
    assert bound.arms_of("H3") == ("C2", "C2p")
    assert bound.arms_of("kill") == ("C1",)


def test_arms_of_the_published_rules() -> None:
    needs = {rule.name: ISSUE262.arms_of(rule.name) for rule in ISSUE262.rules}
    assert needs == {
        "H1": ("C1", "C2"),
        "H2": ("C2", "C3"),
        "H3": ("C2", "C2p"),
        "kill": ("C2",),
        "source_rate": ("C2",),
        "source_ratio": ("C1", "C2"),
        "false_positive": ("C1", "C2", "C2p", "C3"),
    }
    assert ISSUE262.arms_of("h1") == ISSUE262.arms_of("H1")
    with pytest.raises(SpecError, match=r"claim or gate: expected one of H1, .*source_rate.*'H9'"):
        ISSUE262.arms_of("H9")


def test_names_are_found_whatever_their_case() -> None:
    assert ISSUE262.arm("c2P").name == "C2p"
    assert ISSUE262.claim("h3") is H3
    assert ISSUE262.claim("KILL") is KILL
    assert ISSUE262.gate("Source_Rate") is SOURCE_RATE


SHAPES_THE_DATA: dict[str, Any] = {
    "arms": (replace(ISSUE262.arms[0], text_from="em"), *ISSUE262.arms[1:]),
    "roster": replace(ISSUE262.roster, reported=()),
    "marker": "[XYZ]",
    "marker_prefix": " ",
    "coupling_questions": ("coupling",),
    "evaluation_questions": ("evaluation", "coupling"),
}
JUDGES_THE_DATA: dict[str, Any] = {
    "name": "issue262_gated",
    "title": "the same, judged more strictly",
    "claims": (H1, H2),
    "gates": (*ISSUE262.gates, replace(SOURCE_RATE, name="source_rate_c2p", arm="C2p")),
    "kill": replace(KILL, max_rate=0.06),
    "statistics": replace(ISSUE262.statistics, resamples=2_000),
    "dose": DoseSpec(gain=2.0),
    "run_seeds": (42, 137),
}


def test_every_field_either_shapes_the_data_or_judges_them() -> None:
    assert {*SHAPES_THE_DATA, *JUDGES_THE_DATA} == set(vars(ISSUE262))


@pytest.mark.parametrize("field", SHAPES_THE_DATA)
def test_what_shapes_the_data_is_in_both_digests(field: str) -> None:
    changed = replace(ISSUE262, **{field: SHAPES_THE_DATA[field]})
    assert changed.data_digest != ISSUE262.data_digest
    assert changed.digest != ISSUE262.digest


@pytest.mark.parametrize("field", JUDGES_THE_DATA)
def test_what_judges_the_data_is_in_the_digest_alone(field: str) -> None:
    changed = replace(ISSUE262, **{field: JUDGES_THE_DATA[field]})
    assert changed.data_digest == ISSUE262.data_digest
    assert changed.digest != ISSUE262.digest


def test_published_digests_do_not_move() -> None:
    assert [r.digest[:12] for r in (ISSUE262, ISSUE262_HELD_OUT, ISSUE262_BOTH)] == [
        "f56c28c270d5",
        "045747893204",
        "74d47bfafdef",
    ]
    assert ISSUE262.data_digest[:12] == "992bf959ee4c"


def test_roles_of_the_roster() -> None:
    roster = Roster(source="a", negatives=("b",), bystanders=("c", "d"), reported=("e",))
    roles = ["source", "negative", "bystander", "bystander", "reported"]
    assert [roster.role(persona) for persona in "abcde"] == roles
    with pytest.raises(SpecError, match="persona: expected one of a, b, c, d, e, got 'f'"):
        roster.role("f")
    assert roster.trained == ("a", "b")
