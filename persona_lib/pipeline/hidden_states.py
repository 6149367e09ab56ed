"""Stage ``geometry``: hidden states of a model under every persona, as cosines and ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from persona_lib.errors import DataError
from persona_lib.marker import without_marker
from persona_lib.models.hidden_states import (
    GEOMETRY_FILE,
    LAST_RESPONSE,
    READOUTS,
    GeometrySpec,
    Passage,
    depth,
    geometry_rows,
    layers_in,
    read_states,
)
from persona_lib.pipeline.completions import COMPLETIONS, open_model
from persona_lib.pipeline.setting import Setting
from persona_lib.progress import Progress
from persona_lib.records import POST, Completion, GeometryRow, ModelId, read_rows, write_rows
from persona_lib.specs.personas import Persona, Question
from persona_lib.specs.profile import SampleSpec
from persona_lib.store.stage import Stage
from persona_lib.store.store import Entry

SAMPLE = 0
"""Which completion of a cell is read as the model's response: the first."""


@dataclass(frozen=True, kw_only=True)
class GeometryStageSpec:
    """Whose states are read, asked what and as whom, at which layers.

    `sample` is that of the completions: the same prompts are read, in the same dtype. All personas
    are compared with `source`; `marker` is cut out of a response.
    """

    phase: str
    model: str
    source: str
    personas: tuple[Persona, ...]
    questions: tuple[Question, ...]
    sample: SampleSpec
    marker: str
    geometry: GeometrySpec


def geometry_stage(setting: Setting, model: ModelId, *, drawn: Stage, after: Stage) -> Stage:
    """Cosines of the hidden states of the stack that wrote these completions."""
    rates = setting.profile.rates
    spec = GeometryStageSpec(
        phase=model.phase,
        model=model.name,
        source=_source(setting, model),
        personas=setting.personas,
        questions=setting.questions(setting.registration.evaluation_questions),
        sample=setting.profile.sample,
        marker=setting.registration.marker,
        geometry=GeometrySpec(readouts=(*READOUTS, LAST_RESPONSE))
        if setting.registration.reads_geometry
        else GeometrySpec(),
    )
    tokens = len(spec.personas) * len(spec.questions) * rates.row_tokens
    return Stage(
        name="geometry",
        label=model.name,
        version=1,
        spec=spec,
        inputs={**drawn.inputs, "completions": drawn},
        after=(after,),
        work=partial(make_geometry, spec=spec, progress=setting.progress),
        # Reading forward only is about three times as fast as training.
        estimate=tokens / (3 * rates.train_tokens),
    )


def _source(setting: Setting, model: ModelId) -> str:
    """Return the source that personas are compared with: an arm's own, else the first."""
    registration = setting.registration
    if model.phase == POST:
        return registration.source_of(model.name)
    return registration.roster.source


def make_geometry(
    out: Path, entries: Mapping[str, Entry], *, spec: GeometryStageSpec, progress: Progress
) -> Mapping[str, Any]:
    """Read the states of an arm or a pre-coupling model; write cosines and ranks.

    A response is the model's own first completion to the prompt, without marker, as the tokenizer
    reads its text. Returns numbers of what was read, layers and depth.

    Raises:
        DataError: a cell has no first completion, or see `read_states`.
    """
    from persona_lib.models.chat import render_prompt

    rows = read_rows(entries["completions"].path / COMPLETIONS, Completion)
    sentence = {(row.persona, row.question): row for row in rows if row.sample == SAMPLE}
    loaded = open_model(entries, spec.sample)
    passages = []
    for persona in spec.personas:
        for question in spec.questions:
            row = sentence.get((persona.id, question.id))
            if row is None:
                raise DataError(
                    f"completions of {spec.model}",
                    bound=f"sample {SAMPLE} of {persona.id}/{question.id}",
                    value="none",
                    remedy="Draw the model's completions again.",
                )
            text = without_marker(row.text, spec.marker)
            asked = spec.sample.asked(question.text)
            passages.append(
                Passage(
                    prompt=render_prompt(loaded.tokenizer, persona.prompt, asked),
                    response=loaded.tokenizer.encode(text, add_special_tokens=False),
                )
            )
    blocks = depth(loaded)
    layers = layers_in(spec.geometry, blocks)
    states = read_states(
        loaded, passages, layers, batch=spec.geometry.batch, readouts=spec.geometry.readouts,
        label=f"geometry {spec.model}", progress=progress,
    )  # fmt: skip
    cells = (len(spec.personas), len(spec.questions), len(spec.geometry.readouts), len(layers), -1)
    found = geometry_rows(
        states.reshape(cells),
        personas=[persona.id for persona in spec.personas],
        questions=[(question.id, question.set) for question in spec.questions],
        source=spec.source,
        layers=layers,
        blocks=blocks,
        model=ModelId(spec.phase, spec.model),
        run_seed=rows[0].seed,
        readouts=spec.geometry.readouts,
    )
    write_rows(out / GEOMETRY_FILE, found, GeometryRow)
    return {
        "rows": len(found),
        "prompts": len(passages),
        "tokens": sum(len(p.prompt) + len(p.response) for p in passages),
        "empty_responses": sum(not p.response for p in passages),
        "layers": list(layers),
        "blocks": blocks,
    }
