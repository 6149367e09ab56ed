"""Stored evidence, as ``--stored`` names it: record sets, totals, or files of other software."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from persona_lib.checks import near_paths, read_json
from persona_lib.corpora.advice_scorer import ADVICE_FILE
from persona_lib.corpora.broad import BROAD_FILE
from persona_lib.errors import DataError
from persona_lib.evidence.evidence import Evidence
from persona_lib.evidence.from_counts import CountEvidence
from persona_lib.evidence.from_records import RecordEvidence
from persona_lib.evidence.from_totals import AggregateEvidence
from persona_lib.evidence.joined import Part, origin_of, read_file, read_parts, rows_of
from persona_lib.evidence.record_sets import (
    AGGREGATES,
    BROAD_TEXTS_FILE,
    FILES,
    RECORDS,
    SCORES_FILE,
    TEXTS_FILE,
    Manifest,
    judged_under,
    read_manifest,
    verify,
)
from persona_lib.evidence.score_table import slots_of
from persona_lib.evidence.user_files import Extra, ForeignSet, check_file, is_foreign, load_foreign
from persona_lib.models.hidden_states import GEOMETRY_FILE
from persona_lib.pipeline.dose import DOSE_FILE
from persona_lib.pipeline.slots import SLOTS_FILE
from persona_lib.pipeline.traits import TRAITS_FILE
from persona_lib.specs.registration import Registration

if TYPE_CHECKING:
    import pyarrow as pa

Rows = Literal[
    "scores", "advice", "broad", "broad_texts", "completions", "geometry", "slots", "dose", "traits"
]
_FILES: Mapping[Rows, str] = {
    "scores": SCORES_FILE,
    "advice": ADVICE_FILE,
    "broad": BROAD_FILE,
    "broad_texts": BROAD_TEXTS_FILE,
    "completions": TEXTS_FILE,
    "geometry": GEOMETRY_FILE,
    "slots": SLOTS_FILE,
    "dose": DOSE_FILE,
    "traits": TRAITS_FILE,
}


class Stored:
    """Evidence on disk, read when it is first asked for and then kept.

    Args:
        paths: a folder with its manifest, or several (`persona_lib.evidence.joined`); a file
            of other software, or several (`persona_lib.evidence.user_files`). Their order
            changes nothing.
        registration: the registration to judge under.
        chosen: it was asked for by name: its rules may differ from the recorded ones, and the
            evidence's origin says so.
        extra: what becomes of rows in files of other software whose arm or persona the
            registration does not name.

    Raises:
        DataError: see `registration_of`.
    """

    def __init__(
        self,
        paths: Path | Sequence[Path],
        registration: Registration,
        *,
        chosen: bool = False,
        extra: Extra = "refuse",
    ) -> None:
        self.paths = (paths,) if isinstance(paths, Path) else tuple(paths)
        registration_of(self.paths)
        self._registration, self._chosen, self._extra = registration, chosen, extra
        self._is_foreign = is_foreign(self.paths[0])
        self._tables: dict[str, pa.Table | None] = {}

    def evidence(
        self, arms: Sequence[str] | None = None, *, broad: pa.Table | None = None
    ) -> Evidence:
        """Return the evidence on some arms, by default on all of the registration's.

        Broad scores of `broad`, such as a judge's, take the place of recorded ones.

        Raises:
            DataError: a file is missing or malformed, an arm or a cell is missing, another
                registration was recorded, or several paths do not fit together.
            CorruptEntryError: a file differs from what its manifest vouches for.
        """
        registration = self._registration
        if self._is_foreign:
            found = self._foreign
            own: dict[str, Any] = {"arms": arms, "origin": found.origin, "left_out": found.left_out}
            if found.counts:
                return CountEvidence(registration, found.table, **own)
            slots = slots_of(found.table)
            return RecordEvidence(registration, found.table, slots=slots, partial=True, **own)
        origin, manifest = self._checked
        if manifest.kind == AGGREGATES:
            body = read_json(self.paths[0] / FILES[AGGREGATES])
            return AggregateEvidence(registration, body, arms=arms, origin=origin)
        return RecordEvidence(
            registration,
            self.rows("scores"),
            arms=arms,
            origin=origin,
            advice=self.rows("advice"),
            broad=self.rows("broad") if broad is None else broad,
            slots=self.rows("slots"),
            dose=self.rows("dose"),
            traits=self.rows("traits"),
            geometry=self.rows("geometry") if registration.reads_geometry else None,
        )

    def rows(self, kind: Rows) -> pa.Table | None:
        """Return the rows of all that was recorded of a kind; None where nothing was."""
        if self._is_foreign:
            found = self._foreign
            if kind == "slots" and not found.counts:
                return slots_of(found.table)
            return found.table if kind == "scores" and not found.counts else None
        name = _FILES[kind]
        if name not in self._tables:
            _, manifest = self._checked
            if self._parts:
                self._tables[name] = rows_of(self._parts, name)
            elif name in manifest.files:
                self._tables[name] = read_file(self.paths[0], name, whole=name != SCORES_FILE)
        return self._tables.get(name)

    @cached_property
    def _foreign(self) -> ForeignSet:
        return load_foreign(self.paths, self._registration, extra=self._extra)

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        """Several folders; of one alone, none."""
        if len(self.paths) == 1:
            return ()
        return read_parts(self.paths, self._registration, chosen=self._chosen)

    @cached_property
    def _checked(self) -> tuple[str, Manifest]:
        """Origin, and the manifest of a folder, or of the first of several; files verified."""
        if self._parts:
            return origin_of(self._parts), self._parts[0].manifest
        (folder,) = self.paths
        manifest = read_manifest(folder)
        origin = judged_under(folder, manifest, self._registration, chosen=self._chosen)
        verify(folder, manifest)
        return origin, manifest


def load_stored(
    paths: Path | Sequence[Path],
    registration: Registration,
    *,
    chosen: bool = False,
    extra: Extra = "refuse",
    arms: Sequence[str] | None = None,
) -> Evidence:
    """Return the evidence of `Stored` on some arms."""
    return Stored(paths, registration, chosen=chosen, extra=extra).evidence(arms)


def registration_of(paths: Sequence[Path]) -> str | None:
    """Return the registration that folders were recorded under; None for files.

    Raises:
        DataError: a path names nothing; folders are mixed with files, or differ in their
            registration; a manifest is missing or malformed; a file's suffix is unknown.
    """
    for path in paths:
        _check_exists(path)
    files = [path for path in paths if is_foreign(path)]
    folders = [path for path in paths if path not in files]
    for path in files:
        check_file(path)
    if files and folders:
        raise DataError(
            "--stored",
            bound="folders of records alone, or files of other software alone",
            value=f"the folder {folders[0]} and the file {files[0]}",
            remedy="Judge them apart: nothing says under which rules a file was recorded.",
        )
    manifests = {folder: read_manifest(folder) for folder in folders}
    totals = [folder for folder, manifest in manifests.items() if manifest.kind != RECORDS]
    if totals and len(folders) > 1:
        raise DataError(
            f"{totals[0]}: kind",
            bound=f"{RECORDS}, as several folders are judged as runs of one experiment",
            value=manifests[totals[0]].kind,
            remedy="Judge published totals by themselves.",
        )
    names = {manifest.registration for manifest in manifests.values()}
    if len(names) > 1:
        raise DataError(
            "--stored",
            bound="record sets of one registration",
            value=sorted(names),
            remedy="Judge sets of different registrations apart.",
        )
    return next(iter(names), None)


def _check_exists(path: Path) -> None:
    """Raise DataError where nothing has this name; it offers names near it."""
    if os.path.lexists(path):
        return
    alike = near_paths(path)
    raise DataError(
        "--stored",
        bound="a folder of stored evidence, or a file of records",
        value=str(path),
        remedy=f"Nothing has this name; near it: {', '.join(alike)}."
        if alike
        else "Check the path: nothing has this name.",
    )
