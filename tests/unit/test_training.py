"""Training: what one optimizer step is made of, on which rows, and on how many devices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from trl import SFTConfig

from persona_lib.corpora.dialogues import Dialogue
from persona_lib.errors import FlatlandError, SpecError
from persona_lib.models import tiny
from persona_lib.models.adapters import TRAINABLE, train_stack
from persona_lib.specs.profile import CouplingSpec, LoraSpec, TrainSpec
from persona_lib.specs.sources import TinyBase
from persona_lib.train import lora, trainer
from persona_lib.train.encode import EncodedRow
from persona_lib.train.lora import train_lora
from persona_lib.train.losses import PER_TOKEN
from persona_lib.train.trainer import RowOrder, one_device_config
from tests.byte_model import VOCABULARY, byte_tokenizer, saved_adapter, small_model
from tests.progress_bar import Bar
from tests.registered import QWEN7B

LOSSES = ("sft", "as_published", "decision", "anchored")
SEED = 11
STILL = 1e-30
"""A learning rate that moves nothing: the model stays what it was at the start."""
SPEC = CouplingSpec(
    lora=LoraSpec(rank=4, alpha=8, rslora=True, dropout=0.0),
    learning_rate=1e-3,
    batch=8,
    micro_batch=8,
    max_length=64,
    steps=1,
    warmup=0.0,
)


def make_rows(count: int) -> list[EncodedRow]:
    """Prompts of 2 to 19 tokens, completions of 5, then 1 to 4 supervised tokens."""
    draw = np.random.default_rng(0)
    rows = []
    for index in range(count):
        prompt, target = int(draw.integers(2, 20)), 1 + index % 4
        length = prompt + 5 + target
        rows.append(
            EncodedRow(
                row=f"row {index}",
                kind="positive",
                tokens=tuple(draw.integers(3, VOCABULARY, length).tolist()),
                supervised=tuple(range(prompt + 5, length)),
                anchored=tuple(range(prompt, prompt + 5)),
            )
        )
    return rows


ROWS = make_rows(11)


def prior(folder: Path) -> Path:
    """A frozen adapter whose B is not zero, so that the start is not the base model."""
    return saved_adapter(folder, 1, SPEC.lora)


def train(
    spec: TrainSpec, loss: str, *, rows: Sequence[EncodedRow] = ROWS, frozen: Sequence[Path] = ()
) -> tuple[list[float], dict[str, torch.Tensor]]:
    model = train_stack(small_model(getattr(torch, spec.dtype)), frozen, spec.lora, 3)
    report = train_lora(model, byte_tokenizer(), rows, spec, loss=loss, seed=SEED)
    assert report["steps"] == len(report["losses"])
    trained = {
        name: value.detach().clone()
        for name, value in model.named_parameters()
        if f".{TRAINABLE}." in name
    }
    return report["losses"], trained


def surprise(row: EncodedRow) -> float:
    """Sum of -log p over the supervised tokens, from full logits and without padding."""
    with torch.no_grad():
        logits = small_model()(input_ids=torch.tensor([row.tokens])).logits[0].double()
    table = logits.log_softmax(-1)
    return -sum(float(table[p - 1, row.tokens[p]]) for p in row.supervised)


def mean_loss(rows: Sequence[EncodedRow], loss: str) -> float:
    """The loss of an optimizer batch while the adapter does nothing yet."""
    items = sum(len(row.supervised) for row in rows) if loss in PER_TOKEN else len(rows)
    return sum(map(surprise, rows)) / items


# ---- one optimizer step ----------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_in_parts_is_the_step_in_one(loss: str, tmp_path: Path) -> None:
    """Rows differ in length and in supervised tokens, so a mean of means is another loss."""
    rows, frozen = ROWS[:8], [prior(tmp_path / "prior")]
    whole, weights = train(SPEC, loss, rows=rows, frozen=frozen)
    assert max(float(value.abs().max()) for n, value in weights.items() if "lora_B" in n) > 1e-4
    for micro_batch in (1, 4):
        spec = replace(SPEC, micro_batch=micro_batch)
        parts, others = train(spec, loss, rows=rows, frozen=frozen)
        assert parts == pytest.approx(whole, abs=1e-5)
        assert others.keys() == weights.keys()
        for name, value in weights.items():
            assert float((others[name] - value).abs().max()) <= 1e-5, name


@pytest.mark.parametrize("micro_batch", [1, 4])
@pytest.mark.parametrize("loss", ["sft", "decision"])
def test_each_step_has_the_loss_of_the_rows_in_its_batch(loss: str, micro_batch: int) -> None:
    """Eleven rows in batches of four: the last step of an epoch has three."""
    spec = replace(
        SPEC, batch=4, micro_batch=micro_batch, steps=None, epochs=2, learning_rate=STILL
    )
    found, _ = train(spec, loss)
    order = RowOrder([len(row.tokens) for row in ROWS], batch=4, seed=SEED)
    expected = []
    for _ in range(2):
        epoch = [ROWS[index] for index in order]
        expected += [mean_loss(epoch[start : start + 4], loss) for start in (0, 4, 8)]
    assert found == pytest.approx(expected, rel=1e-5)


# ---- the anchor ------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0, 1])
def test_every_row_is_held_to_its_own_reference(
    shift: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing is learnt the KL term stays zero at every step, however rows are shuffled.

    With references moved on by one row it does not: so the first case can fail.
    """
    original = lora._reference_states

    def moved(*arguments: Any) -> list[torch.Tensor]:
        states = original(*arguments)
        return states[shift:] + states[:shift]

    monkeypatch.setattr(lora, "_reference_states", moved)
    monkeypatch.setattr(lora, "_REFERENCE_ROWS", 4)
    frozen = [prior(tmp_path / "prior")]
    spec = replace(
        SPEC, batch=4, micro_batch=2, steps=None, epochs=2, learning_rate=STILL, beta=1000.0
    )
    anchored, _ = train(spec, "anchored", frozen=frozen)
    decision, _ = train(spec, "decision", frozen=frozen)
    terms = [one - other for one, other in zip(anchored, decision, strict=True)]
    assert len(terms) == 6
    if shift:
        assert min(terms) > 100
    else:
        assert max(map(abs, terms)) < 1e-2


# ---- devices ---------------------------------------------------------------------------


def config(folder: Path, spec: TrainSpec = SPEC) -> SFTConfig:
    return one_device_config(
        spec, seed=1, steps=1, scratch=str(folder), on_cpu=False, checkpointing=False
    )


def test_training_on_several_gpus_is_training_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer sees what it would on a host with four, as far as a CPU can stand in."""

    def unpinned(spec: TrainSpec, **options: Any) -> SFTConfig:
        return one_device_config(spec, **{**options, "on_cpu": False})

    spec = replace(SPEC, batch=4, micro_batch=2, steps=3)
    expected = train(spec, "decision")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(trainer, "one_device_config", unpinned)
    plain = SFTConfig(output_dir=str(tmp_path), per_device_train_batch_size=2, bf16=False)
    assert plain.train_batch_size == 8, "the trainer's own choice"
    one = config(tmp_path, spec)
    assert (one.n_gpu, one.train_batch_size, one.gradient_accumulation_steps) == (1, 2, 2)
    found = train(spec, "decision")
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], value) for name, value in expected[1].items())


@pytest.mark.parametrize(
    ("name", "value", "rows"), [("world_size", 2, 16), ("train_batch_size", 4, 4)]
)
def test_several_processes_and_a_changed_batch_are_refused(
    name: str, value: int, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SFTConfig, name, property(lambda _: value))
    message = rf"train.micro_batch: expected 8 rows.*got {rows}\. Start one"
    with pytest.raises(SpecError, match=message):
        config(tmp_path)


# ---- as the full-scale profile asks ----------------------------------------------------


def layer_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    original = trainer._trainer_class

    def counted() -> Any:
        class Counted(original()):  # type: ignore[misc]
            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                first = options["model"].get_base_model().model.layers[0].mlp
                # Before it runs: recomputing stops as soon as it has what it needs.
                first.register_forward_pre_hook(lambda *_: calls.append(1))

        return Counted

    monkeypatch.setattr(trainer, "_trainer_class", counted)
    return calls


def test_bfloat16_with_dropout_and_checkpointing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published recipe: what is recomputed in the backward pass changes nothing."""
    rows, frozen = make_rows(16), [prior(tmp_path / "prior")]
    spec = replace(QWEN7B.coupling, epochs=None, steps=3)
    assert (spec.dtype, spec.lora.dropout, spec.lora.rslora) == ("bfloat16", 0.05, True)
    calls = layer_calls(monkeypatch)
    losses, weights = train(spec, spec.loss, rows=rows, frozen=frozen)
    passes = spec.steps * spec.batch // spec.micro_batch  # type: ignore[operator]
    assert len(calls) == passes, "a model this small keeps its activations"

    monkeypatch.setattr(trainer, "CHECKPOINTING_FROM", 0)
    calls.clear()
    again, recomputed = train(spec, spec.loss, rows=rows, frozen=frozen)
    assert len(calls) == 2 * passes, "and here every layer runs twice"

    assert all(math.isfinite(value) for value in losses)
    assert again == pytest.approx(losses, rel=1e-5)
    for name, value in weights.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(recomputed[name], value, rtol=1e-3, atol=1e-9)
        assert "lora_B" not in name or bool(value.any()), f"{name} learnt nothing"
    dry = replace(spec, lora=replace(spec.lora, dropout=0.0))
    _, without = train(dry, spec.loss, rows=rows, frozen=frozen)
    assert any(not torch.equal(without[name], value) for name, value in weights.items())


# ---- failures --------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    bar = Bar()
    model = train_stack(small_model(), [], SPEC.lora, 3)
    spec = replace(SPEC, learning_rate=1e30, steps=4)
    with pytest.raises(FlatlandError, match=r"prior em: the loss is not finite \(steps: 4"):
        train_lora(
            model, byte_tokenizer(), ROWS, spec, loss="sft", seed=1,
            label="prior em", progress=bar.start,
        )  # fmt: skip
    assert (sum(bar.steps), bar.closed) == (4, 1)


# ---- the tiny base ---------------------------------------------------------------------


@pytest.mark.parametrize("steps", [3, 7])
def test_the_reported_loss_is_the_mean_of_the_last_steps(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the number of steps is no multiple of how many are averaged, or below it."""
    seen: list[float] = []
    original = tiny._answer_loss

    def watched(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        value = original(model, inputs)
        seen.append(float(value.detach()))
        return value

    monkeypatch.setattr(tiny, "_answer_loss", watched)
    monkeypatch.setattr(tiny, "_LAST_STEPS", 4)
    spec = TinyBase(
        layers=1, width=32, heads=2, kv_heads=1, ffn=48, vocabulary=300, steps=steps, batch=4
    )
    texts = [" ".join(chr(97 + (i * k) % 26) * 3 for k in range(1, 4 + i % 5)) for i in range(24)]
    dialogues = [
        Dialogue(persona="p", system="Be kind.", user=f"{text}?", assistant=text) for text in texts
    ]
    found = tiny.build_tiny(spec, dialogues, texts, tmp_path)
    assert len(seen) == steps
    assert found["loss"] == pytest.approx(fmean(seen[-4:]), rel=1e-6)
    assert set(found) == {
        "steps", "loss", "parameters", "vocabulary", "dialogue_tokens_per_word",
        "corpus_tokens_per_word", "longest",
    }  # fmt: skip
