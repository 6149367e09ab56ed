"""The dose of a coupling: margins of a part of the pool, read while it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from persona_lib.models.slots import SlotTokens
from persona_lib.pipeline.completions import COMPLETIONS
from persona_lib.pipeline.pool import (
    PoolSpec,
    Reading,
    part_of,
    passages_of,
    pool_of,
    pool_spec,
    readings_of,
)
from persona_lib.pipeline.setting import Setting
from persona_lib.records import Completion, DosePoint, ModelId, read_rows
from persona_lib.store.store import Entry

if TYPE_CHECKING:
    from persona_lib.models.loading import LoadedModel
    from persona_lib.train.dose import Watch

DOSE_FILE = "dose.parquet"
"""File of stage ``coupling`` with a dose, and of a stored record set that has it."""


@dataclass(frozen=True, kw_only=True)
class DoseReading:
    """What a coupling reads while it trains: so many answers of a pool, at so many points."""

    pool: PoolSpec
    answers: int
    points: int


def dose_reading(setting: Setting, arm: str) -> DoseReading:
    """Return what the coupling of an arm reads."""
    scale = setting.profile.scale
    pool = pool_spec(setting, arm)
    return DoseReading(pool=pool, answers=scale.dose_answers, points=scale.dose_points)


@dataclass(frozen=True, kw_only=True)
class TakenDose:
    """A dose that is being read: `part` are the readings, one margin of `watch` each."""

    part: Sequence[Reading]
    watch: Watch

    def points(self, model: ModelId, run_seed: int) -> list[DosePoint]:
        """Return mean margins by step, reader and author."""
        cells: dict[tuple[str, str], list[int]] = {}
        for at, one in enumerate(self.part):
            cells.setdefault((one.reader.id, one.answer.persona), []).append(at)
        return [
            DosePoint(
                phase=model.phase, model=model.name, seed=run_seed, step=step,
                persona=reader, author=author, answers=len(rows),
                margin=float(margins[rows].mean()),
            )
            for step, margins in self.watch.margins.items()
            for (reader, author), rows in cells.items()
        ]  # fmt: skip


def begin_dose(
    entries: Mapping[str, Entry],
    dose: DoseReading,
    loaded: LoadedModel,
    marker: Sequence[int],
    steps: int,
) -> TakenDose:
    """Return a dose of a model that is about to be trained for so many steps.

    A part of the pool is read under every system message.
    """
    from persona_lib.train.dose import Dose, Watch

    drawn = read_rows(entries["pool"].path / COMPLETIONS, Completion)
    spec = dose.pool
    part = readings_of(part_of(pool_of(drawn, spec), dose.answers), spec)
    passages = passages_of(part, spec.sample, loaded.tokenizer, spec.marker)
    tokens = SlotTokens(marker=tuple(marker), end=loaded.end_of_turn)
    read = Dose(passages=passages, tokens=tokens, points=dose.points)
    return TakenDose(part=part, watch=Watch(loaded.model, read, steps=steps, pad=loaded.pad))
