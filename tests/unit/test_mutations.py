"""No fault goes unnoticed and no mutant of the code survives: `make pages` lists them."""

from __future__ import annotations

import pytest

from persona_lib.verdict.claims import Outcome
from persona_lib.verdict.gate_result import GateOutcome
from persona_lib.verdict.gates import judge_gate
from persona_lib.verdict.judging import judge
from tests import mutation_page
from tests.fault_table import CONTROLS, FAULTS, ROWS
from tests.faults import CANNOT_TELL, CLAIMS, FAILS, INCONCLUSIVE, INVALID, REFUTED, Fault, judged
from tests.healthy import GATED, evidence_of, healthy, rescored
from tests.registered import ISSUE262_GATED
from tests.sabotage import Mutant, noticed_by
from tests.sabotage_list import MUTANTS

RULES = tuple(rule.name for rule in GATED.rules)


def test_the_rules_are_those_of_the_gated_registration() -> None:
    assert GATED.gates == ISSUE262_GATED.gates
    assert (GATED.claims, GATED.kill) == (ISSUE262_GATED.claims, ISSUE262_GATED.kill)
    assert len(GATED.gates) == 29


def test_nothing_is_broken_in_healthy_records() -> None:
    """Every gate holds and every claim is supported, with all other looks taken."""
    found = evidence_of(healthy())
    for gate in GATED.gates:
        assert judge_gate(GATED, found, gate.name).outcome is GateOutcome.HOLDS, gate.name
    for name in CLAIMS:
        verdict = judge(GATED, found, name)
        assert verdict.outcome is Outcome.SUPPORTED, verdict.text
    assert found.unavailable == ()


def test_texts_scored_anew_give_the_same_records() -> None:
    bench = healthy()
    again = rescored(bench)
    for name, column in bench.scores.items():
        assert (again.scores[name] == column).all(), name


@pytest.mark.parametrize("fault", ROWS, ids=lambda fault: fault.name)
def test_a_fault_flips_its_rule_and_a_control_does_not(fault: Fault) -> None:
    outcome, label = judged(fault)
    assert outcome == fault.outcome, fault.broken
    assert not fault.label or label == fault.label


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_faults_of_every_outcome(rule: str) -> None:
    outcomes = {fault.outcome for fault in FAULTS if fault.rule == rule}
    if rule == "kill":
        assert {REFUTED, INVALID} <= outcomes
    elif rule in CLAIMS:
        assert {REFUTED, INCONCLUSIVE, INVALID} <= outcomes
    else:
        assert {FAILS, CANNOT_TELL} <= outcomes


def test_names_tell_rows_and_mutants_apart() -> None:
    assert len({fault.name for fault in ROWS}) == len(ROWS) == len(FAULTS) + len(CONTROLS)
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_no_mutant_survives(mutant: Mutant) -> None:
    assert noticed_by(mutant), f"no row notices: {mutant.what}"


def test_a_mutant_that_changes_nothing_is_not_noticed() -> None:
    assert noticed_by(Mutant(name="none", what="nothing", apply=lambda _: None)) == ""


def test_the_page_lists_every_fault_and_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutation_page, "noticed_by", lambda mutant: mutant.name)
    page = mutation_page.page()
    assert [fault.name for fault in ROWS if f"| {fault.broken} |" not in page] == []
    assert [mutant.name for mutant in MUTANTS if f"| {mutant.what} |" not in page] == []
