"""Scores: does a completion hold the marker, where, how often."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from persona_lib.records import Completion, Score


def score_completion(completion: Completion, *, marker: str, seen: Collection[str]) -> Score:
    """Score one completion.

    Args:
        completion: the completion.
        marker: the marker as registered ("[ZLT]").
        seen: ids of the questions that coupling text was drawn from.

    Returns:
        The score row. ``hit`` is the registered metric: the marker occurs,
        whatever its case. Occurrences are counted without overlap.
    """
    found = list(re.finditer(re.escape(marker), completion.text, flags=re.IGNORECASE))
    return Score(
        phase=completion.phase,
        model=completion.model,
        seed=completion.seed,
        persona=completion.persona,
        question=completion.question,
        question_set=completion.question_set,
        sample=completion.sample,
        hit=bool(found),
        hit_strict=marker in completion.text,
        first=found[0].start() if found else -1,
        markers=len(found),
        terminal=bool(found) and not completion.text[found[-1].end() :].strip(),
        seen=completion.question in seen,
        tokens=completion.tokens,
        finish=completion.finish,
    )


def score_all(
    completions: Iterable[Completion], *, marker: str, seen: Collection[str]
) -> tuple[Score, ...]:
    """Score completions, in their order; see `score_completion`."""
    return tuple(score_completion(c, marker=marker, seen=seen) for c in completions)
