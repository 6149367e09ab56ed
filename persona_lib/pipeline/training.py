"""Stages ``corpus``, ``prior`` and ``coupling``: training rows, and the LoRAs trained on them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.corpora.load import corpus_key, load_corpus, preflight_corpus, row_type
from persona_lib.device import prepare_torch
from persona_lib.digests import canonical, derive_seed
from persona_lib.pipeline.base_model import base_folder, chat_of, marker_tokens
from persona_lib.pipeline.coupling_text import ROWS
from persona_lib.pipeline.dose import DOSE_FILE, DoseReading, begin_dose, dose_reading
from persona_lib.pipeline.setting import Folders, Setting
from persona_lib.progress import Progress
from persona_lib.records import (
    POST,
    CouplingRow,
    DosePoint,
    ModelId,
    read_rows,
    write_rows,
)
from persona_lib.specs.profile import CouplingSpec, TrainSpec
from persona_lib.specs.sources import Corpus
from persona_lib.store.cost import spent
from persona_lib.store.stage import Stage
from persona_lib.store.store import Entry

if TYPE_CHECKING:
    from persona_lib.models.loading import LoadedModel

CORPUS = "corpus.parquet"
"""File of stage ``corpus``."""
PROOF = "mask_proof.json"
"""File of stage ``coupling``: what was supervised, row by row."""


def corpus_stage(setting: Setting, prior: str) -> Stage:
    """The rows of a prior's corpus."""
    spec, folder, folders = setting.corpora[prior], setting.legal, setting.folders
    return Stage(
        name="corpus",
        label=prior,
        version=1,
        spec={"corpus": canonical(spec), "source": corpus_key(spec, grammar_folder=folder)},
        work=partial(make_corpus, spec=spec, grammar_folder=folder, folders=folders),
        estimate=5.0,
        preflight=partial(preflight_corpus, spec, data_folder=folders.user, own_folder=folders.own),
    )


def prior_stage(setting: Setting, name: str, *, base: Stage, corpus: Stage, after: Stage) -> Stage:
    """The LoRA of a prior."""
    recipe, rates = setting.profile.recipe(name), setting.profile.rates
    steps = (
        recipe.steps or (recipe.epochs or 0.0) * (setting.corpora[name].rows or 0) / recipe.batch
    )
    return Stage(
        name="prior",
        label=name,
        version=1,
        spec={"prior": name, "recipe": canonical(recipe)},
        inputs={"base": base, "corpus": corpus},
        after=(after,),
        seed=setting.run_seed,
        work=partial(
            make_prior, name=name, recipe=recipe, corpus=setting.corpora[name],
            run_seed=setting.run_seed, progress=setting.progress,
        ),
        estimate=steps * recipe.batch * rates.row_tokens / rates.train_tokens,
    )  # fmt: skip


def coupling_stage(
    setting: Setting,
    arm: str,
    *,
    stack: Mapping[str, Stage],
    marker: Stage,
    text: Stage,
    raw: Stage | None = None,
) -> Stage:
    """The coupling LoRA of an arm, on a pre-coupling model.

    With completions of the `raw` model, some are read while it trains.
    """
    recipe, rates, scale = setting.profile.coupling, setting.profile.rates, setting.profile.scale
    registration = setting.registration
    trained = registration.roster_of(arm).trained
    rows = len(trained) * scale.questions * scale.coupling_keep
    passes = recipe.epochs or (recipe.steps or 0) * recipe.batch / rows
    dose = None if raw is None else dose_reading(setting, arm)
    tokens = rates.completion_tokens + rates.row_tokens / 2
    return Stage(
        name="coupling",
        label=arm,
        version=1,
        spec=_coupling_key(setting, arm, dose),
        inputs={
            **stack, "marker": marker, "text": text, **({} if raw is None else {"pool": raw})
        },
        seed=setting.run_seed,
        work=partial(
            make_coupling, arm=arm, recipe=recipe, marker=setting.appended, trained=trained,
            run_seed=setting.run_seed, progress=setting.progress, dose=dose,
        ),
        estimate=rows * passes * tokens / rates.train_tokens,
    )  # fmt: skip


def _coupling_key(setting: Setting, arm: str, dose: DoseReading | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "arm": arm, "recipe": canonical(setting.profile.coupling), "marker": setting.appended,
    }  # fmt: skip
    if setting.registration.roster.more_sources:
        found["source"] = setting.registration.source_of(arm)
    return found if dose is None else {**found, "dose": canonical(dose)}


def make_corpus(
    out: Path,
    _: Mapping[str, Entry],
    *,
    spec: Corpus,
    grammar_folder: Path,
    folders: Folders,
) -> Mapping[str, Any]:
    """Write a corpus as Parquet; of long conversations, count what is left out."""
    found = load_corpus(
        spec, grammar_folder=grammar_folder, data_folder=folders.user, own_folder=folders.own
    )
    write_rows(out / CORPUS, found.rows, row_type(spec))
    words = sum(len(row.assistant.split()) for row in found.rows)
    return {
        "rows": len(found.rows),
        "words_per_answer": words / len(found.rows),
        "left_out_messages": found.left_out,
    }


def make_prior(
    out: Path,
    entries: Mapping[str, Entry],
    *,
    name: str,
    recipe: TrainSpec,
    corpus: Corpus,
    run_seed: int,
    progress: Progress,
) -> Mapping[str, Any]:
    """Train a prior LoRA on its corpus and write the adapter."""
    draw_seed = derive_seed(run_seed, "prior", name)
    loaded = _trainable(entries, recipe, draw_seed)
    from persona_lib.models.adapters import save_adapter
    from persona_lib.train.encode import encode_sft
    from persona_lib.train.lora import train_lora, write_training

    rows = read_rows(entries["corpus"].path / CORPUS, row_type(corpus))
    encoded, cut = encode_sft(rows, loaded.tokenizer, max_length=recipe.max_length)
    report = train_lora(
        loaded.model, loaded.tokenizer, encoded, recipe,
        loss="sft", seed=draw_seed, label=f"prior {name}", progress=progress,
    )  # fmt: skip
    spent(tokens=_tokens_trained(report, recipe))
    save_adapter(loaded.model, out)
    write_training(out, {**report, "cut_rows": cut}, recipe)
    return {"rows": len(rows), "steps": report["steps"], "cut_rows": cut}


def make_coupling(
    out: Path,
    entries: Mapping[str, Entry],
    *,
    arm: str,
    recipe: CouplingSpec,
    marker: str,
    trained: Sequence[str],
    run_seed: int,
    progress: Progress,
    dose: DoseReading | None = None,
) -> Mapping[str, Any]:
    """Prove the mask, train the coupling LoRA on top of the prior, write the adapter.

    Of the coupling text the rows of the arm's `trained` personas are its rows. With a `dose`,
    the margins that are read meanwhile are written too.

    Raises:
        MaskProofError: before any step, if a row supervises other tokens than registered.
        DataError: a row is longer than the recipe's `max_length`.
    """
    draw_seed = derive_seed(run_seed, "coupling", arm)
    loaded = _trainable(entries, recipe, draw_seed)
    from persona_lib.models.adapters import save_adapter
    from persona_lib.models.chat import turn_end
    from persona_lib.train.encode import encode_coupling
    from persona_lib.train.lora import total_steps, train_lora, write_training
    from persona_lib.train.proof import prove_mask

    tokenizer, loss = loaded.tokenizer, recipe.loss
    rows = read_rows(entries["text"].path / ROWS, CouplingRow)
    rows = tuple(row for row in rows if row.persona in trained)
    tokens = marker_tokens(entries)
    encoded = encode_coupling(
        rows, tokenizer, marker=tokens, loss=loss, max_length=recipe.max_length
    )
    end = turn_end(tokenizer)
    proof = prove_mask(
        rows, encoded, tokenizer, marker=marker, end_of_turn=end.text, loss=loss, after=end.after
    )
    (out / PROOF).write_text(json.dumps(proof, indent=1, ensure_ascii=True) + "\n")
    steps = total_steps(len(encoded), recipe)
    taken = None if dose is None else begin_dose(entries, dose, loaded, tokens, steps)
    report = train_lora(
        loaded.model, tokenizer, encoded, recipe,
        loss=loss, seed=draw_seed, label=f"coupling {arm}", progress=progress,
        watch=None if taken is None else taken.watch,
    )  # fmt: skip
    spent(tokens=_tokens_trained(report, recipe))
    save_adapter(loaded.model, out)
    write_training(out, report, recipe)
    if taken is not None:
        write_rows(out / DOSE_FILE, taken.points(ModelId(POST, arm), run_seed), DosePoint)
    return {
        "rows": len(rows),
        "steps": report["steps"],
        "proof": {kind: found["supervised"] for kind, found in proof["kinds"].items()},
    }


def _tokens_trained(report: Mapping[str, Any], recipe: TrainSpec) -> int:
    """Return the tokens of all rows, each as often as it was trained on."""
    rows, steps, tokens = (int(report[name]) for name in ("rows", "steps", "tokens"))
    return round(tokens * steps / math.ceil(rows / recipe.batch))


def _trainable(entries: Mapping[str, Entry], recipe: TrainSpec, draw_seed: int) -> LoadedModel:
    """Load the base, the frozen prior if there is one, and a fresh adapter on top."""
    device = prepare_torch()
    from persona_lib.models.loading import load_trainable

    return load_trainable(
        base_folder(entries["base"]),
        content=entries["base"].content,
        chat=chat_of(entries["base"]),
        dtype=recipe.dtype,
        device=device,
        frozen=[entries["prior"].path] if "prior" in entries else [],
        lora=recipe.lora,
        draw_seed=derive_seed(draw_seed, "weights"),
    )
