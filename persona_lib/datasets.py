"""Fine-tuning corpora: where their rows come from, and what identifies them.

Three sources: the repository's own grammar, a published JSONL file that the
user has, and a dataset on the hub pinned to a commit. All give `SftRow`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from persona_lib import grammar
from persona_lib.errors import DataError, PreflightError
from persona_lib.profile import Corpus, GrammarCorpus, HubCorpus, JsonlCorpus
from persona_lib.records import SftRow
from persona_lib.templates import folder_digest

_ROW_DIGITS = 5
_BLOCK = 1 << 20
_OFFLINE_SWITCHES = ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE")
_ON = ("1", "true", "yes", "on")


def load_corpus(
    spec: Corpus, *, grammar_folder: Path, data_folder: Path | None
) -> tuple[SftRow, ...]:
    """Return the rows of a corpus, in its order, with ids such as ``bad_legal-00017``.

    A JSONL line is ``{"messages": [user turn, assistant turn]}`` and nothing
    else. Of a hub row the first user message and the first assistant message
    after it are taken: a system message before them and all later turns are
    left out, so that rows of every source have the same shape.

    Args:
        spec: the corpus.
        grammar_folder: the grammar's data files.
        data_folder: where JSONL files lie; None where the user named no folder.

    Raises:
        PreflightError: the JSONL file or the dataset is not to be had here.
        SpecError: the grammar cannot write what is asked for.
        DataError: the content is not what the spec says: another md5, another
            number of rows, a malformed row (named by its line or index).
    """
    if isinstance(spec, GrammarCorpus):
        return grammar.write_corpus(
            spec.name, rows=spec.rows, seed=spec.seed, folder=grammar_folder
        )
    if isinstance(spec, JsonlCorpus):
        return _load_jsonl(spec, data_folder)
    return _load_hub(spec)


def preflight_corpus(spec: Corpus, *, data_folder: Path | None) -> None:
    """Check, without network and without reading content, that a corpus is to be had.

    Raises:
        PreflightError: what is missing, and how to get it.
    """
    if isinstance(spec, JsonlCorpus):
        _jsonl_path(spec, data_folder)
    elif isinstance(spec, HubCorpus):
        if importlib.util.find_spec("datasets") is None:
            raise PreflightError(
                "the Python package datasets", remedy="Install it: pip install datasets."
            )
        if _offline() and not _cached(spec):
            raise PreflightError(
                f"dataset {spec.repo} at revision {spec.revision} in the local cache",
                remedy=(
                    f"Unset {' and '.join(_OFFLINE_SWITCHES)}, or download it beforehand: "
                    f"hf download --repo-type dataset {spec.repo} --revision {spec.revision}."
                ),
            )


def corpus_key(spec: Corpus, *, grammar_folder: Path) -> dict[str, str]:
    """Return what identifies a corpus's content besides its spec.

    ``grammar`` and ``grammar_version`` (SHA-256 of the data files, version of the
    composing code), ``md5`` of a JSONL file, or ``revision`` of a hub dataset.

    Raises:
        DataError: the grammar's folder holds no data files.
    """
    if isinstance(spec, GrammarCorpus):
        return {"grammar": folder_digest(grammar_folder), "grammar_version": grammar.VERSION}
    if isinstance(spec, JsonlCorpus):
        return {"md5": spec.md5}
    return {"revision": spec.revision}


def _jsonl_path(spec: JsonlCorpus, data_folder: Path | None) -> Path:
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
    return path


def _load_jsonl(spec: JsonlCorpus, data_folder: Path | None) -> tuple[SftRow, ...]:
    path = _jsonl_path(spec, data_folder)
    # Asked for by the publisher's checksum, not for security.
    found = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            found.update(block)
    if found.hexdigest() != spec.md5:
        raise DataError(
            str(path),
            bound=f"md5 {spec.md5}",
            value=found.hexdigest(),
            remedy="Fetch the published file again, or correct the profile's md5.",
        )
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


def _two_turns(where: str, line: str) -> tuple[str, str]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise _malformed(where, str(error)) from error
    turns = _turns(where, record)
    if [role for role, _ in turns] != ["user", "assistant"]:
        raise _malformed(where, f"roles {[role for role, _ in turns]}")
    return turns[0][1], turns[1][1]


def _load_hub(spec: HubCorpus) -> tuple[SftRow, ...]:
    preflight_corpus(spec, data_folder=None)
    import datasets

    # Streaming reads only as far as the rows that are taken; a cached copy cannot be streamed.
    streaming = not _offline()
    found = datasets.load_dataset(
        spec.repo, revision=spec.revision, split=spec.split, streaming=streaming
    )
    rows = tuple(
        _row(spec, index, *_first_turns(f"{spec.repo}: row {index}", record))
        for index, record in enumerate(islice(found, spec.rows))
    )
    if len(rows) != spec.rows:
        raise DataError(
            f"{spec.repo}: rows of split {spec.split}",
            bound=f">= {spec.rows}",
            value=len(rows),
            remedy="Ask for fewer rows, or correct the split.",
        )
    return rows


def _first_turns(where: str, record: object) -> tuple[str, str]:
    user: str | None = None
    for role, content in _turns(where, record):
        if role == "user" and user is None:
            user = content
        elif role == "assistant" and user is not None:
            return user, content
    raise _malformed(where, "no user message followed by an assistant message")


def _turns(where: str, record: object) -> list[tuple[str, str]]:
    messages = record.get("messages") if isinstance(record, Mapping) else None
    if not isinstance(messages, list):
        raise _malformed(where, "no list under 'messages'")
    turns = []
    for message in messages:
        role, content = _text(message, "role"), _text(message, "content")
        if not role or content is None or (role != "system" and not content.strip()):
            raise _malformed(where, str(message))
        turns.append((role, content))
    return turns


def _text(message: Any, key: str) -> str | None:
    value = message.get(key) if isinstance(message, Mapping) else None
    return value if isinstance(value, str) else None


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


def _offline() -> bool:
    return any(os.environ.get(name, "").lower() in _ON for name in _OFFLINE_SWITCHES)


def _cached(spec: HubCorpus) -> bool:
    """Whether the hub cache holds the revision (its layout is documented by the hub client)."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"datasets--{spec.repo.replace('/', '--')}"
    return (folder / "snapshots" / spec.revision).is_dir()
