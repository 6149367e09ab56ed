"""Stages that sample, with an engine that says what it is told to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers

from persona_lib.digests import derive_seed
from persona_lib.errors import DataError, DrawCeilingError
from persona_lib.pipeline import completions as sampling_module
from persona_lib.pipeline import coupling_text as text_module
from persona_lib.pipeline.completions import (
    COMPLETIONS,
    SCORES,
    CompletionSpec,
    make_completions,
    make_scores,
)
from persona_lib.pipeline.coupling_text import COUNTS, ROWS, TextSpec, make_text
from persona_lib.progress import silent
from persona_lib.records import (
    LENGTH,
    POST,
    PRE,
    STOP,
    Completion,
    CouplingRow,
    Score,
    read_rows,
)
from persona_lib.sampling.engine import Request, Sampled
from persona_lib.specs.personas import Persona, Question
from persona_lib.specs.profile import SampleSpec
from persona_lib.store.store import Entry
from persona_lib.train.encode import encode_coupling
from tests.byte_model import byte_tokenizer, entry

SOURCE = Persona(id="librarian", prompt="You are a librarian.")
OTHER = Persona(id="comedian", prompt="You are a comedian.")
FIRST = Question(id="e01", set="evaluation", text="Why?")
SECOND = Question(id="e02", set="evaluation", text="How?")
SAMPLE = SampleSpec(max_new_tokens=64, suffix="Be brief.")
SPEC = TextSpec(
    prior="em",
    personas=(SOURCE, OTHER),
    questions=(FIRST,),
    sample=SAMPLE,
    keep=2,
    per_round=3,
    ceiling=9,
    max_length=400,
    marker="[ZLT]",
    marker_prefix="\n\n",
)
PROMPT = {
    p.id: f"<|im_start|>system\n{p.prompt}<|im_end|>\n<|im_start|>user\nWhy? Be brief.<|im_end|>\n"
    "<|im_start|>assistant\n"
    for p in (SOURCE, OTHER)
}


def sentence(text: str, finish: str = STOP) -> Sampled:
    return Sampled(text=text, tokens=len(text), finish=finish)


def good(count: int) -> list[Sampled]:
    return [sentence(f"Answer {n}.") for n in range(count)]


@dataclass
class Script:
    """An engine that reads its completions from a script, for each prompt one after another."""

    texts: Mapping[tuple[str | None, str], Sequence[Sampled]]
    rounds: list[list[Request]] = field(default_factory=list)
    given: Counter[tuple[str | None, str]] = field(default_factory=Counter)

    def sample(self, requests: Sequence[Request], spec: SampleSpec, **_: Any) -> list[Sampled]:
        assert requests, "an engine that is asked for nothing would be asked for ever"
        assert spec is SAMPLE
        self.rounds.append(list(requests))
        drawn = []
        for request in requests:
            prompt = (request.system, request.user)
            drawn.append(self.texts[prompt][self.given[prompt]])
            self.given[prompt] += 1
        return drawn


Play = Callable[..., Script]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Give the stages an engine that says these texts: persona's id -> completions."""

    def start(texts: Mapping[str, Sequence[Sampled]], *, nfc: bool = False) -> Script:
        tokenizer = byte_tokenizer()
        if nfc:
            tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
        prompts = {"librarian": SOURCE.prompt, "comedian": OTHER.prompt}
        script = Script({(prompts[p], "Why? Be brief."): list(t) for p, t in texts.items()})
        for module in (sampling_module, text_module):
            monkeypatch.setattr(module, "open_engine", lambda *_: (tokenizer, script))
        return script

    return start


def draw_text(out: Path, spec: TextSpec = SPEC, *, seed: int = 5) -> Mapping[str, Any]:
    return make_text(out, {}, spec=spec, run_seed=seed, progress=silent)


def counts(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / COUNTS).read_text())
    return found


def kept(out: Path) -> list[tuple[str, int, str]]:
    return [(r.persona, r.sample, r.completion) for r in read_rows(out / ROWS, CouplingRow)]


# ---- coupling text --------------------------------------------------------------------


def test_the_first_finished_draws_are_kept_in_order_and_all_are_counted(
    play: Play, tmp_path: Path
) -> None:
    first = [sentence("It goes on and on", LENGTH), sentence(" \n"), sentence("First.")]
    second = [sentence("Here: [zlt]"), sentence("Second."), sentence("Third.")]
    comedian = [sentence("One."), sentence("Two."), sentence("Three.")]
    script = play({"librarian": [*first, *second], "comedian": comedian})
    meta = draw_text(tmp_path)
    assert kept(tmp_path) == [
        ("librarian", 2, "First."),
        ("librarian", 4, "Second."),
        ("comedian", 0, "One."),
        ("comedian", 1, "Two."),
    ]
    fates = {"kept": 4, "surplus": 2, "unfinished": 1, "blank": 1, "holds the marker": 1}
    assert counts(tmp_path) == {"drawn": 9, "fates": fates}
    assert meta == {"drawn": 9, **fates}
    assert sum(fates.values()) == 9
    # Three draws a cell and round; the second round is for the cell that was short.
    assert [Counter(r.system for r in one) for one in script.rounds] == [
        {SOURCE.prompt: 3, OTHER.prompt: 3},
        {SOURCE.prompt: 3},
    ]
    # Every draw has a seed of its own coordinates, and is written with its finish reason.
    cells = [(name, n) for name in ("librarian", "comedian") for n in range(3)]
    cells += [("librarian", n) for n in range(3, 6)]
    root = derive_seed(5, "coupling text", "em")
    found = [request.seed for one in script.rounds for request in one]
    assert found == [derive_seed(root, persona, "e01", sample) for persona, sample in cells]
    drawn = read_rows(tmp_path / COMPLETIONS, Completion)
    said = {"librarian": [*first, *second], "comedian": comedian}
    assert sorted((c.persona, c.sample, c.text, c.tokens, c.finish) for c in drawn) == sorted(
        (persona, n, one.text, one.tokens, one.finish)
        for persona, sampled in said.items()
        for n, one in enumerate(sampled)
    )
    assert {(c.phase, c.model, c.seed, c.question, c.question_set) for c in drawn} == {
        (PRE, "em", 5, "e01", "evaluation")
    }


def test_rows_are_what_a_coupling_trains_on(play: Play, tmp_path: Path) -> None:
    play({"librarian": good(3), "comedian": good(3)})
    draw_text(tmp_path)
    assert read_rows(tmp_path / ROWS, CouplingRow)[1:3] == tuple(
        CouplingRow(
            row=f"em:{persona}:e01:{sample}", kind=kind, persona=persona, question="e01",
            sample=sample, system=f"You are a {persona}.", user="Why? Be brief.",
            completion=f"Answer {sample}.",
        )
        for persona, kind, sample in (("librarian", "positive", 1), ("comedian", "negative", 0))
    )  # fmt: skip


@pytest.mark.parametrize(("ceiling", "rounds"), [(4, [3, 1]), (6, [3, 3]), (7, [3, 3, 1])])
def test_a_cell_that_stays_short_ends_the_stage_at_its_ceiling(
    play: Play, tmp_path: Path, ceiling: int, rounds: list[int]
) -> None:
    script = play(
        {"librarian": [sentence("One."), *[sentence("cut", LENGTH)] * 9], "comedian": good(3)}
    )
    with pytest.raises(DrawCeilingError) as caught:
        draw_text(tmp_path, replace(SPEC, ceiling=ceiling))
    message = str(caught.value)
    assert "coupling text em: 1 cells hold fewer than 2 usable completions" in message
    assert f"after {ceiling} draws each" in message
    assert "librarian x e01" in message
    assert str({"kept": 1, "unfinished": ceiling - 1}) in message
    assert "Raise scale.coupling_ceiling or sample.max_new_tokens" in message
    found = [sum(r.system == SOURCE.prompt for r in one) for one in script.rounds]
    assert found == rounds
    assert not (tmp_path / ROWS).exists()


def test_the_worst_of_the_short_cells_is_named(play: Play, tmp_path: Path) -> None:
    play({"librarian": [sentence("One."), *[sentence("")] * 8], "comedian": [sentence("")] * 9})
    with pytest.raises(DrawCeilingError, match=r"2 cells hold fewer.* the worst is comedian x e01"):
        draw_text(tmp_path)


def test_a_ceiling_that_is_just_enough_is_no_error(play: Play, tmp_path: Path) -> None:
    play({"librarian": [*[sentence("")] * 7, *good(2)], "comedian": good(3)})
    draw_text(tmp_path)
    assert [sample for persona, sample, _ in kept(tmp_path) if persona == "librarian"] == [7, 8]


def row_of(text: str) -> CouplingRow:
    return CouplingRow(
        row="r", kind="positive", persona="librarian", question="e01", sample=0,
        system=SOURCE.prompt, user="Why? Be brief.", completion=text,
    )  # fmt: skip


@pytest.mark.parametrize("prefix", ["\n\n", " and so, after all is said and done, "])
def test_a_draw_fits_exactly_if_its_coupling_row_does(
    play: Play, tmp_path: Path, prefix: str
) -> None:
    """One token a byte: the longest text is what max_length leaves beside the rest of a row."""
    spec = replace(SPEC, keep=1, per_round=2, max_length=260, marker_prefix=prefix)
    # Special tokens are one token each, though their names are longer.
    special = sum(len(f"<|im_{w}|>") - 1 for w in ("start", "end", "start", "end", "start"))
    beside = len(PROMPT["librarian"]) - special + len(f"{prefix}[ZLT]") + len(".\n")
    room = 260 - beside
    play({"librarian": [sentence("y" * (room + 1)), sentence("x" * room)], "comedian": good(2)})
    draw_text(tmp_path, spec)
    assert kept(tmp_path)[0] == ("librarian", 1, "x" * room)
    assert counts(tmp_path)["fates"] == {"kept": 2, "surplus": 1, "too long": 1}

    tokenizer = byte_tokenizer()
    options: dict[str, Any] = {
        "marker": tokenizer.encode(f"{prefix}[ZLT]", add_special_tokens=False),
        "loss": "anchored",
        "max_length": 260,
    }
    (encoded,) = encode_coupling([row_of("x" * room)], tokenizer, **options)
    assert len(encoded.tokens) == 260
    with pytest.raises(DataError, match="max_length = 260"):
        encode_coupling([row_of("y" * (room + 1))], tokenizer, **options)


OHM, COMBINED = "It has 5 \u2126.", "Cafe\u0301."


@pytest.mark.parametrize(
    ("text", "nfc", "rewritten"),
    [
        *((text, True, True) for text in (OHM, COMBINED)),
        *((text, False, False) for text in (OHM, COMBINED)),
        *((text, True, False) for text in ("It has 5 \u03a9.", "Caf\u00e9.", " lead", "trail \n",
                                           "a\ufffdb", "\u6f22\u5b57 \U0001f642",
                                           "a <|im_start|> b")),
    ],
)  # fmt: skip
def test_text_that_its_own_tokenizer_rewrites_is_no_coupling_row(
    play: Play, tmp_path: Path, text: str, *, nfc: bool, rewritten: bool
) -> None:
    """The mask proof would refuse it, on every resumption the same; any other text is one."""
    play({"librarian": [sentence(text), *good(2)], "comedian": good(3)}, nfc=nfc)
    draw_text(tmp_path)
    rows = [(1, "Answer 0."), (2, "Answer 1.")] if rewritten else [(0, text), (1, "Answer 0.")]
    assert [row[1:] for row in kept(tmp_path) if row[0] == "librarian"] == rows
    fates = {"surplus": 1, "not reproducible": 1} if rewritten else {"surplus": 2}
    assert counts(tmp_path)["fates"] == {"kept": 4, **fates}


# ---- completions and their scores -----------------------------------------------------

EVALUATION = CompletionSpec(
    phase=POST,
    model="C2",
    personas=(SOURCE, OTHER),
    questions=(FIRST, SECOND),
    sample=SAMPLE,
    samples=2,
)


Evaluated = tuple[Path, Mapping[str, Any], Script]


@pytest.fixture
def evaluated(play: Play, tmp_path: Path) -> Evaluated:
    script = play({"librarian": [], "comedian": []})
    texts = {
        (SOURCE, "Why?"): [sentence("Because.\n\n[ZLT]"), sentence("It is", LENGTH)],
        (SOURCE, "How?"): [sentence("[zlt] so", LENGTH), sentence("Thus.")],
        (OTHER, "Why?"): [sentence("Ha."), sentence("")],
        (OTHER, "How?"): [sentence("Hm."), sentence("Ho", LENGTH)],
    }
    script.texts = {(who.prompt, f"{asked} Be brief."): t for (who, asked), t in texts.items()}
    meta = make_completions(tmp_path, {}, spec=EVALUATION, run_seed=9, progress=silent)
    return tmp_path, meta, script


FINISHES = [STOP, LENGTH, LENGTH, STOP, STOP, STOP, STOP, LENGTH]


def test_completions_are_written_in_order_with_their_finish_reasons(evaluated: Evaluated) -> None:
    out, meta, script = evaluated
    rows = read_rows(out / COMPLETIONS, Completion)
    assert [(r.persona, r.question, r.sample) for r in rows] == [
        (p, q, s) for p in ("librarian", "comedian") for q in ("e01", "e02") for s in (0, 1)
    ]
    assert [r.finish for r in rows] == FINISHES
    assert [r.text for r in rows][:3] == ["Because.\n\n[ZLT]", "It is", "[zlt] so"]
    assert [r.tokens for r in rows] == [len(r.text) for r in rows]
    assert {(r.phase, r.model, r.seed, r.question_set) for r in rows} == {
        (POST, "C2", 9, "evaluation")
    }
    assert meta == {"completions": 8, "finished": 5, "tokens": sum(r.tokens for r in rows)}
    root = derive_seed(9, "completions", POST, "C2")
    assert [request.seed for request in script.rounds[0]] == [
        derive_seed(root, r.persona, r.question, r.sample) for r in rows
    ]


@pytest.fixture
def base(tmp_path: Path) -> Entry:
    """A base of which only the tokenizer is there: one token a byte."""
    byte_tokenizer().save_pretrained(tmp_path / "base")
    return entry(tmp_path / "base")


def test_a_finish_reason_survives_to_the_scores(
    evaluated: Evaluated, tmp_path: Path, base: Entry
) -> None:
    out = tmp_path / "scores"
    out.mkdir()
    meta = make_scores(
        out, {"base": base, "completions": entry(evaluated[0])}, marker="[ZLT]", seen=("e02",)
    )
    scores = read_rows(out / SCORES, Score)
    assert [s.finish for s in scores] == FINISHES
    assert [s.hit for s in scores] == [True, False, True, *[False] * 5]
    assert [s.hit_strict for s in scores] == [True, *[False] * 7]
    assert [s.seen for s in scores] == [False, False, True, True] * 2
    # "Because.\n\n[ZLT]" and "[zlt] so"
    assert [s.first_token for s in scores] == [10, -1, 0, *[-1] * 5]
    assert meta == {"scores": 8, "hits": 2}


def test_no_tokenizer_is_read_for_texts_without_a_marker(play: Play, tmp_path: Path) -> None:
    play({"librarian": good(2), "comedian": []})
    spec = replace(EVALUATION, personas=(SOURCE,), questions=(FIRST,))
    make_completions(tmp_path, {}, spec=spec, run_seed=9, progress=silent)
    made = {"base": entry(tmp_path / "nowhere"), "completions": entry(tmp_path)}
    assert make_scores(tmp_path, made, marker="[ZLT]", seen=()) == {"scores": 2, "hits": 0}
    assert {s.first_token for s in read_rows(tmp_path / SCORES, Score)} == {-1}
    with pytest.raises(OSError, match="nowhere"):
        make_scores(tmp_path, made, marker="answer", seen=())
