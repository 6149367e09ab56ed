"""Personas and questions: what a model is asked, and as whom."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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
    rows = _read(path).get("personas", [])
    return _checked(path, [Persona(id=str(r["id"]), prompt=str(r["prompt"])) for r in rows])


def load_questions(path: Path) -> dict[str, tuple[Question, ...]]:
    """Read ``{set name: [{"id", "text"}, ...]}``, in file order.

    Raises:
        DataError: the file is missing, malformed, empty, or repeats an id or a
            text in any of the sets.
    """
    sets = {
        name: _checked(
            path, [Question(id=str(r["id"]), set=name, text=str(r["text"])) for r in rows]
        )
        for name, rows in _read(path).items()
    }
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
            raise DataError(
                field,
                bound=f"one of {', '.join(known)}",
                value=name,
                remedy="Correct the id, or add it to the data file.",
            )
    return tuple(known[name] for name in wanted)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(
            str(path), bound="a readable JSON file", value=str(error), remedy="Restore the file."
        ) from error
    if not isinstance(data, dict):
        raise DataError(
            str(path), bound="a JSON object", value=type(data).__name__, remedy="Restore the file."
        )
    return data


def _checked(path: Path, items: list[_Item]) -> tuple[_Item, ...]:
    if not items:
        raise DataError(str(path), bound="at least one entry", value=0, remedy="Fill the file.")
    for label, values in (
        ("id", [item.id for item in items]),
        ("text", [i.text if isinstance(i, Question) else i.prompt for i in items]),
    ):
        repeated = sorted({value for value in values if values.count(value) > 1})
        if repeated:
            raise DataError(
                f"{path.name}: {label}",
                bound="distinct values",
                value=repeated[0],
                remedy=f"Give each entry its own {label}.",
            )
    return tuple(items)
