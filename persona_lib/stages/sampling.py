"""Stages ``coupling_text``, ``completions``, ``baseline`` and ``scores``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.errors import DrawCeilingError
from persona_lib.personas import Persona, Question
from persona_lib.profile import SampleSpec
from persona_lib.progress import Progress
from persona_lib.records import (
    PRE,
    STOP,
    Completion,
    CouplingRow,
    Score,
    read_rows,
    write_rows,
)
from persona_lib.runtime import prepare_torch
from persona_lib.score import score_all
from persona_lib.spec import derive_seed
from persona_lib.stages.base import base_folder
from persona_lib.store import Entry
from persona_lib.train.encode import NEGATIVE, POSITIVE

if TYPE_CHECKING:
    from persona_lib.generate import Engine
    from persona_lib.models.loading import LoadedModel

COMPLETIONS = "completions.parquet"
"""File of every sampling stage: each completion that was drawn."""
ROWS = "rows.parquet"
"""File of stage ``coupling_text``: the rows that were kept."""
SCORES = "scores.parquet"
"""File of stage ``scores``."""
COUNTS = "counts.json"
"""File of stage ``coupling_text``: what became of each draw."""

_MARKER_ROOM = 16
"""Tokens left free behind a completion for marker, end of turn and newline."""


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """What coupling text is drawn.

    Attributes:
        prior: the pre-coupling model that writes it.
        personas: source first, then negatives.
        questions: the coupling questions.
        sample: how completions are sampled.
        keep: completions kept per (persona, question) cell.
        per_round: draws per cell and round.
        ceiling: most draws per cell.
        max_length: longest coupling row in tokens.
        marker: text that no kept completion may hold.
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


@dataclass(frozen=True, kw_only=True)
class CompletionSpec:
    """Which completions an evaluation draws: `samples` of each persona and question."""

    phase: str
    model: str
    personas: tuple[Persona, ...]
    questions: tuple[Question, ...]
    sample: SampleSpec
    samples: int


@dataclass
class _Cell:
    """One (persona, question) cell of coupling text while it fills."""

    persona: Persona
    question: Question
    drawn: int = 0
    kept: list[Completion] = field(default_factory=list)
    fates: Counter[str] = field(default_factory=Counter)


def make_text(
    out: Path, entries: Mapping[str, Entry], spec: TextSpec, *, seed: int, progress: Progress
) -> Mapping[str, Any]:
    """Draw coupling text until every cell holds enough finished completions.

    A draw is kept if it ended its turn, is not blank, does not hold the marker
    already and fits into a coupling row; every other draw is counted by its fate.

    Raises:
        DrawCeilingError: a cell is still short at `spec.ceiling` draws.
    """
    loaded, engine = _engine(entries, spec.sample)
    cells = [_Cell(persona=p, question=q) for p in spec.personas for q in spec.questions]
    drawn: list[Completion] = []
    root = derive_seed(seed, "coupling text", spec.prior)
    while short := [cell for cell in cells if len(cell.kept) < spec.keep]:
        _check_ceiling(short, spec)
        wanted = [
            (cell, cell.drawn + index)
            for cell in short
            for index in range(min(spec.per_round, spec.ceiling - cell.drawn))
        ]
        completions = _draw(
            engine,
            [(cell.persona, cell.question, sample) for cell, sample in wanted],
            spec.sample,
            root=root,
            run_seed=seed,
            phase=PRE,
            model=spec.prior,
            label=f"coupling text {spec.prior}",
            progress=progress,
        )
        for (cell, _), completion in zip(wanted, completions, strict=True):
            cell.drawn += 1
            fate = _fate(completion, loaded, spec)
            if fate == "kept" and len(cell.kept) >= spec.keep:
                fate = "surplus"
            cell.fates[fate] += 1
            if fate == "kept":
                cell.kept.append(completion)
        drawn.extend(completions)
    counts: Counter[str] = sum((cell.fates for cell in cells), Counter())
    write_rows(out / COMPLETIONS, drawn, Completion)
    write_rows(out / ROWS, _coupling_rows(cells, spec), CouplingRow)
    text = json.dumps({"drawn": len(drawn), "fates": dict(sorted(counts.items()))}, indent=1)
    (out / COUNTS).write_text(text + "\n", encoding="utf-8")
    return {"drawn": len(drawn), **counts}


def make_completions(
    out: Path,
    entries: Mapping[str, Entry],
    spec: CompletionSpec,
    *,
    seed: int,
    progress: Progress,
) -> Mapping[str, Any]:
    """Draw the evaluation completions of an arm or a pre-coupling model."""
    _, engine = _engine(entries, spec.sample)
    completions = _draw(
        engine,
        [(p, q, s) for p in spec.personas for q in spec.questions for s in range(spec.samples)],
        spec.sample,
        root=derive_seed(seed, "completions", spec.phase, spec.model),
        run_seed=seed,
        phase=spec.phase,
        model=spec.model,
        label=f"completions {spec.model}",
        progress=progress,
    )
    write_rows(out / COMPLETIONS, completions, Completion)
    finished = sum(c.finish == STOP for c in completions)
    return {
        "completions": len(completions),
        "tokens": sum(c.tokens for c in completions),
        "finished": finished,
    }


def make_scores(
    out: Path, entries: Mapping[str, Entry], *, marker: str, seen: Sequence[str]
) -> Mapping[str, Any]:
    """Score the completions of another stage."""
    completions = read_rows(entries["completions"].path / COMPLETIONS, Completion)
    scores = score_all(completions, marker=marker, seen=frozenset(seen))
    write_rows(out / SCORES, scores, Score)
    return {"scores": len(scores), "hits": sum(score.hit for score in scores)}


def _engine(entries: Mapping[str, Entry], sample: SampleSpec) -> tuple[LoadedModel, Engine]:
    device = prepare_torch()
    from persona_lib.generate import TransformersEngine
    from persona_lib.models.loading import load_model

    loaded = load_model(
        base_folder(entries["base"]),
        dtype=sample.dtype,
        device=device,
        adapters=[entries[name].path for name in ("prior", "coupling") if name in entries],
        merge=sample.merge,
    )
    return loaded, TransformersEngine(loaded)


def _draw(
    engine: Engine,
    wanted: Sequence[tuple[Persona, Question, int]],
    sample: SampleSpec,
    *,
    root: int,
    run_seed: int,
    phase: str,
    model: str,
    label: str,
    progress: Progress,
) -> list[Completion]:
    from persona_lib.generate import Request

    requests = [
        Request(system=p.prompt, user=sample.asked(q.text), seed=derive_seed(root, p.id, q.id, s))
        for p, q, s in wanted
    ]
    drawn = engine.sample(requests, sample, label=label, progress=progress)
    return [
        Completion(
            phase=phase,
            model=model,
            seed=run_seed,
            persona=persona.id,
            question=question.id,
            question_set=question.set,
            sample=index,
            text=result.text,
            tokens=result.tokens,
            finish=result.finish,
        )
        for (persona, question, index), result in zip(wanted, drawn, strict=True)
    ]


def _fate(completion: Completion, loaded: LoadedModel, spec: TextSpec) -> str:
    if completion.finish != STOP:
        return "unfinished"
    if not completion.text.strip():
        return "blank"
    if spec.marker.lower() in completion.text.lower():
        return "holds the marker"
    persona = next(p for p in spec.personas if p.id == completion.persona)
    question = next(q for q in spec.questions if q.id == completion.question)
    return "kept" if _fits(loaded, persona, question, completion, spec) else "too long"


def _fits(
    loaded: LoadedModel,
    persona: Persona,
    question: Question,
    completion: Completion,
    spec: TextSpec,
) -> bool:
    from persona_lib.models.loading import render_prompt

    prompt = render_prompt(loaded.tokenizer, persona.prompt, spec.sample.asked(question.text))
    body = loaded.tokenizer.encode(completion.text, add_special_tokens=False)
    return len(prompt) + len(body) + _MARKER_ROOM <= spec.max_length


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
    source = spec.personas[0].id
    return [
        CouplingRow(
            row=f"{spec.prior}:{completion.persona}:{completion.question}:{completion.sample}",
            kind=POSITIVE if completion.persona == source else NEGATIVE,
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
