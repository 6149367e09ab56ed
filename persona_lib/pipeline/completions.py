"""Stages ``completions``, ``baseline`` and ``scores``; how all stages open a model and sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.device import prepare_torch
from persona_lib.digests import derive_seed
from persona_lib.marker import TokensBefore, score_all, tokens_before_in
from persona_lib.pipeline.base_model import base_folder, chat_of
from persona_lib.pipeline.setting import Setting
from persona_lib.progress import Progress
from persona_lib.records import POST, PRE, STOP, Completion, ModelId, Score, read_rows, write_rows
from persona_lib.specs.personas import Persona, Question
from persona_lib.specs.profile import VLLM, SampleSpec
from persona_lib.store.stage import Stage
from persona_lib.store.store import Entry

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from persona_lib.models.loading import LoadedModel
    from persona_lib.sampling.engine import Engine

COMPLETIONS = "completions.parquet"
"""File of every sampling stage: each completion that was drawn."""
SCORES = "scores.parquet"
"""File of stage ``scores``."""


@dataclass(frozen=True, kw_only=True)
class CompletionSpec:
    """Which completions an evaluation draws: `samples` of each persona and question."""

    phase: str
    model: str
    personas: tuple[Persona, ...]
    questions: tuple[Question, ...]
    sample: SampleSpec
    samples: int


def sampling_stage(
    setting: Setting,
    work: Callable[..., Mapping[str, Any]],
    *,
    name: str,
    label: str,
    spec: Any,
    completions: int,
    stack: Mapping[str, Stage],
    after: Stage,
    key: Any = None,
) -> Stage:
    """Return a stage that draws about so many completions from the model of a stack.

    Its key holds `key`, or else the `spec` that `work` is given.
    """
    return Stage(
        name=name,
        label=label,
        version=1,
        spec=spec if key is None else key,
        inputs=stack,
        after=(after,),
        seed=setting.run_seed,
        work=partial(
            work, spec=spec, run_seed=setting.run_seed, progress=setting.progress,
            rank=setting.rank,
        ),
        estimate=setting.sampling_seconds(completions),
        preflight=partial(preflight_engine, spec.sample, setting.rank),
    )  # fmt: skip


def completions_stage(
    setting: Setting, model: ModelId, *, stack: Mapping[str, Stage], after: Stage
) -> Stage:
    """Evaluation completions of an arm, or (``baseline``) of a pre-coupling model."""
    scale, arm = setting.profile.scale, model.phase == POST
    spec = CompletionSpec(
        phase=model.phase,
        model=model.name,
        personas=setting.personas,
        questions=setting.questions(setting.registration.evaluation_questions),
        sample=setting.profile.sample,
        samples=scale.samples if arm else scale.false_positive_samples,
    )
    return sampling_stage(
        setting,
        make_completions,
        name="completions" if arm else "baseline",
        label=model.name,
        spec=spec,
        completions=len(spec.personas) * len(spec.questions) * spec.samples,
        stack=stack,
        after=after,
    )


def scores_stage(setting: Setting, model: ModelId, *, base: Stage, drawn: Stage) -> Stage:
    """Marker scores of those completions."""
    marker = setting.registration.marker
    seen = tuple(q.id for q in setting.questions(setting.registration.coupling_questions))
    return Stage(
        name="scores",
        label=model.name,
        version=2,
        spec={"marker": marker, "seen": seen},
        inputs={"base": base, "completions": drawn},
        work=partial(make_scores, marker=marker, seen=seen),
    )


def make_completions(
    out: Path,
    entries: Mapping[str, Entry],
    *,
    spec: CompletionSpec,
    run_seed: int,
    progress: Progress,
    rank: int = 0,
) -> Mapping[str, Any]:
    """Draw the evaluation completions of a model; `rank` is what `open_engine` takes."""
    _, engine = open_engine(entries, spec.sample, rank)
    completions = draw(
        engine,
        [(p, q, s) for p in spec.personas for q in spec.questions for s in range(spec.samples)],
        spec.sample,
        draw_seed=derive_seed(run_seed, "completions", spec.phase, spec.model),
        run_seed=run_seed,
        model=ModelId(spec.phase, spec.model),
        label=f"completions {spec.model}",
        progress=progress,
    )
    write_rows(out / COMPLETIONS, completions, Completion)
    return counts(completions)


def counts(completions: Sequence[Completion]) -> dict[str, int]:
    """Return what a sampling stage's entry tells of its completions."""
    return {
        "completions": len(completions),
        "tokens": sum(c.tokens for c in completions),
        "finished": sum(c.finish == STOP for c in completions),
    }


def make_scores(
    out: Path, entries: Mapping[str, Entry], *, marker: str, seen: Sequence[str]
) -> Mapping[str, Any]:
    """Score the completions of another stage, with the base's tokenizer."""
    completions = read_rows(entries["completions"].path / COMPLETIONS, Completion)
    scores = score_all(
        completions,
        marker=marker,
        seen=frozenset(seen),
        tokens_before=_tokens_before(entries["base"]),
    )
    write_rows(out / SCORES, scores, Score)
    return {"scores": len(scores), "hits": sum(score.hit for score in scores)}


def _tokens_before(base: Entry) -> TokensBefore:
    """Return what counts tokens; the tokenizer is loaded for the first text with a marker."""

    @cache
    def counter() -> TokensBefore:
        prepare_torch()
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(base_folder(base), local_files_only=True)
        return tokens_before_in(tokenizer)

    def count(text: str, position: int) -> int:
        return counter()(text, position)

    return count


def preflight_engine(sample: SampleSpec, rank: int) -> None:
    """Check that this machine has the engine that samples; `rank` as `open_engine` takes it.

    Raises:
        PreflightError: it is not installed, or has no device here.
        SpecError: it has no room for stacks of this rank, or a variable is wrong.
    """
    if sample.engine == VLLM:
        from persona_lib.sampling.vllm.shared import preflight_vllm

        preflight_vllm(sample, rank)


def open_engine(
    entries: Mapping[str, Entry], sample: SampleSpec, rank: int = 0
) -> tuple[PreTrainedTokenizerBase, Engine]:
    """Return the tokenizer and the engine of the model that these entries make.

    `rank` is the largest of a stack in the run: vLLM makes room for it when it starts.
    """
    if sample.engine == VLLM:
        return _open_vllm(entries, sample, rank)
    loaded = open_model(entries, sample)
    from persona_lib.sampling.engine import TransformersEngine

    return loaded.tokenizer, TransformersEngine(loaded)


def open_model(entries: Mapping[str, Entry], sample: SampleSpec) -> LoadedModel:
    """Return the model that these entries make, in transformers."""
    device = prepare_torch()
    from persona_lib.models.loading import load_model

    return load_model(
        base_folder(entries["base"]),
        content=entries["base"].content,
        chat=chat_of(entries["base"]),
        dtype=sample.dtype,
        device=device,
        adapters=[entry.path for entry in _adapters(entries)],
        merge=sample.merge,
    )


def _open_vllm(
    entries: Mapping[str, Entry], sample: SampleSpec, rank: int
) -> tuple[PreTrainedTokenizerBase, Engine]:
    prepare_torch()
    from persona_lib.sampling.vllm.engine import VllmEngine
    from persona_lib.sampling.vllm.shared import hold_vllm

    base = entries["base"]
    model, stack = hold_vllm(
        base_folder(base), _adapters(entries), content=base.content, chat=chat_of(base),
        sample=sample, rank=rank,
    )  # fmt: skip
    return model.tokenizer, VllmEngine(model, stack)


def _adapters(entries: Mapping[str, Entry]) -> list[Entry]:
    """Return the adapters of a model, in the order in which they were trained."""
    return [entries[name] for name in ("prior", "coupling") if name in entries]


def draw_alone(
    out: Path,
    engine: Engine,
    questions: Sequence[Question],
    *,
    name: str,
    model: str,
    sample: SampleSpec,
    samples: int,
    run_seed: int,
    progress: Progress,
) -> Mapping[str, int]:
    """Write a pre-coupling model's answers to questions without a system message; count them.

    `name` is that of the draw, from which its seeds are derived, and on the progress bar.
    """
    completions = draw(
        engine,
        [(None, question, at) for question in questions for at in range(samples)],
        sample,
        draw_seed=derive_seed(run_seed, name, model),
        run_seed=run_seed,
        model=ModelId(PRE, model),
        label=f"{name} {model}",
        progress=progress,
    )
    write_rows(out / COMPLETIONS, completions, Completion)
    return {"questions": len(questions), **counts(completions)}


def draw(
    engine: Engine,
    wanted: Sequence[tuple[Persona | None, Question, int]],
    sample: SampleSpec,
    *,
    draw_seed: int,
    run_seed: int,
    model: ModelId,
    label: str,
    progress: Progress,
) -> list[Completion]:
    """Draw one completion for each (persona, question, sample) of `wanted`, in that order.

    Without a persona (None) there is no system message, and the completion's persona is empty.
    Each completion's seed is derived from `draw_seed`; it carries `run_seed`.
    """
    from persona_lib.sampling.engine import Request

    requests = [
        Request(
            system=None if p is None else p.prompt,
            user=sample.asked(q.text),
            seed=derive_seed(draw_seed, "" if p is None else p.id, q.id, s),
        )
        for p, q, s in wanted
    ]
    drawn = engine.sample(requests, sample, label=label, progress=progress)
    return [
        Completion(
            phase=model.phase,
            model=model.name,
            seed=run_seed,
            persona="" if persona is None else persona.id,
            question=question.id,
            question_set=question.set,
            sample=index,
            text=result.text,
            tokens=result.tokens,
            finish=result.finish,
        )
        for (persona, question, index), result in zip(wanted, drawn, strict=True)
    ]
