"""Packs: rows laid end to end in one sequence, so that nothing is spent on padding.

Each row keeps its own positions, and attention never crosses rows (`attention`): a row gets
what it would get alone, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from persona_lib.errors import DataError
from persona_lib.train.encode import EncodedRow
from persona_lib.train.losses import Batch

if TYPE_CHECKING:
    import torch

MULTIPLE = 64
"""Packs are filled up to a multiple of this many tokens: kernels like even shapes,
and the allocator sees fewer different ones."""


@dataclass(frozen=True, kw_only=True)
class PackedBatch(Batch):
    """One pack, as one row of `losses.Batch`.

    Attributes:
        tokens: (1, T) token ids, rows one behind the other, then filling.
        positions: (T,) position of each token in its own row.
        starts: (n + 1,) int32, where each row begins, and T; the filling is the
            last row where there is any.
        needed: (k,) indices into T, ascending, from which something is predicted
            that the loss looks at.
        lengths: length of each row, filling included.
        longest: bound on `lengths`; the same for all packs of a training, so that
            nothing is compiled for each length.
    """

    positions: torch.Tensor
    starts: torch.Tensor
    needed: torch.Tensor
    lengths: tuple[int, ...]
    longest: int


def split_rows(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Cut rows into few packs of at most `limit` tokens; return the indices of their rows.

    Longest first, each row goes to the emptiest pack; within a pack the given order stays.

    Raises:
        DataError: no rows, or a row is longer than `limit`.
    """
    longest = max(lengths, default=0)
    if not lengths or longest > limit:
        raise DataError(
            "longest row of an optimizer batch",
            bound=f"between 1 and {limit} tokens, what one pack may hold",
            value=longest,
            remedy="Shorten the rows, or train on a device with more memory.",
        )
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    for count in range(math.ceil(sum(lengths) / limit), len(lengths) + 1):
        packs: list[list[int]] = [[] for _ in range(count)]
        sizes = [0] * count
        for index in order:
            least = sizes.index(min(sizes))
            packs[least].append(index)
            sizes[least] += lengths[index]
        if max(sizes) <= limit:
            return [sorted(pack) for pack in packs]
    raise AssertionError("unreachable: with a pack for each row none exceeds the limit")


def pack_rows(
    rows: Sequence[EncodedRow],
    *,
    pad: int,
    longest: int | None = None,
    reference: Sequence[torch.Tensor] | None = None,
    multiple: int = MULTIPLE,
) -> PackedBatch:
    """Lay at least one row end to end, filled up with `pad` to a `multiple` of tokens.

    `longest` is that of the whole training (default: of `rows`); `reference` as for `collate`.
    """
    import torch

    lengths = [len(row.tokens) for row in rows]
    filling = -sum(lengths) % multiple
    segments = [*lengths, filling] if filling else lengths
    starts = [0, *accumulate(segments)]
    supervised = [
        (0, at + p) for at, row in zip(starts, rows, strict=False) for p in row.supervised
    ]
    anchored = [(0, at + p) for at, row in zip(starts, rows, strict=False) for p in row.anchored]
    needed = sorted({p - 1 for _, p in supervised} | {p - 1 for _, p in anchored})
    tokens = [token for row in rows for token in row.tokens] + [pad] * filling
    return PackedBatch(
        tokens=torch.tensor([tokens], dtype=torch.long),
        supervised=torch.tensor(supervised, dtype=torch.long).reshape(-1, 2),
        anchored=torch.tensor(anchored, dtype=torch.long).reshape(-1, 2),
        weights=torch.tensor(
            [1.0 / len(row.anchored) for row in rows for _ in row.anchored], dtype=torch.float32
        ),
        reference=None if reference is None else torch.cat(list(reference)),
        positions=torch.cat([torch.arange(length) for length in segments]),
        starts=torch.tensor(starts, dtype=torch.int32),
        needed=torch.tensor(needed, dtype=torch.long),
        lengths=tuple(segments),
        longest=max(longest or 0, *segments),
    )
