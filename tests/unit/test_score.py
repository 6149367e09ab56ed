"""Scores: does a completion hold the marker, where, how often; and what is passed on."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from persona_lib.errors import SpecError
from persona_lib.marker import score_all, score_completion, tokens_before_in
from persona_lib.records import LENGTH, POST, PRE, STOP, Completion, Score
from tests.byte_model import byte_tokenizer

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


def thirds(text: str, position: int) -> int:
    """A tokenizer of three characters a token."""
    assert text[position] in "[aA.", "asked about another place than a marker's"
    return position // 3


def score(text: str, *, marker: str = MARKER, seen: frozenset[str] = frozenset()) -> Score:
    one = replace(PLAIN, text=text)
    return score_completion(one, marker=marker, seen=seen, tokens_before=thirds)


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
    found = score_completion(one, marker=MARKER, seen=(), tokens_before=thirds)
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


# ---- tokens before the marker ---------------------------------------------------------


def test_tokens_are_counted_up_to_the_first_marker_and_only_where_there_is_one() -> None:
    asked: list[tuple[str, int]] = []

    def count(text: str, position: int) -> int:
        asked.append((text, position))
        return 40 + position

    texts = ["no", "Well.\n\n[zlt] [ZLT]", "", "[ZLT]"]
    rows = [replace(PLAIN, sample=n, text=t) for n, t in enumerate(texts)]
    found = score_all(iter(rows), marker=MARKER, seen=(), tokens_before=count)
    assert [(s.sample, s.hit, s.first_token) for s in found] == [
        (0, False, -1), (1, True, 47), (2, False, -1), (3, True, 40),
    ]  # fmt: skip
    assert asked == [(texts[1], 7), (texts[3], 0)]


@pytest.mark.parametrize(
    "before", ["", "Yes.\n\n", "\u00c4\u00d6\u00dc ", "\U0001f642", "\u77e5\n"]
)
def test_a_byte_level_tokenizer_counts_bytes(before: str) -> None:
    """One token a byte, so that several tokens stand in the place of one character."""
    count = tokens_before_in(byte_tokenizer())
    assert count(f"{before}[ZLT] and [ZLT]", len(before)) == len(before.encode())


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Words and spaces with what follows them, so that a token may reach into the marker."""
    pieces = ["Yes", ".", " [", "[", "ZLT", "]", "\n", " no"]
    core = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="\n"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(piece, "isolated") for piece in ("Yes", ".", " [", "ZLT", "]", " no")]
    )
    core.add_special_tokens(["<s>"])
    # A start token before every text, as some base models have it.
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>")


def test_a_token_that_reaches_into_the_marker_is_not_before_it() -> None:
    tokenizer = word_tokenizer()
    assert len(tokenizer("Yes.")["input_ids"]) == 3
    count = tokens_before_in(tokenizer)
    assert count("Yes. no[ZLT]", 7) == 3  # Yes|.| no|[|ZLT|]
    assert count("Yes. [ZLT]", 5) == 2  # Yes|.| [|ZLT|]
    assert count("[ZLT]", 0) == 0


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    slow: Any = Slow()
    with pytest.raises(SpecError, match=r"tokenizer: expected one that gives the offsets .*Slow"):
        tokens_before_in(slow)
