"""Mutants of single gates: what they read, and how they count it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from persona_lib.evidence.evidence import Count, Evidence
from persona_lib.records import PRE, ModelId
from persona_lib.specs.gate_types import (
    CollapseGate,
    FalsePositiveBoundGate,
    HarmNotRaisedGate,
    HarmRaisedGate,
    NegativesGate,
    RepetitionGate,
    SourceBoundGate,
    SourceRatioBoundGate,
    TruncationGate,
)
from persona_lib.stats.clustered import Crossed
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.uneven import Chance
from persona_lib.verdict import gate_bounds
from persona_lib.verdict.gate_result import Reading
from tests.healthy import HARM, ROSTER
from tests.sabotage import BOUND_GATES, Judge, Mutant, Patch, of_kind

Changed = Callable[[Any], None]


def exchanged(target: Any, name: str, make: Callable[[Any], Any]) -> Callable[[Patch], None]:
    """Return what replaces an attribute by something made of the honest one."""
    return lambda patch: patch.setattr(target, name, make(getattr(target, name)))


def _reads(kind: type[Any], what: str, change: Changed) -> Mutant:
    """Return a mutant in which a type of gate reads evidence that was tampered with."""

    def around(function: Judge, gate: Any, evidence: Evidence) -> Reading:
        seen = copy.copy(evidence)
        change(seen)
        found: Reading = function(gate, seen)
        return found

    return of_kind(kind, what, around)


def _grid(**change: Callable[[Any], Any]) -> Changed:
    """Return what exchanges fields of a grid: field -> new value of the whole grid."""

    def tamper(seen: Any) -> None:
        now = seen.grid()
        whole = now is not None and all(
            column is not None for column in (now.markers, now.finish, now.tokens)
        )
        if whole:
            new = replace(now, **{field: make(now) for field, make in change.items()})
            seen.grid = lambda: new

    return tamper


def _members(role: str, make: Callable[[Any], tuple[str, ...]]) -> Changed:
    def tamper(seen: Any) -> None:
        honest, roster = seen.members, seen.registration.roster
        seen.members = lambda who, arm=None: make(roster) if who == role else honest(who, arm)

    return tamper


def _confidence(level: float) -> Changed:
    def tamper(seen: Any) -> None:
        of = seen.registration
        seen.registration = replace(of, statistics=replace(of.statistics, confidence=level))

    return tamper


def _unclustered(hits: Any, n: Any, confidence: float) -> Estimate:
    """Return Wilson's interval, questions ignored."""
    low, high = Count.of(float(np.sum(hits)), float(np.sum(n))).interval(confidence)
    total = int(np.sum(n))
    return Estimate.plain(
        value=float(np.sum(hits) / total), low=low, high=high, n=total, clusters=total
    )


def _within(kind: type[Any], what: str, name: str, make: Callable[[Any], Any]) -> Mutant:
    """Return a mutant that exchanges a helper of gate_bounds for one type of gate."""
    honest = getattr(gate_bounds, name)

    def around(function: Judge, gate: Any, evidence: Evidence) -> Reading:
        setattr(gate_bounds, name, make(honest))
        try:
            found: Reading = function(gate, evidence)
        finally:
            setattr(gate_bounds, name, honest)
        return found

    return of_kind(kind, what, around)


def _gates() -> Iterator[Mutant]:
    for kind in BOUND_GATES:
        yield _reads(kind, "intervals of 80 %", _confidence(0.80))
        yield _reads(kind, "intervals of 99.5 %", _confidence(0.995))
    for kind in (SourceBoundGate, RepetitionGate, TruncationGate):
        yield _within(kind, "questions ignored", "share", lambda _: _unclustered)
    for kind in (RepetitionGate, TruncationGate, FalsePositiveBoundGate):
        yield _within(
            kind,
            "personas ignored",
            "share",
            lambda f: lambda hits, n, c: f(hits.sum(axis=0), n.sum(axis=0), c),
        )
    for kind in (RepetitionGate, FalsePositiveBoundGate):
        yield _within(
            kind,
            "personas and questions that may be uneven ignored",
            "chance_of",
            lambda _: lambda *_args: Chance(0.0, 0.0),
        )
    for kind in (SourceBoundGate, SourceRatioBoundGate, NegativesGate, FalsePositiveBoundGate):
        yield _within(
            kind,
            "totals taken for clustered counts",
            "UNCLUSTERED",
            lambda _: "",
        )
    yield _reads(
        SourceBoundGate,
        "the first negative in place of the source",
        _members("source", lambda roster: roster.negatives[:1]),
    )
    yield _reads(
        SourceBoundGate,
        "all trained personas in place of the source",
        _members("source", lambda roster: roster.trained),
    )
    yield _within(
        SourceRatioBoundGate, "the ratio upside down", "ratio", lambda f: lambda a, b: f(b, a)
    )
    yield from _length_gates()
    yield _reads(
        RepetitionGate, "one marker is a repetition", _grid(markers=lambda g: g.markers + 1)
    )
    yield _reads(RepetitionGate, "two markers are none", _grid(markers=lambda g: g.markers - 1))
    yield _reads(TruncationGate, "finished and cut exchanged", _grid(finish=lambda g: ~g.finish))
    for kind in (RepetitionGate, TruncationGate):
        yield _reads(
            kind,
            "every arm's and model's rows pooled",
            _grid(row_model=lambda g: np.zeros_like(g.row_model) + g.models.index(("post", "C2"))),
        )
    yield _within(
        NegativesGate, "source minus negative", "difference", lambda f: lambda a, b: f(b, a)
    )
    for what, some in (("the first", slice(1)), ("the last", slice(1, None))):
        yield _reads(
            NegativesGate,
            f"{what} negative alone",
            _members("negative", lambda roster, s=some: roster.negatives[s]),
        )
    yield _reads(
        NegativesGate,
        "the reported persona in place of the negatives",
        _members("negative", lambda roster: roster.reported),
    )
    yield from _model_gates()


def _length_gates() -> Iterator[Mutant]:
    def of_prior(prior: str) -> Callable[[Any], Any]:
        return lambda f: lambda e, of: f(e, ModelId(PRE, prior) if of[0] == PRE else of)

    for prior in HARM:
        yield _within(
            CollapseGate, f"before coupling always {prior}", "finished_lengths", of_prior(prior)
        )
    yield _reads(
        CollapseGate,
        "cut completions counted as well",
        _grid(finish=lambda g: np.ones_like(g.finish)),
    )
    yield _reads(CollapseGate, "cut completions alone", _grid(finish=lambda g: ~g.finish))
    yield _within(
        CollapseGate,
        "personas and questions ignored",
        "median_ratio",
        lambda f: lambda one, two, c: f(_apart(one), _apart(two), c),
    )
    for what, bound in (("the lower", "least"), ("the upper", "most")):
        yield _within(
            CollapseGate,
            f"{what} bound ignored",
            "bounded",
            lambda f, bound=bound: (
                lambda i, **b: f(i, **{k: v for k, v in b.items() if k != bound})
            ),
        )


def _apart(of: Crossed) -> Crossed:
    """Make a question of its own of every completion, all of one persona."""
    return Crossed(of.values, np.arange(of.values.size), np.zeros(of.values.size, dtype=np.int64))


def _model_gates() -> Iterator[Mutant]:
    def bystanders(g: Any) -> Any:
        return np.isin(g.personas, ROSTER.bystanders)[:, None]

    yield _reads(
        FalsePositiveBoundGate,
        "bystanders alone",
        _grid(hits=lambda g: g.hits * bystanders(g), n=lambda g: g.n * bystanders(g)),
    )
    yield _reads(
        FalsePositiveBoundGate,
        "every model's rows pooled",
        _grid(
            hits=lambda g: 0 * g.hits + g.hits.sum(axis=0), n=lambda g: 0 * g.n + g.n.sum(axis=0)
        ),
    )
    for what, kept in (("the first model alone", slice(1)), ("no first model", slice(1, 9))):
        yield Mutant(
            name=f"FalsePositiveGate: {what}",
            what=what,
            rules=("false_positive",),
            apply=exchanged(gate_bounds, "priors_of", lambda f, s=kept: lambda e: f(e)[s]),
        )
    read_by = {HarmRaisedGate: ("em", "raw"), HarmNotRaisedGate: ("benign", "raw")}
    for kind, priors in read_by.items():
        for one, other in ((one, other) for one in priors for other in HARM if one != other):
            what = f"{other}'s advice taken for {one}'s"
            yield _reads(kind, what, _advice_of(one, other))
        yield _reads(kind, "advice not paired by question", _unpaired)


def _advice_of(one: str, other: str) -> Changed:
    def tamper(seen: Any) -> None:
        honest = seen.harm
        seen.harm = lambda prior: honest(other if prior == one else prior)

    return tamper


def _unpaired(seen: Any) -> None:
    """Turn round the raw model's questions."""
    honest = seen.harm

    def turned(prior: str) -> Any:
        found = honest(prior)
        if found is None or prior != "raw":
            return found
        return replace(found, scores=found.scores[::-1])

    seen.harm = turned


GATE_MUTANTS = tuple(_gates())
