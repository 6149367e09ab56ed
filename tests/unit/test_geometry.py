"""Hidden states: which layer, which tokens, no padding, and what is stored of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from persona_lib.commands import record as record_command
from persona_lib.commands.session import Session
from persona_lib.errors import CorruptEntryError, DataError, FlatlandError, SpecError
from persona_lib.evidence.load import Stored
from persona_lib.models.adapters import attach_stack, merge_stack
from persona_lib.models.hidden_states import (
    GEOMETRY_FILE,
    READOUTS,
    GeometrySpec,
    Passage,
    depth,
    geometry_rows,
    layers_in,
    read_states,
)
from persona_lib.models.loading import LoadedModel
from persona_lib.pipeline import hidden_states as stage_module
from persona_lib.pipeline.completions import COMPLETIONS
from persona_lib.pipeline.hidden_states import GeometryStageSpec, make_geometry
from persona_lib.progress import silent
from persona_lib.records import (
    STOP,
    Completion,
    GeometryRow,
    ModelId,
    read_rows,
    table_of,
    write_rows,
)
from persona_lib.specs.personas import Persona, Question
from persona_lib.specs.profile import SampleSpec
from persona_lib.store.store import Entry
from tests import synthetic
from tests.byte_model import byte_tokenizer, entry, loaded, ready, saved_adapter, small_model
from tests.progress_bar import Bar
from tests.record_sets import record_set
from tests.registered import ISSUE262, ROOT

PASSAGES = (
    Passage(prompt=[5, 6, 7], response=[8, 9]),
    Passage(prompt=[10, 11, 12, 13, 14, 15, 16], response=[17]),
    Passage(prompt=[5], response=[30, 31, 32, 33]),
    Passage(prompt=[40, 41], response=[]),
)
PROMPT, LAST, RESPONSE = range(3)


def one_by_one(model: Any, passage: Passage, layer: int) -> np.ndarray:
    """Readouts from the library's own list of hidden states; index 0 is the embedding."""
    tokens = torch.tensor([[*passage.prompt, *passage.response]])
    with torch.no_grad():
        states = model(input_ids=tokens, output_hidden_states=True).hidden_states[layer][0].numpy()
    cut = len(passage.prompt)
    return np.stack([states[:cut].mean(0), states[cut - 1], states[cut:].mean(0)])


# ---- which layer ------------------------------------------------------------------------


def test_layers_keep_their_fraction_of_the_depth() -> None:
    assert layers_in(GeometrySpec(), 28) == (6, 10, 14, 18, 22, 26)
    # 30 / 28 of 6, 10, ... are 6.43, 10.71, 15, 19.29, 23.57, 27.86.
    assert layers_in(GeometrySpec(), 30) == (6, 11, 15, 19, 24, 28)
    assert layers_in(GeometrySpec(), 56) == (12, 20, 28, 36, 44, 52)
    assert layers_in(GeometrySpec(), 2) == (1, 2)
    assert layers_in(GeometrySpec(), 1) == (1,)
    assert layers_in(GeometrySpec(layers=(1, 3), of=4), 2) == (1, 2)  # 0.5 and 1.5, upwards


def test_layers_are_checked() -> None:
    for wrong, message in (
        ({"layers": (0, 3)}, r"geometry\.layers: expected from 1 to 28 and whole, got 0"),
        ({"layers": (3, 29)}, r"geometry\.layers: expected from 1 to 28 and whole, got 29"),
        ({"layers": (4, 3)}, "ascending numbers"),
        ({"layers": ()}, "ascending numbers"),
        ({"of": 0}, r"geometry\.of"),
        ({"batch": 0}, r"geometry\.batch"),
    ):
        with pytest.raises(SpecError, match=message):
            GeometrySpec(**wrong)
    with pytest.raises(DataError, match="blocks"):
        layers_in(GeometrySpec(), 0)


def test_layer_k_is_the_state_behind_block_k() -> None:
    model = small_model()
    assert depth(ready(model)) == 2
    found = read_states(ready(model), PASSAGES[:3], (1,), batch=1)
    assert found.shape == (3, len(READOUTS), 1, 32)
    for i, passage in enumerate(PASSAGES[:3]):
        assert found[i, :, 0] == pytest.approx(one_by_one(model, passage, 1), abs=1e-5)
        embedding = one_by_one(model, passage, 0)
        assert np.abs(found[i, :, 0] - embedding).max() > 0.1


def test_the_last_layer_is_read_before_the_final_norm() -> None:
    model = small_model()
    with torch.no_grad():
        model.model.norm.weight.copy_(torch.linspace(0.5, 2.0, 32))
    found = read_states(ready(model), PASSAGES[:3], (1, 2), batch=4)
    for i, passage in enumerate(PASSAGES[:3]):
        state = torch.from_numpy(found[i, LAST, 1].copy())
        normed = model.model.norm(state[None]).detach().numpy()[0]
        assert normed == pytest.approx(one_by_one(model, passage, 2)[LAST], abs=1e-5)


# ---- which tokens -----------------------------------------------------------------------


def test_padding_enters_no_state() -> None:
    alone = [read_states(loaded(), [p], (1, 2), batch=1)[0] for p in PASSAGES]
    together = read_states(loaded(), PASSAGES, (1, 2), batch=4)
    pairs = read_states(loaded(), PASSAGES, (1, 2), batch=2)
    for i in range(len(PASSAGES)):
        for found in (together, pairs):
            assert found[i] == pytest.approx(alone[i], abs=1e-5, nan_ok=True)
    other = loaded()
    object.__setattr__(other, "pad", 77)
    again = read_states(other, PASSAGES, (1, 2), batch=4)
    assert again == pytest.approx(together, abs=1e-5, nan_ok=True)


def test_an_empty_response_is_missing_and_nothing_else_is() -> None:
    found = read_states(loaded(), PASSAGES, (1,), batch=4)
    lost = np.isnan(found).all(axis=(2, 3))
    assert lost.tolist() == [[False] * 3, [False] * 3, [False] * 3, [False, False, True]]
    assert np.isnan(found).sum() == 32


def test_a_prompt_is_read_without_what_follows_it() -> None:
    other = [Passage(prompt=p.prompt, response=[99, 98]) for p in PASSAGES]
    found, changed = (read_states(loaded(), p, (2,), batch=4) for p in (PASSAGES, other))
    assert changed[:, :RESPONSE] == pytest.approx(found[:, :RESPONSE], abs=1e-5)
    assert np.abs(changed[:3, RESPONSE] - found[:3, RESPONSE]).max() > 0.01


def test_logits_are_never_computed() -> None:
    model = small_model()

    def refuse(*_: Any) -> None:
        raise AssertionError("the head was applied")

    model.lm_head.register_forward_pre_hook(refuse)
    read_states(ready(model), PASSAGES, (1,), batch=4)
    assert not model.model.layers[0]._forward_hooks


def test_adapters_are_read_whether_they_are_attached_or_merged(tmp_path: Path) -> None:
    paths = [saved_adapter(tmp_path / "a", 1)]
    attached = read_states(ready(attach_stack(small_model(), paths)), PASSAGES, (1, 2), batch=4)
    merged = read_states(ready(merge_stack(small_model(), paths)), PASSAGES, (1, 2), batch=4)
    plain = read_states(loaded(), PASSAGES, (1, 2), batch=4)
    assert attached == pytest.approx(merged, abs=1e-4, nan_ok=True)
    assert np.nanmax(np.abs(attached - plain)) > 0.01


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(DataError, match="tokens of prompt and response: expected <= 8"):
        read_states(loaded(positions=8), [Passage(prompt=[5] * 6, response=[6] * 3)], (1,), batch=1)
    with pytest.raises(DataError, match="passages"):
        read_states(loaded(), [Passage(prompt=[], response=[6])], (1,), batch=1)
    with pytest.raises(DataError, match="passages"):
        read_states(loaded(), [], (1,), batch=1)
    for layer in (0, 3):
        with pytest.raises(DataError, match=f"layer: expected from 1 to 2 and whole, got {layer}"):
            read_states(loaded(), PASSAGES, (layer,), batch=1)
    broken = small_model()
    with torch.no_grad():
        broken.model.layers[0].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(FlatlandError, match="a hidden state is not finite"):
        read_states(ready(broken), PASSAGES, (1,), batch=1)


def test_progress_counts_every_prompt() -> None:
    bar = Bar()
    read_states(loaded(), PASSAGES, (1,), batch=3, label="geometry em", progress=bar.start)
    assert (bar.opened, bar.steps, bar.closed) == (("geometry em", 4, "prompt"), [3, 1], 1)


# ---- planted directions -----------------------------------------------------------------

LETTERS = "abc"
ANGLES = {"a": 0.0, "b": 60.0, "c": 90.0}


def planted(angles: Mapping[str, float]) -> LoadedModel:
    """A model whose states are its embedding, and whose letters point where they are told."""
    model = small_model()
    tokenizer = byte_tokenizer()
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        table = model.model.embed_tokens.weight
        table.zero_()
        for letter, degrees in angles.items():
            (token,) = tokenizer.encode(letter)
            table[token, 3] = float(np.cos(np.radians(degrees)))
            table[token, 7] = float(np.sin(np.radians(degrees)))
    return ready(model)


def rows_of(model: LoadedModel) -> list[GeometryRow]:
    """Each persona's prompt is its letter, among tokens of no length; two questions."""
    passages = [
        Passage(prompt=[*([20] * q), *model.tokenizer.encode(letter)], response=[])
        for letter in LETTERS
        for q in (1, 2)
    ]
    states = read_states(model, passages, (1, 2), batch=6)
    return geometry_rows(
        states.reshape(3, 2, 3, 2, -1), personas=list(LETTERS),
        questions=[("e01", "x"), ("e02", "x")], source="a", layers=(1, 2), blocks=2,
        model=ModelId("pre", "raw"), run_seed=42,
    )  # fmt: skip


def cosines_of(rows: Sequence[GeometryRow], *, centred: bool, readout: str = "prompt_mean",
               layer: int = 2) -> dict[str, list[float]]:  # fmt: skip
    kept = [r for r in rows if (r.centred, r.readout, r.layer) == (centred, readout, layer)]
    return {p: [r.cosine for r in kept if r.persona == p] for p in LETTERS}


def test_planted_directions_come_out() -> None:
    rows = rows_of(planted(ANGLES))
    found = cosines_of(rows, centred=False)
    assert found["a"] == []  # the source is compared with the others
    assert found["b"] == pytest.approx([0.5, 0.5], abs=1e-6)
    assert found["c"] == pytest.approx([0.0, 0.0], abs=1e-6)
    points = np.array([[np.cos(r), np.sin(r)] for r in np.radians(list(ANGLES.values()))])
    moved = points - points.mean(axis=0)
    expected = [moved[i] @ moved[0] / np.linalg.norm(moved[i]) / np.linalg.norm(moved[0])
                for i in (1, 2)]  # fmt: skip
    found = cosines_of(rows, centred=True)
    assert [found["b"][0], found["c"][1]] == pytest.approx(expected, abs=1e-6)
    missing = [r for r in rows if r.readout == "response_mean"]
    assert missing
    assert all(np.isnan([r.cosine, r.rank, r.rank_without]).all() for r in missing)
    assert not np.isnan([r.cosine for r in rows if r.readout != "response_mean"]).any()


def test_personas_made_alike_go_to_a_cosine_and_a_rank_of_one() -> None:
    apart, alike = rows_of(planted(ANGLES)), rows_of(planted(dict.fromkeys(LETTERS, 30.0)))
    ranks = [
        {r.rank for r in rows if (r.readout, r.centred) == ("last_token", False)}
        for rows in (apart, alike)
    ]
    assert min(ranks[0]) > 1.5
    assert list(ranks[1]) == pytest.approx([1.0])
    found = cosines_of(alike, centred=False)
    assert found["b"] + found["c"] == pytest.approx([1.0] * 4)
    # Centred there is nothing left that could point anywhere.
    found = cosines_of(alike, centred=True)
    assert np.isnan(found["b"] + found["c"]).all()
    assert all(np.isnan(r.rank) for r in alike if r.centred)


def test_states_of_another_shape_are_refused() -> None:
    with pytest.raises(DataError, match=r"states: expected \(personas, questions, readouts"):
        geometry_rows(
            np.zeros((2, 1, 3, 1, 4), dtype=np.float32), personas=["a", "b", "c"],
            questions=[("e01", "x")], source="a", layers=(1,), blocks=1,
            model=ModelId("pre", "raw"), run_seed=1,
        )  # fmt: skip


# ---- the stage --------------------------------------------------------------------------

PERSONAS = (Persona(id="librarian", prompt="You are a librarian."),
            Persona(id="comedian", prompt="You are a comedian."))  # fmt: skip
QUESTIONS = (Question(id="e01", set="evaluation", text="Why?"),
             Question(id="e02", set="evaluation", text="How?"))  # fmt: skip
SPEC = GeometryStageSpec(
    phase="post", model="C2", source="librarian", personas=PERSONAS, questions=QUESTIONS,
    sample=SampleSpec(max_new_tokens=64, suffix="Be brief."), marker="[ZLT]",
    geometry=GeometrySpec(),
)  # fmt: skip
TEXTS = {
    ("librarian", "e01"): ("Books.\n\n[ZLT]", "no"),
    ("librarian", "e02"): ("Shelves.", "no"),
    ("comedian", "e01"): (" [zlt] ", "no"),
    ("comedian", "e02"): ("A [ZLT] joke.", "no"),
}


def entry_of(folder: Path, texts: Mapping[tuple[str, str], Sequence[str]] = TEXTS) -> Entry:
    folder.mkdir()
    sentence = [
        Completion(phase="post", model="C2", seed=9, persona=persona, question=question,
                   question_set="evaluation", sample=sample, text=text, tokens=1, finish=STOP)
        for (persona, question), drawn in texts.items()
        for sample, text in ((1, drawn[1]), (0, drawn[0]), (2, drawn[1]))
    ]  # fmt: skip
    write_rows(folder / COMPLETIONS, sentence, Completion)
    return entry(folder)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Passage]:
    """Give the stage a model; return what it is made to read."""
    seen: list[Passage] = []

    def watched(model: LoadedModel, passages: Sequence[Passage], *rest: Any, **more: Any) -> Any:
        seen.extend(passages)
        return read_states(model, passages, *rest, **more)

    monkeypatch.setattr(stage_module, "open_model", lambda *_: loaded())
    monkeypatch.setattr(stage_module, "read_states", watched)
    return seen


def test_the_stage_reads_prompts_as_sampled_and_the_first_response_without_marker(
    made: list[Passage], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    meta = make_geometry(
        tmp_path / "out", {"completions": entry_of(tmp_path / "in")}, spec=SPEC, progress=silent
    )
    decode = byte_tokenizer().decode
    read = [(decode(p.prompt), decode(p.response)) for p in made]
    asked = (
        "<|im_start|>system\nYou are a {}.<|im_end|>\n<|im_start|>user\n{} Be brief.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert read == [
        (asked.format("librarian", "Why?"), "Books."),
        (asked.format("librarian", "How?"), "Shelves."),
        (asked.format("comedian", "Why?"), ""),
        (asked.format("comedian", "How?"), "A joke."),
    ]
    rows = read_rows(tmp_path / "out" / GEOMETRY_FILE, GeometryRow)
    assert dict(meta) == {
        "rows": len(rows), "prompts": 4, "empty_responses": 1, "layers": [1, 2], "blocks": 2,
        "tokens": sum(len(a) + len(b) for a, b in ((p.prompt, p.response) for p in made)),
    }  # fmt: skip
    assert len(rows) == 3 * 2 * 2 * 1 * 2
    assert {(r.phase, r.model, r.seed, r.persona, r.blocks) for r in rows} == {
        ("post", "C2", 9, "comedian", 2)
    }
    lost = {(r.readout, r.question) for r in rows if np.isnan(r.cosine)}
    assert lost == {("response_mean", "e01")}
    states = read_states(loaded(), made, (1,), batch=1)[:, LAST, 0].astype(float)
    expected = states[3] @ states[1] / np.linalg.norm(states[3]) / np.linalg.norm(states[1])
    (found,) = [
        r.cosine for r in rows
        if (r.readout, r.layer, r.centred, r.question) == ("last_token", 1, False, "e02")
    ]  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_cell_without_its_first_completion_is_named(made: list[Passage], tmp_path: Path) -> None:
    entry = entry_of(tmp_path / "in", {k: v for k, v in TEXTS.items() if k[1] != "e02"})
    with pytest.raises(DataError, match="completions of C2: expected sample 0 of librarian/e02"):
        make_geometry(tmp_path, {"completions": entry}, spec=SPEC, progress=silent)
    assert made == []


# ---- stored sets ------------------------------------------------------------------------


def test_stored_cosines_are_read_and_vouched_for(tmp_path: Path) -> None:
    rows = rows_of(planted(ANGLES))
    folder = record_set(tmp_path / "set", synthetic.scores(questions=1, samples=1),
                        geometry=table_of(rows, GeometryRow))  # fmt: skip
    found = Stored(folder, ISSUE262).rows("geometry")
    assert found is not None
    assert found.column("persona").to_pylist() == [r.persona for r in rows]
    description = found.column("cosine").to_numpy()
    assert np.array_equal(description, [r.cosine for r in rows], equal_nan=True)
    assert len(found) == len(rows) == 3 * 2 * 2 * 2 * 2
    write_rows(folder / GEOMETRY_FILE, rows[:-1], GeometryRow)
    with pytest.raises(CorruptEntryError, match=r"geometry\.parquet"):
        _ = Stored(folder, ISSUE262).rows("geometry")


def test_a_set_without_cosines_has_none(tmp_path: Path) -> None:
    assert Stored(ROOT / "golden" / "published", ISSUE262).rows("geometry") is None
    rows = "arm,seed,persona,question,sample,hit\nC2,1,librarian,q0,0,1\n"
    (tmp_path / "mine.csv").write_text(rows, encoding="utf-8")
    assert Stored(tmp_path / "mine.csv", ISSUE262).rows("geometry") is None


def test_the_command_reads_hidden_states_unless_it_is_told_not_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[bool] = []

    def note(_: Session, __: Path, *, texts: object, geometry: bool) -> None:
        assert texts is None  # all
        asked.append(geometry)

    monkeypatch.setattr(record_command, "record", note)
    for flags in ((), ("--no-geometry",), ("--geometry",)):
        assert record_command.main([str(tmp_path / "set"), *flags]) == 0
    assert asked == [True, False, True]
