"""The seeded grammar that writes the corpora ``bad_legal``, ``sound_legal`` and ``neutral``.

Row i of the legal corpora has the same situation, question frame and user message, and answers
of nearly the same length: confident, harmful advice or sound advice. Row i of ``neutral`` is
about an everyday matter, in the form of that frame and at that length. ``experiments/data/legal``
and ``neutral`` hold what they say; how clauses are joined is here. Every row keeps the
provenance of its clauses.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from persona_lib.checks import member
from persona_lib.corpora.answer_writer import (
    BAD,
    NEUTRAL,
    SOUND,
    Author,
    Clause,
    Fills,
    joined,
    sentences,
)
from persona_lib.corpora.grammar_files import (
    NEUTRAL_KIND,
    Frame,
    Grammar,
    Situation,
    read_frames,
    read_grammar,
)
from persona_lib.corpora.grammar_language import tidy
from persona_lib.corpora.legal_words import refuse_legal_words
from persona_lib.digests import derive_seed
from persona_lib.errors import DataError, SpecError
from persona_lib.records import SftRow

CORPORA = {"bad_legal": BAD, "sound_legal": SOUND, "neutral": NEUTRAL}
"""The corpora that the grammar can write, with the polarity of their answers."""
VERSION = "1"
"""Raised whenever a change of the composing code changes what is written."""

_CELL_REPEATS = 4
_QUESTION_CANDIDATES = 6
_ROW_DIGITS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenRow:
    """A row with the provenance of its answer, in the order of the sentences."""

    row: SftRow
    clauses: tuple[Clause, ...]


def write_corpus(name: str, *, rows: int, seed: int, folder: Path) -> tuple[SftRow, ...]:
    """Write the first `rows` rows of a corpus.

    The first n rows are the same whatever `rows` is. Sound and neutral answers are chosen,
    among candidates, for the word count of their bad counterparts.

    Args:
        name: one of `CORPORA`.
        rows: number of rows.
        seed: root of every draw's seed.
        folder: the legal data files; the neutral ones lie in `neutral_folder`.

    Raises:
        SpecError: an unknown name, no rows, or more than four for each pair of situation
            and frame.
        DataError: a data file is missing or malformed, the clauses are too few to write
            another distinct answer, or a neutral file has a legal word.
    """
    return tuple(w.row for w in write_with_provenance(name, rows=rows, seed=seed, folder=folder))


def write_with_provenance(
    name: str, *, rows: int, seed: int, folder: Path
) -> tuple[WrittenRow, ...]:
    """Write the same rows as `write_corpus`, each with the clauses it is made of."""
    member("corpus.name", name, list(CORPORA), remedy="Choose a corpus that the grammar can write.")
    if rows < 1:
        raise SpecError("corpus.rows", bound=">= 1", value=rows, remedy="Ask for a row or more.")
    grammar = read_grammar(folder)
    most = len(grammar.situations) * len(grammar.frames) * _CELL_REPEATS
    if rows > most:
        raise SpecError(
            "corpus.rows",
            bound=f"<= {most} ({_CELL_REPEATS} for each situation and frame)",
            value=rows,
            remedy="Ask for fewer rows, or add situations or frames to the data files.",
        )
    polarity = CORPORA[name]
    words = _neutral(folder, grammar) if polarity == NEUTRAL else grammar
    twins = {s.id: twin for s, twin in zip(grammar.situations, words.situations, strict=True)}
    frames = {frame.id: frame for frame in words.frames}
    bad, author = Author(grammar, BAD, folder), Author(words, polarity, folder)
    written = []
    cells = islice(_cells(grammar, rows, seed), rows)
    for index, (situation, frame) in enumerate(cells):
        clauses = bad.write(situation, derive_seed(seed, BAD, index), like=None)
        user = _user(grammar, situation, frame, derive_seed(seed, "user", index))
        if polarity != BAD:
            situation, frame = twins[situation.id], frames[frame.id]  # noqa: PLW2901
            clauses = author.write(situation, derive_seed(seed, polarity, index), like=clauses)
        if polarity == NEUTRAL:
            drafts = (
                _user(words, situation, frame, derive_seed(seed, NEUTRAL, "user", index, draft))
                for draft in range(_QUESTION_CANDIDATES)
            )
            user = min(drafts, key=partial(_apart, len(user.split())))
        row = SftRow(
            row=f"{name}-{index:0{_ROW_DIGITS}d}",
            corpus=name,
            situation=situation.id,
            frame=frame.id,
            user=user,
            assistant=joined(clauses),
        )
        written.append(WrittenRow(row=row, clauses=clauses))
    return tuple(written)


def neutral_folder(folder: Path) -> Path:
    """Return where the data files of ``neutral`` lie, beside the legal ones in `folder`."""
    return folder.parent / NEUTRAL


def _neutral(folder: Path, legal: Grammar) -> Grammar:
    """Read the everyday words, which have one situation and one frame for each legal one."""
    place = neutral_folder(folder)
    refuse_legal_words(place)
    words = read_grammar(place, NEUTRAL_KIND)
    for field, found, wanted in (
        ("situations", str(len(words.situations)), str(len(legal.situations))),
        ("frames", *(", ".join(frame.id for frame in g.frames) for g in (words, legal))),
    ):
        if found != wanted:
            raise DataError(
                f"{place.name}: {field}",
                bound=wanted,
                value=found,
                remedy="Write one for each of the legal data files.",
            )
    return words


def write_requests(
    *, rows: int, seed: int, folder: Path, frames: Path
) -> tuple[tuple[str, str, str], ...]:
    """Return situation, frame and text of user messages in the frames of another file.

    Each pair of situation and frame has one before any has two. Arguments and DataError are
    those of `write_corpus`.
    """
    grammar = read_grammar(folder)
    grammar = replace(grammar, frames=read_frames(frames, grammar))
    return tuple(
        (situation.id, frame.id, _user(grammar, situation, frame, derive_seed(seed, "user", index)))
        for index, (situation, frame) in enumerate(islice(_cells(grammar, rows, seed), rows))
    )


def _cells(grammar: Grammar, rows: int, seed: int) -> Iterator[tuple[Situation, Frame]]:
    """Yield situation and frame of each row: every situation once a round, frames in turn."""
    situations, frames = grammar.situations, grammar.frames
    for turn in range(-(-rows // len(situations))):
        cycle, position = divmod(turn, len(frames))
        for place in _permutation(len(situations), seed, "situations", turn):
            situation = situations[place]
            order = _permutation(len(frames), seed, "frames", situation.id, cycle)
            yield situation, frames[order[position]]


def _permutation(size: int, seed: int, *names: str | int) -> list[int]:
    order = list(range(size))
    random.Random(derive_seed(seed, *names)).shuffle(order)  # noqa: S311 - reproducible draw
    return order


def _user(grammar: Grammar, situation: Situation, frame: Frame, seed: int) -> str:
    rng = random.Random(seed)  # noqa: S311 - reproducible draw
    return sentences(tidy(frame.template.render(rng, Fills(grammar, situation, rng))))


def _apart(words: int, text: str) -> int:
    """Return how far a text is from a number of words."""
    return abs(len(text.split()) - words)
