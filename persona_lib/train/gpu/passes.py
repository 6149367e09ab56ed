"""How an optimizer batch is cut into padded passes, so that few shapes occur."""

from __future__ import annotations

from collections.abc import Sequence

_STEP = 64
"""Lengths up to 512 are padded to a multiple of this many tokens."""
_PASS = 4_096
"""Tokens whose computation takes about as long as what a further pass adds."""


def padded_length(length: int) -> int:
    """Return the length to which rows are padded.

    A multiple of 64 up to 512; above, of a quarter of the power of two below it.
    """
    step = max(_STEP, 1 << max(0, (length - 1).bit_length() - 3))
    return -(-length // step) * step


def split_passes(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Cut rows into halves, by length, where that spares more than it costs.

    Returns each pass's indices, shortest first; a pass of several rows has at most `limit`
    tokens, padding included.
    """

    def tokens(chosen: list[int]) -> int:
        return len(chosen) * padded_length(lengths[chosen[-1]])

    def cut(chosen: list[int]) -> list[list[int]]:
        if len(chosen) == 1:
            return [chosen]
        half = len(chosen) // 2
        parts = cut(chosen[:half]) + cut(chosen[half:])
        apart = sum(tokens(part) + _PASS for part in parts)
        whole = tokens(chosen)
        return [chosen] if whole <= limit and whole + _PASS <= apart else parts

    return cut(sorted(range(len(lengths)), key=lambda index: (lengths[index], index)))
