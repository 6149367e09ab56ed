"""Sealing and checking a registration: it is judged only as its newest seal has it.

A seal (`persona_lib.specs.chain`) holds the digest of a registration, when and why it was
sealed, and what data had been seen. A later one is an amendment. docs/usage.md says
what a seal cannot prove.
"""

from __future__ import annotations

import json
import textwrap
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.digests import canonical, canonical_json, digest
from persona_lib.errors import SealError, SpecError, clean
from persona_lib.specs.chain import (
    CANONICAL,
    FORMAT,
    STUDY,
    Seal,
    read_chain,
    read_form,
    write_seal,
)
from persona_lib.specs.prml import DATE, manifests, notes_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from persona_lib.specs.registration import Registration

NONE_SEEN = "none"
"""What a seal says if no data had been seen, whatever its case and full stop."""

_MOST_CHARACTERS = 2000
_MOST_PRINTED = 240
"""Characters of a statement in a terminal."""
_MOST_DIFFERENCES = 6
_MOST_SHOWN = 60
_ABSENT = object()
"""For what only one of two canonical forms has: null may be a value."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A seal's statement that data had been seen.

    Attributes:
        amendment: 0 for the first seal.
        date: date of the seal, UTC.
        data_seen: the statement, one line without controls.
    """

    amendment: int
    date: str
    data_seen: str

    @property
    def when(self) -> str:
        """``sealed 2026-11-25 after seeing``."""
        return f"{'amended' if self.amendment else 'sealed'} {self.date[:10]} after seeing"


@dataclass(frozen=True, kw_only=True)
class SealState:
    """How a registration is sealed, as a verdict reports it.

    Attributes:
        digest: SHA-256 of its canonical form.
        date, reason: when (UTC) and why the newest seal was made.
        amendments: seals after the first.
        head: hash of the newest seal: it fixes the whole chain.
        study: SHA-256 of the sealed study, "" where none was.
        seen: statements that data had been seen, oldest first, the first of each
            wording; empty if every seal says that none had been.
    """

    registration: str
    digest: str
    date: str
    amendments: int
    head: str
    reason: str = ""
    study: str = ""
    seen: tuple[Seen, ...] = ()


def seal_text(sealed: str, amendments: int | None) -> str:
    """Return the words of a heading about a seal, "" if the seal was not checked."""
    if amendments is None:
        return ""
    changes = "1 amendment" if amendments == 1 else f"{amendments} amendments"
    return f" (sealed {sealed[:10]}, {changes})"


def seal_lines(
    sealed: str, amendments: int | None, reason: str, seen: Sequence[Seen]
) -> tuple[str, ...]:
    """Return the lines under a heading: data seen before sealing, and the newest amendment.

    `sealed` is the date of the newest seal; `amendments` None if it was not checked.
    """
    lines = [f"{one.when}: {_cut(one.data_seen)}" for one in seen]
    if amendments:
        lines.append(f"newest amendment, {sealed[:10]}: {_cut(reason)}")
    return tuple(lines)


def seen_of(data: Iterable[Mapping[str, Any]]) -> tuple[Seen, ...]:
    """Return statements that were written as JSON."""
    return tuple(Seen(**one) for one in data)


def _cut(text: str) -> str:
    return textwrap.shorten(clean(text), _MOST_PRINTED, placeholder=" ...")


def check_sealed(
    registration: Registration,
    folder: Path,
    *,
    study: Mapping[str, Any] | None = None,
    named: str = "",
    file: str = "",
) -> SealState:
    """Return how a registration, as it stands, is sealed.

    Args:
        registration: the registration.
        study: what data would be made from now; None where none are made.
        folder: where the folders of all registrations lie.
        named: head of its chain that a recording noted, or "".
        file: what ``flatland seal`` is given, by default the name.

    Raises:
        SealError: it is not sealed, differs from what was sealed last, or
            something in its folder was altered.
    """
    name, command = registration.name, _command(file or registration.name)
    chain = read_chain(folder / name)
    if not chain:
        raise SealError(
            f"registration {name}",
            f"it is not sealed in {folder / name}",
            remedy=f"Seal it before any data are seen: {command}",
        )
    newest = chain[-1]
    if newest.digest != registration.digest:
        raise SealError(
            f"registration {name}",
            f"digest {registration.digest[:12]} is not the sealed {newest.digest[:12]} of "
            f"{newest.date}. {_moved(read_form(folder / name, newest), canonical(registration))}",
            remedy="Restore the sealed rules, or register these under another name, or amend: "
            f"{command}",
        )
    if study is not None and newest.study not in (None, digest(study)):
        raise SealError(
            f"study of {name}",
            f"digest {digest(study)[:12]} is not the sealed {(newest.study or '')[:12]} of "
            f"{newest.date}. {_moved(read_form(folder / name, newest, STUDY), study)}",
            remedy="Restore what was sealed, or seal this as another experiment, or amend: "
            f"{command}",
        )
    return SealState(
        registration=name,
        digest=newest.digest,
        date=newest.date,
        amendments=len(chain) - 1,
        head=newest.hash,
        reason=_bounded(newest.reason),
        study=newest.study or "",
        seen=_seen(chain, named),
    )


def _moved(sealed: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return where two canonical forms differ, in words."""
    moved = list(differences(sealed, now))
    more = len(moved) - _MOST_DIFFERENCES
    return "; ".join(moved[:_MOST_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def _seen(chain: Sequence[Seal], named: str) -> tuple[Seen, ...]:
    """Return the statements of a chain, and one about a noted head that it does not hold."""
    found: dict[str, Seen] = {}
    for seal in chain:
        text = _bounded(seal.data_seen)
        if text.rstrip(".").casefold() != NONE_SEEN:
            found.setdefault(text, Seen(amendment=seal.index, date=seal.date, data_seen=text))
    if named and named not in {seal.hash for seal in chain}:
        text = (
            f"a recording that names another seal of rules of this name (head {named[:12]}), "
            "which this chain does not hold: it was replaced or cut, or the set was recorded "
            "elsewhere."
        )
        found[text] = Seen(amendment=0, date=chain[0].date, data_seen=text)
    return tuple(found.values())


def _bounded(text: str) -> str:
    """Return a text of a chain as `append` would have taken it."""
    text = clean(text).strip()
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 3] + "..."


def append(
    registration: Registration,
    folder: Path,
    *,
    date: datetime,
    reason: str,
    data_seen: str,
    study: Mapping[str, Any] | None = None,
) -> Seal:
    """Seal a registration, or an amendment of it, and return the new seal.

    Args:
        registration: what to seal, as it stands in code.
        folder: where the folders of all registrations lie.
        date: now, with a time zone; kept in UTC, to the second.
        reason: why, in words.
        data_seen: which data have been seen; "none" has to be stated too.
        study: what data will be made from, sealed with it; None seals the rules alone.

    Raises:
        SpecError: a text is empty or too long, the date has no zone or precedes
            the newest seal, or nothing has changed since that one.
        SealError: the chain is broken already.
    """
    why, seen = _text("reason", reason), _text("data seen", data_seen)
    own = folder / registration.name
    chain = read_chain(own)
    moment = _moment(date, chain)
    pinned = None if study is None else digest(study)
    if chain and (chain[-1].digest, chain[-1].study) == (registration.digest, pinned):
        raise SpecError(
            "registration",
            bound="a change since the newest seal",
            value=f"{registration.name} {registration.digest[:12]}, sealed {chain[-1].date}",
            remedy="Nothing has to be sealed.",
        )
    written = manifests(
        canonical(registration),
        date=moment,
        notes=notes_of(why, seen),
        priors={name: link for seal in chain for name, link in seal.prml.items()},
    )
    body: dict[str, Any] = {
        "format": FORMAT,
        "index": len(chain),
        "registration": registration.name,
        "digest": registration.digest,
        "data_digest": registration.data_digest,
        "date": moment,
        "reason": why,
        "data_seen": seen,
        "prml": {name: manifest.link for name, manifest in written.items()},
        "previous": chain[-1].hash if chain else None,
    }
    body |= {} if pinned is None else {"study": pinned}
    seal = Seal(**body, hash=digest(body))
    forms = {CANONICAL: canonical_json(registration)}
    forms |= {} if study is None else {STUDY: canonical_json(study)}
    write_seal(own, seal, forms)
    return seal


def differences(sealed: Any, now: Any, path: str = "") -> Iterator[str]:
    """Yield where two canonical forms differ: ``claims[H1].max_p: sealed 0.001, now 0.01``.

    Items of a list are matched by name where they have one, as rules and arms do; tables without
    one by their place, where there are as many.
    """
    absent = sealed is _ABSENT or now is _ABSENT
    # As text, because to Python 1, 1.0 and True are equal.
    if not absent and canonical_json(sealed) == canonical_json(now):
        return
    pairs: dict[str, tuple[Any, Any]] | None = None
    if isinstance(sealed, dict) and isinstance(now, dict):
        prefix = f"{path}." if path else ""
        pairs = {f"{prefix}{key}": pair for key, pair in _pairs(sealed, now)}
    elif _named(sealed) and _named(now):
        old, new = ({item["name"]: item for item in items} for items in (sealed, now))
        if set(old) == set(new) and list(old) != list(new):
            yield f"{path}: sealed in the order {', '.join(old)}, now {', '.join(new)}"
        pairs = {f"{path}[{key}]": pair for key, pair in _pairs(old, new)}
    elif _tables(sealed) and _tables(now) and len(sealed) == len(now):
        pairs = {f"{path}[{i}]": pair for i, pair in enumerate(zip(sealed, now, strict=True))}
    if pairs is None:
        yield f"{path}: sealed {_shown(sealed)}, now {_shown(now)}"
        return
    for inner, (before, after) in pairs.items():
        yield from differences(before, after, inner)


def _pairs(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, tuple[Any, Any]]]:
    return [(k, (old.get(k, _ABSENT), new.get(k, _ABSENT))) for k in {**old, **new}]


def _named(items: Any) -> bool:
    return _tables(items) and all("name" in item for item in items)


def _tables(items: Any) -> bool:
    return isinstance(items, list) and all(isinstance(item, dict) for item in items)


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."


def _command(name: str) -> str:
    return f'flatland seal {name} --reason "..." --data-seen "..."'


def _text(field: str, given: str) -> str:
    """Return one line in normal form C, which is what PRML takes."""
    text = unicodedata.normalize("NFC", clean(given)).strip()
    if not 0 < len(text) <= _MOST_CHARACTERS:
        raise SpecError(
            field,
            bound=f"1 to {_MOST_CHARACTERS} characters",
            value=given,
            remedy='Say it in words; if no data have been seen, say "none".',
        )
    return text


def _moment(date: datetime, chain: Sequence[Seal]) -> str:
    if date.tzinfo is None:
        raise SpecError(
            "date", bound="a time zone", value=str(date), remedy="Give the date in UTC."
        )
    moment = date.astimezone(UTC).strftime(DATE)
    if chain and moment < chain[-1].date:
        raise SpecError(
            "date",
            bound=f"not before the newest seal, {chain[-1].date}",
            value=moment,
            remedy="Set the clock of this machine.",
        )
    return moment
