"""The dose: what is read while a coupling trains, which the training does not notice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from persona_lib.errors import FlatlandError
from persona_lib.models.adapters import TRAINABLE, train_stack
from persona_lib.models.hidden_states import Passage
from persona_lib.models.slots import SlotTokens, read_slots
from persona_lib.pipeline.dose import TakenDose
from persona_lib.pipeline.pool import Reading
from persona_lib.records import STOP, Completion, ModelId
from persona_lib.specs.personas import Persona, Question
from persona_lib.train.dose import Dose, Watch
from persona_lib.train.lora import train_lora
from tests.byte_model import byte_tokenizer, ready, small_model
from tests.unit.test_training import ROWS, SPEC, prior

TOKENS = SlotTokens(marker=(40, 41, 42), end=2)
PASSAGES = [
    Passage(prompt=[1, 5, 6, 7], response=[8, 9, 10, 11, 12]),
    Passage(prompt=[5, 9], response=[]),
    Passage(prompt=list(range(40, 60)), response=[17]),
]
RECIPE = replace(SPEC, steps=7, learning_rate=1e-2, lora=replace(SPEC.lora, dropout=0.2))


def train(folder: Path, *, watched: bool) -> tuple[Any, Watch, dict[str, Any]]:
    model = train_stack(small_model(), [prior(folder)], RECIPE.lora, 3)
    dose = Dose(passages=PASSAGES, tokens=TOKENS, points=3)
    watch = Watch(model, dose, steps=7, pad=0)
    report = train_lora(
        model, byte_tokenizer(), ROWS, RECIPE, loss="anchored", seed=11,
        watch=watch if watched else None,
    )  # fmt: skip
    return model, watch, report


def margins(model: Any) -> np.ndarray:
    found = read_slots(ready(model.eval()), PASSAGES, TOKENS)
    return np.asarray(found[:, 0] - found[:, 1])


def test_training_does_not_notice_that_it_is_read(tmp_path: Path) -> None:
    plain, _, alone = train(tmp_path / "a", watched=False)
    watched, watch, report = train(tmp_path / "b", watched=True)
    assert alone["losses"] == report["losses"]
    weights = dict(plain.named_parameters())
    for name, value in watched.named_parameters():
        assert torch.equal(value, weights[name]), name
    assert report["dose"] == {
        "steps": [0, 1, 3, 7],
        "mean_margin": [pytest.approx(float(m.mean())) for m in watch.margins.values()],
    }


def test_the_curve_begins_before_training_and_ends_after_it(tmp_path: Path) -> None:
    start = train_stack(small_model(), [prior(tmp_path / "a")], RECIPE.lora, 3)
    trained, watch, _ = train(tmp_path / "b", watched=True)
    assert np.abs(watch.margins[0] - margins(start)).max() < 1e-4
    assert np.abs(watch.margins[7] - margins(trained)).max() < 1e-4
    assert np.abs(watch.margins[7] - watch.margins[0]).max() > 0.01
    assert all(TRAINABLE in n for n, p in trained.named_parameters() if p.requires_grad)


def test_a_dose_of_a_diverged_model_names_the_step() -> None:
    model = small_model()
    model.model.norm.weight[:] = torch.nan
    watch = Watch(model, Dose(passages=PASSAGES, tokens=TOKENS, points=2), steps=4, pad=0)
    watch.read(3)  # no step of the dose
    with pytest.raises(FlatlandError, match="step 4: a logit is not finite"):
        watch.read(4)


def test_points_are_means_by_reader_and_author() -> None:
    people = {name: Persona(id=name, prompt=name) for name in ("lib", "cop")}

    def reading(reader: str, author: str, question: str) -> Reading:
        # fmt: off
        answer = Completion(phase="pre", model="raw", seed=4, persona=author, question=question,
                            question_set="e", sample=0, text="x", tokens=1, finish=STOP)
        # fmt: on
        asked = Question(id=question, set="e", text="?")
        return Reading(reader=people[reader], question=asked, answer=answer)

    part = [reading("lib", "cop", "e1"), reading("cop", "cop", "e1"), reading("lib", "cop", "e2")]
    taken: Any = {0: np.array([1.0, 2.0, 5.0]), 9: np.array([-1.0, 0.0, 4.0])}
    dose = TakenDose(part=part, watch=SimpleNamespace(margins=taken))  # type: ignore[arg-type]
    rows = dose.points(ModelId("post", "E1"), 4)
    found = {(r.step, r.persona, r.author): (r.answers, r.margin) for r in rows}
    assert found == {
        (0, "lib", "cop"): (2, 3.0),
        (0, "cop", "cop"): (1, 2.0),
        (9, "lib", "cop"): (2, 1.5),
        (9, "cop", "cop"): (1, 0.0),
    }
    assert {(r.phase, r.model, r.seed) for r in rows} == {("post", "E1", 4)}
