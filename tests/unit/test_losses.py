"""The losses against token-by-token sums over the model's full logits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from persona_lib.models.batches import pad_rows, predicting_states
from persona_lib.models.loading import trunk_and_head
from persona_lib.train.encode import EncodedRow
from persona_lib.train.lora import total_steps
from persona_lib.train.losses import PER_TOKEN, batch_loss, collate
from persona_lib.train.trainer import RowOrder
from tests.byte_model import small_model
from tests.registered import TINY

ROWS = (
    EncodedRow(row="a", kind="positive", tokens=(5, 9, 40, 41, 7, 8, 2), supervised=(4, 5, 6),
               anchored=(2, 3)),
    EncodedRow(row="b", kind="negative", tokens=(5, 60, 61, 62, 2), supervised=(4,),
               anchored=(1, 2, 3)),
)  # fmt: skip
MODEL = small_model()
START = small_model()
with torch.no_grad():
    for parameter in START.parameters():
        parameter.mul_(1.1)


def log_probabilities(model: torch.nn.Module, row: EncodedRow) -> torch.Tensor:
    """(length, vocabulary): entry p is the distribution over the token at p."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.tokens])).logits[0].double()
    return torch.cat([torch.full((1, logits.shape[1]), math.nan), logits.log_softmax(-1)[:-1]])


def by_hand(row: EncodedRow) -> float:
    table = log_probabilities(MODEL, row)
    return -sum(float(table[p, row.tokens[p]]) for p in row.supervised)


def divergence_by_hand(row: EncodedRow) -> float:
    p, q = log_probabilities(MODEL, row), log_probabilities(START, row)
    terms = [float((q[k].exp() * (q[k] - p[k])).sum()) for k in row.anchored]
    return sum(terms) / len(terms)


def computed(loss: str, beta: float = 0.0) -> float:
    trunk, head = trunk_and_head(MODEL)
    reference = []
    for row in ROWS:
        with torch.no_grad():
            hidden = trunk_and_head(START)[0](input_ids=torch.tensor([row.tokens]))
        reference.append(hidden.last_hidden_state[0, torch.tensor(row.anchored) - 1])
    # Both models share one head, as an adapter leaves it alone.
    START.lm_head.weight.data.copy_(MODEL.lm_head.weight.data)
    batch = collate(ROWS, pad=0, reference=reference)
    with torch.no_grad():
        hidden = trunk(input_ids=batch.tokens).last_hidden_state
        items = 4 if loss in PER_TOKEN else 2
        value = batch_loss(hidden, head, batch, loss=loss, beta=beta, items=items)
    return float(value)


@pytest.mark.parametrize(
    ("loss", "items", "beta"),
    [("sft", 4, 0.0), ("as_published", 4, 0.0), ("decision", 2, 0.0),
     ("anchored", 2, 0.0), ("anchored", 2, 0.5), ("anchored", 2, 2.0)],
)  # fmt: skip
def test_each_loss_is_its_mean_over_tokens_or_rows(loss: str, items: int, beta: float) -> None:
    """`anchored` adds beta times the mean divergence."""
    found = computed(loss, beta)  # ties START's head to MODEL's before the hand calculation
    expected = sum(by_hand(row) + beta * divergence_by_hand(row) for row in ROWS) / items
    assert found == pytest.approx(expected, rel=1e-4 if beta else 1e-5)


def test_rows_are_padded_on_the_side_that_is_asked_for() -> None:
    rows = [[1, 2, 3], [4], [5, 6]]
    assert pad_rows(rows, -100).tolist() == [[1, 2, 3], [4, -100, -100], [5, 6, -100]]
    assert pad_rows(rows, 0, left=True).tolist() == [[1, 2, 3], [0, 0, 4], [0, 5, 6]]
    assert pad_rows(rows, 0).dtype == torch.long


def test_a_token_is_predicted_from_the_state_before_it() -> None:
    hidden = torch.arange(2 * 3 * 2).reshape(2, 3, 2)
    where = torch.tensor([[0, 1], [1, 2], [1, 1]])
    expected = [hidden[0, 0].tolist(), hidden[1, 1].tolist(), hidden[1, 0].tolist()]
    assert predicting_states(hidden, where).tolist() == expected


def test_row_order_covers_every_row_each_epoch_and_depends_on_the_seed() -> None:
    lengths = [10, 3, 8, 1, 9, 4, 7]
    order = RowOrder(lengths, batch=3, seed=1)
    first, second = list(order), list(order)
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert first == list(RowOrder(lengths, batch=3, seed=1))
    assert first != list(RowOrder(lengths, batch=3, seed=2))
    for start in (0, 3):
        chunk = [lengths[row] for row in first[start : start + 3]]
        assert chunk == sorted(chunk)


@pytest.mark.parametrize(
    ("rows", "epochs", "steps", "expected"),
    [(1200, 2, None, 150), (17, 1, None, 2), (10, None, 375, 375), (16, 0.5, None, 1)],
)
def test_total_steps(rows: int, epochs: float | None, steps: int | None, expected: int) -> None:
    spec = replace(TINY.prior, batch=16, epochs=epochs, steps=steps)
    assert total_steps(rows, spec) == expected
