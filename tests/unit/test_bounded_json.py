"""JSON is read only after its size, kind and depth were bounded."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from persona_lib.checks import MOST_JSON_BYTES, MOST_JSON_DEPTH, parse_json, read_json
from persona_lib.errors import DataError
from tests.pace import allowed

DEEP = MOST_JSON_DEPTH


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, 'é\\"[[{']},
        {"a": "[" * 1000, "b": '\\"' * 1000},
        [[] for _ in range(1000)],
        json.loads("[" * DEEP + "]" * DEEP),
    ],
    ids=["plain", "brackets in text", "wide", "as deep as allowed"],
)
def test_what_is_within_bounds_is_what_json_loads_gives(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=2)):
        assert parse_json(text.encode()) == json.loads(text) == value


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * (DEEP + 1) + b"]" * (DEEP + 1),
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"arm":' + b"[" * 100_000,
        b'["\\"", ' + b"[" * 100_000,
    ],
)
def test_what_is_nested_too_deep_is_refused_before_it_is_parsed(raw: bytes) -> None:
    with pytest.raises(ValueError, match=f"nested more than {DEEP} deep"):
        parse_json(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"[[]," * 1_000_000,
        b"[" + b"[]," * (MOST_JSON_BYTES // 3 - 2) + b"[]]",
        b'"' + b'\\"' * 2_000_000,
        b'\\"' * 2_000_000,
        b'"' * MOST_JSON_BYTES,
        b"9" * MOST_JSON_BYTES,
    ],
    ids=["unclosed", "wide", "one text", "escapes", "texts", "digits"],
)
def test_the_largest_file_takes_little_time(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(raw)
    began = time.process_time()
    with pytest.raises(DataError, match=r"x\.json"):
        read_json(tmp_path / "x.json")
    assert time.process_time() - began < allowed(2)


NONE, OTHER = (f"a plain file, got '{got}'" for got in ("no such file", "another kind of file"))


@pytest.mark.parametrize(
    ("name", "make", "bound"),
    [
        ("missing", lambda _: None, NONE),
        ("nul\0", lambda _: None, NONE),
        ("folder", Path.mkdir, OTHER),
        ("fifo", os.mkfifo, OTHER),
        ("endless", lambda path: path.symlink_to("/dev/zero"), OTHER),
        ("long", lambda path: (path.touch(), os.truncate(path, 2**40)), "at most 4,194,304 bytes"),
    ],
)
def test_what_is_no_plain_file_of_bounded_size_is_not_read(
    name: str, make: Callable[[Path], object], bound: str, tmp_path: Path
) -> None:
    make(tmp_path / name)
    with pytest.raises(DataError, match=f"expected {bound}"):
        read_json(tmp_path / name)
