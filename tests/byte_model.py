"""A byte-level tokenizer and a small random model: one token a byte, no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.common import byte_tokenizer
from persona_lib.models.adapters import save_adapter, train_stack
from persona_lib.models.chatml import END, PAD, START
from persona_lib.models.loading import LoadedModel
from persona_lib.specs.profile import LoraSpec
from persona_lib.store.store import Entry, StageKey

SPECIAL = (PAD, START, END)
"""Ids 0, 1 and 2 of `byte_tokenizer`."""
VOCABULARY = 300
IDS = torch.arange(60).reshape(3, 20) * 7 % VOCABULARY
"""Rows of tokens to hold models against each other by."""
LORA = LoraSpec(rank=4, alpha=8, rslora=True, dropout=0.1)


def small_model(dtype: torch.dtype = torch.float32, positions: int = 512, width: int = 32) -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return Qwen2ForCausalLM(config).to(dtype).eval().requires_grad_(False)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


def saved_base(folder: Path, **shape: int) -> Path:
    """Write `small_model` of this shape and its tokenizer as a checkpoint."""
    small_model(**shape).save_pretrained(folder)  # type: ignore[arg-type]
    byte_tokenizer().save_pretrained(folder)
    return folder


def loaded(positions: int = 512) -> LoadedModel:
    return ready(small_model(positions=positions))


def ready(model: Any) -> LoadedModel:
    """Any model over the byte-level vocabulary, as the engine takes it."""
    return LoadedModel(
        model=model,
        tokenizer=byte_tokenizer(),
        end_of_turn=SPECIAL.index(END),
        pad=SPECIAL.index(PAD),
        device="cpu",
    )


def entry(path: Path, content: str = "0" * 64) -> Entry:
    """An entry as a stage reads it: a folder of files, under no key in particular."""
    key = StageKey(stage="any", version=1, spec={}, inputs={}, seed=None)
    return Entry(
        path=path, key=key, content=content, seconds=0.0, meta={}, provenance={}, built=True
    )


def saved_adapter(folder: Path, seed: int, lora: LoraSpec = LORA, width: int = 32) -> Path:
    """Write an adapter of `small_model` whose B is not zero, so that it moves the weights."""
    model = train_stack(small_model(width=width), [], lora, seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=draw) * 0.1)
    save_adapter(model, folder)
    return folder
