"""Several record sets read as one: they may differ in their seeds, and in nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from persona_lib.checks import checked, unreadable
from persona_lib.corpora.advice_scorer import ADVICE_FILE
from persona_lib.corpora.broad import BROAD_FILE, BroadScore
from persona_lib.errors import DataError
from persona_lib.evidence.bounded import MOST_ROWS, open_parquet
from persona_lib.evidence.record_sets import (
    ADVICE_TEXTS_FILE,
    BROAD_TEXTS_FILE,
    SCORES_FILE,
    TEXTS_FILE,
    Manifest,
    describe_seeds,
    judged_under,
    read_manifest,
    verify,
)
from persona_lib.models.hidden_states import GEOMETRY_FILE
from persona_lib.pipeline.dose import DOSE_FILE
from persona_lib.pipeline.slots import SLOTS_FILE
from persona_lib.pipeline.traits import TRAITS_FILE
from persona_lib.records import (
    AdviceScore,
    Completion,
    DosePoint,
    GeometryRow,
    Score,
    SlotReading,
    Trait,
    schema_of,
)
from persona_lib.specs.registration import Registration

ROWS: dict[str, type[Any]] = {
    SCORES_FILE: Score,
    ADVICE_FILE: AdviceScore,
    BROAD_FILE: BroadScore,
    GEOMETRY_FILE: GeometryRow,
    SLOTS_FILE: SlotReading,
    DOSE_FILE: DosePoint,
    TRAITS_FILE: Trait,
    TEXTS_FILE: Completion,
    ADVICE_TEXTS_FILE: Completion,
    BROAD_TEXTS_FILE: Completion,
}
"""Every file of a record set, and the type of its rows."""
MOST_SET_ROWS = 20_000_000
"""Rows of a file of a record set: hidden states have one for each layer and question."""
PARTIAL = (GEOMETRY_FILE, TEXTS_FILE, ADVICE_TEXTS_FILE, BROAD_TEXTS_FILE)
"""Optional files, which may cover only some seeds."""
UNEVEN = (SLOTS_FILE, DOSE_FILE)
"""Files that may have more rows of one seed than of another: only what finished has a slot."""
_LISTS: dict[str, type[Any]] = {
    "config": dict,
    "stages": dict,
    "stages_built_from": str,
    "stages_built_on": dict,
    "joined": dict,
}
"""Lists that `flatland record` writes into a manifest, and the type of their items."""
_PRIORS_BEFORE = ("em", "benign")
"""The priors whose corpora were fields of a recorded profile, until any name could be a prior's."""
_SEEDS = "seeds ..."
_JOINED = re.compile(r" \(joined from [0-9]+ record sets\)$")
_REMEDY = "Name folders that flatland record wrote."


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of several record sets, checked by itself.

    Attributes:
        origin: where it comes from, and under which rules it is judged.
        config: of each seed, as `flatland record` wrote it.
        tables: rows of each file, by name.
    """

    folder: Path
    manifest: Manifest
    origin: str
    config: list[dict[str, Any]]
    tables: dict[str, pa.Table]

    @property
    def seeds(self) -> list[int]:
        """Its run_seeds, in the order of recording."""
        return [one["seed"] for one in self.config]

    @property
    def described(self) -> dict[str, Any]:
        """What has to be equal in all parts."""
        source = _JOINED.sub("", self.manifest.source).replace(describe_seeds(self.seeds), _SEEDS)
        return {
            "registration": (self.manifest.registration, self.manifest.digest),
            "source": source,
            "seal": self.manifest.recorded.get("seal"),
            "files": sorted(set(self.manifest.files) - set(PARTIAL)),
        }


def read_parts(
    folders: Sequence[Path], registration: Registration, *, chosen: bool
) -> tuple[Part, ...]:
    """Read record sets of one experiment, in any order; return them by their seeds.

    Raises:
        DataError: a folder is no whole record set, or differs from the first in more than
            its seeds; or two hold the same seed.
        CorruptEntryError: a file differs from what its manifest vouches for.
    """
    parts = [_read_part(folder, registration, chosen=chosen) for folder in folders]
    parts.sort(key=lambda part: sorted(part.seeds))
    _check_alike(parts)
    seeds = [seed for part in parts for seed in part.seeds]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise DataError(
            "seeds of the record sets",
            bound="every seed in one set alone",
            value=twice,
            remedy="Leave one of the sets out: a seed that is counted twice is no other run.",
        )
    return tuple(parts)


def read_file(folder: Path, name: str, *, whole: bool = True) -> pa.Table:
    """Return the rows of one of `ROWS`: with every column if `whole`, or as the file has them.

    Raises:
        DataError: the file exceeds a bound, or its columns are not those of its rows.
    """
    path = folder / name
    try:
        table = open_parquet(path, rows=MOST_ROWS if name == SCORES_FILE else MOST_SET_ROWS).read()
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, "a readable Parquet file", error) from error
    return checked(table, schema_of(ROWS[name]), name) if whole else table


def origin_of(parts: Sequence[Part]) -> str:
    """Return where the rows of all parts come from, as one recording would say it."""
    first = parts[0]
    seeds = describe_seeds([seed for part in parts for seed in part.seeds])
    source = first.described["source"].replace(_SEEDS, seeds)
    sets = sum(len(part.manifest.recorded.get("joined", [])) or 1 for part in parts)
    source += f" (joined from {sets} record sets)"
    return first.origin.replace(first.manifest.source, source, 1)


def rows_of(parts: Sequence[Part], name: str) -> pa.Table | None:
    """Return the rows of a file of all parts, model by model and seed by seed.

    None where no part has the file.
    """
    tables = [part.tables[name] for part in parts if name in part.tables]
    if not tables:
        return None
    table = pa.concat_tables(tables)
    names = pc.binary_join_element_wise(*(table[key] for key in _model_keys(table)), "/")
    codes = names.combine_chunks().dictionary_encode().indices  # in the order of first rows
    order = pa.table({"model": codes, "seed": table["seed"]})
    # A stable sort: rows of one model and seed keep their order.
    return table.take(pc.sort_indices(order, [("model", "ascending"), ("seed", "ascending")]))


def _read_part(folder: Path, registration: Registration, *, chosen: bool) -> Part:
    manifest = read_manifest(folder)
    origin = judged_under(folder, manifest, registration, chosen=chosen)
    verify(folder, manifest)
    unknown = sorted(set(manifest.files) - set(ROWS))
    if unknown:
        raise DataError(
            f"{folder}: files", bound=f"some of {', '.join(ROWS)}", value=unknown, remedy=_REMEDY
        )
    part = Part(
        folder=folder,
        manifest=manifest,
        origin=origin,
        config=_config(folder, manifest),
        tables={file: read_file(folder, file) for file in manifest.files},
    )
    _check_seeds(part)
    return part


def _config(folder: Path, manifest: Manifest) -> list[dict[str, Any]]:
    """Return the configuration of each seed; every list is as `flatland record` writes it."""
    for name, kind in _LISTS.items():
        value = manifest.recorded.get(name, [])
        if not (isinstance(value, list) and all(isinstance(item, kind) for item in value)):
            raise DataError(
                f"{folder}: recorded.{name}",
                bound="a list as flatland record writes it",
                value=value,
                remedy=_REMEDY,
            )
    config: list[dict[str, Any]] = manifest.recorded.get("config", [])
    whole = all(
        type(one.get("seed")) is int
        and isinstance(one.get("profile"), dict)
        and one.get("registration_digest") == manifest.digest
        for one in config
    )
    if not (config and whole):
        raise DataError(
            f"{folder}: recorded.config",
            bound="seed, profile and registration_digest of each seed",
            value=config,
            remedy=_REMEDY,
        )
    return [{**one, "profile": _of_today(one["profile"])} for one in config]


def _of_today(profile: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded profile as it is written today: older ones hold each corpus by itself."""
    if "corpora" in profile:
        return profile
    corpora = {name: profile[name] for name in _PRIORS_BEFORE if name in profile}
    rest = {name: value for name, value in profile.items() if name not in corpora}
    return {**rest, "corpora": corpora, "recipes": {}}


def _check_seeds(part: Part) -> None:
    """Refuse a set whose rows, or whose words, are not of the seeds of its configuration."""
    for name, table in part.tables.items():
        there = sorted(table["seed"].unique().to_pylist())
        of_all = there == sorted(part.seeds)
        if not (of_all or (name in PARTIAL and there and set(there) <= set(part.seeds))):
            raise DataError(
                f"{part.folder / name}: seeds",
                bound=f"those of its configuration, {', '.join(map(str, part.seeds))}",
                value=there,
                remedy="Record it again: manifest and rows do not belong together.",
            )
    if describe_seeds(part.seeds) not in part.manifest.source:
        raise DataError(
            f"{part.folder}: source",
            bound=f"words with {describe_seeds(part.seeds)!r}, as flatland record writes them",
            value=part.manifest.source,
            remedy=_REMEDY,
        )


def _check_alike(parts: Sequence[Part]) -> None:
    """Refuse parts that differ from the first in more than their seeds."""
    first = parts[0]
    for part in parts:
        pairs = [(first.described, part.described)]
        pairs += [
            ({"profile": first.config[0]["profile"]}, {"profile": one["profile"]})
            for one in part.config
        ]
        for wanted, found in pairs:
            if where := _difference(wanted, found):
                _refuse(part.folder, where[0], where[2], first.folder, where[1])
    for name in [name for name in ROWS if name not in UNEVEN]:
        holders = [part for part in parts if name in part.tables]
        counts = [_counts(part.tables[name]) for part in holders]
        for part, count in zip(holders, counts, strict=True):
            if count != counts[0] or any(len(rows) > 1 for rows in count.values()):
                of = f"rows of each model and seed in {name}"
                _refuse(part.folder, of, count, holders[0].folder, counts[0])


def _refuse(folder: Path, field: str, value: object, first: Path, wanted: object) -> None:
    raise DataError(
        f"{folder}: {field}",
        bound=f"that of {first}, {wanted!r}",
        value=value,
        remedy="Name only sets of the same registration, profile and arms: pooled, others would "
        "be read as training runs of one experiment.",
    )


def _model_keys(table: pa.Table) -> list[str]:
    """Return the columns that name a row's model: advice and broad scores have no phase."""
    return [key for key in ("phase", "model") if key in table.column_names]


def _counts(table: pa.Table) -> dict[tuple[str, ...], list[int]]:
    """Return how many rows each model has, of every seed of its own: one number."""
    keys = _model_keys(table)
    found = table.group_by([*keys, "seed"], use_threads=False).aggregate([([], "count_all")])
    counts: dict[tuple[str, ...], list[int]] = {}
    for row in found.to_pylist():
        counts.setdefault(tuple(row[key] for key in keys), []).append(row["count_all"])
    seeds = len(table["seed"].unique())
    return {
        model: sorted({*rows, *([] if len(rows) == seeds else [0])})
        for model, rows in counts.items()
    }


def _difference(one: Any, other: Any) -> tuple[str, object, object] | None:
    """Return the first field in which two JSON objects differ, and what each has there."""
    for name in dict.fromkeys([*one, *other]):
        a, b = one.get(name), other.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            if inside := _difference(a, b):
                return (f"{name}.{inside[0]}", *inside[1:])
        elif a != b:
            return name, a, b
    return None
