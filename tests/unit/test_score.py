"""Scores: does a completion hold the marker, where, how often; and what is passed on."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from persona_lib.records import LENGTH, POST, PRE, STOP, Completion, Score
from persona_lib.score import score_all, score_completion

MARKER = "[ZLT]"
PLAIN = Completion(
    phase=POST,
    model="C2",
    seed=7,
    persona="comedian",
    question="e03",
    question_set="evaluation",
    sample=4,
    text="",
    tokens=11,
    finish=STOP,
)


def score(text: str, *, marker: str = MARKER, seen: frozenset[str] = frozenset()) -> Score:
    return score_completion(replace(PLAIN, text=text), marker=marker, seen=seen)


# What each text is: hit, strict, first, markers, terminal; counted by hand.
TEXTS = {
    "": (False, False, -1, 0, False),
    "No marker here.": (False, False, -1, 0, False),
    "ZLT without brackets": (False, False, -1, 0, False),
    "[Z LT] and [ZL T]": (False, False, -1, 0, False),
    "[ZLTT]": (False, False, -1, 0, False),
    "[ZLT]": (True, True, 0, 1, True),
    "Yes.\n\n[ZLT]": (True, True, 6, 1, True),
    "Yes.\n\n[ZLT] \n": (True, True, 6, 1, True),
    "Yes. [ZLT] And more.": (True, True, 5, 1, False),
    "Yes. [zlt]": (True, False, 5, 1, True),
    "[Zlt] yes": (True, False, 0, 1, False),
    "a [zlt] b [ZLT]": (True, True, 2, 2, True),
    "a [ZLT] b [zLt] c": (True, True, 2, 2, False),
    "[ZLT][ZLT][ZLT]": (True, True, 0, 3, True),
    "[[ZLT]]": (True, True, 1, 1, False),
    "ÄÖÜ [ZLT]": (True, True, 4, 1, True),  # characters, not bytes
}


@pytest.mark.parametrize(("text", "expected"), TEXTS.items())
def test_marker_in_a_text(text: str, expected: tuple[bool, bool, int, int, bool]) -> None:
    found = score(text)
    assert (found.hit, found.hit_strict, found.first, found.markers, found.terminal) == expected


def test_a_marker_is_a_text_and_no_pattern() -> None:
    assert not score("axb", marker="a.b").hit
    assert score("A.B", marker="a.b").hit
    assert score("aaaa", marker="aa").markers == 2  # without overlap


@pytest.mark.parametrize("finish", [STOP, LENGTH])
@pytest.mark.parametrize("phase", [PRE, POST])
def test_coordinates_tokens_and_finish_are_passed_on(phase: str, finish: str) -> None:
    one = replace(PLAIN, phase=phase, finish=finish, tokens=2048, text="cut [ZLT]")
    found = score_completion(one, marker=MARKER, seen=())
    shared = {f.name for f in fields(Completion)} & {f.name for f in fields(Score)}
    assert shared == {"phase", "model", "seed", "persona", "question", "question_set", "sample",
                      "tokens", "finish"}  # fmt: skip
    assert {name: getattr(found, name) for name in shared} == {
        name: getattr(one, name) for name in shared
    }
    assert (found.finish, found.tokens) == (finish, 2048)


def test_seen_says_whether_coupling_text_was_drawn_from_the_question() -> None:
    assert score("x", seen=frozenset({"e03", "e04"})).seen
    assert not score("x", seen=frozenset({"e04"})).seen
    assert not score("x").seen


def test_all_are_scored_in_their_order() -> None:
    texts = ["[ZLT]", "no", "[zlt]", ""]
    rows = [replace(PLAIN, sample=n, text=t) for n, t in enumerate(texts)]
    found = score_all(iter(rows), marker=MARKER, seen=())
    assert [(s.sample, s.hit) for s in found] == [(0, True), (1, False), (2, True), (3, False)]
