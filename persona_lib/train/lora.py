"""`train_lora`: one LoRA training, padded, packed or from recorded passes."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from persona_lib.errors import FlatlandError
from persona_lib.models.loading import trunk_and_head
from persona_lib.progress import Progress, silent
from persona_lib.specs.profile import TrainSpec
from persona_lib.train.dose import Watch
from persona_lib.train.encode import EncodedRow
from persona_lib.train.gpu.graphed import graphed
from persona_lib.train.gpu.packed import unsupported
from persona_lib.train.gpu.packed_setup import Packing, device_limit, prepare
from persona_lib.train.gpu.recording import plain_trunk
from persona_lib.train.losses import batch_loss, collate
from persona_lib.train.trainer import Padded, Passes, RowOrder, checkpoints, make_trainer

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import TrainerCallback

    from persona_lib.train.gpu.packing import PackedBatch

Way = Literal["padded", "packed", "recorded"]
"""How rows go through the model; see `train_lora`."""
_REFERENCE_ROWS_SMALL = 64
"""Rows of one forward pass where the hidden states of a small starting model are read on a
GPU."""
_REFERENCE_ROWS = 16
"""Elsewhere: the rows of a large model take some 300 kB a token."""


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
    way: Way | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Train the trainable adapter of `model` in place.

    Three ways give the same loss, up to rounding and the masks of dropout: ``padded`` micro-batches
    (on a CPU always, where recorded results must keep their bits); ``packed`` rows through
    compiled pieces, for large models on a GPU; ``recorded`` passes, for small ones there.

    Args:
        model: base, frozen adapters and one fresh trainable adapter.
        tokenizer: the base model's tokenizer.
        rows: encoded rows.
        spec: the recipe.
        loss: ``sft`` or a marker loss.
        seed: from which those of row order and dropout are derived.
        label: name on the progress bar.
        progress: opens the progress bar.
        way: in place of the one that the model would take.
        watch: reads the model between steps.

    Returns:
        JSON data: steps, rows, tokens, the loss of every optimizer step in nats, and,
        unless rows were padded, ``passes`` (`trainer.Passes.describe`).

    Raises:
        SpecError: several processes were launched (see `trainer.one_device_config`).
        FlatlandError: the loss became NaN or infinite.
    """
    steps = total_steps(len(rows), spec)
    reference = _reference_states(model, rows) if loss == "anchored" else None
    pad = tokenizer.pad_token_id
    passes: Passes = Padded(model, pad)
    taken = way or _way(model)
    if taken == "packed":
        passes = _packing(model, rows, spec, loss=loss, seed=seed, pad=pad)
    elif taken == "recorded":
        passes = graphed(model, trunk_and_head(model)[0], pad=pad) or passes
    bar = progress(label, steps, "step")
    losses: list[float] = []
    if watch is not None:
        watch.read(0)
    try:
        with tempfile.TemporaryDirectory(prefix="flatland-trainer-") as scratch:
            trainer = make_trainer(
                model, tokenizer, rows, spec, loss=loss, seed=seed, steps=steps,
                reference=reference, scratch=scratch, callbacks=[_callback(bar, losses, watch)],
                passes=passes,
            )  # fmt: skip
            trainer.train()
    finally:
        bar.close()
    _check_finite(losses, label)
    return {
        "loss": loss,
        "steps": trainer.state.global_step,
        "rows": len(rows),
        "tokens": sum(len(row.tokens) for row in rows),
        "supervised": sum(len(row.supervised) for row in rows),
        "losses": losses,
        **({} if isinstance(passes, Padded) else {"passes": passes.describe()}),
        **({} if watch is None else {"dose": watch.describe()}),
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


def _check_finite(losses: Sequence[float], label: str) -> None:
    if not losses or not all(math.isfinite(value) for value in losses):
        raise FlatlandError(
            f"{label}: the loss is not finite (steps: {len(losses)}, last: {losses[-1:]}); "
            "lower the learning rate of the recipe"
        )


def _way(model: PeftModel) -> Way:
    if model.device.type != "cuda" or unsupported(trunk_and_head(model)[0]):
        return "padded"
    return "packed" if checkpoints(model) else "recorded"


def _packing(
    model: PeftModel,
    rows: Sequence[EncodedRow],
    spec: TrainSpec,
    *,
    loss: str,
    seed: int,
    pad: int,
) -> Packing:
    """Return how an optimizer batch is packed here, tried on the largest of an epoch."""
    import torch

    trunk, head = trunk_and_head(model)
    order = list(RowOrder([len(row.tokens) for row in rows], batch=spec.batch, seed=seed))
    batches = [
        [rows[index] for index in order[start : start + spec.batch]]
        for start in range(0, len(order), spec.batch)
    ]
    device = model.device
    was_training = model.training
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model.train()
        packing = prepare(
            model, trunk, batches,
            # The anchor's states are not there yet: zeros of their shape take as much room.
            lambda hidden, pack: batch_loss(
                hidden, head, _with_zeros(pack, hidden), loss=loss, beta=spec.beta, items=1.0
            ),
            pad=pad, compiled=device.type == "cuda", limit=device_limit(device),
        )  # fmt: skip
    model.train(was_training)
    return packing


def _with_zeros(pack: PackedBatch, hidden: torch.Tensor) -> PackedBatch:
    zeros = hidden.new_zeros(len(pack.anchored), hidden.shape[-1])
    return replace(pack, reference=zeros)


def _reference_states(model: PeftModel, rows: Sequence[EncodedRow]) -> list[torch.Tensor]:
    """Return the starting model's hidden states at each row's anchored positions.

    A fresh LoRA's B is zero: before its first step the model *is* the starting model.
    """
    import torch

    trunk, _ = trunk_and_head(model)
    on_gpu = model.device.type == "cuda"
    # A CPU keeps the plain way: what was recorded there must keep its bits.
    plain = plain_trunk(trunk) if on_gpu and not unsupported(trunk) else None
    small = plain is not None and not checkpoints(model)
    together = _REFERENCE_ROWS_SMALL if small else _REFERENCE_ROWS
    states: list[torch.Tensor | None] = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].tokens))
    training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(order), together):
            chunk = order[start : start + together]
            batch = collate([rows[index] for index in chunk], pad=0)
            tokens = batch.tokens.to(model.device)
            hidden = plain(tokens) if plain else trunk(input_ids=tokens).last_hidden_state
            for place, index in enumerate(chunk):
                at = torch.tensor(rows[index].anchored, dtype=torch.long) - 1
                states[index] = hidden[place, at.to(hidden.device)].cpu()
    model.train(training)
    return [state for state in states if state is not None]


def _callback(bar: Any, losses: list[float], watch: Watch | None) -> TrainerCallback:
    from transformers import TrainerCallback

    class _Steps(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, control, kwargs
            if watch is not None:
                watch.read(state.global_step)

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            del args, state, control, kwargs
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))
                bar.update(1)

    return _Steps()
