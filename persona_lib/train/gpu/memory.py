"""How many tokens of an optimizer batch fit on a GPU, and whether to recompute activations.

A LoRA step takes what stays (weights, adapters, gradients, moments) and what grows with a
pack's tokens: activations, and logits where the loss looks. The batch is cut first; only where
packs would become small are activations recomputed. Bytes are counted from the architecture.
"""

from __future__ import annotations

from dataclasses import dataclass

from persona_lib.errors import SpecError

GIB = 2**30
CARD_GIB = 75.0
"""What a step may take of an 80 GB card, in GiB: the rest is the driver's."""
WORTHWHILE = 2_048
"""Tokens of a pack from which matrix products fill a large GPU."""
_ADAM_BYTES = 16
"""A float32 parameter with its gradient and two moments."""
_LOGIT_BYTES = 14
"""A 16-bit logit, its float32 copy, log-softmax and gradients, each once."""
_TRANSIENT_WIDTHS = 8
"""Tensors of the feed-forward's width that the backward pass of a layer holds at once."""


@dataclass(frozen=True, kw_only=True)
class StepShape:
    """What of model and recipe decides how much memory a token takes.

    Attributes:
        kv_width, ffn: widths of keys (and of values) and of the feed-forward.
        item: bytes of an activation.
        weights, trainable: bytes of frozen weights; number of trainable float32 parameters.
        compiled: whether elementwise work is fused, so that less of it is kept.
        looked_at: largest share of a batch's tokens that the loss looks at.
    """

    layers: int
    width: int
    kv_width: int
    ffn: int
    vocabulary: int
    item: int
    weights: int
    trainable: int
    compiled: bool
    looked_at: float


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Most tokens of a pack, whether layers are recomputed, and the bytes that it then takes."""

    tokens: int
    checkpointing: bool
    estimate: int


def token_bytes(shape: StepShape, *, checkpointing: bool) -> int:
    """Return the bytes that each token of a pack adds to the peak of a step.

    Kept of a compiled layer: the residual twice, queries, keys, values, attention's result,
    gate, up and their product, what each LoRA read after dropout, and its mask of one byte.
    Uncompiled, also the norms' float32 copies and the activation. When recomputing, the
    residual, and one whole layer at a time.
    """
    lora_inputs = 6 * shape.width + shape.ffn
    kept = shape.item * (4 * shape.width + 2 * shape.kv_width + 3 * shape.ffn + lora_inputs)
    kept += lora_inputs
    if not shape.compiled:
        kept += 24 * shape.width + shape.item * 2 * shape.ffn
    layers = (
        shape.layers * shape.item * shape.width + kept if checkpointing else shape.layers * kept
    )
    logits = int(_LOGIT_BYTES * shape.vocabulary * shape.looked_at)
    return layers + logits + _TRANSIENT_WIDTHS * shape.item * shape.ffn


def standing_bytes(shape: StepShape) -> int:
    """Return the bytes that a step takes whatever the number of tokens."""
    return shape.weights + _ADAM_BYTES * shape.trainable


def plan_memory(shape: StepShape, *, limit: int, longest: int, batch_tokens: int) -> MemoryPlan:
    """Decide the size of packs, and whether to recompute activations.

    They are not recomputed where a pack may hold the whole batch, or `WORTHWHILE` tokens and the
    longest row.

    Args:
        shape: model and recipe.
        limit: bytes that the step may take on the device.
        longest: tokens of the longest row, which no pack can cut.
        batch_tokens: tokens of the largest optimizer batch.

    Raises:
        SpecError: the longest row does not fit even when recomputing.
    """
    spare = limit - standing_bytes(shape)
    for checkpointing in (False, True):
        each = token_bytes(shape, checkpointing=checkpointing)
        tokens = min(batch_tokens, max(0, spare) // each)
        enough = longest if checkpointing else max(longest, min(WORTHWHILE, batch_tokens))
        if tokens >= enough:
            return MemoryPlan(
                tokens=tokens,
                checkpointing=checkpointing,
                estimate=standing_bytes(shape) + tokens * each,
            )
    raise SpecError(
        "train.max_length",
        bound=f"<= {tokens} tokens on a device that gives {limit / GIB:.1f} GiB",
        value=longest,
        remedy="Shorten the rows, or train on a device with more memory.",
    )
