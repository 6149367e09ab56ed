"""The losses, on hidden states, with logits only where they are needed.

A causal language model's head is the widest matrix of a small model; computing
its logits on prompt tokens that no loss looks at is waste. Every loss here takes
the trunk's hidden states, picks the positions it needs, and applies the head to
those alone.

With S the supervised positions, K the anchored ones, p the model under training
and q the arm's own starting model (base and frozen prior, no coupling):

- ``sft`` and ``as_published``: mean over all supervised tokens of an optimizer
  batch of -log p(token).
- ``decision``: mean over rows of the sum over S of -log p(token), the negative
  log-likelihood of the row's decision, so that a negative's single token weighs
  as much as the first marker token of a positive.
- ``anchored``: ``decision`` plus beta times the mean over rows of the mean over
  K of KL(q || p) = sum_v q(v) (log q(v) - log p(v)), over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from persona_lib.train.encode import EncodedRow

if TYPE_CHECKING:
    import torch

PER_TOKEN = ("sft", "as_published")
"""Losses that are averaged over supervised tokens; the others over rows."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of one forward pass, padded on the right.

    Attributes:
        tokens: (rows, length) token ids. Padding needs no mask: attention is
            causal, so what stands to the right of a row cannot reach it.
        supervised: (n, 2) pairs of row and position.
        anchored: (m, 2) pairs of row and position.
        weights: (m,) one over the number of anchored positions of the row.
        reference: (m, width) hidden states of the starting model for `anchored`.
    """

    tokens: torch.Tensor
    supervised: torch.Tensor
    anchored: torch.Tensor
    weights: torch.Tensor
    reference: torch.Tensor | None


def collate(
    rows: Sequence[EncodedRow],
    *,
    pad: int,
    reference: Sequence[torch.Tensor] | None = None,
) -> Batch:
    """Pad rows on the right and flatten their positions.

    Args:
        rows: encoded rows.
        pad: token id to pad with.
        reference: for each row the starting model's hidden states, shape
            (number of anchored positions, width); None where nothing is anchored.
    """
    import torch

    length = max(len(row.tokens) for row in rows)
    tokens = torch.full((len(rows), length), pad, dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, : len(row.tokens)] = torch.tensor(row.tokens, dtype=torch.long)
    supervised = [(i, p) for i, row in enumerate(rows) for p in row.supervised]
    anchored = [(i, p) for i, row in enumerate(rows) for p in row.anchored]
    weights = [1.0 / len(row.anchored) for row in rows for _ in row.anchored]
    return Batch(
        tokens=tokens,
        supervised=torch.tensor(supervised, dtype=torch.long).reshape(-1, 2),
        anchored=torch.tensor(anchored, dtype=torch.long).reshape(-1, 2),
        weights=torch.tensor(weights, dtype=torch.float32),
        reference=None if reference is None else torch.cat(list(reference)),
    )


def cross_entropy(
    hidden: torch.Tensor, head: torch.nn.Module, tokens: torch.Tensor, where: torch.Tensor
) -> torch.Tensor:
    """Return the summed -log p(token) over positions, in nats.

    Args:
        hidden: (rows, length, width) last hidden states of the trunk.
        head: the language-model head.
        tokens: (rows, length) token ids.
        where: (n, 2) pairs of row and position; position p is predicted by the
            output at p - 1.
    """
    import torch

    row, position = where.unbind(1)
    logits = head(hidden[row, position - 1]).float()
    return torch.nn.functional.cross_entropy(logits, tokens[row, position], reduction="sum")


def anchor_divergence(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    where: torch.Tensor,
    weights: torch.Tensor,
    reference: torch.Tensor,
) -> torch.Tensor:
    """Return the weighted sum over positions of KL(q || p), in nats.

    Args:
        hidden: (rows, length, width) last hidden states of the model under training.
        head: the language-model head, the same for both models (no LoRA sits on it).
        where: (m, 2) pairs of row and position.
        weights: (m,) weight of each position.
        reference: (m, width) hidden states of the starting model at `where`.
    """
    import torch

    row, position = where.unbind(1)
    log_p = torch.log_softmax(head(hidden[row, position - 1]).float(), dim=-1)
    with torch.no_grad():
        log_q = torch.log_softmax(head(reference.to(hidden.dtype)).float(), dim=-1)
    divergence = (log_q.exp() * (log_q - log_p)).sum(dim=-1)
    return (divergence * weights).sum()


def items(rows: Sequence[EncodedRow], loss: str) -> int:
    """Return what a loss is averaged over: supervised tokens, or rows."""
    return sum(len(row.supervised) for row in rows) if loss in PER_TOKEN else len(rows)


def batch_loss(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    batch: Batch,
    *,
    loss: str,
    beta: float,
    items: float,
) -> torch.Tensor:
    """Return one forward pass's share of the optimizer batch's loss, in nats.

    Args:
        hidden: (rows, length, width) last hidden states.
        head: the language-model head.
        batch: the rows.
        loss: ``sft`` or one of `persona_lib.profile.LOSSES`.
        beta: weight of the KL term of ``anchored``.
        items: what the whole optimizer batch is averaged over (see `items`).
    """
    total = cross_entropy(hidden, head, batch.tokens, batch.supervised)
    if loss == "anchored" and batch.reference is not None and len(batch.anchored):
        total = total + beta * anchor_divergence(
            hidden, head, batch.anchored, batch.weights, batch.reference
        )
    return total / items
