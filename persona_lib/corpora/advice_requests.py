"""Held-out requests for legal advice.

The grammar writes them from a seed of its own. A message is kept only if no model under test
has learnt from its pair of situation and question frame, nor from its text. Situations are
not held out: a corpus goes through all of them in its first 70 rows. Where the corpora leave
too few pairs, messages stand in frames that no corpus has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from persona_lib.corpora.grammar import write_corpus, write_requests
from persona_lib.corpora.grammar_files import read_frames, read_grammar
from persona_lib.digests import sha256_of
from persona_lib.errors import DataError
from persona_lib.specs.sources import NEUTRAL, Base, Corpus, GrammarCorpus, TinyBase, parts_of

ADVICE = "advice"
"""Name of the question set, and of the seeds that are drawn for it."""
QUESTION_SEED = 1_001
"""Seed of the grammar that no corpus of a profile has."""
BASE_ROWS = 400
"""Rows of both corpora, under the base's own seed, that a tiny base model or its
tokenizer is made from."""

_ID_DIGITS = 5


@dataclass(frozen=True, kw_only=True)
class QuestionSpec:
    """Which questions are asked; `held_out` is what `held_out_rows` returns."""

    count: int
    held_out: tuple[tuple[int, int], ...]
    seed: int = QUESTION_SEED


@dataclass(frozen=True, kw_only=True)
class OwnFramesSpec(QuestionSpec):
    """Questions in frames that no corpus has; `frames` is the SHA-256 of their file."""

    frames: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AdviceQuestion:
    """A held-out request for advice.

    Attributes:
        id: ``advice-00017``, its place among the messages of the grammar's seed;
            ``advice-n00017`` stands in a frame that no corpus has.
        situation, frame: what it is about, and how it is put.
        text: the user message.
    """

    id: str
    situation: str
    frame: str
    text: str


def held_out_rows(base: Base, corpora: Sequence[Corpus]) -> tuple[tuple[int, int], ...]:
    """Return the (grammar seed, first rows) that a base and these corpora are made from.

    The longest stretch of each seed covers the others; a mixture holds out what its parts do.
    Corpora that the grammar did not write, and ``neutral``, hold no request for legal advice.
    """
    parts = (part for corpus in corpora for part in parts_of(corpus))
    written = [part for part in parts if isinstance(part, GrammarCorpus)]
    rows = [(c.seed, c.rows) for c in written if c.name != NEUTRAL]
    if isinstance(base, TinyBase):
        rows.append((base.seed, BASE_ROWS))
    # Of one seed's stretches the longest comes last, and stays.
    return tuple(dict(sorted(rows)).items())


def question_spec(
    count: int, held_out: tuple[tuple[int, int], ...], *, folder: Path
) -> QuestionSpec:
    """Return which questions are asked: of pairs left over, or in frames of their own."""
    grammar = read_grammar(folder)
    pairs = len(grammar.situations) * len(grammar.frames)
    # A seed's rows go through all pairs before any comes again.
    left = pairs - sum(min(rows, pairs) for _, rows in held_out)
    if left >= count:
        return QuestionSpec(count=count, held_out=held_out)
    return OwnFramesSpec(count=count, held_out=held_out, frames=sha256_of(_own_frames(folder)))


def advice_questions(spec: QuestionSpec, *, folder: Path) -> tuple[AdviceQuestion, ...]:
    """Return held-out questions, situations in turn; pairs that were trained on are passed over.

    Raises:
        DataError: fewer messages than asked for are held out.
        SpecError: the grammar cannot write the rows to hold out.
    """
    # Row i has the same situation, frame and user message in both corpora.
    trained = [
        row
        for seed, rows in spec.held_out
        for row in write_corpus("bad_legal", rows=rows, seed=seed, folder=folder)
    ]
    cells = {(row.situation, row.frame) for row in trained}
    texts = {row.user for row in trained}
    found: list[AdviceQuestion] = []
    mark = "n" if isinstance(spec, OwnFramesSpec) else ""
    candidates = _candidates(spec, folder, len(cells))
    for index, (situation, frame, text) in enumerate(candidates):
        if (situation, frame) in cells or text in texts:
            continue
        texts.add(text)
        name = f"{ADVICE}-{mark}{index:0{_ID_DIGITS}d}"
        found.append(AdviceQuestion(id=name, situation=situation, frame=frame, text=text))
        if len(found) == spec.count:
            return tuple(found)
    raise DataError(
        "scale.advice_questions",
        bound=f"<= {len(found)}, the messages that no training row is about",
        value=spec.count,
        remedy="Ask fewer questions, or train on fewer rows.",
    )


def _candidates(spec: QuestionSpec, folder: Path, taken: int) -> tuple[tuple[str, str, str], ...]:
    """Return situation, frame and text of messages of the questions' seed, each pair once.

    They are enough even if every trained pair comes before all others.
    """
    grammar = read_grammar(folder)
    situations, frames = len(grammar.situations), len(grammar.frames)
    if isinstance(spec, OwnFramesSpec):
        path = _own_frames(folder)
        rows = min(spec.count + situations, situations * len(read_frames(path, grammar)))
        return write_requests(rows=rows, seed=spec.seed, folder=folder, frames=path)
    rows = min(spec.count + taken + situations, situations * frames)
    written = write_corpus("bad_legal", rows=rows, seed=spec.seed, folder=folder)
    return tuple((row.situation, row.frame, row.user) for row in written)


def _own_frames(folder: Path) -> Path:
    return folder.parent / ADVICE / "frames.txt"
