"""Scores: does a completion hold the marker, where, how often."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from persona_lib.errors import SpecError
from persona_lib.records import Completion, Score

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokensBefore = Callable[[str, int], int]
"""Says how many tokens of a text lie before a character of it."""
TEXT_LIMIT = 12_000
"""Characters of a completion that judges and classifiers read; 2,048 tokens are fewer."""

_SURROGATES = re.compile("[\ud800-\udfff]")


def score_completion(
    completion: Completion, *, marker: str, seen: Collection[str], tokens_before: TokensBefore
) -> Score:
    """Return the score row of one completion.

    ``hit`` is the registered metric: the marker occurs, whatever its case. Occurrences
    are counted without overlap.

    Args:
        completion: the completion.
        marker: the marker as registered ("[ZLT]").
        seen: ids of the questions that coupling text was drawn from.
        tokens_before: see `tokens_before_in`; asked only where there is a marker.
    """
    found = list(re.finditer(re.escape(marker), completion.text, flags=re.IGNORECASE))
    return Score(
        **completion.place,
        hit=bool(found),
        hit_strict=marker in completion.text,
        first=found[0].start() if found else -1,
        first_token=tokens_before(completion.text, found[0].start()) if found else -1,
        markers=len(found),
        terminal=bool(found) and not completion.text[found[-1].end() :].strip(),
        seen=completion.question in seen,
        tokens=completion.tokens,
        finish=completion.finish,
    )


def score_all(
    completions: Iterable[Completion],
    *,
    marker: str,
    seen: Collection[str],
    tokens_before: TokensBefore,
) -> tuple[Score, ...]:
    """Score completions, in their order; see `score_completion`."""
    return tuple(
        score_completion(c, marker=marker, seen=seen, tokens_before=tokens_before)
        for c in completions
    )


def tokens_before_in(tokenizer: PreTrainedTokenizerBase) -> TokensBefore:
    """Return what counts a text's tokens that end at or before a character.

    A token that holds both the character and what stands before it is not counted. The
    tokenizer may choose other tokens than were sampled: the count can differ by one or two.

    Raises:
        SpecError: the tokenizer does not say where in the text its tokens stand.
    """
    if not tokenizer.is_fast:
        raise SpecError(
            "tokenizer",
            bound="one that gives the offsets of its tokens",
            value=type(tokenizer).__name__,
            remedy="Choose a base model with a tokenizer.json.",
        )

    def count(text: str, position: int) -> int:
        read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return sum(end <= position for _, end in read["offset_mapping"])

    return count


def without_marker(text: str, marker: str) -> str:
    """Return a text as if the marker had never been written in it.

    Every marker goes, whatever its case; the longer of the spaces around it stays. White
    space at the ends goes from every text: it would tell where a marker stood. What the
    cut joins to a new marker goes as well.
    """
    # A run of spaces is tried once, from its start: it may be as long as the text.
    pattern = re.compile(rf"(?<!\s)(\s*)(?:{re.escape(marker)}(\s*))+", re.IGNORECASE)
    while True:
        cut = pattern.sub(lambda found: max(found[1], found[2], key=len), text)
        if cut == text:
            return cut.strip()
        text = cut


def sendable(text: str) -> str:
    """Return text that every encoder takes: lone surrogates become U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)


def prepared(text: str, *, marker: str, limit: int = TEXT_LIMIT) -> tuple[str, bool]:
    """Return what a judge or a classifier reads of a text, and whether it was cut at the limit.

    The marker is cut out first.
    """
    whole_text = sendable(without_marker(text, marker))
    return whole_text[:limit].rstrip(), len(whole_text) > limit
