"""The losses, on hidden states, with logits only where they are needed.

With S the supervised positions, K the anchored ones, p the model under training
and q the arm's own starting model (base and frozen prior, no coupling):

- ``sft`` and ``as_published``: mean over all supervised tokens of an optimizer
  batch of -log p(token).
- ``decision``: mean over rows of the sum over S of -log p(token).
- ``anchored``: ``decision`` plus beta times the mean over rows of the mean over
  K of KL(q || p) = sum_v q(v) (log q(v) - log p(v)), over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

from persona_lib.models.batches import cross_entropy, pad_rows, predicting_states
from persona_lib.train.encode import EncodedRow

if TYPE_CHECKING:
    import torch

PER_TOKEN = ("sft", "as_published")
"""Losses that are averaged over supervised tokens; the others over rows."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of one forward pass, padded on the right.

    Attributes:
        tokens: (rows, length) token ids.
        supervised: (n, 2) pairs of row and position.
        anchored: (m, 2) pairs of row and position.
        weights: (m,) one over the number of anchored positions of the row.
        reference: (m, width) hidden states of the starting model for `anchored`.
    """

    tokens: torch.Tensor
    supervised: torch.Tensor
    anchored: torch.Tensor
    weights: torch.Tensor
    reference: torch.Tensor | None = None

    def to(self, device: Any) -> Self:
        """Return the batch with every tensor on `device`."""
        moved = {
            field.name: value.to(device)
            for field in fields(self)
            if hasattr(value := getattr(self, field.name), "to")
        }
        return replace(self, **moved)


def collate(
    rows: Sequence[EncodedRow],
    *,
    pad: int,
    reference: Sequence[torch.Tensor] | None = None,
) -> Batch:
    """Pad rows on the right and flatten their positions.

    `reference`: each row's (anchored positions, width) states of the starting model, or None.
    """
    import torch

    supervised = [(i, p) for i, row in enumerate(rows) for p in row.supervised]
    anchored = [(i, p) for i, row in enumerate(rows) for p in row.anchored]
    weights = [1.0 / len(row.anchored) for row in rows for _ in row.anchored]
    return Batch(
        tokens=pad_rows([row.tokens for row in rows], pad),
        supervised=torch.tensor(supervised, dtype=torch.long).reshape(-1, 2),
        anchored=torch.tensor(anchored, dtype=torch.long).reshape(-1, 2),
        weights=torch.tensor(weights, dtype=torch.float32),
        reference=None if reference is None else torch.cat(list(reference)),
    )


def anchor_divergence(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    where: torch.Tensor,
    weights: torch.Tensor,
    reference: torch.Tensor,
) -> torch.Tensor:
    """Return the weighted sum over positions of KL(q || p), in nats.

    Shapes are those of `Batch`; the head is the same for both models (no LoRA sits on it).
    """
    import torch

    log_p = torch.log_softmax(head(predicting_states(hidden, where)).float(), dim=-1)
    with torch.no_grad():
        log_q = torch.log_softmax(head(reference.to(hidden.dtype)).float(), dim=-1)
    divergence = (log_q.exp() * (log_q - log_p)).sum(dim=-1)
    return (divergence * weights).sum()


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
        loss: ``sft`` or one of `persona_lib.specs.profile.LOSSES`.
        beta: weight of the KL term of ``anchored``.
        items: supervised tokens (`PER_TOKEN`) or rows of the whole optimizer batch.
    """
    total = cross_entropy(hidden, head, batch.tokens, batch.supervised)
    if loss == "anchored" and batch.reference is not None and len(batch.anchored):
        total = total + beta * anchor_divergence(
            hidden, head, batch.anchored, batch.weights, batch.reference
        )
    return total / items
