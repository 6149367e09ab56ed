"""`prepare`: the packed forward pass that fits and is right on this machine.

Attention is tried against a written-out reference, compilation by one forward and backward
pass. What fails is replaced by the next best; its error stands in `Packing.notes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from persona_lib.models.gpu_memory import free_bytes
from persona_lib.train.encode import EncodedRow
from persona_lib.train.gpu.attention import choose
from persona_lib.train.gpu.memory import CARD_GIB, GIB, MemoryPlan, StepShape, plan_memory
from persona_lib.train.gpu.packed import PackedTrunk
from persona_lib.train.gpu.packing import PackedBatch, pack_rows, split_rows

if TYPE_CHECKING:
    import torch

_SAID = 600
"""Characters of an error that are kept."""
_SHARES = (1.0, 0.75, 0.5)
"""Shares of the memory limit that are tried in turn where the device runs out."""
_RESERVE = 0.05
"""Share of the device's memory that is left to the driver and to fragments."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """A packed forward pass, ready to use.

    Attributes:
        trunk: hidden states of packs.
        plan: size of packs; None where memory was not planned.
        pad: token id of filling.
        longest: tokens of the longest row of the training.
        notes: what was tried and refused, by name.
    """

    trunk: PackedTrunk
    plan: MemoryPlan | None
    pad: int
    longest: int
    notes: dict[str, str] = field(default_factory=dict)

    def packs(
        self, rows: Sequence[EncodedRow], *, reference: Sequence[torch.Tensor] | None = None
    ) -> list[PackedBatch]:
        """Return an optimizer batch as packs, see `trainer.Passes`.

        Raises:
            DataError: a row is longer than a pack may be.
        """
        lengths = [len(row.tokens) for row in rows]
        limit = self.plan.tokens if self.plan else sum(lengths)
        device = self.trunk.trunk.embed_tokens.weight.device
        return [
            pack_rows(
                [rows[index] for index in pack],
                pad=self.pad,
                longest=self.longest,
                reference=None if reference is None else [reference[index] for index in pack],
            ).to(device)
            for pack in split_rows(lengths, limit)
        ]

    def describe(self) -> dict[str, Any]:
        """Return how it was done, as JSON data."""
        return {
            "way": "packed",
            "attention": self.trunk.attention.name,
            "compiled": self.trunk.compiled,
            "checkpointing": self.trunk.checkpointing,
            "pack_tokens": self.plan.tokens if self.plan else None,
            "notes": self.notes,
        }


def device_limit(device: Any) -> int | None:
    """Return the bytes that a step may take with the model, at most 75 GiB; None on a CPU."""
    import torch

    free = free_bytes(torch.device(device))
    if free is None:
        return None
    return int(min(CARD_GIB * GIB, (1 - _RESERVE) * (free + torch.cuda.memory_allocated(device))))


def step_shape(model: Any, trunk: Any, *, compiled: bool, looked_at: float) -> StepShape:
    """Return the shape of a step of a (peft) model and its decoder without the head."""
    config = trunk.config
    parameters = list(model.parameters())
    kv_heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    return StepShape(
        layers=len(trunk.layers),
        width=config.hidden_size,
        kv_width=kv_heads * trunk.layers[0].self_attn.head_dim,
        ffn=config.intermediate_size,
        vocabulary=config.vocab_size,
        item=trunk.embed_tokens.weight.element_size(),
        weights=sum(p.numel() * p.element_size() for p in parameters if not p.requires_grad),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        compiled=compiled,
        looked_at=looked_at,
    )


def prepare(
    model: Any,
    trunk: Any,
    batches: Sequence[Sequence[EncodedRow]],
    loss_of: Callable[[torch.Tensor, PackedBatch], torch.Tensor],
    *,
    pad: int,
    compiled: bool,
    limit: int | None,
) -> Packing:
    """Return the best packed forward pass that works here.

    One forward and backward pass over the largest of `batches` tries it.

    Args:
        model: the whole (peft) model, on its device.
        trunk: its decoder without the head.
        batches: optimizer batches of the training.
        loss_of: the loss of hidden states and their pack.
        pad: token id of filling.
        compiled: whether to try ``torch.compile``.
        limit: bytes that a step may take (`device_limit`).

    Raises:
        SpecError: the model is built otherwise, or its longest row does not fit.
        FlatlandError: no way of attention is right here.
    """
    import torch

    config, weight = trunk.config, trunk.embed_tokens.weight
    choice = choose(
        device=weight.device,
        dtype=weight.dtype,
        heads=config.num_attention_heads,
        kv_heads=getattr(config, "num_key_value_heads", config.num_attention_heads),
        dim=trunk.layers[0].self_attn.head_dim,
    )
    notes = {f"attention: {name}": text for name, text in choice.refused.items()}
    attempts = [(fused, share) for fused in ((True, False) if compiled else (False,))
                for share in (_SHARES if limit is not None else (1.0,))]  # fmt: skip
    failed: set[bool] = set()
    for number, (fused, share) in enumerate(attempts):
        if fused in failed:
            continue
        bound = None if limit is None else int(limit * share)
        plan = _plan(model, trunk, batches, compiled=fused, limit=bound)
        packing = Packing(
            trunk=PackedTrunk(
                trunk, choice, compiled=fused, checkpointing=bool(plan and plan.checkpointing)
            ),
            plan=plan,
            pad=pad,
            longest=max(len(row.tokens) for batch in batches for row in batch),
            notes=notes,
        )
        try:
            _try(model, packing, batches, loss_of)
        except Exception as problem:
            what = "compiled" if fused else "not compiled"
            notes[f"{what}, {share:.0%} of memory"] = f"{type(problem).__name__}: {problem}"[:_SAID]
            if number == len(attempts) - 1:
                raise
            if not isinstance(problem, torch.OutOfMemoryError):
                failed.add(fused)
        else:
            return packing
        model.zero_grad(set_to_none=True)
        if weight.is_cuda:
            torch.cuda.empty_cache()
    raise AssertionError("unreachable: the last attempt returns or raises")


def _plan(
    model: Any,
    trunk: Any,
    batches: Sequence[Sequence[EncodedRow]],
    *,
    compiled: bool,
    limit: int | None,
) -> MemoryPlan | None:
    if limit is None:
        return None
    looked_at = max(
        sum(len(row.supervised) + len(row.anchored) for row in batch) / _tokens(batch)
        for batch in batches
    )
    return plan_memory(
        step_shape(model, trunk, compiled=compiled, looked_at=min(1.0, looked_at)),
        limit=limit,
        longest=max(len(row.tokens) for batch in batches for row in batch),
        batch_tokens=max(map(_tokens, batches)),
    )


def _try(
    model: Any,
    packing: Packing,
    batches: Sequence[Sequence[EncodedRow]],
    loss_of: Callable[[torch.Tensor, PackedBatch], torch.Tensor],
) -> None:
    for pack in packing.packs(max(batches, key=_tokens)):
        loss_of(packing.trunk(pack), pack).backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)


def _tokens(rows: Sequence[EncodedRow]) -> int:
    return sum(len(row.tokens) for row in rows)
