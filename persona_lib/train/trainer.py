"""TRL's trainer on one device, with our rows, our order of rows and our loss."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from persona_lib.digests import derive_seed
from persona_lib.errors import SpecError
from persona_lib.models.loading import trunk_and_head
from persona_lib.specs.profile import TrainSpec
from persona_lib.train.encode import EncodedRow
from persona_lib.train.losses import PER_TOKEN, Batch, batch_loss, collate

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

CHECKPOINTING_FROM = 1_000_000_000
"""Parameters from which activations are recomputed in the backward pass, or, on a GPU, rows
are packed: below it neither pays."""
_SEED_RANGE = 2**32


class Passes(Protocol):
    """How rows that are one forward pass to the trainer go through the model."""

    @property
    def trunk(self) -> Callable[[Any], torch.Tensor]:
        """Hidden states of a pass, (rows, length, width)."""

    def packs(
        self,
        rows: Sequence[EncodedRow],
        *,
        reference: Sequence[torch.Tensor] | None = None,
    ) -> Sequence[Batch]:
        """Return the passes of these rows, on the model's device.

        `reference` has each row's own, as for `losses.collate`.
        """

    def describe(self) -> dict[str, Any]:
        """Return how it was done, as JSON data."""


class Padded:
    """The plain way: a micro-batch is one padded pass."""

    def __init__(self, model: PeftModel, pad: int) -> None:
        self._model = model
        self._pad = pad

    def trunk(self, batch: Batch) -> torch.Tensor:
        """See `Passes`."""
        hidden: torch.Tensor = trunk_and_head(self._model)[0](
            input_ids=batch.tokens
        ).last_hidden_state
        return hidden

    def packs(
        self, rows: Sequence[EncodedRow], *, reference: Sequence[torch.Tensor] | None = None
    ) -> Sequence[Batch]:
        """See `Passes`."""
        return [collate(rows, pad=self._pad, reference=reference).to(self._model.device)]

    def describe(self) -> dict[str, Any]:
        """See `Passes`."""
        return {"way": "padded"}


class RowOrder:
    """Sampler: a permutation per epoch, by length within each optimizer batch to spare padding."""

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


def checkpoints(model: PeftModel) -> bool:
    """Return whether a model is so large that its activations would be recomputed."""
    return int(model.num_parameters()) >= CHECKPOINTING_FROM


def make_trainer(
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
    passes: Passes,
) -> SFTTrainer:
    """Return a trainer of the trainable adapter of `model`; it has done nothing yet.

    Beside the arguments of `train_lora`: the number of optimizer steps; each row's `reference`
    states or None; a folder to write to; callbacks; and how rows go through the model. Only
    `Padded` gets micro-batches, the others whole optimizer batches.

    Raises:
        SpecError: see `one_device_config`.
    """
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback

    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
    padded = isinstance(passes, Padded)
    config = one_device_config(
        spec if padded else replace(spec, micro_batch=spec.batch),
        seed=seed,
        steps=steps,
        scratch=scratch,
        on_cpu=model.device.type == "cpu",
        checkpointing=padded and checkpoints(model),
    )
    trainer = _trainer_class()(
        model=model,
        args=config,
        train_dataset=Dataset.from_dict({"index": list(range(len(rows)))}),
        processing_class=tokenizer,
        data_collator=_indices,
        callbacks=callbacks,
    )
    trainer.passes, trainer.rows, trainer.reference = passes, rows, reference
    trainer.remove_callback(PrinterCallback)
    trainer.marker_loss = loss
    trainer.beta = spec.beta
    trainer.row_order = RowOrder([len(row.tokens) for row in rows], batch=spec.batch, seed=seed)
    # `compute_loss` divides by what the whole optimizer batch is averaged over.
    trainer.loss_is_scaled_for_ga = True
    return trainer


def one_device_config(
    spec: TrainSpec, *, seed: int, steps: int, scratch: str, on_cpu: bool, checkpointing: bool
) -> SFTConfig:
    """Return the trainer's configuration, held to one device.

    On several GPUs the trainer would multiply the recipe's batch by their number.

    Raises:
        SpecError: several processes were launched, with the same effect.
    """
    import torch
    from trl import SFTConfig

    # One kernel for all parameters; on a CPU the plain loop, whose bits are recorded.
    fused = not on_cpu and torch.cuda.is_available()
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
        optim="adamw_torch_fused" if fused else "adamw_torch",
        seed=derive_seed(seed, "trainer") % _SEED_RANGE,
        bf16=False,
        fp16=False,
        use_cpu=on_cpu,
        **{_checkpointing_option(): checkpointing},
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
    # Asked for before it is set, because the first question finds the devices.
    config._n_gpu = min(config.n_gpu, 1)
    rows = config.train_batch_size * config.world_size
    if rows != spec.micro_batch:
        raise SpecError(
            "train.micro_batch",
            bound=f"{spec.micro_batch} rows in one forward pass, on one device",
            value=rows,
            remedy="Start one process, without torchrun or accelerate launch.",
        )
    return config


def _checkpointing_option() -> str:
    """Return the option's name, which changed in transformers 5.2x; TRL turns it on."""
    from trl import SFTConfig

    renamed = "activation_checkpointing"
    return renamed if hasattr(SFTConfig, renamed) else "gradient_checkpointing"


def _indices(examples: Sequence[dict[str, int]]) -> dict[str, Any]:
    """Rows by number: `compute_loss` makes passes of them itself."""
    import torch

    return {"index": torch.tensor([example["index"] for example in examples])}


def _trainer_class() -> Any:
    from trl import SFTTrainer

    class PositionTrainer(SFTTrainer):  # type: ignore[misc]
        """TRL's trainer with our order of rows and our loss, in the passes of `Passes`."""

        passes: Passes
        rows: Sequence[EncodedRow]
        reference: Sequence[torch.Tensor] | None
        marker_loss: str
        beta: float
        row_order: RowOrder

        def _get_train_sampler(self, train_dataset: Any = None) -> RowOrder:
            del train_dataset
            return self.row_order

        def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> int:
            del device
            rows = [self.rows[i] for sample in batch_samples for i in sample["index"].tolist()]
            per_token = self.marker_loss in PER_TOKEN
            return sum(len(row.supervised) for row in rows) if per_token else len(rows)

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            chosen = inputs["index"].tolist()
            packs = self.passes.packs(
                [self.rows[index] for index in chosen],
                reference=self.reference and [self.reference[index] for index in chosen],
            )
            head = trunk_and_head(self.accelerator.unwrap_model(model))[1]
            value: Any = None
            for pack in packs:
                # The trainer sends back the gradient of what is returned; a pass before the
                # last sends its own, so that one pass's activations are held at a time. A
                # graph left alive would spoil the recording of the next.
                if value is not None:
                    value.backward()
                    value = value.detach()
                share = batch_loss(
                    self.passes.trunk(pack),
                    head,
                    pack,
                    loss=self.marker_loss,
                    beta=self.beta,
                    items=float(num_items_in_batch),
                )
                value = share if value is None else share + value
                del share
            return (value, None) if return_outputs else value

    return PositionTrainer
