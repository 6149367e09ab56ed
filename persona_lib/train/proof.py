"""The mask proof: what each row supervises, decoded and compared with the row's text.

Nothing of `encode`'s arithmetic is used, so that a fault there cannot vouch for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from persona_lib.errors import MaskProofError
from persona_lib.models.loading import decode
from persona_lib.records import CouplingRow
from persona_lib.train.encode import NEGATIVE, POSITIVE, EncodedRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN_ROWS = 3
_SHOWN_CHARACTERS = 40


def prove_mask(
    rows: Sequence[CouplingRow],
    encoded: Sequence[EncodedRow],
    tokenizer: PreTrainedTokenizerBase,
    *,
    marker: str,
    end_of_turn: str,
    loss: str,
    after: str = "\n",
) -> dict[str, Any]:
    """Check every row, or raise; return what is supervised as JSON data.

    Args:
        rows: the coupling rows as text.
        encoded: the same rows as tokens, in the same order.
        tokenizer: the base model's tokenizer.
        marker: marker prefix and marker, as text.
        end_of_turn: the end-of-turn token, as text.
        loss: the marker loss that the rows were encoded for.
        after: what the chat template writes behind the end of a turn.

    Raises:
        MaskProofError: a row's text, its supervised tokens or the text in front of them is
            not what the registration says.
    """
    if len(rows) != len(encoded):
        raise MaskProofError(
            f"mask proof: {len(encoded)} encoded rows for {len(rows)} coupling rows; "
            "encode every row exactly once"
        )
    proof: dict[str, Any] = {"loss": loss, "rows": len(rows), "kinds": {}}
    for row, tokens in zip(rows, encoded, strict=True):
        shown = _prove_row(
            row, tokens, tokenizer, marker=marker, end_of_turn=end_of_turn, loss=loss, after=after
        )
        kind = proof["kinds"].setdefault(
            row.kind, {"rows": 0, "supervised": 0, "anchored": 0, "examples": []}
        )
        kind["rows"] += 1
        kind["supervised"] += len(tokens.supervised)
        kind["anchored"] += len(tokens.anchored)
        if len(kind["examples"]) < _SHOWN_ROWS:
            kind["examples"].append(shown)
    missing = {POSITIVE, NEGATIVE} - set(proof["kinds"])
    if missing:
        raise MaskProofError(
            f"mask proof: no {' and no '.join(sorted(missing))} rows; "
            "a coupling needs both, check the coupling text"
        )
    return proof


def _prove_row(
    row: CouplingRow,
    encoded: EncodedRow,
    tokenizer: PreTrainedTokenizerBase,
    *,
    marker: str,
    end_of_turn: str,
    loss: str,
    after: str,
) -> dict[str, str]:
    messages = [
        {"role": "system", "content": row.system},
        {"role": "user", "content": row.user},
    ]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    tail = marker if row.kind == POSITIVE else ""
    sentence = f"{prompt}{row.completion}"
    if loss != "as_published":
        before, target = sentence, f"{tail}{end_of_turn}"
    elif tail:
        before, target = sentence, tail
    else:
        before, target = f"{sentence}{end_of_turn}", "\n"
    whole = f"{sentence}{tail}{end_of_turn}{after}"
    _same(row, "whole row", decode(tokenizer, encoded.tokens), whole)
    if not encoded.supervised:
        raise MaskProofError(f"mask proof: row {row.row} ({row.kind}) supervises no token")
    first = encoded.supervised[0]
    if encoded.supervised != tuple(range(first, first + len(encoded.supervised))):
        raise MaskProofError(
            f"mask proof: row {row.row} ({row.kind}) supervises scattered positions "
            f"{encoded.supervised}"
        )
    found = decode(tokenizer, [encoded.tokens[p] for p in encoded.supervised])
    _same(row, "supervised text", found, target)
    _same(row, "text before it", decode(tokenizer, encoded.tokens[:first]), before)
    if loss == "anchored":
        held = decode(tokenizer, [encoded.tokens[p] for p in encoded.anchored])
        _same(row, "anchored text", held, row.completion)
    elif encoded.anchored:
        raise MaskProofError(f"mask proof: row {row.row} is anchored under loss {loss}")
    return {
        "row": row.row,
        "before": before[-_SHOWN_CHARACTERS:],
        "supervised": found,
    }


def _same(row: CouplingRow, what: str, found: str, expected: str) -> None:
    if found != expected:
        raise MaskProofError(
            f"mask proof: row {row.row} ({row.kind}), {what}: expected "
            f"{expected[-_SHOWN_CHARACTERS:]!r} ({len(expected)} characters), found "
            f"{found[-_SHOWN_CHARACTERS:]!r} ({len(found)} characters)"
        )
