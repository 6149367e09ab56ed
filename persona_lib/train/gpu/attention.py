"""Causal attention within the rows of a pack, by the best means that the machine has.

Every way takes and returns the same shapes: queries (T, heads, dim), keys and
values (T, kv heads, dim), result (T, heads, dim), rows end to end.

========== ==================================================================
varlen     ``torch.nn.attention.varlen``; CUDA, 16 bits. Its arguments changed
           from version to version, so they are looked up.
flash_op   the operator under it, which is older than the module.
padded     rows of like length are gathered into padded groups for
           ``scaled_dot_product_attention``; anywhere, in any precision.
========== ==================================================================

`choose` takes the first that is right, forwards and backwards, against each row alone in
float32.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from persona_lib.errors import FlatlandError

if TYPE_CHECKING:
    import torch

WAYS = ("varlen", "flash_op", "padded")
"""Names of the ways, best first."""
_PADDED_WASTE = 1.3
"""Rows share a padded group while the longest is at most this much above the shortest."""
_SHORT = 64
"""Below this many tokens padding costs less than another group."""
_PROBE_LENGTHS = (37, 5, 128, 1, 21)
_PROBE_SEED = 5
_SAID = 300
"""Characters of an error that are kept."""
_TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 1e-2}
"""Largest relative difference of norms that is rounding."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the rows of a pack lie, as in `PackedBatch`; `groups` is what `padded` needs."""

    starts: torch.Tensor
    lengths: tuple[int, ...]
    longest: int
    groups: tuple[Any, ...] = ()


Attention = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor", Layout], "torch.Tensor"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The way that was taken, and for each better one why it was not."""

    name: str
    call: Attention
    refused: dict[str, str] = field(default_factory=dict)

    def layout(self, lengths: Sequence[int], starts: torch.Tensor, longest: int) -> Layout:
        """Return the layout of a pack, with what this way needs."""
        return Layout(
            starts=starts,
            lengths=tuple(lengths),
            longest=longest,
            groups=padded_groups(lengths, starts.device) if self.name == "padded" else (),
        )


def padded_groups(lengths: Sequence[int], device: Any) -> tuple[Any, ...]:
    """Return (index tensors of the groups, inverse): how rows are padded and put back.

    A group's index is (rows, longest) into the pack; padding repeats the row's last token, which
    causal attention hides. The inverse (T,) takes the groups' results, joined, back to the pack.
    """
    import torch

    starts = [0, *accumulate(lengths)]
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    groups: list[list[int]] = []
    for row in order:
        shortest = lengths[groups[-1][0]] if groups else 0
        if groups and lengths[row] <= max(_SHORT, _PADDED_WASTE * shortest):
            groups[-1].append(row)
        else:
            groups.append([row])
    inverse = torch.empty(starts[-1], dtype=torch.long)
    indices, offset = [], 0
    for rows in groups:
        width = lengths[rows[-1]]
        within = torch.arange(width)
        ends = torch.tensor([lengths[row] - 1 for row in rows])
        begins = torch.tensor([starts[row] for row in rows])
        indices.append(begins[:, None] + torch.minimum(within[None], ends[:, None]))
        for place, row in enumerate(rows):
            first = offset + place * width
            inverse[starts[row] : starts[row + 1]] = torch.arange(first, first + lengths[row])
        offset += len(rows) * width
    return (tuple(index.to(device) for index in indices), inverse.to(device))


def padded(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout
) -> torch.Tensor:
    """Attention over padded groups of rows of like length."""
    import torch

    indices, inverse = layout.groups
    grouped = key.shape[1] != query.shape[1]
    results = []
    for index in indices:
        rows, width = index.shape
        # (rows, heads, width, dim), as the function wants them.
        read, looked, taken = (
            part.index_select(0, index.flatten()).view(rows, width, *part.shape[1:]).transpose(1, 2)
            for part in (query, key, value)
        )
        found = torch.nn.functional.scaled_dot_product_attention(
            read, looked, taken, is_causal=True, enable_gqa=grouped
        )
        results.append(found.transpose(1, 2).flatten(0, 1))
    return torch.cat(results).index_select(0, inverse)


def varlen_way() -> Attention:
    """Return attention by ``torch.nn.attention.varlen``, whose arguments differ by version.

    Raises:
        ImportError: this torch has no such module.
    """
    from torch.nn.attention import varlen

    varlen_attn: Any = varlen.varlen_attn  # its arguments differ between versions
    known = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = (
        {"is_causal": True} if "is_causal" in known else {"window_size": (-1, 0)}
    )
    announced = "enable_gqa" in known

    def call(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout
    ) -> torch.Tensor:
        further = {"enable_gqa": key.shape[1] != query.shape[1]} if announced else {}
        starts, longest = layout.starts, layout.longest
        found: torch.Tensor = varlen_attn(
            query, key, value, starts, starts, longest, longest, **options, **further
        )
        return found

    return call


def flash_op(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout
) -> torch.Tensor:
    """Attention by torch's own flash operator with row boundaries."""
    import torch

    starts, longest = layout.starts, layout.longest
    found: torch.Tensor = torch.ops.aten._flash_attention_forward(
        query, key, value, starts, starts, longest, longest, 0.0, True, False
    )[0]
    return found


def repeated(way: Attention) -> Attention:
    """Return the way with keys and values repeated, for kernels without shared heads."""

    def call(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout
    ) -> torch.Tensor:
        times = query.shape[1] // key.shape[1]
        return way(
            query, key.repeat_interleave(times, 1), value.repeat_interleave(times, 1), layout
        )

    return call


def choose(
    *,
    device: Any,
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    dim: int,
) -> Choice:
    """Return the first of `WAYS` that is right on this device, forwards and backwards.

    Raises:
        FlatlandError: none is right; the message says what each one did.
    """
    refused: dict[str, str] = {}
    for name in WAYS:
        for label, call in _candidates(name, shared=heads != kv_heads):
            try:
                choice = Choice(name=name, call=call(), refused=dict(refused))
                error = _probe(choice, device, dtype, (heads, kv_heads, dim))
            except Exception as problem:  # whatever a kernel says, the next is tried
                refused[label] = f"{type(problem).__name__}: {problem}".split(". ")[0][:_SAID]
                continue
            if error <= _TOLERANCE[str(dtype).removeprefix("torch.")]:
                return choice
            refused[label] = f"differs from the rows alone by {error:.1e}"
    raise FlatlandError(f"no way of attention over packed rows is right here: {refused}")


def _candidates(name: str, *, shared: bool) -> list[tuple[str, Callable[[], Attention]]]:
    if name == "padded":
        return [(name, lambda: padded)]
    plain: Callable[[], Attention] = varlen_way if name == "varlen" else lambda: flash_op
    found = [(name, plain)]
    if shared:
        found.append((f"{name}, keys repeated", lambda: repeated(plain())))
    return found


def _probe(choice: Choice, device: Any, dtype: torch.dtype, shape: tuple[int, int, int]) -> float:
    """Return the largest relative error of result and gradients on rows of odd lengths."""
    import torch

    heads, kv_heads, dim = shape
    draw = torch.Generator().manual_seed(_PROBE_SEED)
    total = sum(_PROBE_LENGTHS)
    drawn = [
        torch.randn(total, count, dim, generator=draw).to(device, dtype)
        for count in (heads, kv_heads, kv_heads, heads)
    ]
    inputs = [part.requires_grad_() for part in drawn[:3]]
    starts = torch.tensor([0, *accumulate(_PROBE_LENGTHS)], dtype=torch.int32, device=device)
    layout = choice.layout(_PROBE_LENGTHS, starts, max(_PROBE_LENGTHS))
    found = choice.call(inputs[0], inputs[1], inputs[2], layout)
    grads = torch.autograd.grad(found, inputs, drawn[3])
    exact = [part.detach().float().requires_grad_() for part in inputs]
    query, key, value = exact
    wanted = torch.cat([_alone(query[a:b], key[a:b], value[a:b]) for a, b in _spans()])
    wanted_grads = torch.autograd.grad(wanted, exact, drawn[3].float())
    pairs = [(found, wanted), *zip(grads, wanted_grads, strict=True)]
    errors = [float(((a.float() - b).norm() / b.norm()).detach()) for a, b in pairs]
    # max() passes over NaN, which compares with nothing.
    return max(errors) if all(map(math.isfinite, errors)) else math.inf


def _spans() -> list[tuple[int, int]]:
    ends = list(accumulate(_PROBE_LENGTHS))
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _alone(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention of one row, written out."""
    import torch

    times = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[2] ** 0.5
    future = torch.ones(len(query), len(query), device=query.device).triu(1).bool()
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(future, -torch.inf).softmax(-1), value)
