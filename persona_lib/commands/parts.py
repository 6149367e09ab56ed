"""Record sets that are to be joined: each read, and checked by itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.issue262 import REGISTRATIONS
from persona_lib.commands.sets import ADVICE_TEXTS_FILE, SCORES_FILE, describe_seeds
from persona_lib.corpora.advice_scorer import ADVICE_FILE
from persona_lib.errors import DataError
from persona_lib.evidence.record_sets import (
    RECORDS,
    TEXTS_FILE,
    Manifest,
    judged_under,
    read_manifest,
    verify,
)
from persona_lib.models.hidden_states import GEOMETRY_FILE
from persona_lib.records import AdviceScore, Completion, GeometryRow, Score, read_table

if TYPE_CHECKING:
    import pyarrow as pa

ROWS: dict[str, type[Any]] = {
    SCORES_FILE: Score,
    ADVICE_FILE: AdviceScore,
    GEOMETRY_FILE: GeometryRow,
    TEXTS_FILE: Completion,
    ADVICE_TEXTS_FILE: Completion,
}
"""Every file of a record set, and the type of its rows."""
TEXTS = (TEXTS_FILE, ADVICE_TEXTS_FILE)
PARTIAL = (GEOMETRY_FILE, *TEXTS)
"""Files that a part may lack: what they hold is then of the other parts' seeds."""
SEEDS = "seeds ..."
"""What stands for the seeds where sources are compared."""
_JOINED = re.compile(r" \(joined from [0-9]+ record sets\)$")


_LISTS: dict[str, type[Any]] = {
    "config": dict,
    "stages": dict,
    "stages_built_from": str,
    "stages_built_on": dict,
    "joined": dict,
}
"""What of a manifest is joined: lists, and the type of their items. The first is needed."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the sets.

    Attributes:
        folder: where it lies.
        manifest: what it says of itself.
        lists: what of that is joined, by the names of `_LISTS`.
        seeds: its root seeds, in the order in which it was recorded.
        tables: the rows of each of its files, by name.
    """

    folder: Path
    manifest: Manifest
    lists: dict[str, list[Any]]
    seeds: tuple[int, ...]
    tables: dict[str, pa.Table]

    @property
    def description(self) -> str:
        """Where it comes from, without its seeds."""
        return _JOINED.sub("", self.manifest.source).replace(describe_seeds(self.seeds), SEEDS)

    @property
    def profiles(self) -> list[dict[str, Any]]:
        """The profile of each seed, as JSON data."""
        return [config["profile"] for config in self.lists["config"]]


def read_part(folder: Path) -> Part:
    """Read a record set that is to be joined, checked by itself.

    Raises:
        DataError: it is no whole record set, not of a registration as it stands in the code,
            or its rows are of other seeds than it says.
        CorruptEntryError: a file differs from what its manifest vouches for.
    """
    manifest = read_manifest(folder)
    name = manifest.registration
    if manifest.kind != RECORDS or name not in REGISTRATIONS:
        raise DataError(
            f"{folder}: kind and registration",
            bound=f"{RECORDS}, of one of {', '.join(REGISTRATIONS)}",
            value=f"{manifest.kind} of {name}",
            remedy="Name folders that flatland record wrote.",
        )
    judged_under(folder, manifest, REGISTRATIONS[name], chosen=False)
    verify(folder, manifest)
    unknown = sorted(set(manifest.files) - set(ROWS))
    if unknown:
        raise DataError(
            f"{folder}: files",
            bound=f"some of {', '.join(ROWS)}",
            value=unknown,
            remedy="Name folders that flatland record wrote.",
        )
    tables = {file: read_table(folder / file, ROWS[file]) for file in manifest.files}
    lists = _lists(folder, manifest)
    part = Part(
        folder=folder,
        manifest=manifest,
        lists=lists,
        seeds=tuple(config["seed"] for config in lists["config"]),
        tables=tables,
    )
    _check_seeds(part)
    return part


def _lists(folder: Path, manifest: Manifest) -> dict[str, list[Any]]:
    """Return what of a manifest is joined.

    Raises:
        DataError: it is none of what `flatland record` writes.
    """
    found = {}
    for name, kind in _LISTS.items():
        value = manifest.recorded.get(name, [])
        whole = isinstance(value, list) and all(isinstance(item, kind) for item in value)
        if whole and name == "config":
            whole = bool(value) and all(
                type(config.get("seed")) is int
                and isinstance(config.get("profile"), dict)
                and config.get("registration_digest") == manifest.digest
                for config in value
            )
        if not whole:
            raise DataError(
                f"{folder}: recorded.{name}",
                bound="seed, profile and registration_digest of each seed"
                if name == "config"
                else "a list as flatland record writes it",
                value=value,
                remedy="Name folders that flatland record wrote.",
            )
        found[name] = value
    return found


def _check_seeds(part: Part) -> None:
    """Refuse a set whose rows, or whose words, are not of the seeds of its configuration."""
    description = ", ".join(map(str, part.seeds))
    for name, table in part.tables.items():
        there = sorted(table["seed"].unique().to_pylist())
        of_all = there == sorted(part.seeds)
        if not (of_all or (name in PARTIAL and there and set(there) <= set(part.seeds))):
            raise DataError(
                f"{part.folder / name}: seeds",
                bound=f"those of its configuration, {description}",
                value=there,
                remedy="Record it again: manifest and rows do not belong together.",
            )
    if describe_seeds(part.seeds) not in part.manifest.source:
        raise DataError(
            f"{part.folder}: source",
            bound=f"words with {describe_seeds(part.seeds)!r}, as flatland record writes them",
            value=part.manifest.source,
            remedy="Name folders that flatland record wrote.",
        )


def model_keys(table: pa.Table) -> list[str]:
    """Return the columns that name a row's model: advice has no phase."""
    return [key for key in ("phase", "model") if key in table.column_names]


def counts_of(table: pa.Table) -> dict[tuple[str, ...], list[int]]:
    """Return how many rows each model has, of every seed of its own: one number."""
    keys = model_keys(table)
    found = table.group_by([*keys, "seed"], use_threads=False).aggregate([([], "count_all")])
    counts: dict[tuple[str, ...], list[int]] = {}
    for row in found.to_pylist():
        counts.setdefault(tuple(row[key] for key in keys), []).append(row["count_all"])
    seeds = len(table["seed"].unique())
    return {
        model: sorted({*rows, *([] if len(rows) == seeds else [0])})
        for model, rows in counts.items()
    }


def difference(one: object, other: object, path: str) -> tuple[str, object, object] | None:
    """Return where two JSON values differ first, by the names of their fields, or None.

    Args:
        one: a value.
        other: another.
        path: name of the whole.

    Returns:
        The field's path and what each has there.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}):
            inside = difference(one.get(name), other.get(name), f"{path}.{name}")
            if inside is not None:
                return inside
        return None
    return None if one == other else (path, one, other)
