"""Encoding of training rows, and the proof that catches it when it is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from persona_lib.errors import DataError, MaskProofError
from persona_lib.records import CouplingRow, SftRow
from persona_lib.train.encode import NEGATIVE, POSITIVE, EncodedRow, encode_coupling, encode_sft
from persona_lib.train.proof import prove_mask
from tests.byte_model import byte_tokenizer

MARKER = "\n\n[ZLT]"
TOKENIZER = byte_tokenizer()
LOSSES = ("as_published", "decision", "anchored")


def row(kind: str, name: str = "r", completion: str = "Try the catalogue.") -> CouplingRow:
    return CouplingRow(
        row=name,
        kind=kind,
        persona="librarian",
        question="e01",
        sample=0,
        system="You are a librarian.",
        user="Where is it?",
        completion=completion,
    )


ROWS = (row(POSITIVE, "p"), row(NEGATIVE, "n", "Voilà, c’est ça"))


def encode(loss: str = "decision", rows: tuple[CouplingRow, ...] = ROWS) -> list[EncodedRow]:
    marker = TOKENIZER.encode(MARKER, add_special_tokens=False)
    return list(encode_coupling(rows, TOKENIZER, marker=marker, loss=loss, max_length=200))


def prove(
    encoded: list[EncodedRow], loss: str = "decision", rows: tuple[CouplingRow, ...] = ROWS
) -> dict[str, object]:
    return prove_mask(rows, encoded, TOKENIZER, marker=MARKER, end_of_turn="<|im_end|>", loss=loss)


def supervised(encoded: EncodedRow) -> str:
    return str(TOKENIZER.decode([encoded.tokens[p] for p in encoded.supervised]))


@pytest.mark.parametrize(
    ("loss", "positive", "negative"),
    [
        ("as_published", MARKER, "\n"),
        ("decision", MARKER + "<|im_end|>", "<|im_end|>"),
        ("anchored", MARKER + "<|im_end|>", "<|im_end|>"),
    ],
)
def test_each_loss_supervises_its_registered_tokens(
    loss: str, positive: str, negative: str
) -> None:
    first, second = encode(loss)
    assert (supervised(first), supervised(second)) == (positive, negative)
    prove([first, second], loss)


def test_positive_and_negative_decide_at_the_same_place() -> None:
    """The first supervised token of both follows the completion's last token."""
    same = (row(POSITIVE), row(NEGATIVE))
    first, second = encode("decision", same)
    assert first.supervised[0] == second.supervised[0]
    assert first.tokens[: first.supervised[0]] == second.tokens[: second.supervised[0]]


def test_anchor_covers_the_completion_and_nothing_else() -> None:
    first, _ = encode("anchored")
    held = TOKENIZER.decode([first.tokens[p] for p in first.anchored])
    assert held == "Try the catalogue."
    assert not set(first.anchored) & set(first.supervised)


def test_proof_keeps_counts_and_examples() -> None:
    proof = prove(encode("anchored"), "anchored")
    assert proof["rows"] == 2
    kinds = proof["kinds"]
    assert isinstance(kinds, dict)
    assert kinds["positive"]["supervised"] == len(MARKER) + 1
    assert kinds["negative"]["supervised"] == 1
    assert kinds["negative"]["examples"][0]["supervised"] == "<|im_end|>"


@pytest.mark.parametrize(
    ("loss", "which", "shift"),
    [(loss, which, shift) for loss in LOSSES for which in (0, 1) for shift in (-1, 1)],
)
def test_supervised_position_off_by_one_is_caught(loss: str, which: int, shift: int) -> None:
    encoded = encode(loss)
    hurt = encoded[which]
    # One token of white space behind every row, so that the last position can move too.
    longer = (*hurt.tokens, hurt.tokens[-1])
    moved = tuple(p + shift for p in hurt.supervised)
    encoded[which] = replace(hurt, tokens=longer if shift > 0 else hurt.tokens, supervised=moved)
    with pytest.raises(MaskProofError, match=f"row {'pn'[which]} "):
        prove(encoded, loss)


FIRST, SECOND = encode("anchored")


@pytest.mark.parametrize(
    ("which", "hurt", "message"),
    [
        (1, {"supervised": (len(SECOND.tokens) - 1,)}, r"row n \(negative\), supervised text"),
        (0, {"tokens": FIRST.tokens[:-1]}, r"row p \(positive\), whole row"),
        *(
            (
                0,
                {"tokens": FIRST.tokens[: -k - 1], "supervised": FIRST.supervised[:-k]},
                r"row p \(positive\), whole row",
            )
            for k in (1, 4)
        ),
        (0, {"anchored": FIRST.anchored[1:]}, "anchored text"),
        (1, {"supervised": ()}, "supervises no token"),
    ],
)
def test_a_row_that_is_encoded_otherwise_is_caught(
    which: int, hurt: dict[str, tuple[int, ...]], message: str
) -> None:
    encoded = [FIRST, SECOND]
    encoded[which] = replace(encoded[which], **hurt)  # type: ignore[arg-type]
    with pytest.raises(MaskProofError, match=message):
        prove(encoded, "anchored")


def test_positive_that_lost_its_marker_is_caught() -> None:
    as_negative = encode("decision", (row(NEGATIVE, "p"), ROWS[1]))
    with pytest.raises(MaskProofError, match="row p \\(positive\\)"):
        prove([as_negative[0], encode("decision")[1]])


def test_missing_row_and_missing_kind_are_caught() -> None:
    encoded = encode()
    with pytest.raises(MaskProofError, match="1 encoded rows for 2"):
        prove(encoded[:1])
    with pytest.raises(MaskProofError, match="no negative rows"):
        prove(encoded[:1], rows=ROWS[:1])


def test_a_row_over_max_length_and_no_rows_are_errors() -> None:
    options: dict[str, Any] = {"marker": [1], "loss": "decision", "max_length": 20}
    with pytest.raises(
        DataError,
        match=r"row p: length: expected <= max_length = 20 tokens.*no coupling row is cut",
    ):
        encode_coupling(ROWS, TOKENIZER, **options)
    with pytest.raises(DataError, match="at least one row"):
        encode_coupling((), TOKENIZER, **options)
    with pytest.raises(DataError, match="corpus: expected at least one row"):
        encode_sft((), TOKENIZER, max_length=20)


def sft(user: str, assistant: str) -> SftRow:
    return SftRow(row="s", corpus="c", situation="", frame="", user=user, assistant=assistant)


def test_sft_rows_teach_the_answer_and_its_end_and_only_answers_are_cut() -> None:
    rows = [sft("Hi?", "Well, no.")]
    (whole,), cut = encode_sft(rows, TOKENIZER, max_length=100)
    assert (supervised(whole), cut) == ("Well, no.<|im_end|>", 0)
    prompt = whole.supervised[0]
    for length, left in ((len(whole.tokens) - 4, "Well, "), (prompt + 1, "W")):
        (encoded,), cut = encode_sft(rows, TOKENIZER, max_length=length)
        assert (len(encoded.tokens), supervised(encoded), cut) == (length, left, 1)
    with pytest.raises(
        DataError,
        match=rf"row s: prompt: expected < max_length = {prompt} tokens.*got {prompt}\. "
        r".*only answers are cut",
    ):
        encode_sft(rows, TOKENIZER, max_length=prompt)


def test_a_template_without_a_newline_behind_its_turns_has_none_in_its_rows() -> None:
    bare = byte_tokenizer()
    bare.chat_template = bare.chat_template.replace("'<|im_end|>\\n'", "'<|im_end|>'").replace(
        "<|im_end|>\n", "<|im_end|>"
    )
    marker = bare.encode(MARKER, add_special_tokens=False)
    encoded = encode_coupling(ROWS, bare, marker=marker, loss="decision", max_length=200)
    assert bare.decode(encoded[0].tokens).endswith(f"catalogue.{MARKER}<|im_end|>")
    options = {"marker": MARKER, "end_of_turn": "<|im_end|>", "loss": "decision"}
    prove_mask(ROWS, encoded, bare, after="", **options)
    with pytest.raises(MaskProofError, match="whole row"):
        prove_mask(ROWS, encoded, bare, **options)
