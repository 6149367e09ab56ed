"""The decoding loop: a batch of prompts in, the tokens of each row out.

Rows stay on the device. What was drawn is looked at every few steps only, because
each look makes the processor wait for the device: a row that ended in between draws
some more tokens, which are thrown away. So the tokens of a row do not depend on how
often one looks, beyond the rounding of batched arithmetic.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from persona_lib.cuda_steps import GraphSteps
from persona_lib.drawing import diverged, draw_unchecked
from persona_lib.kv_cache import block_cache, grouped_attention, in_blocks
from persona_lib.models.batches import pad_rows
from persona_lib.models.loading import LoadedModel
from persona_lib.profile import SampleSpec
from persona_lib.records import LENGTH, STOP

if TYPE_CHECKING:
    import torch

_COMPACT_BELOW, _COMPACT_GRAPHS_BELOW = 0.9, 0.75
"""Finished rows leave the batch when the share still running falls below this. With CUDA
graphs that is dearer, because a graph holds for one number of rows."""
_GRAPHS = "FLATLAND_CUDA_GRAPHS"


@dataclass(frozen=True, kw_only=True)
class How:
    """How a batch is decoded. None of this changes more than rounding.

    Attributes:
        every: steps between two looks at what has ended.
        blocks: keep keys and values in a cache that grows by blocks.
        masks: hand over finished attention masks, so that transformers need not ask
            the device what is in them.
        graphs: keep addresses, and on a GPU replay each step as a CUDA graph.
    """

    every: int = 1
    blocks: bool = False
    masks: bool = False
    graphs: bool = False


def how_on(device: Any) -> How:
    """Return how to decode on a device.

    A CPU has nobody to wait for, and keeps transformers' own cache and masks: what
    has been recorded on one can then be drawn again bit for bit. CUDA graphs are
    used where ``FLATLAND_CUDA_GRAPHS`` is 1.
    """
    if device.type != "cuda":
        return How()
    return How(every=8, blocks=True, masks=True, graphs=os.environ.get(_GRAPHS) == "1")


class Rows:
    """The rows of a batch that are still in it, and everything that belongs to them.

    Attributes:
        index: (rows,) place of each row in the batch as it began.
        draws: (rows, max_new_tokens) uniform numbers.
        written: (rows, max_new_tokens) tokens drawn so far.
        running: (rows,) false where the turn has ended.
        mask: (rows, positions) 0 or false at the padding before a prompt; it reaches as
            far as any row can come.
        lengths: (rows, 1) tokens of the prompt.
        logits: (rows, vocabulary) of the next token.
        cache: keys and values.
        generation: how often rows were dropped.
        sound: whether all logits so far were finite.
        steps: tokens drawn.
        prompt: positions of the longest prompt.
    """

    def __init__(
        self, loaded: LoadedModel, prompts: Sequence[Sequence[int]], draws: Any, how: How
    ) -> None:
        import torch

        self.model, self.end, self.how = loaded.model, loaded.end_of_turn, how
        device = self.model.device
        self.draws = draws.to(device)
        self.written = torch.zeros_like(self.draws, dtype=torch.long)
        self.index = torch.arange(len(prompts), device=device)
        self.running = torch.ones(len(prompts), dtype=torch.bool, device=device)
        self.sound = torch.ones((), dtype=torch.bool, device=device)
        self.steps = self.generation = 0
        self.logits, self.cache, mask = self._read_prompts(prompts, loaded.pad)
        self.prompt = mask.shape[1]
        self.lengths = mask.sum(dim=1, keepdim=True)
        room = mask.new_ones(len(prompts), self.draws.shape[1])
        self.mask = torch.cat([mask, room], dim=1)
        if how.masks:
            self.mask = self.mask.bool()

    def draw(self, spec: SampleSpec) -> None:
        """Draw the next token of every row."""
        chosen, sound = draw_unchecked(self.logits, self.draws[:, self.steps], spec)
        self.written[:, self.steps] = chosen
        self.running &= chosen != self.end
        self.sound &= sound
        self.steps += 1

    def read(self) -> None:
        """Read the last token of every row, for the logits of the next one."""
        seen = self.prompt + self.steps
        mask = self.mask[:, :seen]
        self.logits = self.forward(
            self.written[:, self.steps - 1 : self.steps],
            mask[:, None, None] if self.how.masks else mask,
            self.lengths + (self.steps - 1),
        )

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but these from everything."""
        self.generation += 1
        self.cache.batch_select_indices(rows)
        for name in ("index", "draws", "written", "running", "mask", "lengths", "logits"):
            setattr(self, name, getattr(self, name).index_select(0, rows))

    def forward(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: Any = None,
    ) -> torch.Tensor:
        """Return (rows, vocabulary) logits behind the last token; extends the cache."""
        logits: torch.Tensor = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache if cache is None else cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1]

    def _read_prompts(
        self, prompts: Sequence[Sequence[int]], pad: int
    ) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Return next-token logits, cache and mask of the prompts.

        Samples of one cell share their prompt: each distinct prompt is read once,
        and its cache is then repeated for every sample.
        """
        import torch
        from transformers import DynamicCache

        config, device = self.model.config, self.model.device
        places: dict[tuple[int, ...], int] = {}
        which = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
        tokens, mask = _pad_left(list(places), pad, device)
        cache = block_cache(config) if self.how.blocks else DynamicCache(config=config)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        logits = self.forward(tokens, mask, positions, cache)
        rows = torch.tensor(which, device=device)
        cache.batch_select_indices(rows)
        return logits[rows], cache, mask[rows]


def decode(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    draws: torch.Tensor,
    spec: SampleSpec,
    bar: Any,
    *,
    how: How,
) -> list[tuple[list[int], str]]:
    """Sample one batch.

    Args:
        loaded: the model.
        prompts: token ids of each row.
        draws: (rows, max_new_tokens) uniform numbers.
        spec: how tokens are drawn, and how many at most.
        bar: told of every completion that is finished.
        how: what does not change the outcome.

    Returns:
        For each row its tokens without the end of turn, and its finish.

    Raises:
        FlatlandError: the model's logits are not finite.
    """
    import torch

    found: list[tuple[list[int], str]] = [([], LENGTH)] * len(prompts)
    with torch.inference_mode(), ExitStack() as stack:
        if how.masks:
            stack.enter_context(grouped_attention(loaded.model))
        rows = Rows(loaded, prompts, draws, how)
        advance = GraphSteps(rows, spec) if how.graphs and in_blocks(rows.cache) else None
        share = _COMPACT_BELOW if advance is None else _COMPACT_GRAPHS_BELOW
        rows.draw(spec)
        left = len(prompts)
        while True:
            before, (left, sound) = left, _look(rows)
            if not sound:
                raise diverged()
            bar.update(before - left)
            if not left or rows.steps == spec.max_new_tokens:
                break
            if left < share * len(rows.running):
                _collect(rows, ~rows.running, found)
                rows.keep(rows.running.nonzero().squeeze(1))
            more = min(how.every, spec.max_new_tokens - rows.steps)
            if advance is not None:
                advance(more)
                continue
            for _ in range(more):
                rows.read()
                rows.draw(spec)
        _collect(rows, torch.ones_like(rows.running), found)
    bar.update(left)
    return found


def _look(rows: Rows) -> tuple[int, bool]:
    """Return how many rows go on, and whether all logits were finite, in one transfer."""
    import torch

    left, sound = torch.stack([rows.running.sum(), rows.sound.long()]).tolist()
    return left, bool(sound)


def _collect(rows: Rows, which: torch.Tensor, found: list[tuple[list[int], str]]) -> None:
    """Bring the tokens of these rows over; what stands behind an end of turn is dropped."""
    index = rows.index[which].tolist()
    written = rows.written[which, : rows.steps].tolist()
    for place, tokens in zip(index, written, strict=True):
        if rows.end in tokens:
            found[place] = (tokens[: tokens.index(rows.end)], STOP)
        else:
            found[place] = (tokens, LENGTH)


def _pad_left(
    prompts: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = pad_rows(prompts, pad, left=True)
    mask = pad_rows([[1] * len(prompt) for prompt in prompts], 0, left=True)
    return tokens.to(device), mask.to(device)
