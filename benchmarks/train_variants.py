"""Two ways to take the same optimizer step: the published one, and ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.train_setup import Shape, trainable
from persona_lib.models.batches import pad_rows
from persona_lib.models.loading import trunk_and_head
from persona_lib.train.encode import EncodedRow
from persona_lib.train.gpu.packed_setup import Packing, prepare
from persona_lib.train.gpu.packing import PackedBatch
from persona_lib.train.losses import batch_loss

if TYPE_CHECKING:
    import torch

PAD = 0
_IGNORED = -100


class Variant(Protocol):
    """A way to compute the gradient of an optimizer batch."""

    name: str

    def gradient(self, batch: Sequence[EncodedRow]) -> torch.Tensor:
        """Add the batch's gradient to the adapter's; return its loss in nats, not awaited."""


class Published:
    """The usual way: padded micro-batches, checkpointing, logits everywhere, autocast."""

    name = "published"

    def __init__(self, model: Any, shape: Shape) -> None:
        self._model = model
        self._shape = shape

    def gradient(self, batch: Sequence[EncodedRow]) -> torch.Tensor:
        """Add the batch's gradient to the adapter's; return its loss in nats, not awaited."""
        import torch

        model, micro = self._model, self._shape.micro
        items = sum(len(row.supervised) for row in batch)
        losses = []
        _recompute(model)
        for start in range(0, len(batch), micro):
            inputs = self._collate(batch[start : start + micro])
            with self._precision():
                loss = model(**inputs, num_items_in_batch=items, use_cache=False).loss
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _collate(self, rows: Sequence[EncodedRow]) -> dict[str, torch.Tensor]:
        labels = [
            [token if p in chosen else _IGNORED for p, token in enumerate(row.tokens)]
            for row, chosen in ((row, set(row.supervised)) for row in rows)
        ]
        found = {
            "input_ids": pad_rows([row.tokens for row in rows], PAD),
            "attention_mask": pad_rows([[1] * len(row.tokens) for row in rows], 0),
            "labels": pad_rows(labels, _IGNORED),
        }
        return {name: value.to(self._model.device) for name, value in found.items()}

    def _precision(self) -> Any:
        import torch

        if self._shape.dtype == "float32":
            return nullcontext()
        return torch.autocast(self._model.device.type, dtype=torch.bfloat16)


class Ours:
    """Packs without padding, fused pieces, logits only where the loss looks."""

    name = "ours"

    def __init__(self, model: Any, packing: Packing) -> None:
        self._head = trunk_and_head(model)[1]
        self.packing = packing

    def gradient(self, batch: Sequence[EncodedRow]) -> torch.Tensor:
        """Add the batch's gradient to the adapter's; return its loss in nats, not awaited."""
        import torch

        items = float(sum(len(row.supervised) for row in batch))
        losses = []
        for pack in self.packing.packs(batch):
            loss = _loss(self.packing.trunk(pack), self._head, pack, items)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def describe(self) -> dict[str, Any]:
        """Return how packs are computed, as JSON data."""
        plan = self.packing.plan
        gib = round(plan.estimate / 2**30, 2) if plan else None
        return {**self.packing.describe(), "estimated_gib": gib}


def ours(
    model: Any,
    batches: Sequence[Sequence[EncodedRow]],
    *,
    compiled: bool,
    limit: int | None,
) -> Ours:
    """Return our variant, tried once on the largest batch.

    Raises:
        FlatlandError: see `persona_lib.train.gpu.packed_setup.prepare`.
    """
    trunk, head = trunk_and_head(model)
    packing = prepare(
        model, trunk, batches, lambda hidden, pack: _loss(hidden, head, pack, 1.0),
        pad=PAD, compiled=compiled, limit=limit,
    )  # fmt: skip
    return Ours(model, packing)


class Stepper:
    """AdamW steps of a variant, with its gradient's norm clipped."""

    def __init__(self, model: Any, variant: Variant, *, rate: float, clip: float) -> None:
        import torch

        self._variant = variant
        self._parameters = list(trainable(model).values())
        self._clip = clip
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=rate, weight_decay=0.0, fused=model.device.type == "cuda"
        )

    def step(self, batch: Sequence[EncodedRow]) -> float:
        """Take one optimizer step; return its loss in nats."""
        import torch

        loss = self._variant.gradient(batch)
        torch.nn.utils.clip_grad_norm_(self._parameters, self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(loss)


def snapshot(model: Any) -> Callable[[], None]:
    """Return a function that puts the adapter back to what it is now."""
    import torch

    kept = {name: p.detach().clone() for name, p in trainable(model).items()}

    def restore() -> None:
        with torch.no_grad():
            for name, parameter in trainable(model).items():
                parameter.copy_(kept[name])
                parameter.grad = None

    return restore


def gradients(model: Any, variant: Variant, batch: Sequence[EncodedRow]) -> tuple[float, Any]:
    """Return the loss, and the gradient of all parameters as one float32 vector."""
    import torch

    loss = variant.gradient(batch)
    found = [p.grad.flatten().float() for p in trainable(model).values() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return float(loss), torch.cat(found)


def _loss(
    hidden: torch.Tensor, head: torch.nn.Module, pack: PackedBatch, items: float
) -> torch.Tensor:
    # Both losses of the shapes are means over supervised tokens: one formula.
    return batch_loss(hidden, head, pack, loss="as_published", beta=0.0, items=items)


def _recompute(model: Any) -> None:
    """Turn activation checkpointing on; the method was renamed in transformers 5.2x."""
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return
    base = model.get_base_model()
    name = "activation_checkpointing"
    if not hasattr(base, f"{name}_enable"):
        name = "gradient_checkpointing"
    getattr(base, f"{name}_enable")(**{f"{name}_kwargs": {"use_reentrant": False}})
