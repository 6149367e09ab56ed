"""The files of a hub snapshot: which are used, and checks that they are what was published.

The hub's cache names a file's bytes by their checksum: SHA-256 for large files, git's SHA-1
for small ones.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from persona_lib.digests import digest, sha256_of
from persona_lib.errors import DataError
from persona_lib.models.checkpoint import weight_files

SMALL_FILES = ("*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
"""Patterns of the files that are fetched beside the weights: config, tokenizer, template."""
ALLOWED_FILES = ("*.safetensors", *SMALL_FILES)
"""Patterns of the files that are used."""
IGNORED_FILES = ("*/*",)
"""Sub-folders hold other formats of the same weights."""

Mark = tuple[str, int, int, int, int]
"""Name, inode, size, mtime and ctime (nanoseconds) of a file."""
Signature = tuple[Mark, ...]
"""The marks of every used file."""

_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHA256_DIGITS = 64
_SHOWN_DIGITS = 16
_OVERRIDE = "additional_chat_templates/default.jinja"

_hashed: dict[Path, tuple[Mark, dict[str, Any]]] = {}
_lock = threading.Lock()


def used_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that loading may read, sorted: weights, configs, tokenizer, template.

    Raises:
        DataError: the weights are not complete, or a sub-folder has a chat template that
            would be taken in place of the listed one.
    """
    if (folder / _OVERRIDE).is_file():
        raise DataError(
            str(folder / _OVERRIDE),
            bound="a chat template in the top folder",
            value="another one in a sub-folder, which transformers would prefer",
            remedy="Delete it, or use another base model.",
        )
    weights = set(weight_files(folder))
    return tuple(
        path
        for path in sorted(folder.iterdir())
        if any(fnmatch(path.name, pattern) for pattern in ALLOWED_FILES)
        and (path.suffix != ".safetensors" or path in weights)
        and path.is_file()
    )


def signature(folder: Path) -> Signature:
    """Return what changes when a used file is written to, without reading contents.

    Raises:
        DataError: see `used_files`.
    """
    return tuple(_mark(path) for path in used_files(folder))


def list_files(folder: Path, *, get: str) -> list[dict[str, Any]]:
    """Return name, size in bytes and SHA-256 of every used file.

    A file is hashed once a process, and again whenever its mark has changed. `get` is the
    command that downloads the snapshot, for messages.

    Raises:
        DataError: see `used_files`; or a file is not what the hub published.
    """
    return [_listed(path, get) for path in used_files(folder)]


def check_small(folder: Path, *, get: str) -> None:
    """Compare what lies beside the weights with the hub's checksums; `get` as in `list_files`.

    Raises:
        DataError: a file is not what the hub published.
    """
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in SMALL_FILES):
            _listed(path, get)


def check_files(folder: Path, listed: Sequence[Mapping[str, Any]], *, get: str) -> None:
    """Compare a snapshot with the files that `list_files` listed when it was first used.

    `get` is the command that downloads it, for messages.

    Raises:
        DataError: a file is altered, added or missing; or see `list_files`.
    """
    wanted = {file["name"]: file for file in listed}
    there = {path.name: path for path in used_files(folder)}
    for name in sorted(wanted.keys() ^ there.keys()):
        known = name in wanted
        raise DataError(
            str(folder / name),
            bound="a file of the snapshot" if known else "no such file, as when it was first used",
            value="no such file" if known else f"a file of {there[name].stat().st_size} bytes",
            remedy=f"Download the snapshot again: {get}." if known else "Delete it.",
        )
    for name, path in there.items():
        if path.stat().st_size != wanted[name]["size"]:
            raise _altered(path, _shown(wanted[name]), f"{path.stat().st_size} bytes", get)
    for file in list_files(folder, get=get):
        if file != wanted[file["name"]]:
            path = there[file["name"]]
            raise _altered(path, _shown(wanted[file["name"]]), _shown(file), get)


def folder_digest(folder: Path) -> str:
    """Return the SHA-256 over names and checksums of the used files of a user's folder.

    Raises:
        DataError: there is no such folder, or see `used_files`.
    """
    if not (folder / "config.json").is_file():
        raise DataError(
            str(folder),
            bound="a folder with config.json, safetensors weights and tokenizer",
            value="no config.json" if folder.is_dir() else "no such folder",
            remedy="Correct the path; it starts from the experiment's folder.",
        )
    files = list_files(folder, get="copy it there")
    return digest([[file["name"], file["sha256"]] for file in files])


def _mark(path: Path) -> Mark:
    held = path.stat()
    return path.name, held.st_ino, held.st_size, held.st_mtime_ns, held.st_ctime_ns


def _listed(path: Path, get: str) -> dict[str, Any]:
    with _lock:
        # The mark is taken before the contents are read: a file that changes meanwhile
        # differs from it next time and is hashed again.
        now = _mark(path)
        if path not in _hashed or _hashed[path][0] != now:
            _hashed[path] = (now, _hash(path, get))
        return _hashed[path][1]


def _hash(path: Path, get: str) -> dict[str, Any]:
    """Return name, size and SHA-256 of a file, compared with the name of its blob."""
    from huggingface_hub.utils.sha import git_hash

    size, found = path.stat().st_size, sha256_of(path)
    blob = path.readlink() if path.is_symlink() else Path()
    if blob.parent.name == "blobs" and _BLOB.fullmatch(blob.name):
        large = len(blob.name) == _SHA256_DIGITS
        held, kind = (found, "SHA-256") if large else (git_hash(path.read_bytes()), "git SHA-1")
        if held != blob.name:
            raise _altered(path, f"{kind} {blob.name}, as published", f"{kind} {held}", get)
    return {"name": path.name, "size": size, "sha256": found}


def _shown(file: Mapping[str, Any]) -> str:
    return f"{file['size']} bytes, SHA-256 {file['sha256'][:_SHOWN_DIGITS]}..."


def _altered(path: Path, wanted: str, found: str, get: str) -> DataError:
    return DataError(
        str(path),
        bound=wanted,
        value=found,
        remedy="It was altered on its way or on this machine. Delete "
        f"{path.resolve()} and {path}, and download it again: {get}.",
    )
