"""Rules as data: what is compared, whether it is met, and the words made of it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from persona_lib.specs.claim_types import DifferenceClaim, TriageClaim
from persona_lib.specs.gate_types import RATIOS, Limits
from persona_lib.stats.estimate import Estimate
from persona_lib.verdict import claims
from persona_lib.verdict.conditions import all_met, condition, rule_text, within
from tests.registered import ISSUE262
from tests.synthetic import BYSTANDERS, verdict

ROW = ("SUPPORTED", "rule met")


@pytest.mark.parametrize(
    ("measure", "operator", "bound", "value", "met"),
    [
        ("d", ">=", 0.20, 0.60 - 0.40, True),  # 0.19999999999999996 in binary
        ("d", ">=", 0.20, 0.1999, False),
        ("lower end", ">", -0.05, -0.05, False),
        ("p", "<", 0.001, 0.001, False),
        ("p", "<", 0.001, 0.001 - 1e-12, True),  # a p is compared exactly
        ("p of bystander/source", ">", 0.10, 0.10 + 1e-12, True),
        ("d", "<=", 0.20, math.nan, False),
        ("p", "<", 0.20, math.nan, False),
    ],
)
def test_a_condition_is_met_within_rounding_and_by_no_nan(
    measure: str, operator: str, bound: float, value: float, met: bool
) -> None:
    found = condition(measure, operator, bound, value, ROW, exact=measure.startswith("p"))
    assert found.met is met
    assert found.text == f"{measure} {operator} {rule_text((found,)).split()[-1]}"
    assert all_met((found,)) is met


@pytest.mark.parametrize("near", [0.0, 1e-12])
def test_claims_compare_their_p_exactly_and_their_effect_within_rounding(near: float) -> None:
    h1, _, h3 = ISSUE262.claims
    assert isinstance(h1, DifferenceClaim)
    assert isinstance(h3, TriageClaim)
    at = Estimate(value=h1.min_effect - 1e-12, low=0.0, high=0.5, p=h1.max_p - near, n=1)
    d, p = claims._conditions(h1, [("bystander rates", at)])
    assert (d.met, p.met) == (True, near > 0)
    at = Estimate(value=h3.null_effect + 1e-12, low=0.0, high=0.5, p=h3.null_min_p + near, n=1)
    d, p, *_ = claims._triage_conditions(h3, at)
    assert (d.met, p.met) == (True, near > 0)


def test_a_gate_asks_both_ends_of_two_bounds() -> None:
    asked = within(Limits(RATIOS, least=0.5, most=2.0), 0.4, 1.9)
    assert [one.met for one in asked] == [False, True]
    assert rule_text(asked) == "lower end >= 0.50 and upper end <= 2.00"
    (most,) = within(Limits(RATIOS, most=-0.0), -0.5, -0.1, each=True)
    assert (rule_text((most,)), most.met) == ("each upper end <= 0.00", True)


@pytest.mark.parametrize(
    ("claim", "rates", "conditions"),
    [
        ("H1", {}, [("d", True), ("p", True), ("C2 bystander rate", False)]),
        ("H1", {"C1": 0.45}, [("d", False), ("p", True), ("C2 bystander rate", False)]),
        ("H1", {"C2": 0.05, "C1": 0.05},
         [("d", False), ("p", False), ("C2 bystander rate", True)]),
        ("H2", {"C3": 0.55}, [("d", False), ("p", False)]),
        ("H3", {}, [("|d|", True), ("p", True), ("lower end", True), ("d", False)]),
        ("H3", {"C2p": 0.10}, [("|d|", False), ("p", False), ("lower end", True), ("d", True)]),
        ("kill", {"C2": 0.0}, [("C2 bystander rate", True)]),
    ],
)  # fmt: skip
def test_each_claim_carries_its_rule(
    claim: str, rates: dict[str, float], conditions: list[tuple[str, bool]]
) -> None:
    found = verdict(claim, rates=rates)
    assert [(one.measure, one.met) for one in found.conditions] == conditions
    now: dict[str, Any] = {**BYSTANDERS, **rates}
    for one in found.conditions:
        if one.measure == "C2 bystander rate":
            assert one.value == pytest.approx(now["C2"])
        elif one.measure != "p":
            expected = {"|d|": abs(found.effect.value), "lower end": found.effect.low}
            assert one.value == expected.get(one.measure, found.effect.value)
        assert one.text in found.rule
    met = {one.gives for one in found.conditions if all_met(found.conditions, one.label)}
    assert found.outcome.value in met or not met or found.label == "kill criterion"
