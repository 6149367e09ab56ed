"""Folders of stored evidence: a manifest, and the files that it vouches for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persona_lib.errors import CorruptEntryError, DataError
from persona_lib.registration import Registration

MANIFEST = "manifest.json"
AGGREGATES = "aggregates"
"""Kind of a folder that holds published numbers, in ``aggregates.json``."""
RECORDS = "records"
"""Kind of a folder that holds one row a completion, in ``scores.parquet``."""
FILES = {AGGREGATES: "aggregates.json", RECORDS: "scores.parquet"}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder of stored evidence says of itself.

    Attributes:
        kind: ``aggregates`` or ``records``.
        registration, digest: the registration that it was recorded under.
        files: SHA-256 of each file, by name.
        source: where it comes from, in words.
        recorded: commit, environment and whatever else the recording noted.
    """

    kind: str
    registration: str
    digest: str
    files: Mapping[str, str]
    source: str
    recorded: Mapping[str, Any]


def write_manifest(
    folder: Path,
    *,
    kind: str,
    registration: Registration,
    files: Sequence[str],
    source: str,
    recorded: Mapping[str, Any],
) -> None:
    """Write the manifest of files that already lie in the folder.

    Raises:
        DataError: a file is missing.
    """
    body = {
        "kind": kind,
        "registration": {"name": registration.name, "digest": registration.digest},
        "source": source,
        "recorded": dict(recorded),
        "files": {name: {"sha256": _sha256(folder / name)} for name in sorted(files)},
    }
    text = json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest; the files are not looked at.

    Raises:
        DataError: the manifest is missing, malformed or of an unknown kind.
    """
    path = folder / MANIFEST
    body = read_json(path)
    try:
        manifest = Manifest(
            kind=str(body["kind"]),
            registration=str(body["registration"]["name"]),
            digest=str(body["registration"]["digest"]),
            files={str(name): str(entry["sha256"]) for name, entry in body["files"].items()},
            source=str(body["source"]),
            recorded=dict(body["recorded"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            str(path),
            bound="kind, registration, files, source and recorded",
            value=repr(error),
            remedy="Restore the manifest.",
        ) from error
    if manifest.kind not in FILES:
        raise DataError(
            f"{path}: kind",
            bound=f"one of {', '.join(FILES)}",
            value=manifest.kind,
            remedy="Point at a folder of stored evidence.",
        )
    needed = FILES[manifest.kind]
    if needed not in manifest.files:
        raise DataError(
            f"{path}: files",
            bound=f"{needed} among them",
            value=sorted(manifest.files),
            remedy="Restore the manifest.",
        )
    return manifest


def verify(folder: Path, manifest: Manifest) -> None:
    """Check every file against its SHA-256.

    Raises:
        DataError: a file is missing, or its name leads out of the folder.
        CorruptEntryError: a file differs from what was recorded.
    """
    for name, expected in manifest.files.items():
        if Path(name).name != name:
            raise DataError(
                f"{folder / MANIFEST}: files",
                bound="plain file names",
                value=name,
                remedy="List files of this folder only.",
            )
        found = _sha256(folder / name)
        if found != expected:
            raise CorruptEntryError(
                f"{folder / name}: SHA-256 is {found[:12]}..., the manifest says "
                f"{expected[:12]}.... The file was altered after it was recorded: restore it "
                "from version control, or record it again."
            )


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        DataError: the file is missing, unreadable or not an object.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            str(path), bound="a readable JSON file", value=str(error), remedy="Restore the file."
        ) from error
    if not isinstance(body, dict):
        raise DataError(
            str(path), bound="a JSON object", value=type(body).__name__, remedy="Restore the file."
        )
    return body


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(
            str(path), bound="a readable file", value=str(error), remedy="Restore the file."
        ) from error
