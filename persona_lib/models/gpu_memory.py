"""How many rows of completions fit into a GPU's free memory."""

from __future__ import annotations

from typing import Any

BLOCK = 256
"""Positions by which the cache of `static_decode` grows; attention reads all of them."""
_SHARE = 0.85  # of the free memory; the rest is for activations and fragments
_BYTES_PER_LOGIT = 32  # logits, float32 copy and softmax, float64 sum, and their like


def bytes_per_position(config: Any, itemsize: int) -> int:
    """Return the bytes that keys and values of one position take, over all layers."""
    text = config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * width * itemsize)


def rows_that_fit(free: int, config: Any, *, itemsize: int, positions: int) -> int:
    """Return how many rows can be sampled together in so many free bytes, 1 at least.

    Reckoned as if every row came to `positions`, with the logits of one step.
    """
    held = -(-positions // BLOCK) * BLOCK * bytes_per_position(config, itemsize)
    row: int = held + config.get_text_config().vocab_size * _BYTES_PER_LOGIT
    return max(1, int(_SHARE * free) // row)


def free_bytes(device: Any) -> int | None:
    """Return the bytes that tensors could still take on a GPU; None elsewhere."""
    import torch

    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + unused)
