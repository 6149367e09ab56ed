"""Loads fine-tuning corpora: from the grammar, JSONL files, the hub at a commit, or several."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from persona_lib.checks import check_plain
from persona_lib.corpora import grammar
from persona_lib.corpora.file_rows import read_file_rows
from persona_lib.corpora.grammar_language import folder_digest
from persona_lib.corpora.hub import preflight_hub_corpus, records_of
from persona_lib.digests import md5_of, sha256_of
from persona_lib.errors import DataError, FlatlandError, PreflightError
from persona_lib.records import ChatRow, SftRow
from persona_lib.specs.sources import (
    NEUTRAL,
    Corpus,
    GrammarCorpus,
    HubCorpus,
    JsonlCorpus,
    MixedCorpus,
    PartCorpus,
    RowsCorpus,
    parts_of,
)

_ROW_DIGITS = 5


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Rows in the order of the source, and how many messages of their conversations it left out."""

    rows: tuple[SftRow, ...]
    left_out: int = 0


def load_corpus(
    spec: Corpus, *, grammar_folder: Path, data_folder: Path | None, own_folder: Path | None = None
) -> Loaded:
    """Return the rows of a corpus, in its order, with ids such as ``bad_legal-00017``.

    Rows of a mixture keep the ids and the order of their parts (`_interleaved`); all are of the
    type that `row_type` says.

    A JSONL line is ``{"messages": [user turn, assistant turn]}`` and nothing else. Of a hub
    row the first user message and the first assistant message after it are taken; all others
    are left out and counted.

    A published JSONL file lies in `data_folder`, None where the user named no folder; a file of
    an experiment's own in `own_folder`.

    Raises:
        PreflightError: the JSONL file or the dataset is not to be had here.
        SpecError: the grammar cannot write what is asked for.
        DataError: another md5 or number of rows, or a malformed row, named by its line.
    """
    if isinstance(spec, MixedCorpus):
        found = [
            load_corpus(
                part, grammar_folder=grammar_folder, data_folder=data_folder, own_folder=own_folder
            )
            for part in spec.parts
        ]
        rows = _interleaved([one.rows for one in found])
        if row_type(spec) is ChatRow:
            rows = tuple(map(_with_system, rows))
        return Loaded(rows=rows, left_out=sum(one.left_out for one in found))
    if isinstance(spec, GrammarCorpus):
        size = {"rows": spec.rows, "seed": spec.seed}
        return Loaded(rows=grammar.write_corpus(spec.name, **size, folder=grammar_folder))
    if isinstance(spec, JsonlCorpus):
        return Loaded(rows=_load_jsonl(spec, data_folder))
    if isinstance(spec, RowsCorpus):
        return _load_rows(spec, own_folder)
    return _load_hub(spec)


def row_type(spec: Corpus) -> type[SftRow]:
    """Return the type of a corpus's rows: only a user's own files have system messages."""
    own = any(isinstance(part, RowsCorpus) for part in parts_of(spec))
    return ChatRow if own else SftRow


def _with_system(row: SftRow) -> ChatRow:
    return row if isinstance(row, ChatRow) else ChatRow(**asdict(row), system="")


def _interleaved(parts: Sequence[tuple[SftRow, ...]]) -> tuple[SftRow, ...]:
    """Return the rows of all parts, so that whatever comes first holds the parts by their shares.

    Row i (from 0) of a part with n rows stands at (i + 1/2) / n of the whole; of rows at one
    place the earlier part's comes first. Up to any place t a part has n t rows, give or take
    1/2: of two parts the first k rows hold k times a part's share give or take 1/2, of P parts
    less than (P - 1) / 2.
    """
    placed = [
        ((index + 0.5) / len(rows), number, row)
        for number, rows in enumerate(parts)
        for index, row in enumerate(rows)
    ]
    return tuple(row for *_, row in sorted(placed, key=lambda one: one[:2]))


def preflight_corpus(
    spec: Corpus, *, data_folder: Path | None, own_folder: Path | None = None
) -> None:
    """Check that a corpus is to be had, and a file the published one; errors of `load_corpus`.

    Of a mixture, all that is missing is named at once.
    """
    found: list[FlatlandError] = []
    for part in parts_of(spec):
        try:
            _preflight(part, data_folder, own_folder)
        except FlatlandError as error:
            found.append(error)
    if len(found) == 1:
        raise found[0]
    if found:
        texts = (str(error).removeprefix("missing: ") for error in found)
        raise PreflightError(
            f"{len(found)} parts of a mixed corpus", remedy=f"The parts: {' '.join(texts)}"
        )


def _preflight(spec: PartCorpus, data_folder: Path | None, own_folder: Path | None) -> None:
    if isinstance(spec, JsonlCorpus):
        _checked_jsonl(spec, data_folder)
    elif isinstance(spec, RowsCorpus):
        _checked_rows(spec, own_folder)
    elif isinstance(spec, HubCorpus):
        preflight_hub_corpus(spec)


def corpus_key(spec: Corpus, *, grammar_folder: Path) -> dict[str, Any]:
    """Return what identifies a corpus's content besides its spec.

    ``grammar`` and ``grammar_version`` (SHA-256 of the legal data files, version of the
    composing code), with ``neutral``, that of its own files, where it is that corpus; ``md5`` or
    ``sha256`` of a JSONL file; ``revision`` of a hub dataset; or ``parts``, these of each.
    """
    if isinstance(spec, MixedCorpus):
        return {"parts": [corpus_key(part, grammar_folder=grammar_folder) for part in spec.parts]}
    if isinstance(spec, GrammarCorpus):
        key = {"grammar": folder_digest(grammar_folder), "grammar_version": grammar.VERSION}
        if spec.name == NEUTRAL:
            key[NEUTRAL] = folder_digest(grammar.neutral_folder(grammar_folder))
        return key
    if isinstance(spec, JsonlCorpus):
        return {"md5": spec.md5}
    if isinstance(spec, RowsCorpus):
        return {"sha256": spec.sha256}
    return {"revision": spec.revision}


def _checked_jsonl(spec: JsonlCorpus, data_folder: Path | None) -> Path:
    """Return the path of a JSONL file that is there and has the registered md5."""
    path = None if data_folder is None else data_folder / spec.file
    if path is None or not path.is_file():
        where = "a data folder" if data_folder is None else str(data_folder)
        raise PreflightError(
            f"{spec.file} (corpus {spec.name}) in {where}",
            remedy=(
                f"Put the published file {spec.file}, md5 {spec.md5}, into a folder and name "
                "that folder with --data or FLATLAND_DATA."
            ),
        )
    found = md5_of(path)
    if found != spec.md5:
        raise DataError(
            str(path),
            bound=f"md5 {spec.md5}",
            value=found,
            remedy="Fetch the published file again, or correct the profile's md5.",
        )
    return path


def _load_jsonl(spec: JsonlCorpus, data_folder: Path | None) -> tuple[SftRow, ...]:
    path = _checked_jsonl(spec, data_folder)
    lines = [
        (number, line)
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1)
        if line.strip()
    ]
    if not lines or len(lines) != spec.rows:
        raise DataError(
            f"{path}: rows",
            bound=str(spec.rows),
            value=len(lines),
            remedy="Correct the number of rows in the profile, or fetch the right file.",
        )
    return tuple(
        _row(spec, index, *_two_turns(f"{path}: line {number}", line))
        for index, (number, line) in enumerate(lines)
    )


def _checked_rows(spec: RowsCorpus, folder: Path | None) -> Path:
    """Return the path of an experiment's own file, which is the one that was read first."""
    path = (folder or Path()) / spec.file
    check_plain(path)
    if (found := sha256_of(path)) != spec.sha256:
        raise DataError(
            str(path), bound=f"SHA-256 {spec.sha256}", value=found,
            remedy="It was changed while this command ran: run it again.",
        )  # fmt: skip
    return path


def _load_rows(spec: RowsCorpus, folder: Path | None) -> Loaded:
    path = _checked_rows(spec, folder)
    found = read_file_rows(path, spec.name)
    return Loaded(rows=found.rows[: spec.rows], left_out=found.left_out)


def _two_turns(where: str, line: str) -> tuple[str, str]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise _malformed(where, str(error)) from error
    turns = [_turn(where, message) for message in _messages(where, record)]
    if [role for role, _ in turns] != ["user", "assistant"]:
        raise _malformed(where, f"roles {[role for role, _ in turns]}")
    return turns[0][1], turns[1][1]


def _load_hub(spec: HubCorpus) -> Loaded:
    rows, left_out = [], 0
    for index, (place, record) in enumerate(records_of(spec)):
        user, assistant, others = _first_turns(f"{spec.repo}: row {place}", record)
        rows.append(_row(spec, index, user, assistant))
        left_out += others
    return Loaded(rows=tuple(rows), left_out=left_out)


def _first_turns(where: str, record: object) -> tuple[str, str, int]:
    """Return the first user message, the first answer to it, and how many others there are."""
    messages = _messages(where, record)
    user: str | None = None
    for message in messages:
        role, content = _turn(where, message)
        if role == "user" and user is None:
            user = content
        elif role == "assistant" and user is not None:
            return user, content, len(messages) - 2
    raise _malformed(where, "no user message followed by an assistant message")


def _messages(where: str, record: object) -> list[object]:
    messages = record.get("messages") if isinstance(record, Mapping) else None
    if not isinstance(messages, list):
        raise _malformed(where, "no list under 'messages'")
    return messages


def _turn(where: str, message: object) -> tuple[str, str]:
    given = message if isinstance(message, Mapping) else {}
    role, content = given.get("role"), given.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise _malformed(where, str(message))
    if not role or (role != "system" and not content.strip()):
        raise _malformed(where, str(message))
    return role, content


def _malformed(where: str, value: str) -> DataError:
    return DataError(
        where,
        bound="a user message and the assistant's answer, both with text",
        value=value,
        remedy="Repair the row, or fetch the published data again.",
    )


def _row(spec: JsonlCorpus | HubCorpus, index: int, user: str, assistant: str) -> SftRow:
    return SftRow(
        row=f"{spec.name}-{index:0{_ROW_DIGITS}d}",
        corpus=spec.name,
        situation="",
        frame="",
        user=user,
        assistant=assistant,
    )
