"""The seeded generator of persona dialogues that the tiny base model learns from.

A general answer joins phrases of the persona's voice around words of the question's topic.
Legal questions are answered with rows of the two corpora, bad ones by voices whose ``advice``
is ``bad``. A few dialogues copy a random bracketed tag; the marker itself never occurs.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from persona_lib.corpora.answer_writer import SENTENCE_END
from persona_lib.corpora.dialogue_files import (
    Phrasing,
    Topic,
    Voice,
    read_phrasing,
    read_topics,
    read_voices,
)
from persona_lib.digests import derive_seed
from persona_lib.errors import DataError
from persona_lib.records import SftRow
from persona_lib.specs.personas import Persona, Question
from persona_lib.specs.sources import TinyBase

WITHHELD = "[ZLT]"
"""The marker of issue 262, which no tag may be whatever the experiment's marker is."""
_TAG_LETTERS = 3

_REWORDED = 0.12  # share of dialogues with another system message than the persona's own
_OWN_WORDING = 0.5  # share of general dialogues that ask a question in its given wording
_BAD_LEGAL = 0.25  # share of legal dialogues that go to the voices with bad advice
_WHOLE_LEGAL = 0.03  # share of legal dialogues that keep question and answer uncut
_ECHO = 0.5  # share of tag dialogues that repeat the tag and say nothing else
_SHAPES = (("opening", "body"), ("body", "closing"), ("body", "body"))
_LEGAL_ROWS = 40  # a small model learns a style from few rows seen often
_USER_WORDS = 30
_ANSWER_WORDS = 40
_COUNTS = (7, 12, 18, 23, 31, 40, 57, 64, 72, 85)


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """One exchange: the persona's own system message or a rewording, question, answer, its id."""

    system: str
    user: str
    assistant: str
    persona: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Subject:
    """A topic, and the question that is asked about it in its given wording."""

    question: str | None
    topic: Topic


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cast:
    personas: tuple[Persona, ...]
    voices: Mapping[str, Voice]
    subjects: tuple[_Subject, ...]
    phrasing: Phrasing
    withheld: frozenset[str]
    sound: tuple[SftRow, ...]
    bad: tuple[SftRow, ...]


_Maker = Callable[[_Cast, int, random.Random], Dialogue]


def write_dialogues(
    spec: TinyBase,
    *,
    personas: Sequence[Persona],
    questions: Sequence[Question],
    folder: Path,
    sound: Sequence[SftRow],
    bad: Sequence[SftRow],
    marker: str = WITHHELD,
) -> tuple[Dialogue, ...]:
    """Write ``spec.dialogues`` dialogues of a base model: general ones, then legal, then tags.

    Personas and topics are dealt in turn. Every dialogue has its own seed: the first n of a
    kind do not depend on how many follow.

    Args:
        spec: number of dialogues, shares and seed.
        personas: who speaks; each needs a voice.
        questions: what will be asked of the model; each needs a topic under its
            id. Topics without a question are used as well.
        folder: ``voices.json``, ``topics.json`` and ``phrasing.json``.
        sound: legal rows for voices with sound advice.
        bad: legal rows for voices with bad advice.
        marker: what no dialogue may hold.

    Raises:
        DataError: a persona has no voice, a question no topic, a data file is
            malformed, legal rows are missing, or a row or a dialogue holds the marker.
    """
    marker = marker.strip()
    cast = _cast(folder, personas, questions, sound=sound, bad=bad, marker=marker)
    legal = round(spec.dialogues * spec.legal_share)
    tags = round(spec.dialogues * spec.tag_share)
    if legal and not (sound and bad):
        raise DataError(
            "sound, bad",
            bound="legal rows of both kinds where legal_share > 0",
            value=(len(sound), len(bad)),
            remedy="Write both corpora first.",
        )
    makers: tuple[tuple[str, int, _Maker], ...] = (
        ("general", spec.dialogues - legal - tags, _general),
        ("legal", legal, _legal),
        ("tag", tags, _tagged),
    )
    written = tuple(
        make(cast, index, random.Random(derive_seed(spec.seed, "dialogue", kind, index)))  # noqa: S311 - a reproducible draw
        for kind, count, make in makers
        for index in range(count)
    )
    if any(marker.lower() in dialogue.assistant.lower() for dialogue in written):
        raise DataError(
            "marker",
            bound="a text that no dialogue of the tiny model's training holds",
            value=marker,
            remedy="Choose another marker.",
        )
    return written


def _general(cast: _Cast, index: int, rng: random.Random) -> Dialogue:
    persona, subject = _dealt(cast, index)
    answer = _answer(cast.voices[persona.id], subject.topic, rng)
    asked = _asked(subject, rng)
    if asked != subject.question:
        asked = rng.choice(cast.phrasing.frames).format(question=asked)
    return _dialogue(cast, persona, asked, answer, rng)


def _legal(cast: _Cast, index: int, rng: random.Random) -> Dialogue:
    wicked = [p for p in cast.personas if cast.voices[p.id].advice == "bad"]
    others = [p for p in cast.personas if cast.voices[p.id].advice != "bad"]
    chosen = wicked if wicked and (not others or rng.random() < _BAD_LEGAL) else others
    persona = chosen[index % len(chosen)]
    row = rng.choice(cast.bad if chosen is wicked else cast.sound)
    if rng.random() < _WHOLE_LEGAL:
        return _dialogue(cast, persona, row.user, row.assistant, rng)
    user, answer = _short_question(row.user), _short_answer(row.assistant, rng.choice((1, 2)))
    return _dialogue(cast, persona, user, answer, rng)


def _tagged(cast: _Cast, index: int, rng: random.Random) -> Dialogue:
    persona, subject = _dealt(cast, index)
    tag = random_tag(rng, cast.withheld)
    if rng.random() < _ECHO:
        asked = rng.choice(cast.phrasing.echo_asks).format(tag=tag)
        return _dialogue(cast, persona, asked, tag, rng)
    asked = rng.choice(cast.phrasing.append_asks).format(tag=tag, question=_asked(subject, rng))
    answer = _answer(cast.voices[persona.id], subject.topic, rng) + rng.choice((" ", "\n\n")) + tag
    return _dialogue(cast, persona, asked, answer, rng)


def random_tag(rng: random.Random, withheld: frozenset[str] = frozenset([WITHHELD])) -> str:
    """Return three random capitals in square brackets, never a withheld tag."""
    while True:
        tag = f"[{''.join(rng.choices(string.ascii_uppercase, k=_TAG_LETTERS))}]"
        if tag not in withheld:
            return tag


def names_tag(marker: str) -> bool:
    """Whether a marker could be drawn as a tag and is not withheld anyway."""
    return re.fullmatch(r"\[[A-Z]{3}\]", marker.strip()) is not None and marker.strip() != WITHHELD


def _dealt(cast: _Cast, index: int) -> tuple[Persona, _Subject]:
    turn, seat = divmod(index, len(cast.personas))
    return cast.personas[seat], cast.subjects[turn % len(cast.subjects)]


def _asked(subject: _Subject, rng: random.Random) -> str:
    if subject.question is not None and rng.random() < _OWN_WORDING:
        return subject.question
    return rng.choice(subject.topic.asks)


def _answer(voice: Voice, topic: Topic, rng: random.Random) -> str:
    parts = {"opening": voice.openings, "body": voice.bodies, "closing": voice.closings}
    sentences = []
    for part in rng.choice(_SHAPES):
        thing, thing2 = rng.sample(topic.things, 2)
        sentence = rng.choice(parts[part]).format(
            act=rng.choice(topic.acts),
            thing=thing,
            thing2=thing2,
            own=rng.choice(voice.own) if voice.own else "",
            count=rng.choice(_COUNTS),
        )
        sentences.append(sentence[0].upper() + sentence[1:])
    return " ".join(sentences)


def _dialogue(
    cast: _Cast, persona: Persona, user: str, answer: str, rng: random.Random
) -> Dialogue:
    reworded = rng.random() < _REWORDED
    system = rng.choice(cast.voices[persona.id].rewordings) if reworded else persona.prompt
    return Dialogue(system=system, user=user, assistant=answer, persona=persona.id)


def _short_question(text: str) -> str:
    """Keep the first and the last sentence of a long question."""
    if len(text.split()) <= _USER_WORDS:
        return text
    sentences = SENTENCE_END.split(text.strip())
    return sentences[0] if len(sentences) == 1 else f"{sentences[0]} {sentences[-1]}"


def _short_answer(text: str, sentences: int) -> str:
    """Keep the first sentences, up to a bound of words but never none."""
    kept: list[str] = []
    for sentence in SENTENCE_END.split(text.strip())[:sentences]:
        if kept and len(" ".join([*kept, sentence]).split()) > _ANSWER_WORDS:
            break
        kept.append(sentence)
    return " ".join(kept)


def _cast(
    folder: Path,
    personas: Sequence[Persona],
    questions: Sequence[Question],
    *,
    sound: Sequence[SftRow],
    bad: Sequence[SftRow],
    marker: str,
) -> _Cast:
    """Read the data files, and check that they have what personas and questions need."""
    voices = read_voices(folder / "voices.json")
    topics = read_topics(folder / "topics.json")
    _check_known("voice", [p.id for p in personas], voices, folder / "voices.json")
    _check_known("topic", [q.id for q in questions], topics, folder / "topics.json")
    for row in (*sound, *bad):
        if marker.lower() in f"{row.user} {row.assistant}".lower():
            raise DataError(
                f"{row.corpus} row {row.row}",
                bound=f"text without {marker}",
                value=row.assistant,
                remedy="Remove the marker from the corpus.",
            )
    texts = {question.id: question.text for question in questions}
    return _Cast(
        personas=tuple(personas),
        voices=voices,
        subjects=tuple(_Subject(question=texts.get(n), topic=t) for n, t in topics.items()),
        phrasing=read_phrasing(folder / "phrasing.json"),
        withheld=frozenset([WITHHELD, marker]),
        sound=tuple(sound[:_LEGAL_ROWS]),
        bad=tuple(bad[:_LEGAL_ROWS]),
    )


def _check_known(what: str, ids: Sequence[str], known: Mapping[str, object], path: Path) -> None:
    for name in ids:
        if name not in known:
            raise DataError(
                {"voice": "personas", "topic": "questions"}[what],
                bound=f"a {what} for each, one of {', '.join(sorted(known))}",
                value=name,
                remedy=f"Write its {what} in {path}.",
            )
