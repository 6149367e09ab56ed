"""Stage ``traits``: whose voice, and how many words of the priors' field, an answer has.

The classifier is fitted on the raw model's completions of the same run. It is cross-fitted by
question: no answer is read by a fold that saw its question, whichever model gave it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from persona_lib.corpora.legal_words import legal_words, words_of
from persona_lib.corpora.voices import ClassifierSpec
from persona_lib.corpora.voices_fit import fit_classifier
from persona_lib.errors import DataError
from persona_lib.pipeline.completions import COMPLETIONS
from persona_lib.pipeline.setting import Setting
from persona_lib.records import Completion, ModelId, Trait, read_rows, write_rows
from persona_lib.store.stage import Stage
from persona_lib.store.store import Entry

TRAITS_FILE = "traits.parquet"
"""File of stage ``traits``, and of a stored record set that has it."""


@dataclass(frozen=True, kw_only=True)
class TraitSpec:
    """How answers are read: the classifier of voices, and the words of the field, sorted."""

    voices: ClassifierSpec
    words: tuple[str, ...]


def traits_stage(setting: Setting, model: ModelId, *, drawn: Stage, raw: Stage) -> Stage:
    """Traits of a pre-coupling model's completions; `raw` are those of the raw model."""
    spec = TraitSpec(
        voices=ClassifierSpec(marker=setting.registration.marker),
        words=tuple(sorted(legal_words(setting.folders.experiment / "neutral"))),
    )
    return Stage(
        name="traits",
        label=model.name,
        version=1,
        spec=spec,
        inputs={"completions": drawn, "raw": raw},
        work=partial(make_traits, spec=spec),
        estimate=20.0,
    )


def make_traits(out: Path, entries: Mapping[str, Entry], *, spec: TraitSpec) -> Mapping[str, Any]:
    """Read a pre-coupling model's answers; write a row for each.

    Where no classifier can be fitted, as on fewer questions than folds or where a persona says
    nothing, no answer has a voice, and the entry says why.
    """
    rows = read_rows(entries["completions"].path / COMPLETIONS, Completion)
    raw = read_rows(entries["raw"].path / COMPLETIONS, Completion)
    unfitted = ""
    try:
        voices = _voices(rows, raw, spec.voices)
    except DataError as error:
        voices, unfitted = [""] * len(rows), str(error)
    field = frozenset(spec.words)
    traits = [
        Trait(
            **row.place,
            recognised_as=voice,
            domain_words=len(field.intersection(words_of(row.text))),
        )
        for row, voice in zip(rows, voices, strict=True)
    ]
    write_rows(out / TRAITS_FILE, traits, Trait)
    return {
        "answers": len(traits),
        "recognised": sum(row.recognised_as == row.persona for row in traits),
        "without_a_voice": voices.count(""),
        "with_words": sum(row.domain_words > 0 for row in traits),
        "unfitted": unfitted,
    }


def _voices(
    rows: Sequence[Completion], raw: Sequence[Completion], spec: ClassifierSpec
) -> list[str]:
    """Return the persona that each answer sounds like most, "" where it has no known term."""
    return [found.top for found in fit_classifier(raw, spec).predict(rows)]
