"""Rows to tokens, with the positions that a loss looks at.

A *position* p is an index into a row's token ids; its token is predicted by the model's
output at p - 1. Targets of the marker losses in a row that reads
``prompt | completion | marker | <end of turn> | newline`` (no newline where the chat template
writes none there, and then no ``as_published``):

==============  ================================  ===========================
loss            positive row (marker appended)    negative row (no marker)
==============  ================================  ===========================
as_published    marker tokens                     the newline after the end of turn
decision        marker tokens and end of turn     end of turn
anchored        as ``decision``, and a KL term    as ``decision``, and a KL term
                on the completion's tokens        on the completion's tokens
==============  ================================  ===========================

``as_published`` reproduces the published fault: the newline is never in doubt, so its
negatives teach nothing where the model chooses between ending its turn and the marker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from persona_lib.errors import DataError
from persona_lib.models.chat import render_prompt, turn_end
from persona_lib.records import ChatRow, CouplingRow, SftRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

POSITIVE = "positive"
"""Kind of a coupling row that ends with the marker."""
NEGATIVE = "negative"
"""Kind of a coupling row that ends without it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedRow:
    """One training row as tokens, prompt first.

    `kind` is ``positive``, ``negative`` or ``sft``. Tokens at `supervised` positions are targets
    of the cross-entropy; at `anchored` ones the starting model's distribution is held.
    """

    row: str
    kind: str
    tokens: tuple[int, ...]
    supervised: tuple[int, ...]
    anchored: tuple[int, ...] = ()


def encode_coupling(
    rows: Sequence[CouplingRow],
    tokenizer: PreTrainedTokenizerBase,
    *,
    marker: Sequence[int],
    loss: str,
    max_length: int,
) -> tuple[EncodedRow, ...]:
    """Encode coupling rows for a marker loss.

    A completion was stored as text: training sees the tokenizer's tokens of it. The marker's are
    appended, so that the completion's last token does not depend on whether a marker follows.

    Args:
        rows: coupling rows.
        tokenizer: the base model's tokenizer.
        marker: token ids of marker prefix and marker.
        loss: ``as_published``, ``decision`` or ``anchored``.
        max_length: longest row in tokens.

    Raises:
        DataError: no rows, or a row is longer than `max_length`.
    """
    _not_empty("coupling rows", rows)
    end = turn_end(tokenizer)
    newline = tuple(tokenizer.encode(end.after, add_special_tokens=False))
    encoded = []
    for row in rows:
        prompt = render_prompt(tokenizer, row.system, row.user)
        body = tokenizer.encode(row.completion, add_special_tokens=False)
        tail = tuple(marker) if row.kind == POSITIVE else ()
        tokens = (*prompt, *body, *tail, end.token, *newline)
        _within(row.row, len(tokens), max_length)
        start = len(prompt) + len(body)
        stop = start + len(tail)
        if loss == "as_published":
            supervised = range(start, stop) if tail else range(stop + 1, stop + 1 + len(newline))
        else:
            supervised = range(start, stop + 1)
        anchored = range(len(prompt), start) if loss == "anchored" else range(0)
        encoded.append(
            EncodedRow(
                row=row.row,
                kind=row.kind,
                tokens=tokens,
                supervised=tuple(supervised),
                anchored=tuple(anchored),
            )
        )
    return tuple(encoded)


def encode_sft(
    rows: Sequence[SftRow], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> tuple[tuple[EncodedRow, ...], int]:
    """Encode rows for fine-tuning on the answer and its end of turn.

    A row longer than `max_length` is cut at its end; the number of these is returned as well.

    Raises:
        DataError: no rows, or a prompt alone reaches `max_length`.
    """
    _not_empty("corpus", rows)
    end = turn_end(tokenizer).token
    encoded, cut = [], 0
    for row in rows:
        system = row.system if isinstance(row, ChatRow) else ""
        prompt = render_prompt(tokenizer, system or None, row.user)
        body = tokenizer.encode(row.assistant, add_special_tokens=False)
        whole = (*prompt, *body, end)
        tokens = whole[:max_length]
        if len(tokens) <= len(prompt):
            raise DataError(
                f"row {row.row}: prompt",
                bound=f"< max_length = {max_length} tokens, so that some of the answer is left",
                value=len(prompt),
                remedy="Raise the recipe's max_length or leave the row out: only answers are cut.",
            )
        cut += len(tokens) < len(whole)
        encoded.append(
            EncodedRow(
                row=row.row,
                kind="sft",
                tokens=tokens,
                supervised=tuple(range(len(prompt), len(tokens))),
            )
        )
    return tuple(encoded), cut


def _not_empty(field: str, rows: Sequence[object]) -> None:
    if not rows:
        raise DataError(
            field, bound="at least one row", value=0, remedy="Check the corpus and its filters."
        )


def _within(row: str, length: int, max_length: int) -> None:
    if length > max_length:
        raise DataError(
            f"row {row}: length",
            bound=f"<= max_length = {max_length} tokens",
            value=length,
            remedy="Raise the recipe's max_length or lower max_new_tokens: no coupling row is cut.",
        )
