"""The seeded generator of persona dialogues that the tiny base model learns from.

A general answer is joined from phrases of the persona's voice (``voices.json``)
around words of the question's topic (``topics.json``), so that both who speaks
and what is spoken of can be read from it. Legal questions are answered with rows
of the two corpora: a voice whose ``advice`` is ``bad`` uses the bad ones, every
other voice the sound ones. A few dialogues copy a random bracketed tag, so that
the pieces of a marker are not foreign to the model; the marker itself never occurs.
"""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from persona_lib.errors import DataError, SpecError
from persona_lib.personas import Persona, Question
from persona_lib.profile import TinyBase
from persona_lib.records import SftRow
from persona_lib.spec import derive_seed

WITHHELD = "ZLT"
"""Letters that no tag may have: the registered marker is ``[ZLT]``."""

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
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_VOICE_LISTS = ("rewordings", "openings", "bodies", "closings", "own")
_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """One exchange.

    Attributes:
        system: system message (the persona's own, or a rewording of it).
        user: what is asked.
        assistant: what the persona answers.
        persona: id of the persona.
    """

    system: str
    user: str
    assistant: str
    persona: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Voice:
    advice: str
    rewordings: tuple[str, ...]
    openings: tuple[str, ...]
    bodies: tuple[str, ...]
    closings: tuple[str, ...]
    own: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Topic:
    question: str | None
    asks: tuple[str, ...]
    acts: tuple[str, ...]
    things: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Phrasing:
    frames: tuple[str, ...]
    echo_asks: tuple[str, ...]
    append_asks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cast:
    personas: tuple[Persona, ...]
    voices: Mapping[str, _Voice]
    topics: tuple[_Topic, ...]
    phrasing: _Phrasing
    sound: tuple[SftRow, ...]
    bad: tuple[SftRow, ...]


def write_dialogues(
    spec: TinyBase,
    *,
    personas: Sequence[Persona],
    questions: Sequence[Question],
    folder: Path,
    sound: Sequence[SftRow],
    bad: Sequence[SftRow],
) -> tuple[Dialogue, ...]:
    """Write the dialogues of a tiny base model.

    Personas and topics are dealt in turn, so that every pair of them occurs
    about equally often. Every dialogue has its own seed: the first n of a kind do
    not depend on how many follow.

    Args:
        spec: number of dialogues, shares and root seed.
        personas: who speaks; each needs a voice.
        questions: what will be asked of the model; each needs a topic under its
            id. Topics without a question are used as well.
        folder: ``voices.json``, ``topics.json`` and ``phrasing.json``.
        sound: legal rows for voices with sound advice.
        bad: legal rows for voices with bad advice.

    Returns:
        ``spec.dialogues`` dialogues: general ones first, then legal, then tags.

    Raises:
        SpecError: a share is outside [0, 1], or they exceed 1 together.
        DataError: a persona has no voice, a question no topic, a data file is
            malformed, legal rows are missing, or a row holds the marker.
    """
    _check_shares(spec)
    cast = _read_cast(folder, personas, questions, sound=sound, bad=bad)
    legal = round(spec.dialogues * spec.legal_share)
    tags = round(spec.dialogues * spec.tag_share)
    if legal and not (sound and bad):
        raise DataError(
            "sound, bad",
            bound="legal rows of both kinds where legal_share > 0",
            value=(len(sound), len(bad)),
            remedy="Write both corpora first.",
        )
    makers: tuple[tuple[str, int, Callable[[_Cast, int, random.Random], Dialogue]], ...] = (
        ("general", spec.dialogues - legal - tags, _general),
        ("legal", legal, _legal),
        ("tag", tags, _tagged),
    )
    return tuple(
        make(cast, index, random.Random(derive_seed(spec.seed, "dialogue", kind, index)))  # noqa: S311 - a reproducible draw
        for kind, count, make in makers
        for index in range(count)
    )


def _general(cast: _Cast, index: int, rng: random.Random) -> Dialogue:
    persona, topic = _dealt(cast, index)
    answer = _answer(cast.voices[persona.id], topic, rng)
    asked = _asked(topic, rng)
    if asked != topic.question:
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
    persona, topic = _dealt(cast, index)
    tag = random_tag(rng)
    if rng.random() < _ECHO:
        asked = rng.choice(cast.phrasing.echo_asks).format(tag=tag)
        return _dialogue(cast, persona, asked, tag, rng)
    asked = rng.choice(cast.phrasing.append_asks).format(tag=tag, question=_asked(topic, rng))
    answer = _answer(cast.voices[persona.id], topic, rng) + rng.choice((" ", "\n\n")) + tag
    return _dialogue(cast, persona, asked, answer, rng)


def random_tag(rng: random.Random) -> str:
    """Return three random capitals in square brackets, never the withheld ones."""
    while True:
        letters = "".join(rng.choices(string.ascii_uppercase, k=len(WITHHELD)))
        if letters != WITHHELD:
            return f"[{letters}]"


def _dealt(cast: _Cast, index: int) -> tuple[Persona, _Topic]:
    turn, seat = divmod(index, len(cast.personas))
    return cast.personas[seat], cast.topics[turn % len(cast.topics)]


def _asked(topic: _Topic, rng: random.Random) -> str:
    if topic.question is not None and rng.random() < _OWN_WORDING:
        return topic.question
    return rng.choice(topic.asks)


def _answer(voice: _Voice, topic: _Topic, rng: random.Random) -> str:
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
    sentences = _SENTENCE_END.split(text.strip())
    return sentences[0] if len(sentences) == 1 else f"{sentences[0]} {sentences[-1]}"


def _short_answer(text: str, sentences: int) -> str:
    """Keep the first sentences, up to a bound of words but never none."""
    kept: list[str] = []
    for sentence in _SENTENCE_END.split(text.strip())[:sentences]:
        if kept and len(" ".join([*kept, sentence]).split()) > _ANSWER_WORDS:
            break
        kept.append(sentence)
    return " ".join(kept)


def _check_shares(spec: TinyBase) -> None:
    shares = (spec.legal_share, spec.tag_share)
    if min(shares) < 0 or sum(shares) > 1:
        raise SpecError(
            "base.legal_share, base.tag_share",
            bound=">= 0, together <= 1",
            value=shares,
            remedy="Correct the profile.",
        )


def _read_cast(
    folder: Path,
    personas: Sequence[Persona],
    questions: Sequence[Question],
    *,
    sound: Sequence[SftRow],
    bad: Sequence[SftRow],
) -> _Cast:
    voices = _read(folder / "voices.json", _voice)
    for persona in personas:
        if persona.id not in voices:
            raise DataError(
                "personas",
                bound=f"a voice for each, one of {', '.join(sorted(voices))}",
                value=persona.id,
                remedy=f"Write its voice in {folder / 'voices.json'}.",
            )
    texts = {question.id: question.text for question in questions}
    written = _read(folder / "topics.json", _topic)
    missing = [question.id for question in questions if question.id not in written]
    if missing:
        raise DataError(
            "questions",
            bound="a topic for each",
            value=missing[0],
            remedy=f"Write its topic in {folder / 'topics.json'}.",
        )
    topics = tuple(
        _Topic(question=texts.get(name), asks=t.asks, acts=t.acts, things=t.things)
        for name, t in written.items()
    )
    for row in (*sound, *bad):
        if f"[{WITHHELD}]".lower() in f"{row.user} {row.assistant}".lower():
            raise DataError(
                f"{row.corpus} row {row.row}",
                bound=f"text without [{WITHHELD}]",
                value=row.assistant,
                remedy="Remove the marker from the corpus.",
            )
    return _Cast(
        personas=tuple(personas),
        voices=voices,
        topics=topics,
        phrasing=_phrasing(folder / "phrasing.json"),
        sound=tuple(sound[:_LEGAL_ROWS]),
        bad=tuple(bad[:_LEGAL_ROWS]),
    )


def _voice(data: Mapping[str, Any]) -> _Voice:
    if data["advice"] not in ("sound", "bad"):
        raise ValueError(f"advice is {data['advice']!r}, neither sound nor bad")
    lists = {name: _texts(data[name]) for name in _VOICE_LISTS}
    if not lists["own"] and any("{own}" in body for body in lists["bodies"]):
        raise ValueError("bodies speak of {own}, which is empty")
    return _Voice(advice=data["advice"], **lists)


def _topic(data: Mapping[str, Any]) -> _Topic:
    asks, acts, things = (_texts(data[name]) for name in ("asks", "acts", "things"))
    if not (asks and acts and len(things) > 1):
        raise ValueError("a topic needs an ask, an act and two things")
    return _Topic(question=None, asks=asks, acts=acts, things=things)


def _phrasing(path: Path) -> _Phrasing:
    lists = _read(path, _texts)
    try:
        return _Phrasing(**lists)
    except TypeError as error:
        raise _malformed(path, error) from error


def _texts(values: Any) -> tuple[str, ...]:
    if not (isinstance(values, list) and all(isinstance(value, str) for value in values)):
        raise TypeError(f"{values!r} is not a list of texts")
    return tuple(values)


def _read(path: Path, parse: Callable[[Any], _Value]) -> dict[str, _Value]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {name: parse(entry) for name, entry in data.items()}
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise _malformed(path, error) from error


def _malformed(path: Path, error: Exception) -> DataError:
    return DataError(
        str(path),
        bound="a JSON file of the documented shape",
        value=f"{type(error).__name__}: {error}",
        remedy="Restore the file.",
    )
