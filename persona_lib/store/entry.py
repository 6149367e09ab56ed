"""One cached outcome: its form on disk, how it is written and verified.

An entry is a folder::

    manifest.json      key, files with SHA-256 and size, meta, seconds, cost, provenance
    manifest.sha256    checksum of manifest.json, readable by ``sha256sum -c``
    payload/           the files that the stage wrote
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from persona_lib.checks import MOST_JSON_BYTES, parse_json
from persona_lib.digests import digest, sha256_of
from persona_lib.errors import CorruptEntryError, DataError, StoreError
from persona_lib.store.cost import Cost
from persona_lib.store.disk import cut_off
from persona_lib.store.keys import StageKey
from persona_lib.store.provenance import JSON, provenance

FORMAT = 1
"""Version of the form on disk."""
MANIFEST = "manifest.json"
CHECKSUM = "manifest.sha256"
PAYLOAD = "payload"
Signature = tuple[tuple[str, int, int, int, int], ...]
"""Name, inode, size, mtime and ctime (nanoseconds) of every file of an entry."""

_CHECKSUM_LINE = re.compile(rb"[0-9a-f]{64}  manifest\.json\n")
_COUNT, _TEXT = (int, type(None)), (str, type(None))
_FIELDS: dict[str, tuple[type, ...]] = {
    "key": (dict,),
    "content": (str,),
    "files": (list,),
    "meta": (dict,),
    "seconds": (int, float),
    "provenance": (dict,),
}
_FILE_FIELDS: dict[str, tuple[type, ...]] = {"name": (str,), "sha256": (str,), "size": (int,)}
_COST_FIELDS = {name: _TEXT if name == "peak_of" else _COUNT for name in vars(Cost())}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One cached outcome.

    Attributes:
        path: folder of the payload files.
        key: the key that was asked for.
        content: SHA-256 over the sorted (relative name, SHA-256) pairs of the payload
            files: what downstream keys take as input.
        seconds: wall time of the build.
        meta: what the maker returned, as JSON data; empty for None.
        built: True if this call built it, False if it was found.
        cost: fields of `persona_lib.store.cost.Cost`; empty in entries older than it.
    """

    path: Path
    key: StageKey
    content: str
    seconds: float
    meta: Mapping[str, Any]
    provenance: Mapping[str, Any]
    built: bool
    cost: Mapping[str, Any] = field(default_factory=dict)


def entry_of(key: StageKey, folder: Path, manifest: Mapping[str, Any], *, built: bool) -> Entry:
    """Return the `Entry` that a verified or freshly written manifest describes."""
    fields = {name: manifest[name] for name in ("content", "seconds", "meta", "provenance")}
    cost = manifest.get("cost", {})
    return Entry(path=folder / PAYLOAD, key=key, built=built, cost=cost, **fields)


# ---- writing ----------------------------------------------------------------------------


def write_manifest(
    key: StageKey,
    work: Path,
    meta: Mapping[str, JSON] | None,
    seconds: float,
    cost: Cost,
) -> dict[str, Any]:
    """Write manifest and checksum beside ``work/payload``; return the manifest as it is read.

    All of it is brought to disk. Whoever may read `work` may then read every file: some
    libraries write files that only their owner can read.

    Raises:
        DataError: `meta` is nothing that JSON can hold, or too long.
        StoreError: the payload is empty, or holds something other than plain files, or
            a file that ends where this process may write no more.
        OSError: the disk is full, or the like.
    """
    payload = work / PAYLOAD
    readable = work.stat().st_mode & 0o444
    files = []
    for name, item in _files(payload):
        path, state = payload / name, item.stat(follow_symlinks=False)
        if not item.is_file(follow_symlinks=False):
            raise StoreError(
                f"{path}: not a plain file. Let stage {key.stage} write a copy instead."
            )
        path.chmod(state.st_mode & 0o7777 | readable)
        sync(path)
        short = cut_off(path, state.st_size)
        if short is not None:
            raise short
        files.append({"name": name, "sha256": sha256_of(path), "size": state.st_size})
    if not files:
        raise StoreError(
            f"{payload}: stage {key.stage} wrote no file. "
            "Let it write at least one into the folder that it is given."
        )
    try:
        body = {
            "format": FORMAT,
            "key": json.loads(key.canonical_json),
            "content": _content(files),
            "files": files,
            "meta": {} if meta is None else dict(meta),
            "seconds": seconds,
            "cost": asdict(cost),
            "provenance": provenance(),
        }
        text = json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n"
        manifest: dict[str, Any] = parse_json(text.encode("ascii"))
        if len(text) > MOST_JSON_BYTES:
            raise ValueError(f"the manifest would have more than {MOST_JSON_BYTES:,} bytes")
    except (TypeError, ValueError) as error:
        raise DataError(
            f"meta of stage {key.stage}",
            bound=f"a JSON object without NaN ({error})",
            value=meta,
            remedy="Return plain numbers, strings and lists, and None for what is missing.",
        ) from error
    _write(work / MANIFEST, text.encode("ascii"))
    _write(work / CHECKSUM, _checksum_line(text.encode("ascii")))
    for parent, _, _ in os.walk(work, topdown=False):
        Path(parent).chmod(Path(parent).stat().st_mode & 0o7777 | work.stat().st_mode & 0o555)
        sync(Path(parent))
    return manifest


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    sync(path)


def sync(path: Path) -> None:
    """Bring a file's bytes, or a folder's names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- reading ----------------------------------------------------------------------------


def verify(
    key: StageKey, folder: Path, known: Signature | None
) -> tuple[dict[str, Any], Signature]:
    """Check every file of an entry against its manifest, and the manifest against `key`.

    Contents are hashed unless `known`, the signature of an earlier check, is still the same.

    Returns:
        The manifest, and the signature now.

    Raises:
        CorruptEntryError: a file is altered, missing or not listed; names it.
        OSError: a file cannot be read.
    """
    present = dict(_files(folder))
    for name in (MANIFEST, CHECKSUM):
        _check_plain(folder, name, present)
        if present[name].stat(follow_symlinks=False).st_size > MOST_JSON_BYTES:
            raise _corrupt(folder, name, f"has more than {MOST_JSON_BYTES:,} bytes")
    manifest = _read_manifest(key, folder)
    listed = {f"{PAYLOAD}/{file['name']}": file for file in manifest["files"]}
    for name in sorted(present.keys() - listed.keys() - {MANIFEST, CHECKSUM}):
        raise _corrupt(folder, name, "is not listed in the manifest")
    for name, file in listed.items():
        _check_plain(folder, name, present)
        size = present[name].stat(follow_symlinks=False).st_size
        if size != file["size"]:
            raise _corrupt(folder, name, f"has {size} bytes instead of {file['size']}")
    # The signature is taken before the contents are read: a file that changes
    # meanwhile differs from it next time and is hashed again.
    signature = _signature(present)
    if known != signature:
        for name, file in listed.items():
            if sha256_of(folder / name) != file["sha256"]:
                raise _corrupt(folder, name, "holds other bytes than were written")
    return manifest, signature


def _read_manifest(key: StageKey, folder: Path) -> dict[str, Any]:
    """Read a manifest that its checksum confirms and that belongs to `key`."""
    raw, line = (folder / MANIFEST).read_bytes(), (folder / CHECKSUM).read_bytes()
    if not _CHECKSUM_LINE.fullmatch(line):
        raise _corrupt(folder, CHECKSUM, f"is no checksum of {MANIFEST}")
    if line != _checksum_line(raw):
        # Which of the two was altered cannot be told, so the message names both.
        raise _corrupt(folder, MANIFEST, f"does not agree with {CHECKSUM} beside it")
    try:
        manifest: dict[str, Any] = parse_json(raw)
        if manifest["format"] != FORMAT:
            what = f"format: expected {FORMAT}, got {manifest['format']!r} of another version"
            raise _corrupt(folder, MANIFEST, what)
        _check_fields(manifest, _FIELDS, "")
        for file in manifest["files"]:
            _check_fields(file, _FILE_FIELDS, "files: ")
        cost = manifest.get("cost", {})  # older entries lack some of it
        _check_fields(cost, {}, "cost: ")
        _check_fields(cost, {n: t for n, t in _COST_FIELDS.items() if n in cost}, "cost: ")
        if digest(manifest["key"]) != key.digest:
            raise _corrupt(folder, MANIFEST, "belongs to another key")
        if manifest["content"] != _content(manifest["files"]):
            raise _corrupt(folder, MANIFEST, "states a content digest that its files do not have")
    except (ValueError, KeyError, TypeError) as error:
        raise _corrupt(folder, MANIFEST, f"is no manifest ({error})") from error
    return manifest


def _check_fields(body: Any, fields: Mapping[str, tuple[type, ...]], where: str) -> None:
    """Raise ValueError, which names the field, where one is missing or of another type."""
    if not isinstance(body, dict):
        raise ValueError(f"{where}no JSON object")
    for name, types in fields.items():
        if name not in body:
            raise ValueError(f"{where}field {name} is missing")
        if type(body[name]) not in types:
            raise ValueError(f"{where}field {name} is of type {type(body[name]).__name__}")


def _files(folder: Path) -> list[tuple[str, os.DirEntry[str]]]:
    """Return (name relative to `folder`, entry) of all that is not a folder, sorted."""
    found = []
    with os.scandir(folder) as items:
        for item in items:
            if item.is_dir(follow_symlinks=False):
                found += [(f"{item.name}/{name}", i) for name, i in _files(Path(item.path))]
            else:
                found.append((item.name, item))
    return sorted(found, key=lambda pair: pair[0])


def _signature(present: Mapping[str, os.DirEntry[str]]) -> Signature:
    stats = [(name, item.stat(follow_symlinks=False)) for name, item in present.items()]
    return tuple((n, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for n, s in stats)


def _content(files: list[dict[str, Any]]) -> str:
    return digest(sorted([file["name"], file["sha256"]] for file in files))


def _checksum_line(manifest: bytes) -> bytes:
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode("ascii")


def _check_plain(folder: Path, name: str, present: Mapping[str, os.DirEntry[str]]) -> None:
    if name not in present:
        raise _corrupt(folder, name, "is missing")
    if not present[name].is_file(follow_symlinks=False):
        raise _corrupt(folder, name, "is not a plain file")


def _corrupt(folder: Path, name: str, what: str) -> CorruptEntryError:
    return CorruptEntryError(
        f"{folder / name}: {what}. Delete the folder {folder} and run again; it will be rebuilt."
    )
