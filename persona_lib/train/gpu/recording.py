"""A forward and a backward pass of one shape, recorded as CUDA graphs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from persona_lib.models.attention_hook import attending

if TYPE_CHECKING:
    import torch

_WARMUPS = 2
"""Passes before a recording: kernels and workspaces are chosen in the first."""
_ATTENTION = "flatland_causal"
"""Name under which transformers finds attention without a mask."""

Trunk = Callable[["torch.Tensor"], "torch.Tensor"]
"""(rows, length) tokens to (rows, length, width) hidden states."""


class Recording(Protocol):
    """A pass of one shape."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return hidden states, which hold until the next pass of any recording."""

    def backward(self, sent: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return the gradients of the trained parameters for that of the hidden states."""


Recorder = Callable[[Trunk, "torch.Tensor", "Sequence[torch.Tensor]"], Recording]
"""Records the pass of a trunk at some tokens' shape, with these trained parameters."""


class CudaRecorder:
    """Records CUDA graphs in one pool of memory: a pass is over before the next begins."""

    def __init__(self) -> None:
        self._pool: Any = None
        self._first: Recording | None = None

    def __call__(
        self, trunk: Trunk, tokens: torch.Tensor, trained: Sequence[torch.Tensor]
    ) -> Recording:
        """Record the pass at the shape of `tokens`; after an error torch is as it was."""
        import torch

        # A graph of an earlier pass that only the collector would free spoils a recording.
        gc.collect()
        stream = torch.cuda.current_stream()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        try:
            found = _CudaRecording(trunk, tokens, trained, self._pool)
        except Exception:
            # Torch 2.11 stays on the stream that it recorded on, and its allocator goes on
            # as if it were recording: it would never give memory back again.
            torch.cuda.set_stream(stream)
            with suppress(AttributeError, RuntimeError):
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
            raise
        # Kept whether it is used or not: a pool goes with the last graph in it.
        self._first = self._first or found
        return found


class _CudaRecording:
    """Two CUDA graphs, forward and backward."""

    def __init__(
        self, trunk: Trunk, tokens: torch.Tensor, trained: Sequence[torch.Tensor], pool: Any
    ) -> None:
        import torch

        self._tokens = tokens.clone()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARMUPS):
                hidden = trunk(self._tokens)
                torch.autograd.grad(hidden, list(trained), torch.zeros_like(hidden))
            del hidden
        torch.cuda.current_stream().wait_stream(side)
        self._there, self._back = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._there, pool=pool):
            hidden = trunk(self._tokens)
        self._sent = torch.zeros_like(hidden)
        with torch.cuda.graph(self._back, pool=pool):
            self._grads = torch.autograd.grad(hidden, list(trained), self._sent)
        self._hidden = hidden.detach()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `Recording`."""
        self._tokens.copy_(tokens)
        self._there.replay()
        return self._hidden.detach()

    def backward(self, sent: torch.Tensor) -> Sequence[torch.Tensor]:
        """See `Recording`."""
        self._sent.copy_(sent)
        self._back.replay()
        return self._grads


def plain_trunk(trunk: Any) -> Trunk:
    """Return the pass of a decoder over rows that are padded on the right, without a mask.

    Transformers would look at a mask on the host, and what waits for the host is not recorded.
    """

    def run(tokens: torch.Tensor) -> torch.Tensor:
        with attending(trunk.config, _ATTENTION, _attend):
            found: torch.Tensor = trunk(input_ids=tokens, use_cache=False).last_hidden_state
        return found

    return run


def _attend(  # noqa: PLR0917  (called by position)
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention, by a kernel that never holds the scores of a whole row.

    Keys are repeated for the heads that share them: sharing them itself, torch has in float32
    only the written-out kernel, which keeps all scores. Shapes: (rows, heads or groups, length,
    size); no mask, as padding stands behind every row.
    """
    from torch.nn import functional

    del module, attention_mask, kwargs
    times = query.shape[1] // key.shape[1]
    found = functional.scaled_dot_product_attention(
        query,
        key.repeat_interleave(times, 1),
        value.repeat_interleave(times, 1),
        is_causal=True,
        scale=scaling,
    )
    return found.transpose(1, 2).contiguous(), None
