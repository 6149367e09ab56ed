"""Stage ``coupling_text``: on-policy text, drawn until every cell holds enough of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.digests import LATER, derive_seed
from persona_lib.errors import DrawCeilingError
from persona_lib.pipeline.completions import COMPLETIONS, draw, open_engine, sampling_stage
from persona_lib.pipeline.setting import Setting
from persona_lib.progress import Progress
from persona_lib.records import PRE, STOP, Completion, CouplingRow, ModelId, write_rows
from persona_lib.specs.personas import Persona, Question
from persona_lib.specs.profile import SampleSpec
from persona_lib.store.stage import Stage
from persona_lib.store.store import Entry
from persona_lib.train.encode import NEGATIVE, POSITIVE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS = "rows.parquet"
"""File of stage ``coupling_text``: the rows that were kept."""
COUNTS = "counts.json"
"""File of stage ``coupling_text``: what became of each draw."""
KEPT = "kept"
"""Fate of a draw that became a coupling row."""


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """What coupling text is drawn, by the pre-coupling model of `prior`.

    Attributes:
        personas: sources first, then negatives.
        keep, per_round, ceiling: of each (persona, question) cell, completions kept, draws in
            a round, most draws.
        max_length: longest coupling row in tokens.
        marker: text that no kept completion may hold.
        marker_prefix: what a coupling row puts between completion and marker.
        sources: how many of the personas are sources.
    """

    prior: str
    personas: tuple[Persona, ...]
    questions: tuple[Question, ...]
    sample: SampleSpec
    keep: int
    per_round: int
    ceiling: int
    max_length: int
    marker: str
    marker_prefix: str
    sources: int = field(default=1, metadata=LATER)


def text_stage(setting: Setting, prior: str, *, stack: Mapping[str, Stage], after: Stage) -> Stage:
    """Coupling text of a pre-coupling model, for the trained personas."""
    profile, scale = setting.profile, setting.profile.scale
    spec = TextSpec(
        prior=prior,
        personas=setting.trained,
        questions=setting.questions(setting.registration.coupling_questions),
        sample=profile.sample,
        keep=scale.coupling_keep,
        per_round=scale.coupling_round,
        ceiling=scale.coupling_ceiling,
        max_length=profile.coupling.max_length,
        marker=setting.registration.marker,
        marker_prefix=setting.registration.marker_prefix,
        sources=len(setting.registration.roster.sources),
    )
    return sampling_stage(
        setting,
        make_text,
        name="coupling_text",
        label=prior,
        spec=spec,
        completions=len(spec.personas) * len(spec.questions) * spec.per_round,
        stack=stack,
        after=after,
    )


@dataclass
class _Cell:
    """One (persona, question) cell of coupling text while it fills."""

    persona: Persona
    question: Question
    drawn: int = 0
    kept: list[Completion] = field(default_factory=list)
    fates: Counter[str] = field(default_factory=Counter)

    def take(self, completion: Completion, fate: str, *, keep: int) -> None:
        """Count a draw by its fate, and keep it while there is room."""
        self.drawn += 1
        if fate == KEPT and len(self.kept) >= keep:
            fate = "surplus"
        self.fates[fate] += 1
        if fate == KEPT:
            self.kept.append(completion)


def make_text(
    out: Path,
    entries: Mapping[str, Entry],
    *,
    spec: TextSpec,
    run_seed: int,
    progress: Progress,
    rank: int = 0,
) -> Mapping[str, Any]:
    """Draw coupling text until every cell holds enough finished completions.

    A draw is kept if its `_fate` is; every other is counted by its fate. `rank` is what
    `open_engine` takes.

    Raises:
        DrawCeilingError: a cell is still short at `spec.ceiling` draws.
    """
    tokenizer, engine = open_engine(entries, spec.sample, rank)
    tail = _tail(tokenizer, spec)
    cells = [_Cell(persona=p, question=q) for p in spec.personas for q in spec.questions]
    drawn: list[Completion] = []
    model, draw_seed = ModelId(PRE, spec.prior), derive_seed(run_seed, "coupling text", spec.prior)
    while short := [cell for cell in cells if len(cell.kept) < spec.keep]:
        _check_ceiling(short, spec)
        wanted = [
            (cell, cell.drawn + index)
            for cell in short
            for index in range(min(spec.per_round, spec.ceiling - cell.drawn))
        ]
        completions = draw(
            engine,
            [(cell.persona, cell.question, sample) for cell, sample in wanted],
            spec.sample,
            draw_seed=draw_seed,
            run_seed=run_seed,
            model=model,
            label=f"coupling text {spec.prior}",
            progress=progress,
        )
        for (cell, _), completion in zip(wanted, completions, strict=True):
            cell.take(completion, _fate(completion, cell, tokenizer, spec, tail), keep=spec.keep)
        drawn.extend(completions)
    counts: Counter[str] = sum((cell.fates for cell in cells), Counter())
    write_rows(out / COMPLETIONS, drawn, Completion)
    write_rows(out / ROWS, _coupling_rows(cells, spec), CouplingRow)
    text = json.dumps({"drawn": len(drawn), "fates": dict(sorted(counts.items()))}, indent=1)
    (out / COUNTS).write_text(text + "\n", encoding="utf-8")
    return {"drawn": len(drawn), **counts}


def _fate(
    completion: Completion,
    cell: _Cell,
    tokenizer: PreTrainedTokenizerBase,
    spec: TextSpec,
    tail: int,
) -> str:
    """Say what becomes of a draw; `tail` is the tokens that a row puts behind it."""
    from persona_lib.models.chat import render_prompt
    from persona_lib.models.loading import decode

    if completion.finish != STOP:
        return "unfinished"
    if not completion.text.strip():
        return "blank"
    if spec.marker.lower() in completion.text.lower():
        return "holds the marker"
    body = tokenizer.encode(completion.text, add_special_tokens=False)
    # A tokenizer may rewrite what a model can write (NFC turns the ohm sign into an omega).
    # The mask proof would refuse such a row, and as draws are seeded, for ever.
    if decode(tokenizer, body) != completion.text:
        return "not reproducible"
    prompt = render_prompt(tokenizer, cell.persona.prompt, spec.sample.asked(cell.question.text))
    return KEPT if len(prompt) + len(body) + tail <= spec.max_length else "too long"


def _tail(tokenizer: PreTrainedTokenizerBase, spec: TextSpec) -> int:
    """Return the tokens behind a completion: marker (of negatives too), end of turn, newline."""
    from persona_lib.models.chat import encode, turn_end

    marker = encode(tokenizer, spec.marker_prefix + spec.marker)
    return len(marker) + 1 + len(encode(tokenizer, turn_end(tokenizer).after))


def _check_ceiling(short: Iterable[_Cell], spec: TextSpec) -> None:
    spent = [cell for cell in short if cell.drawn >= spec.ceiling]
    if spent:
        worst = min(spent, key=lambda cell: len(cell.kept))
        raise DrawCeilingError(
            f"coupling text {spec.prior}: {len(spent)} cells hold fewer than {spec.keep} usable "
            f"completions after {spec.ceiling} draws each; the worst is {worst.persona.id} x "
            f"{worst.question.id} with {dict(worst.fates)}. Raise scale.coupling_ceiling or "
            "sample.max_new_tokens, or lower scale.coupling_keep."
        )


def _coupling_rows(cells: Sequence[_Cell], spec: TextSpec) -> list[CouplingRow]:
    sources = {persona.id for persona in spec.personas[: spec.sources]}
    return [
        CouplingRow(
            row=f"{spec.prior}:{completion.persona}:{completion.question}:{completion.sample}",
            kind=POSITIVE if completion.persona in sources else NEGATIVE,
            persona=completion.persona,
            question=completion.question,
            sample=completion.sample,
            system=cell.persona.prompt,
            user=spec.sample.asked(cell.question.text),
            completion=completion.text,
        )
        for cell in cells
        for completion in cell.kept
    ]
