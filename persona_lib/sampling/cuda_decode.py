"""Decoding over preallocated keys and values, on a GPU as one CUDA graph a step.

Every tensor of a step keeps its place and shape, so that the step, drawing included, is
recorded once and replayed. Graphs are recorded anew when finished rows leave or the cache
grows by a block. Draws are those of `persona_lib.sampling.engine`, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from persona_lib.device import determinism
from persona_lib.models.attention_hook import attending
from persona_lib.models.gpu_memory import BLOCK
from persona_lib.sampling.token_draws import check_finite, drawn_tokens
from persona_lib.specs.profile import SampleSpec

if TYPE_CHECKING:
    import torch

ATTENTION = "flatland_grouped"
"""Name under which the attention of a single query token is known to transformers."""
_LOOK_EVERY = 16
"""Steps between two looks at which rows have finished: each look waits for the GPU."""
_COMPACT_BELOW = 0.7
"""Finished rows leave the batch when the share still running falls below this."""


@dataclass(kw_only=True)
class _State:
    """Tensors of one batch; a step changes them in place.

    Attributes:
        tokens: (rows, 1) token read next.
        places: (rows, 1) its position.
        mask: (rows, 1, 1, capacity) which columns of the cache are read.
        draws: (rows, most) uniform numbers.
        written: (rows, most) tokens drawn; behind the end of a turn, only ends.
        done: (rows,) whether the turn has ended.
        column: (1,) column of the cache that is written next.
        step: (1,) number of tokens drawn so far.
        sound: () whether all logits were finite.
        keys, values: of each layer (rows, heads, capacity, size).
    """

    tokens: torch.Tensor
    places: torch.Tensor
    mask: torch.Tensor
    draws: torch.Tensor
    written: torch.Tensor
    done: torch.Tensor
    column: torch.Tensor
    step: torch.Tensor
    sound: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]


def decode(
    model: Any,
    prompt: tuple[torch.Tensor, Any, torch.Tensor],
    draws: torch.Tensor,
    spec: SampleSpec,
    *,
    ends: Sequence[int],
    finished: Callable[[int], None],
) -> torch.Tensor:
    """Sample one batch of completions.

    Args:
        model: a causal model of transformers in eval mode, attention ``sdpa``.
        prompt: next-token logits (rows, vocabulary), cache and mask (rows, width) of the
            prompts, padded on the left.
        draws: (rows, max_new_tokens) uniform numbers, on the model's device.
        spec: temperature and top_p.
        ends: tokens that end a turn.
        finished: told how many rows have ended since it was last told.

    Returns:
        (rows, max_new_tokens) token ids on the CPU; behind the first of `ends` in a row
        only ends.

    Raises:
        FlatlandError: a row's logits are no distribution.
    """
    import torch

    with torch.inference_mode(), attending(model.config, ATTENTION, _attend), _unchecked(model):
        return _Decoder(model, spec, ends=ends).run(prompt, draws, finished)


class _Decoder:
    def __init__(self, model: Any, spec: SampleSpec, *, ends: Sequence[int]) -> None:
        self._model = model
        self._spec = spec
        self._end = ends[0]
        self._ends = tuple(ends)
        self._graphs = model.device.type == "cuda"
        self._state: _State
        self._step: Callable[[], object] | None = None

    def run(
        self,
        prompt: tuple[torch.Tensor, Any, torch.Tensor],
        draws: torch.Tensor,
        finished: Callable[[int], None],
    ) -> torch.Tensor:
        import torch

        logits, cache, mask = prompt
        width, most = mask.shape[1], draws.shape[1]
        self._begin(logits, cache, mask, draws)
        result = self._state.written.clone()
        rows = torch.arange(len(result), device=result.device)
        description, drawn, column = 0, 1, width
        while True:
            state = self._state
            running = ~state.done
            left = int(running.sum())
            check_finite(state.sound)
            finished(len(result) - left - description)
            description = len(result) - left
            if not left or drawn == most:
                break
            if left < _COMPACT_BELOW * len(running):
                result.index_copy_(0, rows, state.written)
                keep = running.nonzero().squeeze(1)
                rows = rows[keep]
                self._compact(keep)
            if column == self._state.mask.shape[3]:
                self._grow()
            count = min(_LOOK_EVERY, most - drawn, self._state.mask.shape[3] - column)
            self._advance(count)
            drawn, column = drawn + count, column + count
        result.index_copy_(0, rows, self._state.written)
        return result.cpu()

    def _begin(
        self, logits: torch.Tensor, cache: Any, mask: torch.Tensor, draws: torch.Tensor
    ) -> None:
        """Lay out the state behind the prompts, and draw the first token."""
        import torch

        rows, width = mask.shape
        capacity = (width // BLOCK + 1) * BLOCK
        seen = torch.zeros(rows, 1, 1, capacity, dtype=torch.bool, device=mask.device)
        seen[:, 0, 0, :width] = mask.bool()
        chosen, sound = drawn_tokens(logits, draws[:, 0], self._spec)
        written = torch.full_like(draws, self._end, dtype=torch.long)
        written[:, 0] = chosen
        self._state = _State(
            tokens=chosen.unsqueeze(1).clone(),
            places=mask.sum(dim=1, keepdim=True),
            mask=seen,
            draws=draws,
            written=written,
            done=self._ended(chosen),
            column=torch.tensor([width], device=mask.device),
            step=torch.ones(1, dtype=torch.long, device=mask.device),
            sound=sound,
            keys=[_wider(layer.keys, capacity) for layer in cache.layers],
            values=[_wider(layer.values, capacity) for layer in cache.layers],
        )

    def _one(self) -> None:
        """Read one token of every row and draw the next; nothing here waits for the GPU."""
        import torch

        state = self._state
        state.mask.index_fill_(3, state.column, True)
        logits = self._model(
            input_ids=state.tokens,
            attention_mask=state.mask,
            position_ids=state.places,
            past_key_values=_cache(state),
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        uniforms = state.draws.index_select(1, state.step).squeeze(1)
        chosen, sound = drawn_tokens(logits, uniforms, self._spec)
        # What a finished row would say is thrown away; that its logits are finite is asked
        # all the same.
        chosen = torch.where(state.done, self._end, chosen)
        state.sound.logical_and_(sound)
        state.written.index_copy_(1, state.step, chosen.unsqueeze(1))
        state.done.logical_or_(self._ended(chosen))
        state.tokens.copy_(chosen.unsqueeze(1))
        for counter in (state.places, state.column, state.step):
            counter.add_(1)

    def _ended(self, chosen: torch.Tensor) -> torch.Tensor:
        """Return which tokens end a turn."""
        done = chosen == self._end
        for other in self._ends[1:]:
            done = done | (chosen == other)
        return done

    def _advance(self, count: int) -> None:
        if self._step is None:
            # The first step of a shape is taken as it is: libraries set themselves up.
            self._one()
            count -= 1
            if count:
                self._step = self._recorded()
        for _ in range(count):
            if self._step is not None:
                self._step()

    def _recorded(self) -> Callable[[], object]:
        if not self._graphs:
            return self._one
        import torch

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._one()
        return graph.replay

    def _compact(self, keep: torch.Tensor) -> None:
        self._step = None
        state = self._state
        for name in ("tokens", "places", "mask", "draws", "written", "done"):
            setattr(state, name, getattr(state, name)[keep])
        for buffers in (state.keys, state.values):
            for i, buffer in enumerate(buffers):
                buffers[i] = buffer[keep]

    def _grow(self) -> None:
        import torch

        self._step = None
        state = self._state
        capacity = state.mask.shape[3] + BLOCK
        wider = torch.zeros(
            *state.mask.shape[:3], capacity, dtype=torch.bool, device=state.mask.device
        )
        wider[..., : state.mask.shape[3]] = state.mask
        state.mask = wider
        for buffers in (state.keys, state.values):
            for i, buffer in enumerate(buffers):
                buffers[i] = _wider(buffer, capacity)


def _wider(buffer: torch.Tensor, capacity: int) -> torch.Tensor:
    """Return a copy of (rows, heads, width, size) with room for `capacity` positions."""
    rows, heads, width, size = buffer.shape
    wider = buffer.new_zeros(rows, heads, capacity, size)
    wider[:, :, :width] = buffer
    return wider


def _cache(state: _State) -> Any:
    """Return a cache for transformers whose keys and values are written in place."""
    from transformers import DynamicCache

    class InPlace(DynamicCache):  # type: ignore[misc]
        def update(
            self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any
        ) -> tuple[Any, Any]:
            del args, kwargs
            keys, values = state.keys[layer_idx], state.values[layer_idx]
            keys.index_copy_(2, state.column, key_states)
            values.index_copy_(2, state.column, value_states)
            return keys, values

    return InPlace()


def _unchecked(model: Any) -> AbstractContextManager[None]:
    """Ask for no deterministic kernels on a GPU: writing into a cache they wait for the host."""
    return determinism(strict=False) if model.device.type == "cuda" else nullcontext()


def _attend(  # noqa: PLR0917  (called by position)
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one query token, each key and value read once for all of its heads.

    Keys of a group are shared by several query heads (Ainslie et al. 2023, arXiv:2305.13245);
    repeating them would move three times the bytes. `query` is (rows, heads, 1, size), `key` and
    `value` (rows, groups, capacity, size), the mask (rows, 1, 1, capacity), True where read.
    """
    import torch

    del module, kwargs
    rows, heads, _, size = query.shape
    groups = key.shape[1]
    packed = query.reshape(rows, groups, heads // groups, size)
    factor = size**-0.5 if scaling is None else scaling
    scores = torch.matmul(packed, key.transpose(2, 3)).float() * factor
    scores = scores.masked_fill(~attention_mask, float("-inf"))
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    return torch.matmul(weights, value).reshape(rows, 1, heads, size), None
