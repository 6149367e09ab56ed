"""Every number and text of a spec by its path, and copies with another one in its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

Path = tuple[str, ...]
"""Names of fields, keys of tables, and positions in tuples of specs."""


def leaves(value: Any, path: Path = ()) -> dict[Path, Any]:
    """Return every number and text of a spec by its path; of specs within it, theirs."""
    if dataclasses.is_dataclass(value):
        inner = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, Mapping) and value:
        inner = dict(value)
    elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        inner = {str(index): item for index, item in enumerate(value)}
    else:
        return {path: value}
    found: dict[Path, Any] = {}
    for name, item in inner.items():
        found |= leaves(item, (*path, name))
    return found


def numbers(spec: Any) -> dict[Path, int | float]:
    """Return the numbers among the leaves."""
    found = leaves(spec).items()
    return {p: v for p, v in found if isinstance(v, (int, float)) and not isinstance(v, bool)}


def put(spec: Any, path: Path, value: Any) -> Any:
    """Return a copy with another value at a path."""
    if not path:
        return value
    if isinstance(spec, Mapping):
        return {**spec, path[0]: put(spec[path[0]], path[1:], value)}
    if isinstance(spec, tuple):
        index = int(path[0])
        return (*spec[:index], put(spec[index], path[1:], value), *spec[index + 1 :])
    if isinstance(spec, Mapping):
        return {**spec, path[0]: put(spec[path[0]], path[1:], value)}
    return dataclasses.replace(spec, **{path[0]: put(getattr(spec, path[0]), path[1:], value)})
