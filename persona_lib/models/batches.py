"""Rows as padded tensors, and cross-entropy with the head applied only where a loss looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def pad_rows(rows: Sequence[Sequence[int]], fill: int, *, left: bool = False) -> torch.Tensor:
    """Return at least one row of integers as a (rows, longest) tensor, padded with `fill`.

    Padding on the right needs no attention mask under causal attention; rows that are to be
    continued are padded on the `left`.
    """
    import torch

    longest = max(len(row) for row in rows)
    padded = torch.full((len(rows), longest), fill, dtype=torch.long)
    for index, row in enumerate(rows):
        start = longest - len(row) if left else 0
        padded[index, start : start + len(row)] = torch.tensor(row, dtype=torch.long)
    return padded


def predicting_states(hidden: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return the (n, width) hidden states from which the tokens at `where` are predicted.

    Args:
        hidden: (rows, length, width) last hidden states of the trunk.
        where: (n, 2) pairs of row and position, positions from 1 on; position p
            is predicted by the output at p - 1.
    """
    row, position = where.unbind(1)
    # Taken by index: a boolean mask has a slow deterministic backward pass.
    return hidden.flatten(0, 1).index_select(0, row * hidden.shape[1] + position - 1)


def cross_entropy(
    hidden: torch.Tensor, head: torch.nn.Module, tokens: torch.Tensor, where: torch.Tensor
) -> torch.Tensor:
    """Return the summed -log p(token) over positions, in nats.

    Args:
        hidden: (rows, length, width) last hidden states of the trunk.
        head: the language-model head.
        tokens: (rows, length) token ids.
        where: (n, 2) pairs of row and position, positions from 1 on.
    """
    import torch

    row, position = where.unbind(1)
    logits = head(predicting_states(hidden, where)).float()
    return torch.nn.functional.cross_entropy(logits, tokens[row, position], reduction="sum")
