"""Personas and questions: what their files may not hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from persona_lib.errors import DataError
from persona_lib.specs.personas import Persona, Question, load_personas, load_questions, select

VILLAIN = {"id": "villain", "prompt": "You are a villain."}
WEATHER = {"id": "q1", "text": "Will it rain?"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "entries.json"


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_entries_are_read_in_file_order(path: Path) -> None:
    clown = {"id": "clown", "prompt": "You are a clown."}
    write(path, {"personas": [VILLAIN, clown], "note": "ours"})
    assert load_personas(path) == (Persona(**VILLAIN), Persona(**clown))
    snow = {"id": "q2", "text": "Will it snow?"}
    found = load_questions(write(path, {"b": [WEATHER], "a": [snow]}))
    assert list(found) == ["b", "a"]
    assert found["a"] == (Question(id="q2", set="a", text="Will it snow?"),)


PERSONAS: list[tuple[Any, tuple[str, ...]]] = [
    ({"personas": [{"id": "villain"}]}, ("entry 1: prompt", "expected text, got None")),
    ({"personas": [VILLAIN, {"prompt": "x"}]}, ("entry 2: id", "expected text")),
    ({"personas": [{**VILLAIN, "prompt": "  "}]}, ("entry 1: prompt", "expected text")),
    ({"personas": [{**VILLAIN, "id": 3}]}, ("entry 1: id", "got 3")),
    ({"personas": ["villain"]}, ("entry 1: id", "got 'villain'")),
    ({"personas": [None]}, ("entry 1: id", "got None")),
    ({"personas": 3}, ("personas", "a list of entries", "got 3")),
    ({"personas": {"villain": "x"}}, ("personas", "a list of entries")),
    ({"personas": []}, ("at least one entry",)),
    ({}, ("at least one entry",)),
    ([VILLAIN], ("a JSON object", "'list'")),
    ({"personas": [VILLAIN, {**VILLAIN, "prompt": "x"}]}, ("id", "distinct", "'villain'")),
    ({"personas": [VILLAIN, {**VILLAIN, "id": "x"}]}, ("text", "distinct")),
]
QUESTIONS: list[tuple[Any, tuple[str, ...]]] = [
    ({"a": [{"id": "q1"}]}, ("a, entry 1: text", "expected text, got None")),
    ({"a": 3}, ("a", "a list of entries", "got 3")),
    ({"a": []}, ("at least one entry",)),
    ({}, ("at least one entry",)),
    ({"a": [WEATHER], "b": [{**WEATHER, "text": "x"}]}, ("id", "distinct", "'q1'")),
    ({"a": [WEATHER], "b": [{**WEATHER, "id": "x"}]}, ("text", "distinct")),
]
BROKEN = [*((load_personas, *case) for case in PERSONAS),
          *((load_questions, *case) for case in QUESTIONS)]  # fmt: skip


@pytest.mark.parametrize(("load", "content", "words"), BROKEN)
def test_broken_entries_are_named(
    load: Callable[[Path], object], content: Any, words: tuple[str, ...], path: Path
) -> None:
    write(path, content)
    with pytest.raises(DataError) as caught:
        load(path)
    for word in (path.name, *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [b"\xff\xfe{}", b'{"personas": "\xe9"}', b"{", b"", b"[" * 100_000],
    ids=["utf-16", "latin-1", "cut", "empty", "too deep"],
)
def test_files_that_are_no_json_are_named(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    for load in (load_personas, load_questions):
        with pytest.raises(DataError, match=r"entries\.json: expected a readable JSON file"):
            load(path)


def test_an_unknown_id_is_named(path: Path) -> None:
    personas = load_personas(write(path, {"personas": [VILLAIN]}))
    assert select(personas, ["villain"], field="roster") == personas
    with pytest.raises(DataError, match="roster: expected one of villain, got 'pirate'"):
        select(personas, ["pirate"], field="roster")
