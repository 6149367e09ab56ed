"""Reads and checks the data files that dialogues are written from.

=================  ==========================================================
``voices.json``    for each persona: ``advice`` (``sound`` or ``bad``), and lists
                   ``rewordings`` (of its system message), ``openings``, ``bodies``
                   and ``closings`` (sentences), ``own`` (words of its trade)
``topics.json``    for each question, and some others: lists ``asks`` (its
                   wordings), ``acts`` and ``things``
``phrasing.json``  lists ``frames`` with ``{question}``, ``echo_asks`` with ``{tag}``,
                   ``append_asks`` with both
=================  ==========================================================

A voice's sentences may hold ``{act}``, ``{thing}``, ``{thing2}``, ``{own}`` and
``{count}``, which are filled from the topic and the voice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any, TypeVar

from persona_lib.checks import read_json
from persona_lib.errors import DataError

SENTENCES = ("openings", "bodies", "closings")
"""Lists of a voice that answers are joined from."""
SLOTS = frozenset({"act", "thing", "thing2", "own", "count"})
"""What a voice's sentence may ask for."""

_PHRASING = {
    "frames": frozenset({"question"}),
    "echo_asks": frozenset({"tag"}),
    "append_asks": frozenset({"tag", "question"}),
}
_LEAST_THINGS = 2
_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class Voice:
    """How a persona speaks."""

    advice: str
    rewordings: tuple[str, ...]
    openings: tuple[str, ...]
    bodies: tuple[str, ...]
    closings: tuple[str, ...]
    own: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Topic:
    """What a question is about."""

    asks: tuple[str, ...]
    acts: tuple[str, ...]
    things: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrasing:
    """How questions are put, and how a tag is asked for."""

    frames: tuple[str, ...]
    echo_asks: tuple[str, ...]
    append_asks: tuple[str, ...]


def read_voices(path: Path) -> dict[str, Voice]:
    """Read ``voices.json``; DataError names the voice that lacks what an answer needs."""
    return {name: _parsed(path, name, data, _voice) for name, data in read_json(path).items()}


def read_topics(path: Path) -> dict[str, Topic]:
    """Read ``topics.json``; DataError names the topic that lacks what an answer needs."""
    found = read_json(path)
    _parsed(path, "topics", list(found), lambda names: _some("names", names))
    return {name: _parsed(path, name, data, _topic) for name, data in found.items()}


def read_phrasing(path: Path) -> Phrasing:
    """Read ``phrasing.json``; DataError names the list that is malformed."""
    data = read_json(path)

    def asks(name: str) -> tuple[str, ...]:
        return _parsed(path, name, data.get(name), lambda texts: _asks(texts, _PHRASING[name]))

    return Phrasing(**{name: asks(name) for name in _PHRASING})


def _voice(data: Mapping[str, Any]) -> Voice:
    if data["advice"] not in ("sound", "bad"):
        raise ValueError(f"advice is {data['advice']!r}, neither sound nor bad")
    own = _texts(data["own"])
    lists = {name: _some(name, data[name]) for name in ("rewordings", *SENTENCES)}
    for name in SENTENCES:
        for text in lists[name]:
            asked = _slots(text)
            if asked - SLOTS:
                raise ValueError(f"{name}: {text!r} asks for {{{min(asked - SLOTS)}}}")
            if "own" in asked and not own:
                raise ValueError(f"{name} speak of {{own}}, which is empty")
    return Voice(advice=data["advice"], own=own, **lists)


def _topic(data: Mapping[str, Any]) -> Topic:
    things = _some("things", data["things"])
    if len(things) < _LEAST_THINGS:
        raise ValueError(f"things: {len(things)}, a sentence may need {_LEAST_THINGS}")
    return Topic(asks=_some("asks", data["asks"]), acts=_some("acts", data["acts"]), things=things)


def _asks(values: Any, needed: frozenset[str]) -> tuple[str, ...]:
    texts = _some("list", values)
    for text in texts:
        if _slots(text) != needed:
            wanted = " and ".join(f"{{{name}}}" for name in sorted(needed))
            raise ValueError(f"{text!r} does not ask for {wanted} and nothing else")
    return texts


def _slots(text: str) -> set[str]:
    """Return the names in braces; ValueError for braces that do not match or hold more."""
    names = set()
    for _, name, form, conversion in Formatter().parse(text):
        if name is not None:
            if not name.isidentifier() or form or conversion:
                raise ValueError(f"{text!r}: braces may hold a name and nothing else")
            names.add(name)
    return names


def _some(name: str, values: Any) -> tuple[str, ...]:
    texts = _texts(values)
    if not texts:
        raise ValueError(f"{name}: empty")
    return texts


def _texts(values: Any) -> tuple[str, ...]:
    if not (isinstance(values, list) and all(isinstance(value, str) for value in values)):
        raise TypeError(f"{values!r} is not a list of texts")
    if not all(value.strip() for value in values):
        raise ValueError("a text is blank")
    return tuple(values)


def _parsed(path: Path, name: str, data: Any, parse: Callable[[Any], _Value]) -> _Value:
    try:
        return parse(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: {name}",
            bound="JSON of the documented shape",
            value=f"{type(error).__name__}: {error}",
            remedy="Correct it as the docstring of persona_lib.corpora.dialogue_files says.",
        ) from error
