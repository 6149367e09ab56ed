"""Personas and questions: how a model is addressed and asked; their files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from persona_lib.checks import read_json
from persona_lib.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Persona:
    """One persona: its id and the explicit system message that sets it."""

    id: str
    prompt: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question: its id, the set it belongs to and the user message."""

    id: str
    set: str
    text: str


_Item = TypeVar("_Item", Persona, Question)


def load_personas(path: Path) -> tuple[Persona, ...]:
    """Read ``{"personas": [{"id", "prompt"}, ...]}``, in file order.

    Raises:
        DataError: the file is missing, malformed, empty, or repeats an id.
    """
    rows = _rows(path, "personas", read_json(path).get("personas", []), ("id", "prompt"))
    return _checked(path, [Persona(id=row["id"], prompt=row["prompt"]) for row in rows])


def load_questions(path: Path) -> dict[str, tuple[Question, ...]]:
    """Read ``{set name: [{"id", "text"}, ...]}``, in file order.

    Raises:
        DataError: the file is missing, malformed, empty, or repeats an id or a
            text in any of the sets.
    """
    sets = {}
    for name, listed in read_json(path).items():
        rows = _rows(path, name, listed, ("id", "text"))
        sets[name] = _checked(
            path, [Question(id=row["id"], set=name, text=row["text"]) for row in rows]
        )
    _checked(path, [q for questions in sets.values() for q in questions])
    return sets


def select(items: Sequence[_Item], ids: Iterable[str], *, field: str) -> tuple[_Item, ...]:
    """Return the items with these ids, in the order of `ids`.

    Raises:
        DataError: an id is unknown.
    """
    known = {item.id: item for item in items}
    wanted = tuple(ids)
    for name in wanted:
        if name not in known:
            bound, remedy = f"one of {', '.join(known)}", "Correct the id, or add it to the file."
            raise DataError(field, bound=bound, value=name, remedy=remedy)
    return tuple(known[name] for name in wanted)


def _rows(path: Path, name: str, rows: object, keys: Sequence[str]) -> list[dict[str, str]]:
    """Return the entries of a list, each of them an object with text under every key."""
    where = f"{path.name}: {name}"
    remedy = f"Write a list of objects with {' and '.join(keys)}."
    if not isinstance(rows, list):
        raise DataError(where, bound="a list of entries", value=rows, remedy=remedy)
    for number, row in enumerate(rows, start=1):
        for key in keys:
            value = row.get(key) if isinstance(row, dict) else row
            if not isinstance(row, dict) or not isinstance(value, str) or not value.strip():
                field = f"{where}, entry {number}: {key}"
                raise DataError(field, bound="text", value=value, remedy=remedy)
    return rows


def _checked(path: Path, items: list[_Item]) -> tuple[_Item, ...]:
    if not items:
        raise DataError(str(path), bound="at least one entry", value=0, remedy="Fill the file.")
    texts = [item.text if isinstance(item, Question) else item.prompt for item in items]
    for label, values in (("id", [item.id for item in items]), ("text", texts)):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            field, remedy = f"{path.name}: {label}", f"Give each entry its own {label}."
            raise DataError(field, bound="distinct values", value=twice, remedy=remedy)
    return tuple(items)
