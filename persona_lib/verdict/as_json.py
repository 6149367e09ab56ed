"""Dataclasses as strict JSON data, and back: NaN is null, an enum its value, a tuple a list."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

from persona_lib.stats.estimate import nan_if_none, none_if_nan

_hints = cache(get_type_hints)


class AsJson:
    """A dataclass that is written as JSON data; so are dataclasses inside it."""

    def to_json(self) -> dict[str, Any]:
        """Return strict JSON data."""
        written: dict[str, Any] = _written(self)
        return written

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return what `to_json` wrote; fields that are not there have their defaults.

        Raises:
            TypeError: an unknown field, or none where one has no default.
        """
        read: Self = _read(cls, data)
        return read


def _written(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _written(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_written(inside) for inside in value]
    return value.value if isinstance(value, Enum) else none_if_nan(value)


def _read(hint: Any, data: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):  # something or None
        hint = next(one for one in get_args(hint) if one is not type(None))
        return None if data is None else _read(hint, data)
    if get_origin(hint) is tuple:
        return tuple(_read(get_args(hint)[0], one) for one in data)
    if is_dataclass(hint):
        of: Any = hint
        return of(**{name: _read(_hints(of).get(name, Any), one) for name, one in data.items()})
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(data)
    return nan_if_none(data) if hint is float else data
