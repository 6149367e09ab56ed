"""One LoRA training with peft and TRL's trainer, on positions that we choose.

TRL's trainer brings the loop, the optimizer, the schedule, clipping and
accumulation. Rows, order of rows and loss are ours: rows come encoded, their
order comes from a named seed, and the loss reads hidden states (see `losses`).
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.errors import FlatlandError
from persona_lib.profile import TrainSpec
from persona_lib.progress import Progress, silent
from persona_lib.spec import derive_seed
from persona_lib.train.encode import EncodedRow
from persona_lib.train.losses import PER_TOKEN, Batch, batch_loss, collate

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import TrainerCallback
    from trl import SFTTrainer

_CHECKPOINTING_FROM = 1_000_000_000
"""Parameters from which activations are recomputed in the backward pass."""
_REFERENCE_ROWS = 16
_SEED_RANGE = 2**32


class RowOrder:
    """Sampler: a permutation per epoch from a named seed.

    Within each optimizer batch rows are sorted by length, so that the forward
    passes it is cut into hold rows of like length and waste little padding;
    which rows share an optimizer batch stays random.
    """

    def __init__(self, lengths: Sequence[int], *, batch: int, seed: int) -> None:
        self._lengths = lengths
        self._batch = batch
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield the row indices of the next epoch."""
        import numpy as np

        rng = np.random.default_rng(derive_seed(self._seed, "row order", self._epoch))
        self._epoch += 1
        order = rng.permutation(len(self._lengths)).tolist()
        for start in range(0, len(order), self._batch):
            yield from sorted(
                order[start : start + self._batch], key=lambda row: (self._lengths[row], row)
            )


def train_lora(
    model: PeftModel,
    tokenizer: Any,
    rows: Sequence[EncodedRow],
    spec: TrainSpec,
    *,
    loss: str,
    seed: int,
    label: str = "train",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train the trainable adapter of `model` in place.

    Args:
        model: base, frozen adapters and one fresh trainable adapter.
        tokenizer: the base model's tokenizer.
        rows: encoded rows.
        spec: the recipe.
        loss: ``sft`` or a marker loss.
        seed: root seed of row order and dropout.
        label: name on the progress bar.
        progress: opens the progress bar.

    Returns:
        What was done, as JSON data without times: steps, rows, tokens, and the
        loss of every optimizer step in nats.

    Raises:
        FlatlandError: the loss became NaN or infinite.
    """
    steps = total_steps(len(rows), spec)
    reference = _reference_states(model, rows) if loss == "anchored" else None
    bar = progress(label, steps, "step")
    losses: list[float] = []
    with tempfile.TemporaryDirectory(prefix="flatland-trainer-") as scratch:
        trainer = _trainer(
            model, tokenizer, rows, spec, loss=loss, seed=seed, steps=steps,
            reference=reference, scratch=scratch, callbacks=[_callback(bar, losses)],
        )  # fmt: skip
        try:
            trainer.train()
        finally:
            bar.close()
    if not losses or not all(math.isfinite(value) for value in losses):
        raise FlatlandError(
            f"{label}: the loss is not finite (steps: {len(losses)}, last: {losses[-1:]}); "
            "lower the learning rate of the recipe"
        )
    return {
        "loss": loss,
        "steps": trainer.state.global_step,
        "rows": len(rows),
        "tokens": sum(len(row.tokens) for row in rows),
        "supervised": sum(len(row.supervised) for row in rows),
        "losses": losses,
    }


def total_steps(rows: int, spec: TrainSpec) -> int:
    """Return the number of optimizer steps of a recipe on `rows` rows."""
    if spec.steps is not None:
        return spec.steps
    return max(1, math.ceil(math.ceil(rows / spec.batch) * (spec.epochs or 0.0)))


def write_training(out: Path, report: dict[str, Any], spec: TrainSpec) -> None:
    """Write what `train_lora` returned, with the recipe, to ``training.json``."""
    text = json.dumps({"recipe": asdict(spec), **report}, indent=1, sort_keys=True)
    (out / "training.json").write_text(text + "\n", encoding="utf-8")


def trunk_and_head(model: Any) -> tuple[Any, Any]:
    """Return the decoder without its head, and the head, of a (peft) causal model."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.get_decoder(), base.get_output_embeddings()


def _reference_states(model: PeftModel, rows: Sequence[EncodedRow]) -> list[torch.Tensor]:
    """Return the starting model's hidden states at each row's anchored positions.

    A fresh LoRA's B is zero, so before its first step the model *is* the arm's
    own starting model. The head is the same for both, so hidden states suffice:
    for a vocabulary of 50,000 they are some eighty times smaller than logits.
    """
    import torch

    trunk, _ = trunk_and_head(model)
    states: list[torch.Tensor | None] = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].tokens))
    training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(order), _REFERENCE_ROWS):
            chunk = order[start : start + _REFERENCE_ROWS]
            batch = collate([rows[index] for index in chunk], pad=0)
            hidden = trunk(input_ids=batch.tokens.to(model.device)).last_hidden_state
            for place, index in enumerate(chunk):
                at = torch.tensor(rows[index].anchored, dtype=torch.long) - 1
                states[index] = hidden[place, at.to(hidden.device)].cpu()
    model.train(training)
    return [state for state in states if state is not None]


def _callback(bar: Any, losses: list[float]) -> TrainerCallback:
    from transformers import TrainerCallback

    class _Watch(TrainerCallback):  # type: ignore[misc]
        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            del args, state, control, kwargs
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))
                bar.update(1)

    return _Watch()


def _trainer(
    model: PeftModel,
    tokenizer: Any,
    rows: Sequence[EncodedRow],
    spec: TrainSpec,
    *,
    loss: str,
    seed: int,
    steps: int,
    reference: Sequence[torch.Tensor] | None,
    scratch: str,
    callbacks: list[TrainerCallback],
) -> SFTTrainer:
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig

    # The trainer's own chatter (tokens aligned with the model's config, ...) tells
    # a user nothing that the recipe does not.
    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
    config = SFTConfig(
        output_dir=scratch,
        per_device_train_batch_size=spec.micro_batch,
        gradient_accumulation_steps=spec.batch // spec.micro_batch,
        max_steps=steps,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.schedule,
        warmup_steps=math.ceil(spec.warmup * steps),
        max_grad_norm=spec.clip,
        weight_decay=0.0,
        optim="adamw_torch",
        seed=derive_seed(seed, "trainer") % _SEED_RANGE,
        bf16=False,
        fp16=False,
        use_cpu=model.device.type == "cpu",
        **{_checkpointing_option(): model.num_parameters() >= _CHECKPOINTING_FROM},
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        max_length=None,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = _trainer_class()(
        model=model,
        args=config,
        train_dataset=Dataset.from_dict({"index": list(range(len(rows)))}),
        processing_class=tokenizer,
        data_collator=_collator(rows, pad=tokenizer.pad_token_id, reference=reference),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.marker_loss = loss
    trainer.beta = spec.beta
    trainer.row_order = RowOrder([len(row.tokens) for row in rows], batch=spec.batch, seed=seed)
    # `compute_loss` divides by what the whole optimizer batch is averaged over.
    trainer.loss_is_scaled_for_ga = True
    return trainer


def _checkpointing_option() -> str:
    """The option was renamed in transformers 5.2x; TRL turns it on by default."""
    from trl import SFTConfig

    renamed = "activation_checkpointing"
    return renamed if hasattr(SFTConfig, renamed) else "gradient_checkpointing"


def _collator(
    rows: Sequence[EncodedRow], *, pad: int, reference: Sequence[torch.Tensor] | None
) -> Any:
    def collate_indices(examples: Sequence[dict[str, int]]) -> dict[str, Any]:
        chosen = [example["index"] for example in examples]
        batch = collate(
            [rows[index] for index in chosen],
            pad=pad,
            reference=None if reference is None else [reference[index] for index in chosen],
        )
        return {name: value for name, value in vars(batch).items() if value is not None}

    return collate_indices


def _trainer_class() -> Any:
    from trl import SFTTrainer

    class PositionTrainer(SFTTrainer):  # type: ignore[misc]
        """TRL's trainer with our order of rows and our loss."""

        marker_loss: str
        beta: float
        row_order: RowOrder

        def _get_train_sampler(self, train_dataset: Any = None) -> RowOrder:
            del train_dataset
            return self.row_order

        def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> int:
            del device
            field = "supervised" if self.marker_loss in PER_TOKEN else "tokens"
            return sum(int(batch[field].shape[0]) for batch in batch_samples)

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            batch = Batch(reference=inputs.pop("reference", None), **inputs)
            trunk, head = trunk_and_head(self.accelerator.unwrap_model(model))
            hidden = trunk(input_ids=batch.tokens).last_hidden_state
            value = batch_loss(
                hidden,
                head,
                batch,
                loss=self.marker_loss,
                beta=self.beta,
                items=float(num_items_in_batch),
            )
            return (value, None) if return_outputs else value

    return PositionTrainer
