"""Plain data, as TOML gives it, structured into frozen specs by cattrs.

Nothing is converted: ``"0.2"`` is no number, ``1`` no truth value, a text no list. A table
with several types names its own under ``type`` (``difference``, ``source_rate``,
``jsonl``). A field that came `LATER`, or has a default, may be left out; one that nobody
knows may not be there.
"""

from __future__ import annotations

import difflib
import operator
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import cattrs
from cattrs.gen import make_dict_structure_fn

from persona_lib.checks import read_bytes, unknown
from persona_lib.errors import DataError, InputError, SpecError
from persona_lib.specs.claim_types import Claim, Kill, KillCriterion, RunKill
from persona_lib.specs.gate_types import Gate
from persona_lib.specs.sources import Base, Corpus, JsonlCorpus, PartCorpus, RowsCorpus

_T = TypeVar("_T")
_TYPE = "type"
_SUFFIX = re.compile(r"(Claim|Gate|Base|Corpus)$")
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_UNKNOWN = "A key that nothing knows has to be left out."
_SEVERAL = (Claim, Kill, Gate, Base, Corpus, PartCorpus)
"""Unions whose members are told apart by ``type``."""


_TAGS = {
    RowsCorpus: "jsonl",
    JsonlCorpus: "published_jsonl",
    KillCriterion: "rate",
    RunKill: "interval",
}


def tag_of(kind: type[Any]) -> str:
    """Return what a table of this type says under ``type``: of `SourceRateGate` source_rate."""
    if kind in _TAGS:
        return _TAGS[kind]
    return re.sub(r"(?<!^)(?=[A-Z])", "_", _SUFFIX.sub("", kind.__name__)).lower()


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file of bounded size.

    Raises:
        DataError: no such plain file, too long, not UTF-8, or no TOML; it names the line.
    """
    try:
        return tomllib.loads(read_bytes(path).decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise DataError(
            str(path), bound="TOML in UTF-8", value=str(error), remedy="Correct the line."
        ) from error


def structured(data: Mapping[str, Any], kind: type[_T], where: str = "") -> _T:
    """Return data as a spec.

    Args:
        data: of one table.
        kind: a frozen dataclass.
        where: what the data are called: of ``priors.em`` a missing corpus is
            ``priors.em.corpus``.

    Raises:
        SpecError: the first of `problems`; it holds the others.
    """
    try:
        return _converter().structure(data, kind)
    except Exception as error:
        found = [*problems(error, where)]
        if not found:
            raise
        raise first_of(found) from None


def first_of(found: Sequence[InputError]) -> SpecError:
    """Return the first of several errors of one file, which holds the others."""
    first = found[0]
    error = SpecError(first.field, bound=first.bound, value=first.value, remedy=first.remedy)
    error.others = tuple(found[1:])
    return error


class Gathered:
    """Errors of one file that are raised together: the first of them, which holds the others."""

    def __init__(self) -> None:
        self._found: list[InputError] = []

    @contextmanager
    def check(self) -> Iterator[None]:
        """Keep an error, and those that it holds, for `refuse`."""
        try:
            yield
        except InputError as error:
            self._found += [error, *others_of(error)]

    def refuse(self) -> None:
        """Raise what was found; SpecError."""
        if self._found:
            raise first_of(self._found)


@contextmanager
def named(where: str) -> Iterator[None]:
    """Put a file, or a key of it, before the field of an error that does not name the file."""
    try:
        yield
    except InputError as error:
        file = where.partition(":")[0]
        raise first_of([_under(file, where, e) for e in (error, *others_of(error))]) from error


def _under(file: str, where: str, error: InputError) -> InputError:
    field = error.field if error.field.startswith(file) else f"{where}: {error.field}"
    return SpecError(field, bound=error.bound, value=error.value, remedy=error.remedy)


def others_of(error: BaseException) -> tuple[InputError, ...]:
    """Return the errors of the same file that an error holds."""
    return error.others if isinstance(error, SpecError) else ()


def problems(error: BaseException, where: str) -> Iterator[InputError]:
    """Yield everything that is wrong, each with the key that it is about."""
    if isinstance(error, (cattrs.ClassValidationError, cattrs.IterableValidationError)):
        noted, rest = error.group_exceptions()
        misspelt = {name for inner in rest for name in _meant(inner)}
        for inner, note in noted:
            name = getattr(note, "name", None)
            if isinstance(inner, KeyError) and name in misspelt:
                continue
            step = f"[{note.index}]" if name is None else f"{'.' if where else ''}{name}"
            yield from problems(inner, f"{where}{step}")
        for inner in rest:
            yield from problems(inner, where)
    elif isinstance(error, cattrs.ForbiddenExtraKeysError):
        known = [field.name for field in fields(error.cl)]
        for name in sorted(error.extra_fields):
            yield unknown(f"{where}.{name}" if where else name, name, known, _UNKNOWN)
    elif isinstance(error, KeyError):
        yield SpecError(
            where, bound="a value", value="nothing", remedy=f"Add {where.rpartition('.')[2]}."
        )
    elif isinstance(error, _WrongTypeError):
        yield SpecError(where, bound=error.bound, value=error.value, remedy=error.remedy)
    elif isinstance(error, InputError):
        yield error


def _meant(error: BaseException) -> Iterator[str]:
    """Yield the keys that unknown ones were perhaps meant for: these are not missing as well."""
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        known = [field.name for field in fields(error.cl)]
        for name in error.extra_fields:
            yield from difflib.get_close_matches(name, known, n=1)


class _WrongTypeError(Exception):
    """A value of another type than its field's; where it stands is not known yet."""

    def __init__(self, bound: str, value: object, remedy: str = "Correct the value.") -> None:
        super().__init__(bound)
        self.bound, self.value, self.remedy = bound, value, remedy


@cache
def _converter() -> cattrs.Converter:
    made = cattrs.Converter(forbid_extra_keys=True)
    for kind, words in _WORDS.items():
        made.register_structure_hook(kind, _exactly(kind, words))
    made.register_structure_hook_func(_is_mapping, _mapping(made))
    made.register_structure_hook_factory(is_dataclass, partial(_table, made))
    made.register_structure_hook_func(_has_origin(Literal), _one_word)
    made.register_structure_hook_func(_has_origin(tuple), _list(made))
    made.register_structure_hook_func(_is_optional, _optional(made))
    for union in _SEVERAL:
        made.register_structure_hook_func(partial(operator.eq, union), _one_of(made))
    return made


def _has_origin(origin: Any) -> Callable[[Any], bool]:
    return lambda kind: get_origin(kind) is origin


def _exactly(kind: type[Any], words: str) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        # A whole number stays one: digests tell 1 from 1.0.
        if type(value) is kind or (kind is float and type(value) is int):
            return value
        quotes = "in quotes" if kind is str else "without quotes"
        raise _WrongTypeError(words, value, f"Write {words}, {quotes}.")

    return structure


def _is_mapping(kind: Any) -> bool:
    return get_origin(kind) is Mapping


def _mapping(made: cattrs.Converter) -> Callable[[Any, Any], Any]:
    def structure(value: Any, kind: Any) -> Any:
        plain: Any = dict
        return made.structure(_is_table(value), plain[get_args(kind)])

    return structure


def _table(made: cattrs.Converter, kind: Any) -> Callable[[Any, Any], Any]:
    inner: Any = make_dict_structure_fn(kind, made, _cattrs_forbid_extra_keys=True)
    return lambda value, _: inner(_is_table(value), kind)


def _is_table(value: Any) -> Any:
    if not isinstance(value, dict):
        raise _WrongTypeError("a table", value, "Write key = value below its heading, or in {}.")
    return value


def _one_word(value: Any, kind: Any) -> Any:
    known = get_args(kind)
    if value not in known:
        raise _none_of(known, value, "Choose one of them.")
    return value


def _none_of(known: Collection[str], value: Any, remedy: str, *, key: str = "") -> _WrongTypeError:
    """Return the error for a word that is not among the known ones; a near one is offered."""
    near = difflib.get_close_matches(str(value), known, n=1)
    bound = f"{key}one of {', '.join(known)}"
    return _WrongTypeError(bound, value, f"Did you mean {near[0]}?" if near else remedy)


def _list(made: cattrs.Converter) -> Callable[[Any, Any], Any]:
    def structure(value: Any, kind: Any) -> Any:
        if not isinstance(value, list):
            raise _WrongTypeError("a list", value, "Write it in square brackets.")
        inner: Any = get_args(kind)[0]
        return tuple(made.structure(value, list[inner]))

    return structure


def _is_optional(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType) and type(None) in get_args(kind)


def _optional(made: cattrs.Converter) -> Callable[[Any, Any], Any]:
    def structure(value: Any, kind: Any) -> Any:
        inner: Any = Union[tuple(one for one in get_args(kind) if one is not type(None))]  # noqa: UP007
        return None if value is None else made.structure(value, inner)

    return structure


def _one_of(made: cattrs.Converter) -> Callable[[Any, Any], Any]:
    def structure(value: Any, union: Any) -> Any:
        known = {tag_of(kind): kind for kind in get_args(union)}
        if not isinstance(value, dict):
            words = f"Write a table with type = one of {', '.join(known)}."
            raise _WrongTypeError("a table", value, words)
        tag = value.get(_TYPE)
        if not isinstance(tag, str) or tag not in known:
            raise _none_of(known, tag, "Name its type.", key="type = ")
        rest = {name: inside for name, inside in value.items() if name != _TYPE}
        return made.structure(rest, known[tag])

    return structure
