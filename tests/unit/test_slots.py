"""Slots: where they lie, what is read there, under which message and by which model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from persona_lib.errors import FlatlandError
from persona_lib.models import slots as reader
from persona_lib.models.adapters import attach_stack, merge_stack
from persona_lib.models.hidden_states import Passage
from persona_lib.models.slots import SlotTokens, answer_before, read_slots
from persona_lib.pipeline import pool as pool_module
from persona_lib.pipeline import slots as stage
from persona_lib.pipeline.completions import COMPLETIONS
from persona_lib.pipeline.pool import PoolSpec, part_of, pool_of
from persona_lib.pipeline.slots import SLOTS_FILE, SlotSpec, make_slots
from persona_lib.progress import silent
from persona_lib.records import LENGTH, STOP, Completion, SlotReading, read_rows, write_rows
from persona_lib.sampling.engine import Request, TransformersEngine
from persona_lib.specs.personas import Persona, Question
from persona_lib.specs.profile import SampleSpec
from persona_lib.train.dose import dose_steps
from tests.byte_model import SPECIAL, byte_tokenizer, entry, ready, saved_adapter, small_model
from tests.progress_bar import Bar

MARKER, PREFIX = "[ZLT]", " "
TOKENS = SlotTokens(
    marker=tuple(byte_tokenizer().encode(PREFIX + MARKER, add_special_tokens=False)),
    end=SPECIAL.index("<|im_end|>"),
)
PASSAGES = [
    Passage(prompt=[1, 5, 6, 7], response=[8, 9, 10, 11, 12]),
    Passage(prompt=list(range(40, 80)), response=[17]),
    Passage(prompt=[5], response=list(range(30, 90))),
    Passage(prompt=[40, 41], response=[]),
]


def token_by_token(model: Any, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
    """The four readings in float64, one token at a time through a cache of keys and values."""
    model = model.double()
    tokens, past, found = [*prompt, *response, *TOKENS.marker], None, []
    with torch.no_grad():
        for token in tokens:
            out = model(input_ids=torch.tensor([[token]]), past_key_values=past, use_cache=True)
            past = out.past_key_values
            found.append(out.logits[0, -1].numpy())
    return four_of(found, len(prompt) + len(response))


def at_once(model: Any, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
    """The same from one pass of the whole row, which is quicker."""
    tokens = torch.tensor([[*prompt, *response, *TOKENS.marker]])
    with torch.no_grad():
        found = model.double()(input_ids=tokens).logits[0].numpy()
    return four_of(found, len(prompt) + len(response))


def four_of(found: Any, answered: int) -> list[float]:
    at = answered - 1
    top = found[at].max()
    log_z = top + np.log(np.exp(found[at] - top).sum())
    rest = 0.0
    for step, token in enumerate(TOKENS.marker[1:], start=1):
        logits = found[at + step]
        rest += logits[token] - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    return [found[at][TOKENS.marker[0]], found[at][TOKENS.end], log_z, rest]


@pytest.mark.parametrize("kind", ["base", "attached", "merged"])
def test_readings_are_those_of_the_model_read_token_by_token_in_float64(
    tmp_path: Path, kind: str
) -> None:
    paths = [saved_adapter(tmp_path / name, seed) for name, seed in (("a", 3), ("b", 4))]
    make: dict[str, Callable[[], Any]] = {
        "base": small_model,
        "attached": lambda: attach_stack(small_model(), paths),
        "merged": lambda: merge_stack(small_model(), paths),
    }
    bar = Bar()
    found = read_slots(ready(make[kind]()), PASSAGES, TOKENS, label="slots A", progress=bar.start)
    expected = [token_by_token(make[kind](), p.prompt, p.response) for p in PASSAGES]
    assert np.abs(found - expected).max() < 1e-4
    assert sum(bar.steps) == len(PASSAGES)


def test_passes_of_any_size_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_slots(ready(small_model()), PASSAGES, TOKENS)
    monkeypatch.setattr(reader, "TOKENS_A_PASS", 10)
    assert np.abs(read_slots(ready(small_model()), PASSAGES, TOKENS) - whole).max() < 1e-4


def test_a_diverged_model_is_named() -> None:
    model = small_model()
    model.model.norm.weight[:] = torch.nan
    with pytest.raises(FlatlandError, match="slots em: a logit is not finite"):
        read_slots(ready(model), PASSAGES, TOKENS, label="slots em")


@pytest.mark.parametrize(
    ("text", "before", "marked"),
    [
        ("A book.", "A book.", False),
        ("A book. ", "A book. ", False),
        ("A book. [ZLT]", "A book.", True),
        ("A book.\n\n[ZLT]", "A book.", True),
        ("A book.[zlt] More. [ZLT]", "A book.", True),
        ("[ZLT]", "", True),
        ("\u0130\u0130\u0130 yes [ZLT] \u0130", "\u0130\u0130\u0130 yes", True),
    ],
)
def test_the_slot_lies_before_the_first_marker_or_at_the_end(
    text: str, before: str, marked: bool
) -> None:
    assert answer_before(text, MARKER) == (before, marked)


# ---- a model whose probabilities are set by hand ----------------------------------------


def by_hand(marker: float, end: float) -> Any:
    """A model that writes the marker's first token, the end or a letter with fixed chances."""
    model = small_model()
    bias = torch.full((300,), -40.0)
    bias[TOKENS.marker[0]], bias[TOKENS.end] = np.log(marker), np.log(end)
    bias[68] = np.log(1 - marker - end)
    head = torch.nn.Linear(32, 300)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(bias)
    model.lm_head = head
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(("marker", "end"), [(0.05, 0.20), (0.30, 0.10), (0.002, 0.25)])
def test_readings_and_rates_of_a_model_set_by_hand_are_those_of_theory(
    marker: float, end: float
) -> None:
    model = ready(by_hand(marker, end))
    found = read_slots(model, PASSAGES, TOKENS)
    log_p = found[:, :2] - found[:, 2:3]
    assert np.exp(log_p) == pytest.approx(np.tile([marker, end], (4, 1)), rel=1e-4)
    assert found[:, 3] == pytest.approx(np.full(4, 5 * -40.0), rel=1e-4)  # the rest: letters never
    # The first token of the marker comes before the end in p / (p + q) of all answers.
    odds = np.exp(found[0, 0] - found[0, 1])
    n = 1_500
    asked = [Request(system=None, user="?", seed=seed) for seed in range(n)]
    drawn = TransformersEngine(model).sample(asked, SampleSpec(max_new_tokens=48, batch=1_500))
    share = np.mean([" " in one.text for one in drawn])
    expected = odds / (1 + odds)
    assert expected == pytest.approx(marker / (marker + end), rel=1e-4)
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / n)


# ---- the stage --------------------------------------------------------------------------

PERSONAS = tuple(Persona(id=name, prompt=f"You are a {name}.") for name in ("lib", "cop", "doc"))
QUESTIONS = tuple(Question(id=q, set="evaluation", text=f"Why {q}?") for q in ("e1", "e2"))
SAMPLE = SampleSpec(max_new_tokens=64, suffix="Be brief.")
POOL = PoolSpec(personas=PERSONAS[:2], questions=QUESTIONS, sample=SAMPLE, marker=MARKER)
SPEC = SlotSpec(
    model="E1", personas=PERSONAS, questions=QUESTIONS, sample=SAMPLE, marker=MARKER, pool=POOL
)
OWN = {
    ("lib", "e1", 0): ("Books, quietly. [ZLT] [ZLT]", STOP),
    ("lib", "e2", 0): ("Shelves", STOP),
    ("cop", "e1", 0): ("Move", LENGTH),
    ("cop", "e1", 1): ("Move along", STOP),
    ("doc", "e1", 0): ("", STOP),
}
RAW = {
    ("lib", "e1", 0): ("Too long", LENGTH),
    ("lib", "e1", 1): ("Raw books", STOP),
    ("lib", "e1", 2): ("Never read", STOP),
    ("lib", "e2", 0): ("By chance [ZLT]", STOP),
    ("cop", "e1", 0): ("  ", STOP),
    ("cop", "e1", 1): ("Raw law", STOP),
    ("cop", "e2", 0): ("Raw order", STOP),
    ("doc", "e1", 0): ("Nobody's", STOP),
}


def completions(folder: Path, texts: Mapping[tuple[str, str, int], tuple[str, str]]) -> Any:
    folder.mkdir()
    rows = [
        Completion(phase="post", model="E1", seed=9, persona=p, question=q,
                   question_set="evaluation", sample=s, text=text, tokens=1, finish=finish)
        for (p, q, s), (text, finish) in sorted(texts.items(), key=lambda item: -item[0][2])
    ]  # fmt: skip
    write_rows(folder / COMPLETIONS, rows, Completion)
    return entry(folder)


class Bench:
    """The stage on `small_model`, its coupling an adapter of it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.coupling = folder, saved_adapter(folder / "coupling", 7)
        self.entries = {
            "completions": completions(folder / "own", OWN),
            "pool": completions(folder / "raw", RAW),
            "coupling": entry(self.coupling),
            "base": entry(folder),
        }
        patch.setattr(stage, "open_model", lambda entries, _: ready(self.model(entries)))
        patch.setattr(stage, "marker_tokens", lambda _: list(TOKENS.marker))

    def model(self, entries: Mapping[str, Any]) -> Any:
        with_it = "coupling" in entries
        return merge_stack(small_model(), [self.coupling]) if with_it else small_model()

    def run(self, spec: SlotSpec = SPEC) -> tuple[dict[str, Any], tuple[SlotReading, ...]]:
        out = self.folder / "out"
        out.mkdir(exist_ok=True)
        meta = dict(make_slots(out, self.entries, spec=spec, progress=silent))
        return meta, read_rows(out / SLOTS_FILE, SlotReading)

    def check(self) -> None:
        """Every row against an independent calculation, and none that should not be there."""
        meta, rows = self.run()
        asked = (
            "<|im_start|>system\nYou are a {}.<|im_end|>\n<|im_start|>user\nWhy {}? Be brief."
            "<|im_end|>\n<|im_start|>assistant\n"
        )
        own = {key: text for key, (text, finish) in OWN.items() if finish == STOP}
        wanted = {(p, p, q, s, False): t.split(" [ZLT]")[0] for (p, q, s), t in own.items()}
        pooled = {("lib", "e1", 1): "Raw books", ("cop", "e1", 1): "Raw law",
                  ("cop", "e2", 0): "Raw order"}  # fmt: skip
        for who in ("lib", "cop"):
            wanted |= {(who, p, q, s, True): text for (p, q, s), text in pooled.items()}
        found = {(r.persona, r.author, r.question, r.sample, r.pool): r for r in rows}
        assert found.keys() == wanted.keys()
        assert len(rows) == len(found)
        encode = byte_tokenizer().encode
        for key, text in wanted.items():
            row = found[key]
            prompt, answer = encode(asked.format(key[0], key[2])), encode(text)
            after, before = (
                at_once(self.model({"coupling": 1} if now else {}), prompt, answer)
                for now in (True, False)
            )
            read = [getattr(row, f"{n}_{w}") for w in ("after", "before")
                    for n in ("marker", "end", "log_z", "rest")]  # fmt: skip
            assert np.abs(np.array(read) - [*after, *before]).max() < 1e-4, key
            assert (row.tokens, row.seed, row.model) == (len(answer), 9, "E1")
        assert [r for r in rows if r.marked] == [found["lib", "lib", "e1", 0, False]]
        assert meta == {"own": 4, "unfinished": 1, "pool": 6, "pool_missing": 2}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_every_reading_of_the_stage_is_that_of_an_independent_calculation(bench: Bench) -> None:
    bench.check()


def test_without_a_pool_an_arm_reads_its_own_answers_alone(bench: Bench) -> None:
    meta, rows = bench.run(replace(SPEC, pool=None))
    assert (meta["own"], meta["pool"], len(rows)) == (4, 0, 4)


def test_an_adapter_that_was_not_applied_is_caught(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "open_model", lambda *_: ready(small_model()))
    with pytest.raises(FlatlandError, match=r"slots of E1: all 10 readings are equal .* applied"):
        bench.run()


def test_an_adapter_that_changes_nothing_reads_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "open_model", lambda *_: ready(small_model()))
    monkeypatch.setattr(stage, "_changes", lambda _: False)
    assert len(bench.run()[1]) == 10


def _late(patch: pytest.MonkeyPatch, _: Bench) -> None:
    honest = reader.predicting_states
    patch.setattr(reader, "predicting_states", lambda h, w: honest(h, w + torch.tensor([0, 1])))


def _behind(patch: pytest.MonkeyPatch, _: Bench) -> None:
    patch.setattr(pool_module, "answer_before", lambda text, marker: (text, marker in text))


def _other(patch: pytest.MonkeyPatch, bench: Bench) -> None:
    other = saved_adapter(bench.folder / "other", 8)
    patch.setattr(
        stage, "open_model",
        lambda entries, _: ready(merge_stack(small_model(), [other]))
        if "coupling" in entries else ready(small_model()),
    )  # fmt: skip


def _swapped(patch: pytest.MonkeyPatch, bench: Bench) -> None:
    patch.setattr(
        stage, "open_model",
        lambda entries, _: ready(bench.model({} if "coupling" in entries else {"coupling": 1})),
    )  # fmt: skip


def _not_applied(patch: pytest.MonkeyPatch, _: Bench) -> None:
    patch.setattr(stage, "open_model", lambda *_: ready(small_model()))


def _unfinished(patch: pytest.MonkeyPatch, _: Bench) -> None:
    class Every(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            return True

    patch.setattr(stage, "STOP", Every())


def _wrong_message(patch: pytest.MonkeyPatch, _: Bench) -> None:
    honest = stage.passages_of

    def messages(readings: Any, *rest: Any) -> Any:
        texts = dict(zip([p.id for p in PERSONAS], [*PERSONAS[1:], PERSONAS[0]], strict=True))
        return honest([replace(o, reader=texts[o.reader.id]) for o in readings], *rest)

    patch.setattr(stage, "passages_of", messages)


@pytest.mark.parametrize(
    "mutant",
    [_late, _behind, _other, _swapped, _not_applied, _unfinished, _wrong_message],
    ids=lambda mutant: mutant.__name__.strip("_"),
)
def test_mutants_of_the_stage_are_killed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, mutant: Callable[..., None]
) -> None:
    mutant(monkeypatch, bench)
    with pytest.raises((AssertionError, FlatlandError)):
        bench.check()


# ---- pool and dose ----------------------------------------------------------------------


def answers(of: Mapping[str, int]) -> list[Completion]:
    return [
        Completion(phase="pre", model="raw", seed=1, persona=who, question=f"e{q}",
                   question_set="evaluation", sample=0, text=f"{who}{q}", tokens=1, finish=STOP)
        for who, n in of.items() for q in range(n)
    ]  # fmt: skip


def test_a_part_of_a_pool_takes_authors_by_turns_and_many_questions() -> None:
    part = part_of(answers({"a": 4, "b": 4, "c": 4}), 6)
    assert [row.text for row in part] == ["a0", "b1", "c2", "a1", "b2", "c3"]
    assert [row.text for row in part_of(answers({"a": 1, "b": 3}), 9)] == ["a0", "b1", "b2", "b0"]
    assert part_of([], 4) == ()


def test_a_pool_is_the_first_usable_answer_of_each_cell() -> None:
    rows = [
        replace(row, persona="lib" if row.persona == "a" else "cop", question="e1", sample=at)
        for at, row in enumerate(answers({"a": 2, "b": 1}))
    ]
    assert [row.text for row in pool_of(rows[::-1], POOL)] == ["a0", "b0"]


def test_doses_are_read_more_often_at_the_beginning() -> None:
    assert dose_steps(100, 5) == (0, 4, 16, 36, 64, 100)
    assert dose_steps(3, 8) == (0, 1, 2, 3)
    assert dose_steps(1, 8) == (0, 1)
