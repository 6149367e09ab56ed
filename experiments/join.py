r"""Join record sets of the same experiment with different seeds into one.

    python -m experiments.join golden/all runs/42 runs/137 runs/256 --texts 42

For seeds that were run at different times or on different machines, each recorded by
`experiments.record`. The result is what one recording of all of these seeds would hold,
and is judged like it; its manifest says which set each part came from. Sets are joined
only if nothing but their seeds tells them apart: the same registration, profile and arms.
--texts names the seeds whose completions are kept.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.choices import choose_seeds
from experiments.issue262 import REGISTRATIONS
from experiments.sets import ADVICE_TEXTS_FILE, SCORES_FILE, check_place, seeds_told, write_set
from persona_lib.errors import DataError, FlatlandError, SpecError
from persona_lib.geometry import GEOMETRY_FILE
from persona_lib.harm import ADVICE_FILE
from persona_lib.provenance import provenance
from persona_lib.records import AdviceScore, Completion, GeometryRow, Score, read_table
from persona_lib.stored import (
    RECORDS,
    TEXTS_FILE,
    Manifest,
    judged_under,
    read_manifest,
    verify,
)

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS: dict[str, type[Any]] = {
    SCORES_FILE: Score,
    ADVICE_FILE: AdviceScore,
    GEOMETRY_FILE: GeometryRow,
    TEXTS_FILE: Completion,
    ADVICE_TEXTS_FILE: Completion,
}
"""Every file of a record set, and the type of its rows."""
_TEXTS = (TEXTS_FILE, ADVICE_TEXTS_FILE)
_PARTIAL = (GEOMETRY_FILE, *_TEXTS)
"""Files that a part may lack: what they hold is then of the other parts' seeds."""
_SEEDS = "seeds ..."
_JOINED = re.compile(r" \(joined from [0-9]+ record sets\)$")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the sets.

    Attributes:
        folder: where it lies.
        manifest: what it says of itself.
        seeds: its root seeds, in the order in which it was recorded.
        tables: the rows of each of its files, by name.
    """

    folder: Path
    manifest: Manifest
    seeds: tuple[int, ...]
    tables: dict[str, pa.Table]

    @property
    def told(self) -> str:
        """Where it comes from, without its seeds."""
        return _JOINED.sub("", self.manifest.source).replace(seeds_told(self.seeds), _SEEDS)

    @property
    def profiles(self) -> list[Any]:
        """The distinct profiles of its seeds, as canonical JSON: one."""
        found = (config["profile"] for config in self.manifest.recorded["config"])
        return sorted({json.dumps(profile, sort_keys=True) for profile in found})

    @property
    def models(self) -> list[tuple[str, str]]:
        """Phase and name of every model that was scored, in the order of their rows."""
        rows = self.tables[SCORES_FILE].select(["phase", "model"]).to_pylist()
        return list(dict.fromkeys((row["phase"], row["model"]) for row in rows))


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
    if len(folders) < 2:  # noqa: PLR2004 - what joining means
        raise SpecError(
            "sets",
            bound="two folders of records or more",
            value=len(folders),
            remedy="Name every set that is to be joined.",
        )
    parts = [_read(folder) for folder in folders]
    _check(parts)
    tables = {name: found for name in _ROWS if (found := _rows(parts, name)) is not None}
    for name in _TEXTS:
        if name in tables and texts is not None:
            tables[name] = _of_seeds(tables[name], texts)
            if not len(tables[name]):
                del tables[name]
    _check_texts(texts, tables)
    registration = REGISTRATIONS[parts[0].manifest.registration]
    seeds = [seed for part in parts for seed in part.seeds]
    recorded = _recorded(parts, tables, seeds)
    source = parts[0].told.replace(_SEEDS, seeds_told(seeds))
    write_set(
        into,
        {name: (table, _ROWS[name]) for name, table in tables.items()},
        registration=registration,
        source=f"{source} (joined from {len(recorded['joined'])} record sets)",
        recorded=recorded,
    )


def _read(folder: Path) -> Part:
    manifest = read_manifest(folder)
    name = manifest.registration
    if manifest.kind != RECORDS or name not in REGISTRATIONS:
        raise DataError(
            f"{folder}: kind and registration",
            bound=f"{RECORDS}, of one of {', '.join(REGISTRATIONS)}",
            value=f"{manifest.kind} of {name}",
            remedy="Name folders that experiments.record wrote.",
        )
    judged_under(folder, manifest, REGISTRATIONS[name], chosen=False)
    verify(folder, manifest)
    unknown = sorted(set(manifest.files) - set(_ROWS))
    if unknown:
        raise DataError(
            f"{folder}: files",
            bound=f"some of {', '.join(_ROWS)}",
            value=unknown,
            remedy="Name folders that experiments.record wrote.",
        )
    tables = {file: read_table(folder / file, _ROWS[file]) for file in manifest.files}
    try:
        seeds = tuple(int(config["seed"]) for config in manifest.recorded["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder}: recorded.config",
            bound="the configuration of each seed",
            value=repr(error),
            remedy="Name folders that experiments.record wrote.",
        ) from error
    scored = tables[SCORES_FILE]["seed"].unique().to_pylist()
    if sorted(scored) != sorted(seeds) or seeds_told(seeds) not in manifest.source:
        raise DataError(
            f"{folder}: seeds",
            bound=f"those of its configuration, {', '.join(map(str, seeds))}",
            value=f"scores of {sorted(scored)}, source {manifest.source!r}",
            remedy="Record it again: manifest and rows do not belong together.",
        )
    return Part(folder=folder, manifest=manifest, seeds=seeds, tables=tables)


def _check(parts: Sequence[Part]) -> None:
    """Refuse parts that differ in more than their seeds, or share one."""
    first = parts[0]
    for part in parts:
        found = {
            "registration": (part.manifest.registration, part.manifest.digest),
            "source": part.told,
            "profile": part.profiles,
            "models": part.models,
            "seal": part.manifest.recorded.get("seal"),
            "files": sorted(set(part.manifest.files) - set(_PARTIAL)),
        }
        wanted = {
            "registration": (first.manifest.registration, first.manifest.digest),
            "source": first.told,
            "profile": first.profiles[:1],
            "models": first.models,
            "seal": first.manifest.recorded.get("seal"),
            "files": sorted(set(first.manifest.files) - set(_PARTIAL)),
        }
        for field, value in found.items():
            if value != wanted[field]:
                raise DataError(
                    f"{part.folder}: {field}",
                    bound=f"that of {first.folder}, {wanted[field]!r}",
                    value=value,
                    remedy="Join only sets of the same registration, profile and arms: pooled, "
                    "others would be read as training runs of one experiment.",
                )
    seeds = [seed for part in parts for seed in part.seeds]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise DataError(
            "seeds of the sets",
            bound="every seed in one set alone",
            value=twice,
            remedy="Leave one of the sets out: a seed that is counted twice is no other run.",
        )


def _rows(parts: Sequence[Part], name: str) -> pa.Table | None:
    """Return the rows of a file in the order of one recording: models, then seeds."""
    import pyarrow as pa

    tables = [part.tables[name] for part in parts if name in part.tables]
    if not tables:
        return None
    keys = [key for key in ("phase", "model") if key in tables[0].column_names]
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
    every = [part.manifest.recorded for part in parts]
    built_on = {
        json.dumps(told, sort_keys=True): told
        for one in every
        for told in one.get("stages_built_on", [])
    }
    joined: list[dict[str, Any]] = []
    for part, recorded in zip(parts, every, strict=True):
        joined += recorded.get("joined") or [
            {
                "seeds": list(part.seeds),
                "environment": recorded.get("environment"),
                "files": dict(part.manifest.files),
            }
        ]
    return {
        "config": [config for one in every for config in one["config"]],
        "environment": provenance(),
        "seal": every[0].get("seal"),
        "stages": [stage for one in every for stage in one.get("stages", [])],
        "stages_built_from": sorted({c for one in every for c in one.get("stages_built_from", [])}),
        "stages_built_on": [built_on[key] for key in sorted(built_on)],
        "texts_of_seeds": [s for s in seeds if s in _seeds_in(tables, TEXTS_FILE)],
        "geometry_of_seeds": [s for s in seeds if s in _seeds_in(tables, GEOMETRY_FILE)],
        "joined": joined,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="experiments.join", description=__doc__)
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


if __name__ == "__main__":
    raise SystemExit(main())
