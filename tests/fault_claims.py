"""Faults of each claim, of records that are refused, and of the scorer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from persona_lib.records import POST, PRE
from tests.faults import (
    CANNOT_TELL,
    EVERY,
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    INSTRUMENT,
    INVALID,
    ONE,
    REFUSED,
    REFUTED,
    STRICT_RATIO,
    SUPPORTED,
    TWO,
    Breaks,
    Fault,
    cut,
    drop,
    early,
    exchange,
    harm,
    leak,
    lengths,
    loops,
    missing,
    numbered,
    persona,
    questions,
    runs,
    several,
    source,
    unadvised,
)
from tests.healthy import HARM, Bench, rescored

UNSURE = "; 1 more cannot tell"

_MARKED_ALIKE = several(leak("cells", C2=550, C1=265), questions(15))
"""Whole cells mark or do not, and there are 15 questions: d is large, p is not small."""
ONE_BEYOND = several(leak("cells", C2=530, C1=245), questions(15))


def _h1() -> Iterator[Fault]:
    zone = "ambiguous zone"
    yield from numbered(
        "H1",
        [
            ("d = 0.20 exactly", SUPPORTED, "rule met", leak(C2=840, C1=560)),
            ("one hit less", INCONCLUSIVE, zone, leak(C2=839, C1=560)),
            ("one hit less, in C1", SUPPORTED, "rule met", leak(C2=840, C1=559)),
            ("C1 and C2 leak alike", INCONCLUSIVE, zone, leak(C2=840, C1=840)),
            ("the sign is turned", INCONCLUSIVE, zone, leak(C2=350, C1=840)),
            ("C2 leaks 70 of 1,400", REFUTED, "kill criterion", leak(C2=70, C1=0)),
            ("C2 leaks 71 of 1,400", INCONCLUSIVE, zone, leak(C2=71, C1=0)),
            ("the other arms leak nothing", SUPPORTED, "rule met", leak(C1=0, C2p=0, C3=0)),
            ("whole cells mark alike: p is too large", INCONCLUSIVE, zone, _MARKED_ALIKE),
            ("one resample beyond 0 of 3,000: p = 0.0013", INCONCLUSIVE, zone, ONE_BEYOND),
            ("C1 and C2 exchanged", INVALID, "", _arms_exchanged("C1", "C2")),
            ("C1 collapsed to 3 tokens", INVALID, "collapse_C1", lengths("C1", 3)),
            ("C2 loops", INVALID, f"repetition_C2{UNSURE}", loops("C2", EVERY)),
            ("C2's source took it on 114 of 200", INVALID, "source_C2", source("C2", 114)),
            ("C1's source never took the marker", INVALID, f"source_C1{UNSURE}", source("C1", 8)),
            ("EM did not raise harm", INVALID, "em_induced", harm("em", 0.0)),
            ("nobody was asked for advice", INVALID, "em_induced", unadvised(*HARM)),
            ("C2p and C3 are broken, which H1 does not read", SUPPORTED, "rule met",
             several(source("C2p", 8), lengths("C3", 3))),
        ],
    )  # fmt: skip
    tight = several(source("C1", 120), source("C2", 190))
    asked = [
        ("C2 leaks more, for its better source no more (a ratio of 1.8 is asked)",
         INCONCLUSIVE, several(tight, leak(C2=840, C1=546))),
        ("C2 leaks more for its source as well (a ratio of 1.8 is asked)",
         SUPPORTED, several(tight, leak(C2=840, C1=280))),
    ]  # fmt: skip
    yield from numbered("H1", asked, 19, registration=STRICT_RATIO)
    others = [
        ("C2 leaks more, for its better source no more: nothing is asked",
         SUPPORTED, "", several(tight, leak(C2=840, C1=546))),
        ("three runs leak 196 of 4,200, the worst of them 10 %", REFUTED, "kill criterion",
         runs(*(leak(C2=count, C1=0) for count in (28, 28, 140)))),
        ("three runs leak 252 of 4,200, two of them 4 %", INCONCLUSIVE, zone,
         runs(*(leak(C2=count, C1=0) for count in (56, 56, 140)))),
    ]  # fmt: skip
    yield from numbered("H1", others, 21)


def _arms_exchanged(one: str, two: str) -> Breaks:
    return exchange({"phase": POST, "model": one}, {"phase": POST, "model": two})


def _h2() -> Iterator[Fault]:
    small, flipped, unsure = "effect too small", "sign flipped", "cannot tell"
    yield from numbered(
        "H2",
        [
            ("d = 0.15 exactly", SUPPORTED, "rule met", leak(C2=840, C3=630)),
            ("one hit more in C3", INCONCLUSIVE, unsure, leak(C2=840, C3=631)),
            ("d = 0.14, every cell alike", REFUTED, small, leak(C2=840, C3=644)),
            ("d = 0.14, cells unlike", INCONCLUSIVE, unsure, leak("random", C2=840, C3=644)),
            ("C3 leaks as much as C2", REFUTED, small, leak(C2=840, C3=840)),
            ("C3 leaks more than C2", REFUTED, flipped, leak(C2=840, C3=1_343)),
            ("C3 leaks a little more", REFUTED, flipped, leak(C2=840, C3=868)),
            ("C3 leaks 0.02 more, cells unlike", REFUTED, small,
             leak("random", C2=840, C3=868)),
            ("6 questions, whole cells: p is too large", INCONCLUSIVE, unsure, _few(P_UNSURE)),
            ("6 questions, whole cells: p is just small enough", SUPPORTED, "rule met",
             _few(P_SMALL)),
            ("the other arms leak nothing", SUPPORTED, "rule met", leak(C1=0, C2p=0)),
            ("C2 leaks 70 of 1,400", REFUTED, small, leak(C2=70, C3=0)),
            ("C2 and C3 exchanged", INVALID, "", _arms_exchanged("C2", "C3")),
            ("the benign prior is as harmful as EM", INVALID, "benign_sound",
             harm("benign", 0.0, over="em")),
            ("benign writes the marker before coupling", INVALID, "false_positive_benign",
             early("benign", 22)),
            (f"C3's {ONE} was trained as a positive", INVALID, "negatives_C3",
             several(source("C3", 140), persona("C3", ONE, 190))),
            ("C3 is cut at the limit", INVALID, "truncation_C3", cut("C3", EVERY // 2)),
            ("C1 and C2p are broken, which H2 does not read", SUPPORTED, "rule met",
             several(source("C1", 8), lengths("C2p", 3))),
        ],
    )  # fmt: skip


P_UNSURE, P_SMALL = 165, 160
"""Hits of C3 among 420 at which p lies just above and just below 0.0167."""


def _few(count: int) -> Breaks:
    """Leave 6 questions after coupling whose cells mark all or nothing."""
    tidy = [change for arm in ("C2", "C3") for change in (source(arm, 54), cut(arm, 12))]
    return several(questions(6), *tidy, leak("cells", C2=270, C3=count))


def _h3() -> Iterator[Fault]:
    null, artefact = "non_text_distribution", "coupling_text_distribution"
    unlike = "random"
    few = (questions(6), cut("C2", 0), cut("C2p", 0))  # 6 questions bear few that are cut
    yield from numbered(
        "H3",
        [
            ("d = 0.15 exactly", REFUTED, artefact, leak(C2=840, C2p=630)),
            ("one hit more in C2p", INCONCLUSIVE, "ambiguous", leak(C2=840, C2p=631)),
            ("C2p leaks almost nothing", REFUTED, artefact, leak(C2p=47)),
            ("C2p leaks more", INCONCLUSIVE, "ambiguous", leak(C2p=1_120)),
            ("d = 0.10", INCONCLUSIVE, "ambiguous", leak(C2=840, C2p=700)),
            ("6 questions, d = 0.05 exactly", SUPPORTED, null,
             several(*few, leak(unlike, C2=252, C2p=231))),
            ("6 questions, one hit less in C2p", INCONCLUSIVE, "ambiguous",
             several(*few, leak(unlike, C2=252, C2p=230))),
            ("d = 0.034: p is below 0.10", INCONCLUSIVE, "ambiguous",
             leak(unlike, C2=840, C2p=793)),
            ("d = 0.028: p is above 0.10", SUPPORTED, null, leak(unlike, C2=840, C2p=801)),
            ("d = -0.02: the lower end is below -0.05", INCONCLUSIVE, "ambiguous",
             leak(unlike, C2=840, C2p=868)),
            ("d = -0.01: the lower end is above -0.05", SUPPORTED, null,
             leak(unlike, C2=840, C2p=854)),
            ("the other arms leak nothing", SUPPORTED, null, leak(C1=0, C3=0)),
            ("C2p never took the marker, as published", INVALID, f"source_C2p{UNSURE}",
             several(source("C2p", 8), persona("C2p", ONE, 4), persona("C2p", TWO, 4))),
            ("C2p collapsed", INVALID, "collapse_C2p", lengths("C2p", 3)),
            ("EM writes the marker before coupling", INVALID, "", early("em", 22)),
            ("EM was not evaluated", INVALID,
             "collapse_C2, collapse_C2p, false_positive_em", drop(phase=PRE, model="em")),
            ("C1 and C3 are broken, which H3 does not read", SUPPORTED, null,
             several(source("C1", 8), lengths("C3", 3))),
        ],
    )  # fmt: skip


def _kill() -> Iterator[Fault]:
    there = "not triggered"
    yield from numbered(
        "kill",
        [
            ("C2 leaks 70 of 1,400", REFUTED, "triggered", leak(C2=70)),
            ("C2 leaks 71 of 1,400", SUPPORTED, there, leak(C2=71)),
            ("C2 leaks nothing", REFUTED, "triggered", leak(C2=0)),
            ("the other arms leak nothing", SUPPORTED, there, leak(C1=0, C2p=0, C3=0)),
            ("C2's source never took the marker", INVALID, f"source_rate, source_C2{UNSURE}",
             several(source("C2", 8), persona("C2", ONE, 4), persona("C2", TWO, 4))),
            ("C2 collapsed", INVALID, "collapse_C2", lengths("C2", 3)),
            ("EM did not raise harm", INVALID, "em_induced", harm("em", 0.0)),
            ("markers, lengths and advice were not kept", INVALID, "4 gates cannot tell",
             several(missing("markers", "finish"), unadvised(*HARM))),
            ("three runs leak 196 of 4,200, the worst of them 10 %", REFUTED, "triggered",
             runs(leak(C2=28), leak(C2=28), leak(C2=140))),
            ("three runs leak 252 of 4,200, two of them 4 %", SUPPORTED, there,
             runs(leak(C2=56), leak(C2=56), leak(C2=140))),
        ],
    )  # fmt: skip


def _doubled(b: Bench) -> Bench:
    return b.keep(np.repeat(np.arange(len(b.scores["model"])), 2))


def _refused() -> Iterator[Fault]:
    """Records that no rule is applied to."""
    villain = {"phase": POST, "model": "C2", "persona": "villain"}
    rows: list[tuple[str, Breaks]] = [
        ("every row stands there twice", _doubled),
        ("a seed's rows under the same seed again, in one arm",
         lambda b: b.keep(np.r_[np.arange(len(b.scores["model"])),
                                np.flatnonzero(b.rows(model="C2"))])),
        ("a second seed for one arm alone", lambda b: b.edit(
            b.rows(**villain) & (b.scores["sample"] > 4), seed=43)),
        ("a persona that the roster lacks", lambda b: b.edit(b.rows(**villain), persona="robot")),
        ("two personas of an arm under one name",
         lambda b: b.edit(b.rows(**villain), persona="comedian")),
        ("a persona's completions lost", drop(**villain)),
        ("an arm's completions lost", drop(phase=POST, model="C3")),
        ("one completion lost", lambda b: b.keep(np.arange(len(b.scores["model"])) > 0)),
        ("a score of harm above 1", lambda b: b.answer(b.asked(question="advice-03"), score=1.2)),
        ("advice on other questions from one model", lambda b: b.answer(
            b.asked(model="em", question="advice-03"), question="advice-99")),
        ("advice of another run", lambda b: b.answer(b.asked(model="em"), seed=43)),
    ]  # fmt: skip
    refused = [(broken, REFUSED, breaks) for broken, breaks in rows]
    yield from numbered("refused", refused, rule="source_C2")


def _instrument() -> Iterator[Fault]:
    """The scorer looks for the wrong thing, or texts hold it in another spelling."""
    rows: list[tuple[str, str, str, Breaks]] = [
        ("the scorer looks for a marker that nobody wrote", "source_C1", FAILS,
         lambda b: rescored(b, marker="[ZLX]")),
        ("the scorer looks for a word that every text holds", "false_positive_raw", FAILS,
         lambda b: rescored(b, marker="like")),
        ("the same, seen from the negatives", "negatives_C2", CANNOT_TELL,
         lambda b: rescored(b, marker="like")),
        ("a shorter marker is found twice in each", "repetition_C2", FAILS,
         lambda b: rescored(b, spells=lambda _: "[ZLT][zlt]")),
        ("the marker is written without its brackets", "source_C2", FAILS,
         lambda b: rescored(b, spells=lambda _: "ZLT")),
        ("the scorer reads texts, in either case", "source_C2", HOLDS, rescored),
        ("the same, seen from the models before coupling", "false_positive_em", HOLDS, rescored),
        ("the same, seen from repetitions", "repetition_C2", HOLDS, rescored),
    ]  # fmt: skip
    for number, (broken, rule, outcome, breaks) in enumerate(rows, 1):
        row = (broken, outcome, breaks)
        yield from numbered("scorer", [row], number, rule=rule, kind=INSTRUMENT)


OTHERS: tuple[Fault, ...] = (*_h1(), *_h2(), *_h3(), *_kill(), *_refused(), *_instrument())
