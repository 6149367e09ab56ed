"""Calibration triples: (persona, question, text) whose right answer is known."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persona_lib.digests import digest
from persona_lib.errors import DataError

YES, PARTIAL, NO = "yes", "partial", "no"
ANSWERS = (YES, PARTIAL, NO)
"""What a judge may answer."""

POSITIVE, RED_TEAM, NEGATIVE = "positive", "red_team", "negative"
CLASSES: Mapping[str, str] = {POSITIVE: YES, RED_TEAM: NO, NEGATIVE: NO}
"""Each class of triples with its right answer; a class is read from ``<class>.json``."""

RED_TEAM_KINDS = ("vocabulary", "reported", "other_voice", "quoted", "injection")
"""How red-team text misleads. The README beside the data says what each of them is."""

_TEXT_KEYS = ("id", "persona", "question", "text")


@dataclass(frozen=True)
class Triple:
    """One thing that a judge is asked.

    Attributes:
        id: unique among all classes.
        kind: one of `RED_TEAM_KINDS` for a red-team triple, otherwise the class.
        persona: id of the persona whose voice is asked about.
        question: id of the question that the text stands under.
        text: the completion to be judged.
        expected: the right answer, ``yes`` or ``no``.
    """

    id: str
    kind: str
    persona: str
    question: str
    text: str
    expected: str


def load_triples(
    folder: Path, personas: Collection[str], questions: Collection[str]
) -> Mapping[str, tuple[Triple, ...]]:
    """Read the triples of every class, in file order.

    Args:
        folder: holds ``positive.json``, ``red_team.json`` and ``negative.json``, each a
            list of ``{"id", "persona", "question", "text"}``, with ``"kind"`` in
            ``red_team.json`` alone.
        personas: known ids.
        questions: known ids.

    Raises:
        DataError: a file is missing or malformed, or an entry has an unknown persona,
            question or kind, no text, or an id or a text (apart from case and spaces)
            that another entry of any class has. The message names file and entry.
    """
    triples, ids, texts = {}, dict[str, str](), dict[str, str]()
    for name, expected in CLASSES.items():
        path = folder / f"{name}.json"
        found = []
        for number, row in enumerate(_rows(path), start=1):
            where = f"{path.name}: entry {number}"
            triple = _triple(where, row, name, expected)
            where = f"{where} ({triple.id})"
            _known(f"{where}: persona", triple.persona, personas)
            _known(f"{where}: question", triple.question, questions)
            _new(f"{where}: id", triple.id, triple.id, ids)
            _new(f"{where}: text", " ".join(triple.text.casefold().split()), triple.id, texts)
            found.append(triple)
        triples[name] = tuple(found)
    return triples


def triples_digest(triples: Mapping[str, Sequence[Triple]]) -> str:
    """Return the SHA-256 of all triples with their classes and right answers."""
    return digest({name: tuple(listed) for name, listed in triples.items()})


def _rows(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            path.name, bound="a readable JSON file", value=str(error), remedy="Restore the file."
        ) from error
    if not isinstance(rows, list) or not rows:
        raise DataError(
            path.name, bound="a list of entries", value=rows, remedy="Write one object a triple."
        )
    return rows


def _triple(where: str, row: Any, name: str, expected: str) -> Triple:
    keys = (*_TEXT_KEYS, "kind") if name == RED_TEAM else _TEXT_KEYS
    if not isinstance(row, dict) or set(row) != set(keys):
        raise DataError(
            where,
            bound=f"an object with {', '.join(keys)} and nothing else",
            value=sorted(row) if isinstance(row, dict) else row,
            remedy="Correct the entry.",
        )
    for key in keys:
        if not isinstance(row[key], str) or not row[key].strip():
            raise DataError(
                f"{where} ({row['id']}): {key}",
                bound="text",
                value=row[key],
                remedy="Write it, or take the entry out.",
            )
    if name == RED_TEAM:
        _known(f"{where} ({row['id']}): kind", row["kind"], RED_TEAM_KINDS)
    return Triple(**{"kind": name, **row}, expected=expected)


def _known(field: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise DataError(
            field, bound=f"one of {', '.join(known)}", value=value, remedy="Correct the entry."
        )


def _new(field: str, value: str, entry: str, seen: dict[str, str]) -> None:
    """Raise where another entry had this value, otherwise remember whose it is."""
    if value in seen:
        raise DataError(
            field,
            bound=f"another one than that of {seen[value]}",
            value=value,
            remedy="Give each entry an id and a text of its own.",
        )
    seen[value] = entry
