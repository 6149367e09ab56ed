"""Stage ``slots``: what an arm predicts at the slot of its own answers and of the pool's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from persona_lib.errors import FlatlandError
from persona_lib.models.slots import COLUMNS, Floats, SlotTokens, answer_before, read_slots
from persona_lib.pipeline.base_model import marker_tokens
from persona_lib.pipeline.completions import COMPLETIONS, open_model
from persona_lib.pipeline.pool import (
    PoolSpec,
    Reading,
    passages_of,
    pool_of,
    pool_spec,
    readings_of,
)
from persona_lib.pipeline.setting import Setting
from persona_lib.progress import Progress
from persona_lib.records import POST, STOP, Completion, ModelId, SlotReading, read_rows, write_rows
from persona_lib.specs.personas import Persona, Question
from persona_lib.specs.profile import SampleSpec
from persona_lib.store.stage import Stage
from persona_lib.store.store import Entry

SLOTS_FILE = "slots.parquet"
"""File of stage ``slots``, and of a stored record set that has it."""


@dataclass(frozen=True, kw_only=True)
class SlotSpec:
    """Whose slots are read: an arm's own finished answers, and a pool if there is one.

    `personas` and `questions` are those of its completions.
    """

    model: str
    personas: tuple[Persona, ...]
    questions: tuple[Question, ...]
    sample: SampleSpec
    marker: str
    pool: PoolSpec | None


def slots_stage(
    setting: Setting, model: ModelId, *, drawn: Stage, marker: Stage, raw: Stage | None
) -> Stage:
    """Readings of an arm's completions, and of the pool in the raw model's, if it is given."""
    rates = setting.profile.rates
    spec = SlotSpec(
        model=model.name,
        personas=setting.personas,
        questions=setting.questions(setting.registration.evaluation_questions),
        sample=setting.profile.sample,
        marker=setting.registration.marker,
        pool=None if raw is None else pool_spec(setting, model.name),
    )
    own = len(spec.personas) * len(spec.questions) * setting.profile.scale.samples
    pool = 0 if spec.pool is None else len(spec.pool.personas) ** 2 * len(spec.pool.questions)
    # Prompt and answer, twice; reading forward is about three times as fast as training.
    tokens = 2 * (own + pool) * (rates.row_tokens / 2 + rates.completion_tokens)
    return Stage(
        name="slots",
        label=model.name,
        version=1,
        spec=spec,
        inputs={
            **drawn.inputs,
            "completions": drawn,
            "marker": marker,
            **({} if raw is None else {"pool": raw}),
        },
        work=partial(make_slots, spec=spec, progress=setting.progress),
        estimate=tokens / (3 * rates.train_tokens),
    )


def make_slots(
    out: Path, entries: Mapping[str, Entry], *, spec: SlotSpec, progress: Progress
) -> Mapping[str, Any]:
    """Read an arm and the pre-coupling model under it at the same slots; write the rows.

    Unfinished completions have no slot: they are counted and left out.

    Raises:
        FlatlandError: both models read the same everywhere, although the adapter is none of zeros.
    """
    drawn = read_rows(entries["completions"].path / COMPLETIONS, Completion)
    finished = [row for row in drawn if row.finish == STOP]
    readings = _own(finished, spec)
    if spec.pool is not None:
        raw = read_rows(entries["pool"].path / COMPLETIONS, Completion)
        readings += readings_of(pool_of(raw, spec.pool), spec.pool)
    after, tokens = _read(entries, readings, spec, "after", progress)
    without = {name: entry for name, entry in entries.items() if name != "coupling"}
    before, _ = _read(without, readings, spec, "before", progress)
    if readings and np.array_equal(after, before) and _changes(entries["coupling"]):
        raise FlatlandError(
            f"slots of {spec.model}: all {len(readings):,} readings are equal before and after "
            "coupling, so that its adapter was not applied; build the coupling again"
        )
    pool = len(readings) - len(finished)
    rows = [
        _row(one, spec, drawn[0].seed, own=at < len(finished), tokens=tokens[at], read=values)
        for at, (one, values) in enumerate(zip(readings, np.hstack([after, before]), strict=True))
    ]
    write_rows(out / SLOTS_FILE, rows, SlotReading)
    asked = 0 if spec.pool is None else len(spec.pool.personas) ** 2 * len(spec.pool.questions)
    return {
        "own": len(finished),
        "unfinished": len(drawn) - len(finished),
        "pool": pool,
        "pool_missing": asked - pool,
    }


def _changes(coupling: Entry) -> bool:
    """Return whether an adapter is any other than the one that training began with."""
    from persona_lib.models.adapters import stack_adapters

    factors = stack_adapters([coupling.path]).factors.values()
    return any(bool(b.any()) for _, b in factors)


def _own(finished: Sequence[Completion], spec: SlotSpec) -> list[Reading]:
    personas = {persona.id: persona for persona in spec.personas}
    questions = {question.id: question for question in spec.questions}
    return [
        Reading(reader=personas[row.persona], question=questions[row.question], answer=row)
        for row in finished
    ]


def _read(
    entries: Mapping[str, Entry],
    readings: Sequence[Reading],
    spec: SlotSpec,
    when: str,
    progress: Progress,
) -> tuple[Floats, list[int]]:
    """Return the readings of one model, and the tokens in front of each slot."""
    if not readings:
        return np.empty((0, len(COLUMNS))), []
    loaded = open_model(entries, spec.sample)
    passages = passages_of(readings, spec.sample, loaded.tokenizer, spec.marker)
    read = SlotTokens(marker=tuple(marker_tokens(entries)), end=loaded.end_of_turn)
    label = f"slots {spec.model} {when}"
    found = read_slots(loaded, passages, read, label=label, progress=progress)
    return found, [len(passage.response) for passage in passages]


def _row(
    one: Reading, spec: SlotSpec, seed: int, *, own: bool, tokens: int, read: Floats
) -> SlotReading:
    names = [f"{column}_{when}" for when in ("after", "before") for column in COLUMNS]
    return SlotReading(
        phase=POST,
        model=spec.model,
        seed=seed,
        persona=one.reader.id,
        question=one.question.id,
        question_set=one.question.set,
        sample=one.answer.sample,
        author=one.answer.persona,
        pool=not own,
        tokens=tokens,
        marked=answer_before(one.answer.text, spec.marker)[1],
        **dict(zip(names, map(float, read), strict=True)),
    )
