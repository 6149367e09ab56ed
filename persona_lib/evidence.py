"""What a verdict is judged on, whatever it was read from.

`RecordEvidence` counts scored completions; `AggregateEvidence` holds published
numbers. A judge asks both the same questions. What aggregates cannot answer is
listed in `Evidence.unavailable`, one sentence each, and never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from persona_lib.evidence_aggregates import AggregateEvidence
from persona_lib.evidence_base import ALL, ROLES, Count, Evidence, Lengths, PersonaRow
from persona_lib.evidence_records import RecordEvidence
from persona_lib.inputs import read_json
from persona_lib.records import Score, read_table
from persona_lib.registration import Registration
from persona_lib.stored import AGGREGATES, FILES, judged_under, read_manifest, verify

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


def load_stored(
    folder: Path,
    registration: Registration,
    *,
    chosen: bool = False,
    arms: Sequence[str] | None = None,
) -> Evidence:
    """Read stored evidence, checked against its manifest and the registration.

    Args:
        folder: holds ``manifest.json`` and the files that it lists.
        registration: the registration to judge under. What shaped the data
            (`Registration.data_digest`) has to be what was recorded.
        chosen: the registration was asked for by name. Its rules may then
            differ from the recorded ones, and the evidence's origin says so.
        arms: arms that have to be there; all of the registration's by default.

    Raises:
        DataError: a file is missing or malformed, an arm is missing, or another
            registration was recorded (see `persona_lib.stored.judged_under`).
        CorruptEntryError: a file differs from what the manifest vouches for.
    """
    manifest = read_manifest(folder)
    origin = judged_under(folder, manifest, registration, chosen=chosen)
    verify(folder, manifest)
    path = folder / FILES[manifest.kind]
    if manifest.kind == AGGREGATES:
        return AggregateEvidence(registration, read_json(path), arms=arms, origin=origin)
    return RecordEvidence(registration, read_table(path, Score), arms=arms, origin=origin)
