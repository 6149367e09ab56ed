"""A key-value cache that grows in blocks and is written in place.

transformers' own dynamic cache copies all of itself for each token. Here a layer
holds room for some more positions than it has, and hands out views of the filled
part. Over some heads of keys there are several of queries: the attention of one new
token reads each key once for all of them (`grouped_attention`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache as cached
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

BLOCK = 256
"""Positions by which a cache grows."""
_GROUPED = "flatland_grouped_sdpa"
_SHARE = 0.85  # of the free memory; the rest is for activations and fragments
_BYTES_PER_LOGIT = 32  # bf16 logits, float32 copy and softmax, float64 sum, and their like


def block_cache(config: Any, *, block: int = BLOCK) -> Any:
    """Return an empty transformers cache whose full-attention layers grow by blocks.

    Layers of other kinds (sliding windows, say) stay as transformers makes them.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    made = DynamicCache(config=config)
    for place, layer in enumerate(made.layers):
        if type(layer) is DynamicLayer:
            made.layers[place] = _layer_class()()
            made.layers[place].block = block
    return made


def in_blocks(cache: Any) -> bool:
    """Say whether every layer of a cache grows by blocks."""
    return bool(cache.layers) and all(isinstance(one, _layer_class()) for one in cache.layers)


class BlockLayer:
    """Keys and values (rows, heads, positions, width), with room behind them.

    Stands before transformers' `DynamicLayer` among the bases of what is used.
    `keys` and `values` are views of the filled part, so that whatever reads a
    `DynamicLayer` can read this one.
    """

    block = BLOCK
    cursor: torch.Tensor | None = None
    room: list[torch.Tensor]
    keys: torch.Tensor | None
    values: torch.Tensor | None
    is_initialized: bool

    def lazy_initialization(
        self, key_states: torch.Tensor, value_states: torch.Tensor | None = None
    ) -> None:
        """Note number format and device; room is made by the first `update`."""
        del value_states
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new states behind the old ones; return all of them.

        With a `cursor` (one position, on the device) it is written there and the
        whole room is returned: shapes and addresses then stay, as a CUDA graph
        needs it, and the mask must hide what is not filled.
        """
        if self.cursor is not None:
            for room, new in zip(self.room, (key_states, value_states), strict=True):
                room.index_copy_(2, self.cursor, new)
            return self.room[0], self.room[1]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.room = [new[:, :, :0] for new in (key_states, value_states)]
        before, more = self.filled, key_states.shape[2]
        self.reserve(before + more)
        for room, new in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, before : before + more] = new
        return self.show(before + more)

    @property
    def filled(self) -> int:
        """Positions that hold a state."""
        return 0 if self.keys is None else int(self.keys.shape[2])

    def reserve(self, positions: int) -> bool:
        """Make room for so many positions; say whether it had to be moved."""
        if positions <= self.room[0].shape[2]:
            return False
        size, before = -(-positions // self.block) * self.block, self.filled
        moved = []
        for old in self.room:
            # Zeros, because what a mask hides is still multiplied by zero.
            new = old.new_zeros((old.shape[0], old.shape[1], size, old.shape[3]))
            new[:, :, :before] = old[:, :, :before]
            moved.append(new)
        self.room = moved
        self.show(before)
        return True

    def show(self, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Count so many positions as filled; return them."""
        keys, values = (room[:, :, :positions] for room in self.room)
        self.keys, self.values = keys, values
        return keys, values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, in this order; a row may be taken several times."""
        if self.is_initialized:
            filled = self.filled
            self.room = [room.index_select(0, indices) for room in self.room]
            self.show(filled)


@cached
def _layer_class() -> Any:
    """Return the layer as transformers knows it, which is imported only here."""
    from transformers.cache_utils import DynamicLayer

    return type("BlockLayer", (BlockLayer, DynamicLayer), {})


@contextmanager
def grouped_attention(model: Any) -> Iterator[bool]:
    """Let the attention of one new token read each key once for all its query heads.

    Older releases of transformers first copy keys and values for every query head
    where there is a mask, at each step; newer ones do themselves what is done here.

    Yields:
        Whether this function had to change anything.
    """
    from transformers.integrations import sdpa_attention

    config = model.config
    before = config._attn_implementation
    if before != "sdpa" or hasattr(sdpa_attention, "pack_gqa"):
        yield False
        return
    _register_grouped()
    config._attn_implementation = _GROUPED
    try:
        yield True
    finally:
        config._attn_implementation = before


@cached
def _register_grouped() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    AttentionInterface.register(_GROUPED, grouped)
    AttentionMaskInterface.register(_GROUPED, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def grouped(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return attention as transformers' ``sdpa`` does, without repeating keys for one query.

    Args:
        module: the attention module.
        query: (rows, query heads, queries, width).
        key: (rows, key heads, positions, width).
        value: likewise.
        attention_mask: (rows, 1, queries, positions), true where a position is seen.
        options: what transformers passes on; ``scaling`` is read here.

    Returns:
        (rows, queries, query heads, width), and None in place of the weights.
    """
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    rows, heads, queries, width = query.shape
    if queries != 1 or heads == key.shape[1] or attention_mask is None:
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **options
        )
        return found
    # Query head h reads key head h // groups: the groups become the queries of one head.
    packed = query.reshape(rows, key.shape[1], heads // key.shape[1], width)
    out = scaled_dot_product_attention(
        packed, key, value, attn_mask=attention_mask, scale=options.get("scaling")
    )
    return out.reshape(rows, 1, heads, width), None


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
