r"""Join record sets of the same experiment with different seeds into one.

    flatland join golden/all runs/42 runs/137 runs/256 --texts 42

For seeds that were run at different times or on different machines, each recorded by
`flatland record`. The result is what one recording of all of these seeds would hold,
and is judged like it; its manifest says which set each part came from. Sets are joined
only if nothing but their seeds tells them apart: the same registration, profile and arms.
--texts names the seeds whose completions are kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.issue262 import REGISTRATIONS
from persona_lib.commands.options import choose_seeds
from persona_lib.commands.parts import (
    PARTIAL,
    ROWS,
    SEEDS,
    TEXTS,
    Part,
    counts_of,
    difference,
    model_keys,
    read_part,
)
from persona_lib.commands.sets import check_place, describe_seeds, each_once, write_set
from persona_lib.errors import DataError, FlatlandError, SpecError
from persona_lib.evidence.record_sets import TEXTS_FILE
from persona_lib.models.hidden_states import GEOMETRY_FILE
from persona_lib.store.provenance import provenance

if TYPE_CHECKING:
    import pyarrow as pa


def join(folders: Sequence[Path], into: Path, *, texts: Sequence[int] | None = None) -> None:
    """Write one record set from several.

    Args:
        folders: record sets of the same registration, profile and arms.
        into: where to write; must not exist yet, or be empty.
        texts: seeds whose completions are kept; by default all that there are.

    Raises:
        SpecError: fewer than two sets; `into` holds something already; or `texts` names a
            seed whose completions no set holds.
        DataError: a set is no whole record set, is of another registration than it stands
            in the code, or differs from the first in more than its seeds.
        CorruptEntryError: a file differs from what its manifest vouches for.
    """
    check_place(into)
    inside = [folder for folder in folders if folder.resolve() in into.resolve().parents]
    if inside:
        raise SpecError(
            "folder",
            bound=f"a place outside of the sets, {inside[0]} among them",
            value=str(into),
            remedy="Name another folder: a recorded set is left as it is.",
        )
    if len(folders) < 2:  # noqa: PLR2004 - what joining means
        raise SpecError(
            "sets",
            bound="two folders of records or more",
            value=len(folders),
            remedy="Name every set that is to be joined.",
        )
    parts = [read_part(folder) for folder in folders]
    _check(parts)
    tables = {name: found for name in ROWS if (found := _rows(parts, name)) is not None}
    for name in TEXTS:
        if name in tables and texts is not None:
            tables[name] = _of_seeds(tables[name], texts)
            if not len(tables[name]):
                del tables[name]
    _check_texts(texts, tables)
    registration = REGISTRATIONS[parts[0].manifest.registration]
    seeds = [seed for part in parts for seed in part.seeds]
    recorded = _recorded(parts, tables, seeds)
    source = parts[0].description.replace(SEEDS, describe_seeds(seeds))
    write_set(
        into,
        {name: (table, ROWS[name]) for name, table in tables.items()},
        registration=registration,
        source=f"{source} (joined from {len(recorded['joined'])} record sets)",
        recorded=recorded,
    )


def _check(parts: Sequence[Part]) -> None:
    """Refuse parts that differ in more than their seeds, or share one."""

    def description(part: Part) -> dict[str, Any]:
        return {
            "registration": (part.manifest.registration, part.manifest.digest),
            "source": part.description,
            "seal": part.manifest.recorded.get("seal"),
            "files": sorted(set(part.manifest.files) - set(PARTIAL)),
        }

    first = parts[0]
    pairs = [(part, description(first), description(part)) for part in parts]
    pairs += [
        (part, {"profile": first.profiles[0]}, {"profile": profile})
        for part in parts
        for profile in part.profiles
    ]
    for part, wanted, found in pairs:
        for name, value in wanted.items():
            if (where := difference(value, found[name], name)) is not None:
                _refuse(part.folder, where[0], where[2], first.folder, where[1])
    for name in ROWS:
        holders = [part for part in parts if name in part.tables]
        counts = [counts_of(part.tables[name]) for part in holders]
        for part, count in zip(holders, counts, strict=True):
            if count != counts[0] or any(len(rows) > 1 for rows in count.values()):
                of = f"rows of each model and seed in {name}"
                _refuse(part.folder, of, count, holders[0].folder, counts[0])
    seeds = [seed for part in parts for seed in part.seeds]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise DataError(
            "seeds of the sets",
            bound="every seed in one set alone",
            value=twice,
            remedy="Leave one of the sets out: a seed that is counted twice is no other run.",
        )


def _refuse(folder: Path, field: str, value: object, first: Path, wanted: object) -> None:
    raise DataError(
        f"{folder}: {field}",
        bound=f"that of {first}, {wanted!r}",
        value=value,
        remedy="Join only sets of the same registration, profile and arms: pooled, others would "
        "be read as training runs of one experiment.",
    )


def _rows(parts: Sequence[Part], name: str) -> pa.Table | None:
    """Return the rows of a file in the order of one recording: models, then seeds."""
    import pyarrow as pa

    tables = [part.tables[name] for part in parts if name in part.tables]
    if not tables:
        return None
    keys = model_keys(tables[0])
    models = dict.fromkeys(
        tuple(row.values()) for table in tables for row in table.select(keys).to_pylist()
    )
    return pa.concat_tables(
        [_where(table, dict(zip(keys, model, strict=True))) for model in models for table in tables]
    )


def _where(table: pa.Table, values: dict[str, str]) -> pa.Table:
    import pyarrow.compute as pc

    for name, value in values.items():
        table = table.filter(pc.field(name) == value)
    return table


def _of_seeds(table: pa.Table, seeds: Iterable[int]) -> pa.Table:
    import pyarrow.compute as pc

    return table.filter(pc.field("seed").isin(list(seeds)))


def _check_texts(texts: Sequence[int] | None, tables: dict[str, pa.Table]) -> None:
    held = _seeds_in(tables, TEXTS_FILE)
    unknown = [seed for seed in texts or () if seed not in held]
    if unknown:
        raise SpecError(
            "--texts",
            bound="seeds whose completions one of the sets holds",
            value=unknown[0],
            remedy="Name others, or leave --texts out to keep all that there are.",
        )


def _seeds_in(tables: dict[str, pa.Table], name: str) -> list[int]:
    return tables[name]["seed"].unique().to_pylist() if name in tables else []


def _recorded(
    parts: Sequence[Part], tables: dict[str, pa.Table], seeds: Sequence[int]
) -> dict[str, Any]:
    """Return what the manifest says: of all parts together, and of each."""

    def all_of(name: str) -> list[Any]:
        return [item for part in parts for item in part.lists[name]]

    joined: list[dict[str, Any]] = []
    for part in parts:
        joined += part.lists["joined"] or [
            {
                "seeds": list(part.seeds),
                "environment": part.manifest.recorded.get("environment"),
                "files": dict(part.manifest.files),
            }
        ]
    return {
        "config": all_of("config"),
        "environment": provenance(),
        "seal": parts[0].manifest.recorded.get("seal"),
        "stages": all_of("stages"),
        "stages_built_from": sorted(set(all_of("stages_built_from"))),
        "stages_built_on": each_once(all_of("stages_built_on")),
        "texts_of_seeds": [s for s in seeds if s in _seeds_in(tables, TEXTS_FILE)],
        "geometry_of_seeds": [s for s in seeds if s in _seeds_in(tables, GEOMETRY_FILE)],
        "joined": joined,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="flatland join", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write the joined set")
    parser.add_argument("sets", type=Path, nargs="+", help="folders of the sets")
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument("--texts", help="seeds whose completions are kept (default: all)")
    kept.add_argument("--without-text", action="store_true", help="keep scores only")
    options = parser.parse_args(arguments)
    try:
        texts = None if options.texts is None else choose_seeds(options.texts, "--texts")
        join(options.sets, options.folder, texts=() if options.without_text else texts)
    except FlatlandError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    sys.stdout.write(f"joined: {options.folder}\n")
    return 0
