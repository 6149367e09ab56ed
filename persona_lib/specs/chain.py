"""The chain of seals of a registration: read, checked and written.

A registration named ``x`` is sealed in a folder ``x``::

    chain.jsonl              one seal a line, oldest first, each naming the one before
    0000-f56c28c270d5/       one folder for each seal: its index, its digest
        canonical.json       the canonical form; SHA-256 of this file is the digest
        study.json           what data are made from, where it is sealed too; likewise

A seal's hash is the SHA-256 of its canonical JSON without ``hash``. Everything is
checked whenever a chain is read: each byte of each file, the order of the seals, and
that nothing else lies in the folder. docs/usage.md shows how to check it by hand.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.checks import parse_json, read_bytes
from persona_lib.digests import canonical_json, digest
from persona_lib.errors import DataError, SealError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHAIN = "chain.jsonl"
FORMAT = 1
"""Version of a seal, and of the folder that holds its forms."""
CANONICAL, STUDY = "canonical.json", "study.json"
_RESTORE = "Restore it from version control."
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Seal:
    """One link of a chain: the first registration, or an amendment of it.

    Attributes:
        index: 0 for the first registration.
        registration: its name.
        digest: SHA-256 of its canonical form.
        data_digest: SHA-256 of what shapes its data.
        date: when it was sealed: UTC, ``2026-11-25T01:48:20Z``.
        reason: why.
        data_seen: which data had been seen by then.
        study: SHA-256 of the study, None where none was sealed.
        prml: ``claim_id`` and ``sha256`` of each claim's PRML manifest.
        previous: hash of the seal before, or None.
        hash: SHA-256 of the canonical JSON of all the others.
        format: version of the seal, None in the first ones, which do not say.
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
    study: str | None = None
    format: int | None = None

    @property
    def folder(self) -> str:
        """Name of the folder that holds its canonical form."""
        return f"{self.index:04d}-{self.digest[:12]}"


def read_chain(own: Path) -> tuple[Seal, ...]:
    """Return the seals of one registration's folder, oldest first, after checking all of it.

    Raises:
        SealError: anything in it was altered, removed, added or put elsewhere.
    """
    present = {path.name for path in own.iterdir()} if own.is_dir() else set()
    if not any(not name.startswith(".") for name in present):
        return ()
    chain = _read(own / CHAIN)
    if not chain.endswith(b"\n"):
        raise SealError(str(own / CHAIN), "its last line is not whole", remedy=_RESTORE)
    seals: list[Seal] = []
    for number, line in enumerate(chain[:-1].split(b"\n")):
        where = f"{own / CHAIN}, line {number + 1}"
        seal = _seal(where, line)
        _check_order(where, seal, own.name, seals)
        sealed = {CANONICAL: seal.digest} | ({} if seal.study is None else {STUDY: seal.study})
        for name, wanted in sealed.items():
            form = own / seal.folder / name
            found = hashlib.sha256(_read(form)).hexdigest()
            if found != wanted:
                problem = f"SHA-256 is {found[:12]}..., seal {seal.index} says {wanted[:12]}..."
                raise SealError(str(form), problem, remedy=_RESTORE)
        _nothing_else(own / seal.folder, {*sealed})
        seals.append(seal)
    _nothing_else(own, {CHAIN, *(seal.folder for seal in seals)})
    return tuple(seals)


def read_form(own: Path, seal: Seal, name: str = CANONICAL) -> dict[str, Any]:
    """Return the canonical form of a registration, or of a study, as it was sealed."""
    form: dict[str, Any] = json.loads(_read(own / seal.folder / name))
    return form


def body_of(seal: Seal) -> dict[str, Any]:
    """Return a seal as JSON data; one without a study or a format does not mention it."""
    return {k: v for k, v in vars(seal).items() if k == "previous" or v is not None}


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except DataError as error:
        problem = f"it cannot be read ({error.bound} expected, got {error.value})"
        raise SealError(str(path), problem, remedy=_RESTORE) from error


def _seal(where: str, line: bytes) -> Seal:
    """Return the seal of a line that is exactly as it was written."""
    try:
        body = parse_json(line)
        version = body.get("format", 1)
        if version != FORMAT:
            raise SealError(
                f"{where}: format",
                f"expected {FORMAT}, got {version!r}",
                remedy="Another version of Flatland wrote this seal: check it with that one.",
            )
        # A line that was laid out differently, or repeats a key, is another text.
        if canonical_json(body).encode("ascii") != line:
            raise ValueError("it is not canonical JSON")
        seal = Seal(**body)
        strings = [seal.registration, seal.digest, seal.date, seal.hash]
        strings += [seal.reason, seal.data_seen, seal.study or ""]
        strings += [link[name] for link in seal.prml.values() for name in ("claim_id", "sha256")]
        if type(seal.index) is not int or not all(isinstance(s, str) for s in strings):
            raise ValueError("a field has another type")
        rest = {key: value for key, value in body.items() if key != "hash"}
        if digest(rest) != seal.hash:
            raise ValueError("its hash does not match what it says")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SealError(where, f"the seal was altered ({error})", remedy=_RESTORE) from error
    return seal


def _check_order(where: str, seal: Seal, name: str, before: Sequence[Seal]) -> None:
    last = before[-1] if before else None
    problem = ""
    if seal.registration != name:
        problem = f"it belongs to registration {seal.registration}"
    elif seal.index != len(before):
        problem = f"seal {seal.index} stands where seal {len(before)} belongs"
    elif seal.previous != (last.hash if last else None):
        problem = "it does not follow the seal before it: previous is another hash"
    elif not _DATE.fullmatch(seal.date) or (last and seal.date < last.date):
        problem = f"its date {seal.date} is no date in UTC, or precedes the seal before it"
    if problem:
        raise SealError(where, problem, remedy=_RESTORE)


def _nothing_else(folder: Path, expected: set[str]) -> None:
    for path in sorted(folder.iterdir()):
        if path.name not in expected and not path.name.startswith("."):
            raise SealError(
                str(path), "no seal lists it", remedy="Remove it, or restore the chain."
            )


def write_seal(own: Path, seal: Seal, forms: Mapping[str, str]) -> None:
    """Add a seal to a chain that has been read: its own folder whole, then the chain.

    `own` is the registration's folder, `forms` the canonical JSON of what is sealed, by the
    names of the files.
    """
    own.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=own, prefix=".") as draft:
        work = Path(draft) / seal.folder
        work.mkdir()
        for name, form in forms.items():
            (work / name).write_bytes(form.encode("ascii"))
        chain = Path(draft) / CHAIN
        before = (own / CHAIN).read_bytes() if seal.index else b""
        chain.write_bytes(before + canonical_json(body_of(seal)).encode("ascii") + b"\n")
        work.replace(own / seal.folder)
        chain.replace(own / CHAIN)
