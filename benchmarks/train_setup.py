"""What train_step trains: shapes, rows of lognormal length, a random model, the floor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from persona_lib.digests import derive_seed
from persona_lib.models.adapters import train_stack
from persona_lib.specs.builtin import PROFILES
from persona_lib.specs.profile import LoraSpec
from persona_lib.train.encode import EncodedRow

if TYPE_CHECKING:
    import torch

PEAK_FLOPS = 790e12
"""Rate of bf16 matrix products on one H100-class card, in operations a second: what a
large square product reaches there, not the vendor's figure."""
_MARKER, _TURN_END = 4, 2
"""Tokens of the marker; of the end of turn and the newline behind it."""
_PROMPT = 70
"""Tokens before an answer, where the loss looks at the whole answer."""
_SPREAD = 0.5
"""Standard deviation of the logarithm of a row's length."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Architecture, rows and batches of one benchmark.

    Attributes:
        mean, longest: mean length of a row in tokens before cutting; the cut.
        batch, micro: rows of an optimizer step, and of the published way's forward pass.
        dtype: of the base weights.
        clip: largest norm of the gradient.
        curve_rate: learning rate of the loss curves.
        loss: ``as_published`` (coupling) or ``sft``.
    """

    name: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int
    rows: int
    mean: int
    longest: int
    batch: int
    micro: int
    dtype: str
    lora: LoraSpec
    clip: float
    curve_rate: float
    loss: str = "as_published"


QWEN = Shape(
    name="Qwen2.5-7B, random weights", width=3584, layers=28, heads=28, kv_heads=4, ffn=18944,
    vocabulary=152064, rows=600, mean=330, longest=1024, batch=PROFILES["qwen7b"].coupling.batch,
    micro=PROFILES["qwen7b"].coupling.micro_batch, dtype="bfloat16",
    lora=PROFILES["qwen7b"].coupling.lora,
    clip=PROFILES["qwen7b"].coupling.clip, curve_rate=2e-4,
)  # fmt: skip
TINY = replace(
    QWEN, name="tiny", width=64, layers=2, heads=4, kv_heads=2, ffn=128, vocabulary=300, rows=32,
    mean=24, longest=64, batch=8, micro=2, dtype="float32", curve_rate=1e-2,
    lora=replace(QWEN.lora, rank=4, alpha=8),
)  # fmt: skip


def lognormal_lengths(
    draw: np.random.Generator, count: int, mean: float, shortest: int, longest: int
) -> list[int]:
    """Return lengths of a lognormal distribution with this mean, cut at both ends."""
    centre = math.log(mean) - _SPREAD**2 / 2
    drawn = draw.lognormal(centre, _SPREAD, count).round()
    found: list[int] = np.clip(drawn, shortest, longest).astype(int).tolist()
    return found


def make_rows(shape: Shape, seed: int) -> list[EncodedRow]:
    """Return rows of lognormal length, a third of them with a marker.

    Under ``as_published`` the loss looks at the marker, or at the newline behind the
    end of turn; under ``sft`` at everything behind the prompt.
    """
    draw = np.random.default_rng(derive_seed(seed, "benchmark", "rows"))
    shortest = _MARKER + _TURN_END + 2
    lengths = lognormal_lengths(draw, shape.rows, shape.mean, shortest, shape.longest)
    rows = []
    for index, length in enumerate(lengths):
        marked = index % 3 == 0
        if shape.loss == "sft":
            supervised = range(min(_PROMPT, length // 2), length)
        elif marked:
            supervised = range(length - _TURN_END - _MARKER, length - _TURN_END)
        else:
            supervised = range(length - 1, length)
        tokens = draw.integers(3, shape.vocabulary, length).tolist()
        kind = "positive" if marked else "negative"
        rows.append(
            EncodedRow(
                row=f"row {index}", kind=kind, tokens=tuple(tokens), supervised=tuple(supervised)
            )
        )
    return rows


def make_batches(
    rows: Sequence[EncodedRow], shape: Shape, seed: int, steps: int
) -> list[list[EncodedRow]]:
    """Return whole optimizer batches: a permutation per epoch, its last rows dropped."""
    found: list[list[EncodedRow]] = []
    epoch = 0
    while len(found) < steps:
        draw = np.random.default_rng(derive_seed(seed, "benchmark", "order", epoch))
        order = draw.permutation(len(rows)).tolist()
        whole = len(rows) - len(rows) % shape.batch
        found += [
            [rows[index] for index in order[start : start + shape.batch]]
            for start in range(0, whole, shape.batch)
        ]
        epoch += 1
    return found[:steps]


def make_model(shape: Shape, device: str, seed: int, *, dropout: float) -> Any:
    """Return a Qwen2 model with random weights and the adapter, made on the device."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(derive_seed(seed, "benchmark", "weights") % 2**63)
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=False,
        use_cache=False,
    )
    with torch.device(device):
        base = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, shape.dtype), attn_implementation="sdpa"
        )
    base.requires_grad_(False)
    return train_stack(base, [], replace(shape.lora, dropout=dropout), seed)


def set_dropout(model: Any, rate: float) -> None:
    """Set the dropout of every LoRA module."""
    import torch

    for name, module in model.named_modules():
        if ".lora_dropout" in name and isinstance(module, torch.nn.Dropout):
            module.p = rate


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    """Return the adapter's parameters by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def floor_operations(shape: Shape, batch: Sequence[EncodedRow]) -> float:
    """Return the operations of the matrix products that an optimizer step needs.

    P weights of projections and T tokens: 2 P T forwards and 2 P T for the gradient of
    activations. Attention over a row of L tokens: two products over half of L x L forwards,
    four backwards. The head where the loss looks. Padding, recomputation and the adapter's
    own products are not counted.
    """
    dim = shape.width // shape.heads
    projections = shape.width * (2 * shape.width + 2 * shape.kv_heads * dim + 3 * shape.ffn)
    tokens = sum(len(row.tokens) for row in batch)
    squares = sum(len(row.tokens) ** 2 for row in batch)
    looked_at = sum(len(row.supervised) for row in batch)
    products = 4.0 * projections * tokens
    attention = 6.0 * shape.width * squares
    return shape.layers * (products + attention) + 4.0 * shape.width * shape.vocabulary * looked_at
