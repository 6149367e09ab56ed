"""Record sets for tests: of rows in memory, or recorded ones with other seeds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from persona_lib.digests import sha256_of
from persona_lib.evidence.record_sets import RECORDS, write_manifest
from persona_lib.specs.registration import Registration
from tests.registered import ISSUE262

Change = Callable[[dict[str, Any]], object]


def record_set(
    folder: Path, scores: pa.Table, registration: Registration = ISSUE262, **tables: pa.Table
) -> Path:
    """Write a record set of score rows, and of other tables by their file's name."""
    folder.mkdir(exist_ok=True)
    files = [f"{name}.parquet" for name in ("scores", *tables)]
    for name, table in zip(files, (scores, *tables.values()), strict=True):
        pq.write_table(table, folder / name)
    write_manifest(folder, kind=RECORDS, registration=registration, files=files,
                   source="a test", recorded={})  # fmt: skip
    return folder


def body_of(folder: Path) -> dict[str, Any]:
    """Return a folder's manifest."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
    return found


def seal(folder: Path, body: dict[str, Any]) -> None:
    """Write a manifest that vouches for the files as they are."""
    body["files"] = {
        path.name: {"sha256": sha256_of(path)} for path in sorted(folder.glob("*.parquet"))
    }
    (folder / "manifest.json").write_text(json.dumps(body), "utf-8")


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the rows of a file; `seal` vouches for them again."""
    pq.write_table(change(pq.read_table(path)), path)


def reseeded(seed: int) -> Callable[[pa.Table], pa.Table]:
    """Return what gives all rows this seed."""
    return lambda table: table.set_column(
        table.column_names.index("seed"), table.schema.field("seed"), pa.array([seed] * len(table))
    )


def run_of(
    source: Path, folder: Path, seed: int, *, without: Sequence[str] = (), change: Change = dict
) -> Path:
    """Return a set of one seed as if it had been run with another, in a folder of its own."""
    shutil.copytree(source, folder)
    for name in without:
        (folder / f"{name}.parquet").unlink()
    for path in folder.glob("*.parquet"):
        rewrite(path, reseeded(seed))
    body = body_of(folder)
    body["source"] = body["source"].replace("seeds 42", f"seeds {seed}")
    body["recorded"]["config"][0]["seed"] = seed
    change(body)
    seal(folder, body)
    return folder


def split(source: Path, above: Path) -> list[Path]:
    """Write one record set for each seed of a recorded set."""
    folders, body = [], body_of(source)
    seeds = [config["seed"] for config in body["recorded"]["config"]]
    words = ", ".join(map(str, seeds))
    for seed, config in zip(seeds, body["recorded"]["config"], strict=True):
        folder = above / str(seed)
        folder.mkdir()
        for path in source.glob("*.parquet"):
            rows = pq.read_table(path).filter(pc.field("seed") == seed)
            if rows.num_rows:
                pq.write_table(rows, folder / path.name)
        one = json.loads(json.dumps(body))
        one["source"] = body["source"].split(" (joined")[0].replace(words, str(seed))
        one["recorded"] |= {"config": [config], "joined": []}
        seal(folder, one)
        folders.append(folder)
    return folders
