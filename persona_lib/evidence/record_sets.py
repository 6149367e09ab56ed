"""Folders of stored evidence: a manifest, and the files that it vouches for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persona_lib.checks import read_json, unreadable
from persona_lib.digests import sha256_of
from persona_lib.errors import CorruptEntryError, DataError
from persona_lib.evidence.bounded import check_size
from persona_lib.specs.registration import Registration

MANIFEST = "manifest.json"
FORMAT = 1
"""Version of such a folder: its manifest, and the files that the manifest vouches for."""
AGGREGATES = "aggregates"
"""Kind of a folder that holds published numbers, in ``aggregates.json``."""
RECORDS = "records"
"""Kind of a folder that holds one row a completion, in ``scores.parquet``."""
SCORES_FILE = "scores.parquet"
TEXTS_FILE = "completions.parquet"
"""The completions themselves; optional."""
ADVICE_TEXTS_FILE = "advice_completions.parquet"
"""The answers to held-out requests for advice themselves; optional."""
BROAD_TEXTS_FILE = "broad_completions.parquet"
"""The answers to questions of daily life themselves; optional."""
FILES = {AGGREGATES: "aggregates.json", RECORDS: SCORES_FILE}
"""The file that a folder of each kind has to have."""
_HEAD = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The manifest of a folder of stored evidence.

    Attributes:
        kind: `AGGREGATES` or `RECORDS`.
        registration, digest, data_digest: of the registration that it was recorded under.
        files: SHA-256 of each file, by name.
        source: where it comes from, in words.
        recorded: config, commit, environment and other notes of the recording.
    """

    kind: str
    registration: str
    digest: str
    data_digest: str
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
        "format": FORMAT,
        "kind": kind,
        "registration": {
            "name": registration.name,
            "digest": registration.digest,
            "data_digest": registration.data_digest,
        },
        "source": source,
        "recorded": dict(recorded),
        "files": {name: {"sha256": _sha256(folder / name)} for name in sorted(files)},
    }
    text = json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest alone.

    Raises:
        DataError: the manifest is missing, malformed, or of an unknown format or kind.
    """
    path = folder / MANIFEST
    body = read_json(path)
    version = body.get("format", 1)  # the first ones do not say
    if version != FORMAT:
        raise DataError(
            f"{path}: format",
            bound=str(FORMAT),
            value=version,
            remedy="Another version of Flatland wrote this set: judge it with that one.",
        )
    try:
        manifest = Manifest(
            kind=str(body["kind"]),
            registration=str(body["registration"]["name"]),
            digest=str(body["registration"]["digest"]),
            data_digest=str(body["registration"]["data_digest"]),
            files={str(name): str(entry["sha256"]) for name, entry in body["files"].items()},
            source=str(body["source"]),
            recorded=dict(body["recorded"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            str(path),
            bound="kind, registration (name, digest, data_digest), files, source and recorded",
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


def judged_under(
    folder: Path, manifest: Manifest, registration: Registration, *, chosen: bool
) -> str:
    """Return the origin of a folder's evidence, judged under a registration.

    Raises:
        DataError: the data were shaped by another registration; or its rules differ, and it
            was not `chosen` by name.
    """
    recorded, now = manifest.digest[:12], registration.digest[:12]
    if manifest.data_digest != registration.data_digest:
        raise DataError(
            f"{folder}: data digest of registration {registration.name}",
            bound=f"{registration.data_digest[:12]} (arms, roster, marker, question sets)",
            value=f"{manifest.data_digest[:12]}, recorded under {manifest.registration}",
            remedy=f"Judge this folder under {manifest.registration}, or under a registration "
            "that differs from it in rules only.",
        )
    source = manifest.source + _priors_trained(manifest.recorded)
    if (manifest.registration, manifest.digest) == (registration.name, registration.digest):
        return source
    if not chosen:
        raise DataError(
            f"{folder}: digest of registration {registration.name}",
            bound=now,
            value=f"{recorded}, recorded under {manifest.registration}",
            remedy="The rules are not those that this set was recorded under: judge it with the "
            "code it was recorded with, or choose this registration by name.",
        )
    return (
        f"{source} (recorded under {manifest.registration} {recorded}, judged under "
        f"{registration.name} {now}: these rules were not registered for these data)"
    )


def _priors_trained(recorded: Mapping[str, Any]) -> str:
    """Return how the priors of a set were trained, "" where its manifest does not say."""
    configs: Any = recorded.get("config")
    found = []
    for config in configs if isinstance(configs, list) else [configs]:
        try:
            lora = config["profile"]["prior"]["lora"]
            kind = "rsLoRA" if lora["rslora"] else "LoRA"
            words = f"{kind} r {lora['rank']:d}, alpha {lora['alpha']:d}"
            found.append(f"{words}, dropout {lora['dropout']:g}")
        except (KeyError, TypeError, ValueError, IndexError):
            continue
    return f"; priors: {' and '.join(dict.fromkeys(found))}" if found else ""


def describe_seeds(seeds: Sequence[int]) -> str:
    """Return the words for seeds in a record set's source."""
    return f"seeds {', '.join(map(str, seeds))}"


def head_of(manifest: Manifest, registration: Registration) -> str:
    """Return the head of the chain of seals that a set was recorded under, "" for none."""
    seal = manifest.recorded.get("seal")
    head = seal.get("head") if isinstance(seal, dict) else None
    same = manifest.registration == registration.name
    return head if same and isinstance(head, str) and _HEAD.fullmatch(head) else ""


def verify(folder: Path, manifest: Manifest) -> None:
    """Check every file against its SHA-256.

    Raises:
        DataError: a file is missing, or its name leads out of the folder.
        CorruptEntryError: a file differs from what was recorded.
    """
    for name, expected in manifest.files.items():
        if Path(name).name != name or not name.isprintable():
            raise DataError(
                f"{folder / MANIFEST}: files",
                bound="plain file names",
                value=name,
                remedy="List files of this folder only.",
            )
        check_size(folder / name)
        found = _sha256(folder / name)
        if found != expected:
            raise CorruptEntryError(
                f"{folder / name}: SHA-256 is {found[:12]}..., the manifest says "
                f"{expected[:12]}.... The file was altered after it was recorded: restore it "
                "from version control, or record it again."
            )


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise unreadable(path, "a readable file", error) from error
