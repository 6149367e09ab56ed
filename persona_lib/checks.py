"""Checks of what somebody gave us: numbers, names, JSON files.

Each raises one of our errors with field, bound, value and remedy. A `Bound` is
checked and printed from one place, so that a message cannot contradict its check.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.errors import DataError, InputError, SpecError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Bound:
    """What a number has to fulfil, in words and as a test. NaN fulfils nothing."""

    words: str
    holds: Callable[[float], bool]


LEVEL = Bound("between 0 and 1, both excluded", lambda x: 0 < x < 1)
SHARE = Bound("between 0 and 1, both included", lambda x: 0 <= x <= 1)
DIFFERENCE = Bound("between -1 and 1, both included", lambda x: -1 <= x <= 1)
POSITIVE = Bound("finite and > 0", lambda x: 0 < x < math.inf)
NOT_NEGATIVE = Bound("finite and >= 0", lambda x: 0 <= x < math.inf)


def number(
    field: str,
    value: object,
    bound: Bound,
    *,
    remedy: str,
    error: type[InputError] = SpecError,
) -> float:
    """Return `value` as a float that keeps within its bound.

    Raises:
        InputError: of the type `error`; not a number, or out of its bound.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and bound.holds(value):
        try:
            return float(value)
        except OverflowError:
            pass  # an integer that no float can hold
    raise error(field, bound=bound.words, value=value, remedy=remedy)


def whole(
    field: str,
    value: object,
    least: int,
    most: int | None = None,
    *,
    remedy: str,
    error: type[InputError] = SpecError,
) -> int:
    """Return `value`, an integer from `least` to `most`, or of any size from `least` on.

    Raises:
        InputError: of the type `error`; not an integer, or out of bounds.
    """
    largest = math.inf if most is None else most
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= largest:
        return value
    bound = f">= {least} and whole" if most is None else f"from {least} to {most} and whole"
    raise error(field, bound=bound, value=value, remedy=remedy)


def numbers(
    prefix: str, spec: object, names: Iterable[str], bound: Bound | None = None, *, remedy: str
) -> None:
    """Raise SpecError where a field of a spec, called ``prefix.name``, is out of bounds.

    Without a bound it has to be an integer >= 1.
    """
    for name in names:
        field, value = f"{prefix}.{name}", getattr(spec, name)
        if bound is None:
            whole(field, value, 1, remedy=remedy)
        else:
            number(field, value, bound, remedy=remedy)


_OF_REGISTRATION = "Use a name of the registration."


def near(name: object, known: Iterable[str], most: int = 3) -> list[str]:
    """Return the known names that are most like one, whatever their case; the nearest first."""
    folded: dict[str, list[str]] = {}
    for one in known:
        folded.setdefault(one.casefold(), []).append(one)
    found = difflib.get_close_matches(str(name).casefold(), folded, n=most)
    return [one for key in found for one in folded[key]][:most]


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return a question that offers the name nearest to one, and a space; "" where none is near."""
    found = near(name, known, 1)
    return f"Did you mean {found[0]}? " if found else ""


def near_paths(path: Path) -> list[str]:
    """Return paths that are there and are most like one that is not: its first missing part."""
    missing = next((p for p in (path, *path.parents) if p.parent.is_dir()), path)
    try:
        names = [entry.name for entry in missing.parent.iterdir()]
    except OSError:
        names = []
    return [str(missing.with_name(name)) for name in near(missing.name, names)]


def unknown(
    field: str, value: str, known: Iterable[str], remedy: str = _OF_REGISTRATION
) -> SpecError:
    """Return the error for a name that is not among the known ones; a near one is offered."""
    names = list(known)
    remedy = did_you_mean(value, names) + remedy
    return SpecError(field, bound=f"one of {', '.join(names)}", value=value, remedy=remedy)


def member(field: str, value: str, known: Sequence[str], *, remedy: str = _OF_REGISTRATION) -> None:
    """Raise SpecError where `value` is not among the known names."""
    if value not in known:
        raise unknown(field, value, known, remedy)


def distinct(field: str, names: Sequence[str]) -> None:
    """Raise SpecError where a name is used twice."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SpecError(
            field, bound="distinct names", value=repeated[0], remedy="Name each one once."
        )


MOST_JSON_BYTES = 4 * 2**20
"""A JSON file of ours is far smaller; one of this size parses within 2 s and 500 MiB."""
MOST_JSON_DEPTH = 64
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")


def unreadable(path: Path, what: str, value: object) -> DataError:
    """Return the error for a file that is not what it has to be."""
    return DataError(str(path), bound=what, value=str(value), remedy="Restore the file.")


def check_plain(path: Path) -> None:
    """Raise DataError where a path leads to no plain file: pipes and devices may never end."""
    try:
        if not path.is_file():
            kind = "another kind of file" if path.exists() else "no such file"
            raise unreadable(path, "a plain file", kind)
    except OSError as error:
        raise unreadable(path, "a readable file", error) from error


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a plain file, or of what a link to one leads to.

    Raises:
        DataError: no plain file, unreadable, or longer than `MOST_JSON_BYTES`.
    """
    check_plain(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_JSON_BYTES + 1)
    except OSError as error:
        raise unreadable(path, "a readable file", error) from error
    if len(raw) > MOST_JSON_BYTES:
        raise unreadable(path, f"at most {MOST_JSON_BYTES:,} bytes", "more")
    return raw


def parse_json(raw: bytes, *, most_depth: int = MOST_JSON_DEPTH) -> Any:
    """Parse JSON in UTF-8 after bounding its depth.

    Raises:
        ValueError: it is not UTF-8, not JSON, or nested more than `most_depth` deep.
    """
    brackets = _TEXT.sub(b"", raw).translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(most_depth):
        brackets = brackets.replace(b"[]", b"")  # the innermost pairs
    if brackets:
        raise ValueError(f"its brackets are nested more than {most_depth} deep, or do not close")
    return json.loads(raw.decode("utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object; size, kind and depth are bounded before it is parsed.

    Raises:
        DataError: as `read_bytes` raises it; or nested too deep, not UTF-8, or no object.
    """
    raw = read_bytes(path)
    try:
        body = parse_json(raw)
    except ValueError as error:
        raise unreadable(path, "a readable JSON file", error) from error
    if not isinstance(body, dict):
        raise unreadable(path, "a JSON object", type(body).__name__)
    return body


def checked(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """Return the columns of `schema`, in its order and with its types.

    The table may have others. Text may come as ``large_string``, which is how pandas writes
    it; nothing else is converted. `where` names the table in a message.

    Raises:
        DataError: a column is missing or of another type, or a value is null.
    """
    import pyarrow as pa

    for field in schema:
        name = f"{where}: column {field.name}"
        if field.name not in table.column_names:
            raise DataError(
                name, bound="present", value="missing", remedy="Write the record set again."
            )
        column = table.column(field.name)
        accepted = (field.type, pa.large_string()) if field.type == pa.string() else (field.type,)
        if column.type not in accepted:
            raise DataError(
                name,
                bound=str(field.type),
                value=str(column.type),
                remedy="Write the column with its registered type.",
            )
        if column.null_count:
            raise DataError(
                name,
                bound="no missing values",
                value=f"{column.null_count} nulls",
                remedy="Leave no value out: a missing completion is a missing row.",
            )
    return table.select(schema.names).cast(schema)
