"""Profiles as compositions: a base model, parts (a recipe and a scale), and what differs.

Parts are files of tables in experiments/recipes and experiments/scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from persona_lib.checks import member
from persona_lib.errors import SpecError
from persona_lib.specs.profile import CouplingSpec, Profile, SampleSpec, Scale, TrainSpec
from persona_lib.specs.sources import ChatFormat
from persona_lib.specs.structure import named, read_toml, structured

RECIPES, SCALES = "recipes", "scales"
"""Folders of the parts."""
_KINDS = ("hub", "path")
_OTHER = {"epochs": "steps", "steps": "epochs"}
"""A recipe has one of the two."""
_TABLES: dict[str, tuple[str, Any]] = {
    "prior": ("prior", TrainSpec),
    "coupling": ("coupling", CouplingSpec),
    "sample": ("sample", SampleSpec),
    "size": ("scale", Scale),
    "chat": ("chat", ChatFormat),
}
"""What may be changed of a profile: the field and its type."""


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return two tables merged key by key; lists and values are replaced."""
    merged = {name: value for name, value in below.items() if _OTHER.get(name) not in above}
    for name, value in above.items():
        old = merged.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[name] = over(old, value)
        else:
            merged[name] = value
    return merged


def is_base(text: str) -> bool:
    """Whether a text says where a base model lies, and is not a profile's name."""
    return text.partition(":")[0] in _KINDS and ":" in text


def base_table(text: str, field: str = "model.base") -> dict[str, str]:
    """Return ``hub:ORG/NAME[@REVISION]`` or ``path:FOLDER`` as the table of a base, unpinned.

    Raises:
        SpecError: it is neither.
    """
    kind, _, rest = text.partition(":")
    repo, at, revision = rest.partition("@")
    if kind == "path" and rest:
        return {"type": kind, "folder": rest}
    org, _, name = repo.partition("/")
    if kind == "hub" and org and name and "/" not in name and (revision or not at):
        return {"type": kind, "repo": repo, "revision": revision}
    raise SpecError(
        field,
        bound="hub:ORG/NAME, hub:ORG/NAME@REVISION or path:FOLDER",
        value=text,
        remedy="For example hub:Qwen/Qwen2.5-0.5B-Instruct, or path:./my_model.",
    )


def names_of(folder: Path, kind: str) -> tuple[str, ...]:
    """Return the names of the parts of a kind."""
    return tuple(sorted(path.stem for path in (folder / kind).glob("*.toml")))


def compose(body: Mapping[str, Any], folder: Path, where: str) -> Profile:
    """Return the profile of a file's tables.

    Args:
        body: its tables; those of ``parts`` lie below them, a later one over an earlier one.
            ``base`` may be a text.
        folder: of recipes and scales.
        where: what the tables are called, for errors.

    Raises:
        SpecError: a part is not there, or a key is wrong.
    """
    given, merged = dict(body), dict[str, Any]()
    known = [f"{kind}/{name}" for kind in (RECIPES, SCALES) for name in names_of(folder, kind)]
    for part in given.pop("parts", ()):
        member(f"{where}: parts", part, known, remedy="Name one of them (docs/extending.md).")
        merged = over(merged, read_toml(folder / f"{part}.toml"))
    merged = over(merged, given)
    if isinstance(merged.get("base"), str):
        merged["base"] = base_table(merged["base"], f"{where}: base")
    return structured(merged, Profile, where)


def plain(spec: Any) -> dict[str, Any]:
    """Return a spec as the data that `structured` takes."""
    return {
        name: list(value) if isinstance(value, tuple)
        else {k: list(v) if isinstance(v, tuple) else v for k, v in value.items()}
        if isinstance(value, dict)
        else value
        for name, value in asdict(spec).items()
    }  # fmt: skip


def changed(profile: Profile, tables: Mapping[str, Any], where: str) -> Profile:
    """Return a profile with tables merged over its own; ``size`` is over its scale.

    Raises:
        SpecError: a key or a value is wrong.
    """
    made: dict[str, Any] = {}
    for name, (field, kind) in _TABLES.items():
        if given := tables.get(name):
            own, table = getattr(profile, field), f"{where}.{name}"
            with named(table):
                made[field] = structured(over(plain(own), given), kind, table)
    return replace(profile, **made) if made else profile
