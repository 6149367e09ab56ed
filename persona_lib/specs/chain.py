"""The chain of entries that seals a registration: read, checked and written.

A registration named ``x`` is sealed in a folder ``x``::

    chain.jsonl              one entry a line, oldest first, each naming the one before
    0000-f56c28c270d5/       one folder for each entry: its index, its digest
        canonical.json       the canonical form; SHA-256 of this file is the digest
        <claim_id>.prml      each claim in a format of others (`persona_lib.specs.prml`)
        <claim_id>.prml.sha256

An entry's hash is the SHA-256 of its canonical JSON without ``hash``. Everything is
checked whenever a chain is read: each byte of each file, the order of the entries,
and that nothing lies in the folder that no entry lists. docs/usage.md shows how
to check it without this code.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from persona_lib.digests import canonical_json, digest
from persona_lib.errors import SealError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from persona_lib.specs.prml import Manifest

CHAIN = "chain.jsonl"
CANONICAL = "canonical.json"
_RESTORE = "Restore it from version control."
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of a chain: the first registration, or an amendment of it.

    Attributes:
        index: 0 for the first registration.
        registration: its name.
        digest: SHA-256 of its canonical form.
        data_digest: SHA-256 of what shapes its data.
        date: when it was sealed: UTC, ``2026-11-25T01:48:20Z``.
        reason: why.
        data_seen: which data had been seen by then.
        prml: ``claim_id`` and ``sha256`` of each claim's PRML manifest.
        previous: hash of the entry before, or None.
        hash: SHA-256 of the canonical JSON of all the others.
    """

    index: int
    registration: str
    digest: str
    data_digest: str
    date: str
    reason: str
    data_seen: str
    prml: Mapping[str, Mapping[str, str]]
    previous: str | None
    hash: str

    @property
    def folder(self) -> str:
        """Name of the folder that holds its files."""
        return f"{self.index:04d}-{self.digest[:12]}"


def read_chain(own: Path) -> tuple[Entry, ...]:
    """Return the entries of one registration's folder, oldest first, after checking all of it.

    A folder that does not exist, or is empty, has no entries.

    Raises:
        SealError: anything in it was altered, removed, added or put elsewhere.
    """
    present = {path.name for path in own.iterdir()} if own.is_dir() else set()
    if not any(not name.startswith(".") for name in present):
        return ()
    entries: list[Entry] = []
    for number, line in enumerate(_lines(own / CHAIN)):
        entry = _entry(f"{own / CHAIN}, line {number + 1}", line)
        _check_order(f"{own / CHAIN}, line {number + 1}", entry, own.name, entries)
        _check_files(own / entry.folder, entry)
        entries.append(entry)
    _nothing_else(own, {CHAIN, *(entry.folder for entry in entries)})
    return tuple(entries)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise SealError(str(path), f"it cannot be read ({error})", remedy=_RESTORE) from error
    if not text.endswith("\n"):
        raise SealError(str(path), "its last line is not whole", remedy=_RESTORE)
    return text[:-1].split("\n")


def _entry(where: str, line: str) -> Entry:
    """Return the entry of a line that is exactly as it was written."""
    try:
        body = json.loads(line)
        # A line that was laid out differently, or repeats a key, is another text.
        if canonical_json(body) != line:
            raise ValueError("it is not canonical JSON")
        entry = Entry(**body)
        strings = [entry.registration, entry.digest, entry.date, entry.hash]
        strings += [entry.reason, entry.data_seen]
        if type(entry.index) is not int or not all(isinstance(s, str) for s in strings):
            raise ValueError("a field has another type")
        rest = {key: value for key, value in body.items() if key != "hash"}
        if digest(rest) != entry.hash:
            raise ValueError("its hash does not match what it says")
    except (TypeError, ValueError, RecursionError) as error:
        raise SealError(where, f"the entry was altered ({error})", remedy=_RESTORE) from error
    return entry


def _check_order(where: str, entry: Entry, name: str, before: Sequence[Entry]) -> None:
    last = before[-1] if before else None
    problem = ""
    if entry.registration != name:
        problem = f"it belongs to registration {entry.registration}"
    elif entry.index != len(before):
        problem = f"entry {entry.index} stands where entry {len(before)} belongs"
    elif entry.previous != (last.hash if last else None):
        problem = "it does not follow the entry before it: previous is another hash"
    elif not _DATE.fullmatch(entry.date) or (last and entry.date < last.date):
        problem = f"its date {entry.date} is no date in UTC, or precedes the entry before it"
    if problem:
        raise SealError(where, problem, remedy=_RESTORE)


def _check_files(folder: Path, entry: Entry) -> None:
    try:
        expected = {CANONICAL: entry.digest}
        for link in entry.prml.values():
            side = f"{link['sha256']}\n".encode("ascii")
            expected[f"{link['claim_id']}.prml"] = link["sha256"]
            expected[f"{link['claim_id']}.prml.sha256"] = hashlib.sha256(side).hexdigest()
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise SealError(str(folder), "its entry lists no files", remedy=_RESTORE) from error
    for name, sha256 in expected.items():
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except (OSError, ValueError) as error:
            problem = f"it cannot be read ({error})"
            raise SealError(str(folder / name), problem, remedy=_RESTORE) from error
        if found != sha256:
            problem = f"SHA-256 is {found[:12]}..., entry {entry.index} says {sha256[:12]}..."
            raise SealError(str(folder / name), problem, remedy=_RESTORE)
    _nothing_else(folder, set(expected))


def _nothing_else(folder: Path, expected: set[str]) -> None:
    for path in sorted(folder.iterdir()):
        if path.name not in expected and not path.name.startswith("."):
            raise SealError(
                str(path), "no entry lists it", remedy="Remove it, or restore the chain."
            )


def write_entry(own: Path, entry: Entry, text: str, written: Sequence[Manifest]) -> None:
    """Add an entry to a folder that has been read: its own folder whole, then the chain.

    Args:
        own: the registration's folder.
        entry: the new entry.
        text: the registration's canonical JSON.
        written: the manifests of its claims.
    """
    own.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=own, prefix=".") as draft:
        work = Path(draft) / entry.folder
        work.mkdir()
        (work / CANONICAL).write_bytes(text.encode("ascii"))
        for manifest in written:
            path = work / f"{manifest.claim_id}.prml"
            path.write_bytes(manifest.text.encode("utf-8"))
            path.with_suffix(".prml.sha256").write_bytes(f"{manifest.sha256}\n".encode("ascii"))
        chain = Path(draft) / CHAIN
        before = (own / CHAIN).read_bytes() if entry.index else b""
        chain.write_bytes(before + canonical_json(vars(entry)).encode("ascii") + b"\n")
        work.replace(own / entry.folder)
        chain.replace(own / CHAIN)
