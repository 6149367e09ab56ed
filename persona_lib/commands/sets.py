"""Folders of records: how one is written, whoever has its rows."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.errors import SpecError
from persona_lib.evidence.record_sets import FILES, RECORDS, write_manifest
from persona_lib.records import schema_of

if TYPE_CHECKING:
    import pyarrow as pa

    from persona_lib.specs.registration import Registration

SCORES_FILE = FILES[RECORDS]
ADVICE_TEXTS_FILE = "advice_completions.parquet"
"""The answers to held-out requests for advice themselves."""


def write_set(
    folder: Path,
    tables: Mapping[str, tuple[pa.Table, type[Any]]],
    *,
    registration: Registration,
    source: str,
    recorded: Mapping[str, Any],
) -> None:
    """Write a record set, which appears whole or not at all.

    Args:
        folder: where; see `check_place`.
        tables: each file by name: its rows, and their type.
        registration: under which it was recorded.
        source: where it comes from, in words.
        recorded: config, environment and whatever else its manifest says.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the final folder, so that one step makes it appear.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as draft:
        work = Path(draft) / folder.name
        work.mkdir()
        for name, (table, row_type) in tables.items():
            _write(work / name, table, row_type)
        write_manifest(
            work,
            kind=RECORDS,
            registration=registration,
            files=list(tables),
            source=source,
            recorded=recorded,
        )
        work.replace(folder)


def each_once(description: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return descriptions of machines, each once, in an order of their own."""
    found = {json.dumps(one, sort_keys=True): one for one in description}
    return [found[key] for key in sorted(found)]


def describe_seeds(seeds: Sequence[int]) -> str:
    """Return the words for seeds in the source of a record set."""
    return f"seeds {', '.join(map(str, seeds))}"


def check_place(folder: Path) -> None:
    """Raise SpecError where a record set cannot be written: the folder holds something.

    Or nothing can be written where it would come to lie.
    """
    above = next(place for place in folder.absolute().parents if place.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise SpecError(
            "folder",
            bound="a place in a folder that can be written",
            value=str(folder),
            remedy=f"Name another folder: {above.name} is none, or cannot be written.",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecError(
            "folder",
            bound="an empty or a new folder",
            value=folder.name,
            remedy="Remove the old record set first if it is to be replaced.",
        )


def _write(path: Path, table: pa.Table, row_type: type[Any]) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table.cast(schema_of(row_type)), path, compression="zstd", compression_level=19)
