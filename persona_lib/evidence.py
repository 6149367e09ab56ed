"""What a verdict is judged on, whatever it was read from.

`RecordEvidence` counts scored completions; `AggregateEvidence` holds published
numbers. A judge asks both the same questions. What aggregates cannot answer is
listed in `Evidence.unavailable`, one sentence each, and never guessed.
"""

from __future__ import annotations

from pathlib import Path

from persona_lib.errors import DataError
from persona_lib.evidence_aggregates import AggregateEvidence
from persona_lib.evidence_base import ALL, ROLES, Count, Evidence, Lengths, PersonaRow
from persona_lib.evidence_records import RecordEvidence
from persona_lib.records import Score, read_table
from persona_lib.registration import Registration
from persona_lib.stored import AGGREGATES, FILES, read_json, read_manifest, verify

__all__ = [
    "ALL",
    "ROLES",
    "AggregateEvidence",
    "Count",
    "Evidence",
    "Lengths",
    "PersonaRow",
    "RecordEvidence",
    "load_stored",
]


def load_stored(folder: Path, registration: Registration) -> Evidence:
    """Read stored evidence, checked against its manifest and the registration.

    Args:
        folder: holds ``manifest.json`` and the files that it lists.
        registration: the registration to judge under; its name must be the
            recorded one. Where only its digest differs (a threshold or a gate
            was changed since) the evidence's origin says so.

    Raises:
        DataError: a file is missing or malformed, or another registration was
            recorded.
        CorruptEntryError: a file differs from what the manifest vouches for.
    """
    manifest = read_manifest(folder)
    if manifest.registration != registration.name:
        raise DataError(
            f"{folder}: registration",
            bound=registration.name,
            value=manifest.registration,
            remedy=f"Judge this folder under the registration {manifest.registration}.",
        )
    verify(folder, manifest)
    origin = manifest.source
    if manifest.digest != registration.digest:
        origin += (
            f" (recorded under digest {manifest.digest[:12]}, "
            f"judged under {registration.digest[:12]})"
        )
    path = folder / FILES[manifest.kind]
    if manifest.kind == AGGREGATES:
        return AggregateEvidence(registration, read_json(path), origin=origin)
    return RecordEvidence(registration, read_table(path, Score), origin=origin)
