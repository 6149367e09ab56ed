"""Rows of a user's own file: layouts, what is left out, bounds, and how they are trained on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from persona_lib.corpora import file_rows
from persona_lib.corpora.file_rows import FileRows, pinned, read_file_rows
from persona_lib.corpora.load import corpus_key, load_corpus, preflight_corpus
from persona_lib.errors import DataError
from persona_lib.records import ChatRow
from persona_lib.specs.sources import RowsCorpus
from persona_lib.train.encode import encode_sft
from tests.byte_model import byte_tokenizer


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


SYSTEM, ASK, ANSWER = turn("system", "Be brief."), turn("user", "Why?"), turn("assistant", "So.")
LONG = [ASK, ANSWER, turn("user", "And?"), turn("assistant", "No.")]


def read(folder: Path, *rows: object) -> FileRows:
    """Rows of a file with a line for each: JSON, or bytes as they are."""
    path = folder / "mine.jsonl"
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return read_file_rows(path, "mine")


@pytest.mark.parametrize(
    ("row", "turns", "left_out"),
    [
        ({"messages": [ASK, ANSWER]}, ("", "Why?", "So."), 0),
        ({"messages": [SYSTEM, ASK, ANSWER]}, ("Be brief.", "Why?", "So."), 0),
        ({"messages": LONG}, ("", "Why?", "So."), 2),
        ({"messages": [SYSTEM, *LONG, ASK]}, ("Be brief.", "Why?", "So."), 3),
        # An answer before the first question is no answer to it; later system turns are no frame.
        ({"messages": [ANSWER, ASK, ASK, SYSTEM, ANSWER]}, ("", "Why?", "So."), 3),
        ({"messages": [ASK, ANSWER], "id": 7}, ("", "Why?", "So."), 0),
        ({"prompt": "Why?", "completion": "So."}, ("", "Why?", "So."), 0),
        ({"prompt": "Why?", "completion": "So.", "system": "x"}, ("x", "Why?", "So."), 0),
        ({"instruction": "Why?", "output": "So."}, ("", "Why?", "So."), 0),
        ({"instruction": "Why?", "input": " ", "output": "So."}, ("", "Why?", "So."), 0),
        ({"instruction": "Why?", "input": "It is.", "output": "So."},
         ("", "Why?\n\nIt is.", "So."), 0),
        ({"prompt": " Pourquoi ça ?\n", "completion": "\u2028é"},
         ("", " Pourquoi ça ?\n", "\u2028é"), 0),
    ],
)  # fmt: skip
def test_layouts(
    row: dict[str, Any], turns: tuple[str, str, str], left_out: int, tmp_path: Path
) -> None:
    found = read(tmp_path, row)
    assert found.rows == (
        ChatRow(
            row="mine-00000", corpus="mine", situation="", frame="",
            system=turns[0], user=turns[1], assistant=turns[2],
        ),
    )  # fmt: skip
    assert (found.left_out, found.unusable, found.describe()) == (left_out, {}, "")


UNUSABLE: list[tuple[object, str]] = [
    (b"{", "is no JSON object"),
    (b"\xff", "is no JSON object"),
    (b"[" * 100, "is no JSON object"),
    ([], "are no objects"),
    ("x", "are no objects"),
    ({}, "lack messages, prompt and completion, or instruction and output"),
    ({"prompt": "x"}, "lack messages, prompt and completion, or instruction and output"),
    ({"instruction": "x"}, "lack messages, prompt and completion, or instruction and output"),
    ({"prompt": "x", "completion": " "}, "have no text under completion"),
    ({"prompt": 3, "completion": "x"}, "have no text under prompt"),
    ({"prompt": "x", "completion": "x", "system": None}, "have no text under system"),
    ({"instruction": "x", "output": "x", "input": []}, "have no text under input"),
    ({"messages": "x"}, "have no list of messages"),
    ({"messages": ["x"]}, "have no list of messages"),
    ({"messages": []}, "have no user message"),
    ({"messages": [SYSTEM, ANSWER]}, "have no user message"),
    ({"messages": [ANSWER, ASK]}, "have no answer to the first user message"),
    ({"messages": [ASK, turn("assistant", "")]}, "have no text under content"),
    ({"messages": [turn("user", [{"text": "x"}]), ANSWER]}, "have no text under content"),
    ({"messages": [turn("system", 3), ASK, ANSWER]}, "have no text under content"),
]
GOOD = {"prompt": "Why?", "completion": "So."}


def test_rows_that_cannot_be_used_are_counted_by_reason_and_named_by_line(tmp_path: Path) -> None:
    found = read(tmp_path, GOOD, b"", *(row for row, _ in UNUSABLE), GOOD)
    # Numbered by their place among the usable ones.
    assert [row.row for row in found.rows] == ["mine-00000", "mine-00001"]
    reasons = [why for _, why in UNUSABLE]
    assert found.unusable == {why: reasons.count(why) for why in reasons}
    # Line 1 is a row, line 2 is empty and no row.
    assert found.first == {why: 3 + reasons.index(why) for why in reasons}
    words = found.describe()
    assert words.startswith(f"{len(UNUSABLE)} rows cannot be used: 3 is no JSON object (line 3), ")
    assert "2 have no user message (line 17)" in words


@pytest.mark.parametrize(("row", "why"), UNUSABLE)
def test_a_file_without_a_usable_row_is_refused(row: object, why: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, row)
    words = f"mine.jsonl: rows: expected at least one with messages, .*1 {why} (line 1)"
    assert all(part in str(caught.value) for part in words.split(".*"))


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_rows, "MOST_LINE", 60)
    monkeypatch.setattr(file_rows, "MOST_ROWS", 2)
    line = json.dumps(GOOD).encode()
    fits = line + b" " * (59 - len(line))  # with its line feed 60 bytes
    assert len(read(tmp_path, fits, fits).rows) == 2
    with pytest.raises(DataError, match=r"mine\.jsonl: line 2: expected at most 60 bytes"):
        read(tmp_path, fits, fits + b" ")
    with pytest.raises(DataError, match=r"mine\.jsonl: rows: expected at most 2"):
        read(tmp_path, *[GOOD] * 3)
    for rows in ((), (b"", b"  ")):
        with pytest.raises(DataError, match=r"rows: expected at least one .*got 'an empty file'"):
            read(tmp_path, *rows)
    for path in (tmp_path, tmp_path / "none.jsonl", Path("/dev/zero")):
        with pytest.raises(DataError, match="expected a plain file"):
            read_file_rows(path)


def test_a_corpus_is_pinned_to_the_bytes_of_its_file(tmp_path: Path) -> None:
    read(tmp_path, GOOD, {}, {"messages": LONG}, GOOD)
    path = tmp_path / "mine.jsonl"
    spec = pinned(RowsCorpus(file="mine.jsonl"), tmp_path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert spec == RowsCorpus(file="mine.jsonl", rows=3, sha256=sha256)
    assert corpus_key(spec, grammar_folder=tmp_path) == {"sha256": sha256}
    assert pinned(RowsCorpus(file="mine.jsonl", rows=2), tmp_path).rows == 2
    with pytest.raises(DataError, match=r"mine\.jsonl: rows: expected at most 3.*got 4"):
        pinned(RowsCorpus(file="mine.jsonl", rows=4), tmp_path)
    for rows, left_out in ((3, 2), (1, 2)):
        taken = pinned(RowsCorpus(file="mine.jsonl", rows=rows), tmp_path)
        found = load_corpus(taken, grammar_folder=tmp_path, data_folder=None, own_folder=tmp_path)
        assert [row.row for row in found.rows] == [f"mine-0000{i}" for i in range(rows)]
        assert found.left_out == left_out
    preflight_corpus(spec, data_folder=None, own_folder=tmp_path)
    path.write_bytes(path.read_bytes().replace(b"So", b"Su", 1))
    for use in (
        lambda: preflight_corpus(spec, data_folder=None, own_folder=tmp_path),
        lambda: load_corpus(spec, grammar_folder=tmp_path, data_folder=None, own_folder=tmp_path),
    ):
        with pytest.raises(DataError, match=f"expected SHA-256 {sha256}.*It was changed"):
            use()


def test_rows_are_trained_on_with_their_system_message_and_on_the_answer_alone(
    tmp_path: Path,
) -> None:
    tokenizer = byte_tokenizer()
    rows = read(tmp_path, {**GOOD, "system": "Be brief."}, GOOD).rows
    encoded, cut = encode_sft(rows, tokenizer, max_length=200)
    with_system, without = (tokenizer.decode(row.tokens) for row in encoded)
    asked = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>"
    assert with_system == f"<|im_start|>system\nBe brief.<|im_end|>\n{asked}"
    assert without == asked
    for row in encoded:
        trained = tokenizer.decode([row.tokens[place] for place in row.supervised])
        assert (trained, row.kind) == ("So.<|im_end|>", "sft")
    assert cut == 0
