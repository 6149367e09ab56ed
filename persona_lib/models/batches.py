"""Rows as padded tensors, and cross-entropy with the head applied only where a loss looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def pad_rows(rows: Sequence[Sequence[int]], fill: int, *, left: bool = False) -> torch.Tensor:
    """Return at least one row of integers as a (rows, longest) tensor, padded with `fill`.

    Rows that are to be continued are padded on the `left`.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    return pad_sequence(
        [torch.tensor(row, dtype=torch.long) for row in rows],
        batch_first=True,
        padding_value=fill,
        padding_side="left" if left else "right",
    )


def predicting_states(hidden: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return the (n, width) hidden states from which the tokens at `where` are predicted.

    `hidden` is (rows, length, width); `where` has n pairs of row and position, from 1 on, whose
    token is predicted by the output at position - 1.
    """
    row, position = where.unbind(1)
    # Taken by index: a boolean mask has a slow deterministic backward pass.
    return hidden.flatten(0, 1).index_select(0, row * hidden.shape[1] + position - 1)


def cross_entropy(
    hidden: torch.Tensor, head: torch.nn.Module, tokens: torch.Tensor, where: torch.Tensor
) -> torch.Tensor:
    """Return the summed -log p(token) in nats over the pairs of `where` (`predicting_states`)."""
    import torch

    row, position = where.unbind(1)
    logits = head(predicting_states(hidden, where)).float()
    return torch.nn.functional.cross_entropy(logits, tokens[row, position], reduction="sum")
