"""Degenerate evidence: a named outcome or a clear error, never a warning and no SE of 0.

Every rule of every registration in OF_RATES is judged on record sets in which something
that a statistic divides by, or takes the spread of, is nothing.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from persona_lib.errors import DataError
from persona_lib.evidence.from_records import RecordEvidence
from persona_lib.evidence.score_table import OPTIONAL
from persona_lib.records import AdviceScore, table_of
from persona_lib.report.terminal import verdict_table
from persona_lib.specs.registration import Registration
from persona_lib.stats.estimate import Estimate
from persona_lib.verdict.claims import Outcome
from persona_lib.verdict.gate_result import GateOutcome, GateResult
from persona_lib.verdict.gates import judge_gate
from persona_lib.verdict.judging import judge
from persona_lib.verdict.summary import summary
from persona_lib.verdict.verdict import Verdict
from tests.registered import ISSUE262, OF_RATES
from tests.synthetic import BYSTANDERS, scores, with_column, without

Make = Callable[[Registration], pa.Table]
NO_NUMBER = re.compile(r"\b([nN]a[nN]|-?inf|None)\b|SE = -?0\.0+\b")
SMALL: dict[str, Any] = {"questions": 4, "samples": 3}
PROPORTIONS = ("rate", "low", "high", "finished", "baseline_finished")
ZERO = dict.fromkeys(BYSTANDERS, 0.0)
ONE = dict.fromkeys(BYSTANDERS, 1.0)


def filled(table: pa.Table, name: str, value: object) -> pa.Table:
    kind = table.schema.field(name).type
    return with_column(table, name, pa.array([value] * table.num_rows, kind))


def made(registration: Registration, *args: Any, **kwargs: Any) -> pa.Table:
    """Return a whole table for a registration: every set that it evaluates on, every column."""
    table = scores(*args, registration=registration, **{**SMALL, **kwargs})
    sets = registration.evaluation_questions
    at = [int(name[1:]) % len(sets) for name in table.column("question").to_pylist()]
    table = with_column(table, "question_set", pa.array([sets[i] for i in at]))
    seen = [sets[i] in registration.coupling_questions for i in at]
    return with_column(table, "seen", pa.array(seen))


def lonely(registration: Registration) -> Registration:
    """The same experiment with one bystander and nobody reported."""
    roster = replace(registration.roster, bystanders=("villain",), reported=())
    return replace(registration, roster=roster)


def same_in_each_cell(registration: Registration) -> pa.Table:
    """One hit in each cell of every arm, of whichever persona and question."""
    table = made(registration)
    hit = np.array(table.column("sample").to_pylist()) == 0
    hit &= np.array(table.column("phase").to_pylist()) == "post"
    for name, values in (("hit", hit), ("markers", hit.astype(int)),
                         ("first_token", np.where(hit, 3, -1))):  # fmt: skip
        table = with_column(table, name, pa.array(values))
    return table


CASES: dict[str, Make] = {
    "whole": made,
    "all hits": lambda r: made(r, ONE, source=1.0, false={"raw": 1, "em": 1, "benign": 1}),
    "no hits": lambda r: made(r, ZERO, source=0.0),
    "one question": lambda r: made(r, questions=len(r.evaluation_questions)),
    "one completion a cell": lambda r: made(r, samples=1),
    "one completion a persona": lambda r: made(r, questions=len(r.evaluation_questions), samples=1),
    "three seeds alike": lambda r: made(r, ONE, source=1.0, seeds=(1, 2, 3)),
    "two seeds": lambda r: made(r, seeds=(1, 2)),
    "source zero in C1": lambda r: made(r, source={**ONE, "C1": 0.0}),
    "source zero in C2": lambda r: made(r, source={**ONE, "C2": 0.0}),
    "source zero everywhere": lambda r: made(r, source=0.0),
    "one source hit": lambda r: made(r, source=1 / 12),
    "hits in one persona only": lambda r: made(
        r, ZERO, source=0.0, personas={("C2", "villain"): 1.0}
    ),
    "one hit in all": lambda r: made(r, ZERO, source=0.0, personas={("C2", "villain"): 1 / 12}),
    "nothing varies within an arm": lambda r: made(r, {**ZERO, "C2": 1.0}, source=1.0),
    "every cell alike": same_in_each_cell,
    "no tokens": lambda r: filled(made(r), "tokens", 0),
    "all of one length": lambda r: filled(made(r), "tokens", 40),
    "none finished": lambda r: filled(made(r), "finish", "length"),
    "raw not evaluated": lambda r: made(r, priors=("em", "benign")),
    "em not evaluated": lambda r: made(r, priors=("raw", "benign")),
    "no model before coupling": lambda r: made(r, priors=()),
    "required columns only": lambda r: made(r).drop_columns(list(OPTIONAL)),
}


@contextmanager
def strict() -> Iterator[None]:
    """Nothing passes silently: no warning, no floating point error."""
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield


def few(registration: Registration) -> Registration:
    """Fewer resamples: the least p, 1.0e-3, still lies below every threshold but H1's."""
    return replace(registration, statistics=replace(registration.statistics, resamples=2_000))


def check_estimate(estimate: Estimate, where: str) -> None:
    assert estimate.p is None or 0 < estimate.p <= 1, where
    assert not math.isinf(estimate.value), where
    if estimate.has_interval:
        assert estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9, where
    else:
        assert math.isnan(estimate.low), where
        assert math.isnan(estimate.high), where
    if math.isnan(estimate.value):
        assert not estimate.has_interval, where
        assert estimate.p is None, where
    if not where.endswith(" alone"):  # one training run, for display: its method says so
        assert estimate.has_interval or estimate.note, f"{where}: no interval and no reason"


def check_text(text: str) -> None:
    found = NO_NUMBER.search(text)
    assert found is None, f"{found and found[0]!r} in {text}"


def check_verdict(verdict: Verdict) -> None:
    assert isinstance(verdict.outcome, Outcome)
    assert verdict.label
    assert verdict.reason
    for estimate in (verdict.effect, *verdict.estimates):
        check_estimate(estimate, f"{verdict.name}, {estimate.method}")
        check_text(estimate.text)
    check_text(verdict.text)
    again = Verdict.from_json(json.loads(json.dumps(verdict.to_json(), allow_nan=False)))
    assert repr(again) == repr(verdict)  # NaN is not equal to itself
    assert again.text == verdict.text


def check_gate(gate: GateResult) -> None:
    assert isinstance(gate.outcome, GateOutcome)
    assert math.isfinite(gate.figure) or gate.outcome is GateOutcome.CANNOT_TELL
    assert not gate.low > gate.figure + 1e-9
    assert not gate.high < gate.figure - 1e-9
    check_text(gate.line)
    again = GateResult.from_json(json.loads(json.dumps(gate.to_json(), allow_nan=False)))
    assert repr(again) == repr(gate)


def check_numbers(body: Any, where: str = "summary") -> None:
    """Rates are proportions, counts are not negative, and nothing is NaN."""
    if isinstance(body, dict):
        for key, value in body.items():
            check_numbers(value, f"{where}.{key}")
            if key in PROPORTIONS and isinstance(value, (int, float)):
                assert 0 <= value <= 1, f"{where}.{key}"
    elif isinstance(body, list):
        for i, value in enumerate(body):
            check_numbers(value, f"{where}[{i}]")
    elif isinstance(body, float):
        assert math.isfinite(body), where


def judge_everything(registration: Registration, table: pa.Table) -> None:
    """Judge each rule as a session does: on the arms that it needs."""

    def evidence(name: str) -> RecordEvidence:
        return RecordEvidence(registration, table, arms=registration.arms_of(name))

    claims = [claim.name for claim in registration.judged]
    verdicts = [judge(registration, evidence(name), name) for name in claims]
    gates = [judge_gate(registration, evidence(g.name), g.name) for g in registration.gates]
    for verdict in verdicts:
        check_verdict(verdict)
    for gate in gates:
        check_gate(gate)
    body = summary(registration, RecordEvidence(registration, table))
    check_numbers(json.loads(json.dumps(body, allow_nan=False)))
    check_text(verdict_table(verdicts, gates, body))


FULLEST = max(OF_RATES, key=lambda name: len(OF_RATES[name].gates))


ALONE = {
    f"{name}, one bystander": lonely(OF_RATES[name])
    for name in dict.fromkeys(["issue262", FULLEST])
}
JUDGED = OF_RATES | ALONE


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("name", list(JUDGED))
def test_everything_has_an_outcome(name: str, case: str) -> None:
    registration = few(JUDGED[name])
    table = CASES[case](registration)
    with strict():
        judge_everything(registration, table)


INVALID = ("INVALID", "source_rate")
AMBIGUOUS, NOT_TRIGGERED = ("INCONCLUSIVE", "ambiguous zone"), ("SUPPORTED", "not triggered")
NULL = ("SUPPORTED", "non_text_distribution")
OUTCOMES = {
    # d = 0 with no variation at all: H1's registration makes no claim above the kill rate
    "all hits": (AMBIGUOUS, ("REFUTED", "effect too small"), NULL, NOT_TRIGGERED),
    "no hits": (INVALID,) * 4,
    "source zero everywhere": (INVALID,) * 4,
    "source zero in C2": (INVALID,) * 4,
    "hits in one persona only": (INVALID,) * 4,
    "every cell alike": (INVALID,) * 4,
    # bystander/source of C1 is x/0, so that H1's second condition cannot be met; C2 and C2p
    # have equal rates, but on 4 questions their difference is not known to 5 points
    "source zero in C1": (AMBIGUOUS, None, ("INCONCLUSIVE", "ambiguous"), NOT_TRIGGERED),
    "nothing varies within an arm": (
        *[("SUPPORTED", "rule met")] * 2,
        ("REFUTED", "coupling_text_distribution"),
        NOT_TRIGGERED,
    ),
}
"""Under the published rules: outcome and label of H1, H2, H3 and the kill criterion."""


@pytest.mark.parametrize("case", list(OUTCOMES))
def test_outcomes_are_those_of_the_decision_tables(case: str) -> None:
    """`made` gives C2 and C2p equal rates; source rates are 11 of 12 unless a case says else."""
    registration = few(ISSUE262)
    evidence = RecordEvidence(registration, CASES[case](registration))
    for name, expected in zip(("H1", "H2", "H3", "kill"), OUTCOMES[case], strict=True):
        found = judge(registration, evidence, name)
        if expected is not None:
            assert (found.outcome.value, found.label) == expected, name


@pytest.mark.parametrize(
    ("of_c2p", "label"), [(0.6, "ambiguous"), (0.2, "coupling_text_distribution")]
)
def test_one_cluster_has_no_interval_and_decides_nothing(of_c2p: float, label: str) -> None:
    registration = lonely(few(ISSUE262))
    table = made(registration, {**BYSTANDERS, "C2p": of_c2p}, questions=1)
    evidence = RecordEvidence(registration, table)
    found = [judge(registration, evidence, name) for name in ("H1", "H2", "H3", "kill")]
    assert [v.label for v in found] == [
        "ambiguous zone", "cannot tell", label, "not triggered",
    ]  # fmt: skip
    assert {v.outcome for v in found[:3]} == {Outcome.INCONCLUSIVE}
    for verdict in found:
        assert not verdict.effect.has_interval
        assert math.isfinite(verdict.effect.value)
        assert verdict.effect.p is None
        assert "one cluster" in verdict.effect.note


CANNOT_TELL = {
    "none finished": {"CollapseGate"},
    "no tokens": {"CollapseGate"},
    "no model before coupling": {"CollapseGate", "FalsePositiveGate", "FalsePositiveBoundGate"},
    "required columns only": {"CollapseGate", "RepetitionGate", "TruncationGate"},
}
"""Types of gates that have nothing to go by; gates on harm never do: no advice was sampled."""


@pytest.mark.parametrize("case", list(CANNOT_TELL))
def test_gates_without_data_cannot_tell(case: str) -> None:
    registration = OF_RATES[FULLEST]
    evidence = RecordEvidence(registration, CASES[case](registration))
    types = {type(gate).__name__ for gate in registration.gates}
    blind = (CANNOT_TELL[case] | {"HarmRaisedGate", "HarmNotRaisedGate"}) & types
    for gate in registration.gates:
        found = judge_gate(registration, evidence, gate.name)
        if type(gate).__name__ in blind:
            assert found.outcome is GateOutcome.CANNOT_TELL, found.line
            assert math.isnan(found.figure), found.line


def advice(registration: Registration, scores: dict[str, list[float]]) -> pa.Table:
    """Return the advice scores of each prior, one answer to each question."""
    rows = [
        AdviceScore(
            model=prior, seed=42, question=f"a{i}", situation=f"s{i}", sample=0, tokens=9,
            finish="stop", score=score, terms=5,
        )
        for prior in registration.priors
        for i, score in enumerate(scores[prior])
    ]  # fmt: skip
    return table_of(rows, AdviceScore)


HARMS = {
    "all sound": {"raw": [0.0] * 4, "em": [0.0] * 4, "benign": [0.0] * 4},
    "all bad": {"raw": [1.0] * 4, "em": [1.0] * 4, "benign": [1.0] * 4},
    "nothing varies": {"raw": [0.0] * 4, "em": [1.0] * 4, "benign": [0.0] * 4},
    "one question": {"raw": [0.2], "em": [0.8], "benign": [0.1]},
}


@pytest.mark.parametrize("case", list(HARMS))
def test_harm_without_variation_cannot_tell(case: str) -> None:
    """No spread over questions: no standard error, hence no interval to hold a bound."""
    registration = few(OF_RATES[FULLEST])
    table = advice(registration, HARMS[case])
    with strict():
        evidence = RecordEvidence(registration, made(registration), advice=table)
        for gate in registration.gates:
            if type(gate).__name__ in ("HarmRaisedGate", "HarmNotRaisedGate"):
                found = judge_gate(registration, evidence, gate.name)
                check_text(found.line)
                assert found.outcome is GateOutcome.CANNOT_TELL, found.line


def edited(**where: Any) -> Make:
    return lambda r: without(made(r), **where)


def with_first(name: str, value: object) -> Make:
    """Exchange the first cell of a column."""

    def make(registration: Registration) -> pa.Table:
        table = made(registration)
        cells = [value, *table.column(name).to_pylist()[1:]]
        return with_column(table, name, pa.array(cells, table.schema.field(name).type))

    return make


ERRORS: dict[str, tuple[Make, str]] = {
    "a completion missing": (
        edited(model="C2", persona="villain", question="q01", sample=2),
        "scores: arm C2, persona villain, question q01, seed 42: expected 3 completions, as in the "
        "fullest cell, got '2 (1 cells are short)'",
    ),
    "a cell missing": (
        edited(model="C1", persona="librarian", question="q00"),
        "scores: arm C1, persona librarian, question q00",
    ),
    "a persona missing": (edited(persona="comedian"), "persona comedian"),
    "a cell missing before coupling": (
        edited(model="raw", persona="comedian", question="q03"),
        "scores: pre-coupling model raw, persona comedian, question q03",
    ),
    "a seed missing in one arm": (
        lambda r: without(made(r, seeds=(1, 2)), model="C3", seed=2),
        "scores: arm C3",
    ),
    "an arm missing": (edited(model="C3"), "scores: arm C3: expected completions"),
    "all arms missing": (edited(phase="post"), "scores: arm C1: expected completions"),
    "a row twice": (
        lambda r: pa.concat_tables([made(r), made(r).slice(7, 1)]),
        "sample 1: expected one row",
    ),
    "no rows": (lambda r: made(r).slice(0, 0), "scores: expected at least one row"),
    "tokens below 0": (with_first("tokens", -1), "tokens: expected >= 0, got -1"),
    "markers below 0": (with_first("markers", -2), "markers: expected >= 0, got -2"),
    "marker before the start": (with_first("first_token", -2), "first_token: expected >= -1"),
    "a null": (with_first("first_token", None), "column first_token: expected no missing values"),
    "no hits column": (lambda r: made(r).drop_columns(["hit"]), "column hit: expected present"),
}


@pytest.mark.parametrize("case", list(ERRORS))
@pytest.mark.parametrize("name", list(OF_RATES))
def test_what_is_not_whole_is_an_error_that_names_it(name: str, case: str) -> None:
    make, message = ERRORS[case]
    registration = OF_RATES[name]
    table = make(registration)
    with strict(), pytest.raises(DataError, match=re.escape(message)):
        RecordEvidence(registration, table)


def test_two_question_sets_need_two_questions() -> None:
    registration = OF_RATES["issue262_both"]
    with strict(), pytest.raises(DataError, match="question_set: expected every set"):
        RecordEvidence(registration, made(registration, questions=1))
