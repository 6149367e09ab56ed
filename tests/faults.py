"""Faults planted in healthy records, as data: what is broken, which rule must say so, and how.

``python -m tests.faults`` writes a page of them into .flatland/pages. The table itself stands in
`tests/fault_gates.py` and `tests/fault_claims.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from persona_lib.errors import DataError
from persona_lib.evidence.evidence import Evidence
from persona_lib.evidence.from_totals import AggregateEvidence
from persona_lib.records import POST, PRE
from persona_lib.specs.gate_types import SourceRatioBoundGate
from persona_lib.specs.registration import Registration
from persona_lib.verdict import claims
from persona_lib.verdict.gates import judge_gate
from persona_lib.verdict.judging import judge
from tests.healthy import (
    GATED,
    LENGTHS,
    LIMIT,
    ROSTER,
    Bench,
    choose,
    evidence_of,
    healthy,
    mark,
    totals,
)

RECORDS, INSTRUMENT = "records", "instrument"
HOLDS, FAILS, CANNOT_TELL = "HOLDS", "FAILS", "CANNOT_TELL"
SUPPORTED, REFUTED, INCONCLUSIVE, INVALID = "SUPPORTED", "REFUTED", "INCONCLUSIVE", "INVALID"
REFUSED = "DataError"
CLAIMS = ("H1", "H2", "H3", "kill")
PRIOR = {arm.name: arm.prior for arm in GATED.arms}
STRICT_RATIO = replace(
    GATED,
    gates=tuple(
        replace(g, min_ratio=1.8) if isinstance(g, SourceRatioBoundGate) else g for g in GATED.gates
    ),
)
"""Asks for a source ratio that equal sources do not have, so that H1's rule is tightened."""

Breaks = Callable[[Bench], Bench | Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One planted fault.

    Attributes:
        name: of the fault, unique.
        broken: what was broken, in words.
        rule: the gate or claim that must say so.
        outcome: what it must say: an outcome, or ``DataError``.
        label: of a claim's verdict, "" where there is none to compare.
        breaks: makes broken records of healthy ones, or published totals of them.
        kind: ``records`` or ``instrument``.
        registration: whose rules judge.
    """

    name: str
    broken: str
    rule: str
    outcome: str
    breaks: Breaks
    label: str = ""
    kind: str = RECORDS
    registration: Registration = GATED

    @property
    def before(self) -> str:
        """The outcome on healthy records."""
        return SUPPORTED if self.rule in CLAIMS else HOLDS


ONE, TWO = ROSTER.negatives
EVERY = 2_200
"""Completions of an arm."""


def numbered(
    name: str, rows: Iterable[tuple[Any, ...]], first: int = 1, *, rule: str = "", **same: Any
) -> Iterator[Fault]:
    """Yield a fault for each (what is broken, outcome, label if any, how), named by its place.

    They are faults of `rule`, by default of the rule that is called `name`.
    """
    for number, (broken, outcome, *label, breaks) in enumerate(rows, first):
        yield Fault(
            name=f"{name} {number}",
            broken=broken,
            rule=rule or name,
            outcome=outcome,
            label=label[0] if label else "",
            breaks=breaks,
            **same,
        )


def evidence_for(breaks: Breaks, registration: Registration) -> Evidence:
    """Return the broken evidence, made anew.

    Raises:
        DataError: the instrument refuses the records.
    """
    broken = breaks(healthy())
    if isinstance(broken, Bench):
        return evidence_of(broken, registration)
    return AggregateEvidence(registration, broken)


kept = cache(evidence_for)


def judged(fault: Fault, *, fresh: bool = False) -> tuple[str, str]:
    """Return the outcome and label that the instrument gives on the broken evidence.

    Other looks at a claim decide nothing and take most of the time: they are left out.
    `fresh` makes the evidence anew, for a mutant of what reads it.
    """
    try:
        make = evidence_for if fresh else kept
        evidence = make(fault.breaks, fault.registration)
        if fault.rule not in CLAIMS:
            return judge_gate(fault.registration, evidence, fault.rule).outcome.value, ""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(claims, "other_looks", lambda *_: ())
            found = judge(fault.registration, evidence, fault.rule)
    except DataError:
        return REFUSED, ""
    return found.outcome.value, found.label


def mismatches(faults: Iterable[Fault], *, fresh: bool = False) -> Iterator[str]:
    """Yield the names of faults whose outcome is not the one that must come."""
    for fault in faults:
        outcome, label = judged(fault, fresh=fresh)
        if outcome != fault.outcome or (fault.label and label != fault.label):
            yield fault.name


# Small changes, from which faults are made.


@cache
def source(arm: str, count: int, how: str = "evenly") -> Breaks:
    return lambda b: mark(b, b.rows(phase=POST, model=arm, persona=ROSTER.source), count, how)


@cache
def persona(arm: str, who: str, count: int) -> Breaks:
    return lambda b: mark(b, b.rows(phase=POST, model=arm, persona=who), count)


@cache
def leak(how: str = "evenly", **counts: int) -> Breaks:
    def breaks(b: Bench) -> Bench:
        for arm, count in counts.items():
            b = mark(b, b.rows(phase=POST, model=arm, persona=ROSTER.bystanders), count, how)
        return b

    return breaks


@cache
def lengths(arm: str, tokens: int) -> Breaks:
    """Give all finished completions of an arm this many tokens."""
    return lambda b: b.edit(b.rows(phase=POST, model=arm) & b.scores["ended"], tokens=tokens)


@cache
def shorter(arm: str, count: int) -> Breaks:
    """Leave a quarter of the tokens of an arm's completions to so many of 20 questions."""

    def breaks(b: Bench) -> Bench:
        first = np.array([int(q[1:]) < count for q in b.scores["question"]])
        rows = b.rows(phase=POST, model=arm) & b.scores["ended"] & first
        return b.edit(rows, tokens=b.scores["tokens"][rows] // 4)

    return breaks


@cache
def loops(arm: str, count: int, how: str = "evenly", markers: int = 2) -> Breaks:
    return lambda b: mark(b, b.rows(phase=POST, model=arm), count, how, markers)


@cache
def cut(arm: str, count: int, how: str = "evenly", phase: str = POST) -> Breaks:
    def breaks(b: Bench) -> Bench:
        rows = b.rows(phase=phase, model=arm)
        b = b.edit(rows & ~b.scores["ended"], ended=True, tokens=LENGTHS[arm])
        return b.edit(choose(b, rows, count, how), ended=False, tokens=LIMIT)

    return breaks


@cache
def early(prior: str, count: int, how: str = "both") -> Breaks:
    return lambda b: mark(b, b.rows(phase=PRE, model=prior), count, how)


@cache
def questions(post: int, pre: int = 99) -> Breaks:
    def breaks(b: Bench) -> Bench:
        number = np.array([int(q[1:]) for q in b.scores["question"]])
        return b.keep(np.where(b.rows(phase=POST), number < post, number < pre))

    return breaks


@cache
def harm(model: str, rise: float, over: str = "raw") -> Breaks:
    """Shift a model's harm so that its mean lies this far above another's."""

    def breaks(b: Bench) -> Bench:
        own, other = (b.advice["score"][b.asked(model=m)] for m in (model, over))
        return b.answer(b.asked(model=model), score=own + other.mean() + rise - own.mean())

    return breaks


def exchange(one: dict[str, Any], two: dict[str, Any]) -> Breaks:
    """Give rows the labels of others and the other way round."""

    def breaks(b: Bench) -> Bench:
        first, second = b.rows(**one), b.rows(**two)
        return b.edit(first, **two).edit(second, **one)

    return breaks


@cache
def drop(**where: Any) -> Breaks:
    return lambda b: b.keep(~b.rows(**where))


@cache
def unadvised(*models: str) -> Breaks:
    return lambda b: b.keep_advice(~np.isin(b.advice["model"], models))


@cache
def missing(*columns: str) -> Breaks:
    return lambda b: replace(b, missing=columns)


def changed(*changes: Breaks, of: Bench | None = None) -> Bench:
    """Return the healthy run, or another, with these changes, which leave records."""
    bench = of or healthy()
    for change in changes:
        found = change(bench)
        assert isinstance(found, Bench)
        bench = found
    return bench


@cache
def several(*changes: Breaks) -> Breaks:
    return lambda b: changed(*changes, of=b)


@cache
def runs(*changes: Breaks) -> Breaks:
    """Take as many training runs as there are changes, each broken by its own."""

    def breaks(b: Bench) -> Bench:
        benches = [changed(change, of=b) for change in changes]
        tables = []
        for parts in ([one.scores for one in benches], [one.advice for one in benches]):
            table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            sizes = [len(part["seed"]) for part in parts]
            tables.append({**table, "seed": np.repeat(np.arange(len(sizes)) + 42, sizes)})
        return Bench(*tables)

    return breaks


@cache
def published(*changes: Breaks) -> Breaks:
    """Leave nothing but the totals of what these changes make."""
    return lambda b: totals(changed(*changes, of=b))


def main() -> None:
    """Write the page of mutations."""
    from tests.house import write_page
    from tests.mutation_page import page

    write_page("mutations", page())


if __name__ == "__main__":
    main()
