"""What a verdict is judged on, whatever it was read from.

`RecordEvidence` counts scored completions; `AggregateEvidence` holds published
numbers. A judge asks both the same questions. What aggregates cannot answer is
listed in `Evidence.unavailable`, one sentence each, and never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.checks import read_json
from persona_lib.corpora.advice_scorer import ADVICE_FILE
from persona_lib.evidence.evidence import ALL, ROLES, Count, Evidence, Lengths, PersonaRow
from persona_lib.evidence.from_records import RecordEvidence
from persona_lib.evidence.from_totals import AggregateEvidence
from persona_lib.evidence.record_sets import (
    AGGREGATES,
    FILES,
    TEXTS_FILE,
    judged_under,
    read_manifest,
    verify,
)
from persona_lib.evidence.score_table import read_scores
from persona_lib.evidence.user_files import is_foreign, load_foreign
from persona_lib.models.hidden_states import GEOMETRY_FILE
from persona_lib.records import AdviceScore, Completion, GeometryRow, read_table
from persona_lib.specs.registration import Registration

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ALL",
    "ROLES",
    "AggregateEvidence",
    "Count",
    "Evidence",
    "Lengths",
    "PersonaRow",
    "RecordEvidence",
    "load_geometry",
    "load_scores",
    "load_stored",
    "load_texts",
]


def load_stored(
    path: Path,
    registration: Registration,
    *,
    chosen: bool = False,
    arms: Sequence[str] | None = None,
) -> Evidence:
    """Read stored evidence: a folder with its manifest, or a file of other software.

    A folder is checked against its manifest and the registration. Nothing vouches for
    a file: its rows are checked, and the evidence's origin says that nothing says
    under which rules they were recorded.

    Args:
        path: a folder with ``manifest.json`` and the files that it lists, or a file
            of records (`persona_lib.evidence.user_files.load_foreign`).
        registration: the registration to judge under. What shaped the data
            (`Registration.data_digest`) has to be what was recorded.
        chosen: the registration was asked for by name. Its rules may then
            differ from the recorded ones, and the evidence's origin says so.
        arms: arms that have to be there; all of the registration's by default.

    Raises:
        DataError: a file is missing, malformed or of an unknown suffix, an arm or a
            cell is missing, or another registration was recorded (see
            `persona_lib.evidence.record_sets.judged_under`).
        CorruptEntryError: a file differs from what the manifest vouches for.
    """
    if is_foreign(path):
        found = load_foreign(path, registration)
        return RecordEvidence(
            registration, found.table, arms=arms, origin=found.origin, partial=True
        )
    manifest = read_manifest(path)
    origin = judged_under(path, manifest, registration, chosen=chosen)
    verify(path, manifest)
    file = path / FILES[manifest.kind]
    if manifest.kind == AGGREGATES:
        return AggregateEvidence(registration, read_json(file), arms=arms, origin=origin)
    has_advice = ADVICE_FILE in manifest.files
    return RecordEvidence(
        registration,
        read_scores(file),
        arms=arms,
        origin=origin,
        advice=read_table(path / ADVICE_FILE, AdviceScore) if has_advice else None,
    )


def load_scores(path: Path, registration: Registration) -> pa.Table | None:
    """Read the score rows of stored evidence, unchecked; None where totals are all there is.

    Raises:
        DataError, CorruptEntryError: see `load_stored`.
    """
    if is_foreign(path):
        return load_foreign(path, registration).table
    manifest = read_manifest(path)
    verify(path, manifest)
    return None if manifest.kind == AGGREGATES else read_scores(path / FILES[manifest.kind])


def load_texts(path: Path) -> pa.Table | None:
    """Read the completions of stored evidence, columns of `Completion`.

    Returns:
        The rows; None where the folder has none, and for a file of other software.

    Raises:
        DataError, CorruptEntryError: see `load_geometry`.
    """
    return _table(path, TEXTS_FILE, Completion)


def load_geometry(path: Path) -> pa.Table | None:
    """Read the hidden-state cosines of stored evidence, columns of `GeometryRow`.

    Whose data a folder holds is for `load_stored` to check.

    Returns:
        The rows; None where the folder has none, and for a file of other software.

    Raises:
        DataError: the manifest or the file is missing or malformed.
        CorruptEntryError: a file differs from what the manifest vouches for.
    """
    return _table(path, GEOMETRY_FILE, GeometryRow)


def _table(path: Path, name: str, row_type: type[Any]) -> pa.Table | None:
    if is_foreign(path):
        return None
    manifest = read_manifest(path)
    if name not in manifest.files:
        return None
    verify(path, manifest)
    return read_table(path / name, row_type)
