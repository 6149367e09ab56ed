"""Forward and backward passes of a small model, recorded once for each shape that recurs.

A pass of a small model with peft's layers starts thousands of kernels that run for
microseconds. A CUDA graph starts them at once, for one shape: rows are padded to few lengths,
and a shape is recorded when it comes for the third time. A recording is compared with the plain
pass before it is used; a training's draws are those without one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any

from persona_lib.device import recorded_passes
from persona_lib.models.gpu_memory import free_bytes
from persona_lib.train.encode import EncodedRow
from persona_lib.train.gpu.memory import GIB, token_bytes
from persona_lib.train.gpu.packed import unsupported
from persona_lib.train.gpu.packed_setup import step_shape
from persona_lib.train.gpu.passes import padded_length, split_passes
from persona_lib.train.gpu.recording import CudaRecorder, Recorder, Recording, Trunk, plain_trunk
from persona_lib.train.losses import Batch, collate

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

_LOG = logging.getLogger(__name__)
_FROM_USE = 3
"""A recording costs about four plain passes; shapes that come once or twice get none."""
_SHARE = 0.25
"""Largest share of the device's free memory for one pass: recordings reserve about twice the
largest, a pass without one needs room beside them, and others may use the device."""
_FEW = 2_048
"""Tokens of a pass below which a GPU has so little free memory that it is said."""
_LOGIT_BYTES = 32
"""Of a float32 logit at an anchored position, with divergence and gradients."""
_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 2e-2}
"""Largest relative difference of norms between two passes that is rounding."""
_SAID = 300
"""Characters of an error that are logged."""
_CHECK_SEED = 6


class GraphedTrunk:
    """Hidden states of padded passes, from a recording where there is one: a `trainer.Passes`.

    Args:
        trunk: the plain pass.
        trained: parameters that receive gradients.
        pad: token id to pad with.
        limit: most tokens, padding included, of a pass of several rows, or of a recorded one.
        record: makes recordings; None: nothing is recorded.
    """

    def __init__(
        self,
        trunk: Trunk,
        trained: Sequence[torch.Tensor],
        *,
        pad: int,
        limit: int,
        record: Recorder | None,
    ) -> None:
        self._trunk = trunk
        self._trained = list(trained)
        self._pad = pad
        self.limit = limit
        self._record = record
        self._seen: Counter[tuple[int, int]] = Counter()
        self._made: dict[tuple[int, int], Recording | None] = {}

    @property
    def recorded(self) -> list[tuple[int, int]]:
        """Shapes that have a recording, oldest first."""
        return [shape for shape, made in self._made.items() if made is not None]

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return (rows, length, width) hidden states of (rows, length) token ids.

        Their gradient reaches the trained parameters' ``grad``, added to what is there.
        """
        import torch

        rows, length = tokens.shape
        shape = (rows, padded_length(length))
        if rows * shape[1] > self.limit:
            return self._trunk(tokens)
        self._seen[shape] += 1
        new = shape not in self._made and self._seen[shape] >= _FROM_USE
        if new and self._record is not None:
            self._made[shape] = self._try(self._record, self._filled(tokens, shape[1]))
        made = self._made.get(shape)
        if made is None:
            return self._trunk(tokens)
        padded = self._filled(tokens, shape[1])
        root = torch.zeros((), device=tokens.device, requires_grad=True)
        hidden: torch.Tensor = _replay().apply(root, made, padded, self._trained)
        return hidden[:, :length]

    def packs(
        self, rows: Sequence[EncodedRow], *, reference: Sequence[torch.Tensor] | None = None
    ) -> list[Batch]:
        """See `trainer.Passes`."""
        device = self._trained[0].device
        return [
            collate(
                [rows[index] for index in chosen],
                pad=self._pad,
                reference=None if reference is None else [reference[index] for index in chosen],
            ).to(device)
            for chosen in split_passes([len(row.tokens) for row in rows], self.limit)
        ]

    def trunk(self, batch: Batch) -> torch.Tensor:
        """See `trainer.Passes`."""
        return self(batch.tokens)

    def describe(self) -> dict[str, Any]:
        """Return how it was done, as JSON data: shapes (rows, length) that were recorded."""
        return {"way": "recorded", "limit": self.limit, "recorded": list(map(list, self.recorded))}

    def _filled(self, tokens: torch.Tensor, length: int) -> torch.Tensor:
        from torch.nn import functional

        return functional.pad(tokens, (0, length - tokens.shape[1]), value=self._pad)

    def _try(self, record: Recorder, tokens: torch.Tensor) -> Recording | None:
        """Return a recording that does what the plain pass does, or None."""
        try:
            with _draws_kept(tokens.device):
                made = record(self._trunk, tokens, self._trained)
            error, bound = difference(self._trunk, made, tokens, self._trained)
        except Exception as problem:  # whatever a kernel says, the plain pass is there
            sentence = f"{type(problem).__name__}: {problem}"[:_SAID]
        else:
            if error <= bound:
                return made
            _LOG.warning(
                "training goes on without a recorded pass of shape %s: it differs from the "
                "plain one by %.1e (bound %.0e)", tuple(tokens.shape), error, bound,
            )  # fmt: skip
            return None
        _LOG.warning(
            "training goes on without recorded passes, which are several times faster: that of "
            "shape %s failed: %s", tuple(tokens.shape), sentence,
        )  # fmt: skip
        self._give_up(tokens)
        return None

    def _give_up(self, tokens: torch.Tensor) -> None:
        """Let go of all recordings: plain passes need their memory."""
        import torch

        self._record = None
        self._made.clear()
        if tokens.is_cuda:
            torch.cuda.empty_cache()


def difference(
    trunk: Trunk, made: Recording, tokens: torch.Tensor, trained: Sequence[torch.Tensor]
) -> tuple[float, float]:
    """Return how far a recording is from the plain pass, and how far it may be.

    The larger of two relative differences of norms, of the hidden states and of all gradients
    together; infinity for what is not finite. The bound is that of the states' precision.
    """
    import math

    import torch

    with _draws_kept(tokens.device):
        wanted = trunk(tokens)
    draw = torch.Generator().manual_seed(_CHECK_SEED)
    sent = torch.randn(wanted.shape, generator=draw).to(wanted)
    grads = torch.autograd.grad(wanted, list(trained), sent)
    with _draws_kept(tokens.device):
        found = made.forward(tokens)
    pairs = [([found], [wanted]), (made.backward(sent), grads)]
    errors = [float(_distance(found, exact)) for found, exact in pairs]
    bound = _TOLERANCE[str(wanted.dtype).removeprefix("torch.")]
    return (max(errors) if all(map(math.isfinite, errors)) else math.inf), bound


def _draws_kept(device: torch.device) -> AbstractContextManager[None]:
    """Return a context after which the device's next draw is what it was before."""
    import torch

    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _distance(found: Sequence[torch.Tensor], exact: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch

    def norm(parts: Sequence[torch.Tensor]) -> torch.Tensor:
        norms = torch.stack([torch.linalg.vector_norm(part.detach().float()) for part in parts])
        length: torch.Tensor = torch.linalg.vector_norm(norms)
        return length

    return norm([a - b for a, b in zip(found, exact, strict=True)]) / norm(exact)


@cache
def _replay() -> Any:
    """Return the autograd function behind hidden states of a recording."""
    import torch

    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any,
            root: torch.Tensor,
            made: Recording,
            tokens: torch.Tensor,
            trained: Sequence[torch.Tensor],
        ) -> torch.Tensor:
            del root  # autograd calls back only for an input that asks for a gradient
            ctx.made, ctx.trained = made, trained
            return made.forward(tokens)

        @staticmethod
        def backward(ctx: Any, *sent: torch.Tensor) -> tuple[None, ...]:
            _add(ctx.trained, ctx.made.backward(sent[0]))
            return (None,) * 4

    return Replay


def _add(trained: Sequence[torch.Tensor], grads: Sequence[torch.Tensor]) -> None:
    """Add gradients to the parameters' own, which never share memory with them."""
    import torch

    with torch.no_grad():
        before = [parameter.grad for parameter in trained]
        held = [grad for grad in before if grad is not None]
        if len(held) == len(before):
            torch._foreach_add_(held, list(grads))
            return
        # The first pass of an optimizer step: one kernel for all, as above.
        copies = torch._foreach_mul(list(grads), 1.0)
        for parameter, old, new in zip(trained, before, copies, strict=True):
            parameter.grad = new if old is None else old + new


def graphed(model: PeftModel, trunk: Any, *, pad: int) -> GraphedTrunk | None:
    """Return passes for a model on CUDA, recorded unless `device.recorded_passes` says otherwise.

    None elsewhere, and for an architecture that `packed.unsupported` names.

    Raises:
        SpecError: see `device.recorded_passes`.
    """
    if model.device.type != "cuda" or unsupported(trunk):
        return None
    free = free_bytes(model.device) or 0
    shape = step_shape(model, trunk, compiled=False, looked_at=0.0)
    each = token_bytes(shape, checkpointing=False) + _LOGIT_BYTES * shape.vocabulary
    limit = int(_SHARE * free) // each
    if limit < _FEW:
        _LOG.warning(
            "little of the GPU's memory is free (%.1f GiB): rows are trained on in passes of at "
            "most %d tokens, which is slow", free / GIB, limit,
        )  # fmt: skip
    return GraphedTrunk(
        plain_trunk(trunk),
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        pad=pad,
        limit=limit,
        record=CudaRecorder() if recorded_passes() else None,
    )
