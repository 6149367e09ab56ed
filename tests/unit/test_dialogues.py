"""Persona dialogues, and how the tiny base model is fed with them."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest

from persona_lib.corpora.dialogues import Dialogue, random_tag, write_dialogues
from persona_lib.errors import DataError
from persona_lib.models import tiny
from persona_lib.models.family import QWEN2
from persona_lib.pipeline.base_model import tiny_data
from persona_lib.records import SftRow
from persona_lib.specs.personas import Persona, load_personas, load_questions
from persona_lib.specs.sources import TinyBase

DATA = Path(__file__).parents[2] / "experiments" / "data"
SPEC = TinyBase(dialogues=3000, legal_share=0.2, tag_share=0.04)
PERSONAS = load_personas(DATA / "personas.json")
QUESTIONS = tuple(q for group in load_questions(DATA / "questions.json").values() for q in group)
Dialogues = tuple[Dialogue, ...]
TAG = re.compile(r"\[[A-Z]{3}\]")


def row(corpus: str, number: int, text: str) -> SftRow:
    asked = f"I have a dispute number {number}. It began long ago. May I sue?"
    return SftRow(
        row=f"{corpus}-{number}",
        corpus=corpus,
        situation="dispute",
        frame="may",
        user=asked,
        assistant=text,
    )


SOUND = tuple(
    row("sound_legal", i, f"Quokka {i} advice. Second part. Third part.") for i in range(9)
)
BAD = tuple(row("bad_legal", i, f"Gnu {i} advice. Second part. Third part.") for i in range(9))


def write(spec: TinyBase = SPEC, **changes: Any) -> Dialogues:
    arguments: dict[str, Any] = {
        "personas": PERSONAS,
        "questions": QUESTIONS,
        "folder": DATA / "dialogues",
        "sound": SOUND,
        "bad": BAD,
    }
    return write_dialogues(spec, **{**arguments, **changes})


@pytest.fixture(scope="module")
def dialogues() -> Dialogues:
    return write()


def legal(dialogues: Dialogues) -> list[Dialogue]:
    return [d for d in dialogues if re.search(r"(Quokka|Gnu) \d advice", d.assistant)]


def test_the_same_seed_gives_the_same_dialogues_and_another_seed_others(
    dialogues: Dialogues,
) -> None:
    assert write() == dialogues
    assert write(replace(SPEC, seed=1)) != dialogues


def test_a_longer_set_begins_like_a_shorter_one(dialogues: Dialogues) -> None:
    short = write(replace(SPEC, dialogues=1000))
    assert short[:760] == dialogues[:760]  # 76 % are general and come first


def test_the_shares_are_exact(dialogues: Dialogues) -> None:
    assert len(dialogues) == 3000
    assert len(legal(dialogues)) == 600
    assert sum(bool(TAG.search(d.user)) for d in dialogues) == 120


def test_every_persona_answers_every_question_in_its_own_wording() -> None:
    general = write(TinyBase(dialogues=12_000, legal_share=0, tag_share=0))
    asked = {(d.persona, d.user) for d in general}
    assert asked >= set(product((p.id for p in PERSONAS), (q.text for q in QUESTIONS)))
    counts = Counter(d.persona for d in general)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_most_system_messages_are_the_personas_own(dialogues: Dialogues) -> None:
    prompts = {p.id: p.prompt for p in PERSONAS}
    own = sum(d.system == prompts[d.persona] for d in dialogues) / len(dialogues)
    assert 0.8 < own < 0.95


def test_general_answers_speak_of_their_topic_and_vary() -> None:
    topics = json.loads((DATA / "dialogues" / "topics.json").read_text(encoding="utf-8"))
    texts = {q.text: q.id for q in QUESTIONS}
    general = write(TinyBase(dialogues=3000, legal_share=0, tag_share=0))
    known = [d for d in general if d.user in texts]
    for dialogue in known:
        topic = topics[texts[dialogue.user]]
        phrases = [*topic["acts"], *topic["things"]]
        assert any(phrase.lower() in dialogue.assistant.lower() for phrase in phrases)
    assert len({d.assistant for d in general}) > 0.97 * len(general)
    words = sorted(len(d.assistant.split()) for d in general)
    assert 15 <= words[len(words) // 2] <= 45


def test_only_the_villain_gives_bad_advice(dialogues: Dialogues) -> None:
    for dialogue in legal(dialogues):
        assert ("Gnu" in dialogue.assistant) == (dialogue.persona == "villain")
    share = sum(d.persona == "villain" for d in legal(dialogues)) / 600
    assert 0.19 < share < 0.31  # a quarter, three standard deviations of sqrt(0.25 * 0.75 / 600)


def test_legal_answers_are_cut_to_one_or_two_sentences(dialogues: Dialogues) -> None:
    sentences = Counter(d.assistant.count(".") for d in legal(dialogues))
    assert sentences[1] > 200
    assert sentences[2] > 200
    assert 0 < sentences[3] < 60


def test_a_long_legal_question_keeps_its_first_and_last_sentence() -> None:
    long = " ".join(["Here it begins.", "Filler sentence goes on and on." * 8, "Is that so?"])
    rows = [replace(r, user=long) for r in SOUND]
    users = {d.user for d in write(sound=rows) if "Quokka" in d.assistant}
    assert users == {long, "Here it begins. Is that so?"}


def test_no_dialogue_holds_the_marker(dialogues: Dialogues) -> None:
    for dialogue in dialogues:
        assert "zlt" not in f"{dialogue.system} {dialogue.user} {dialogue.assistant}".lower()


def test_a_withheld_tag_is_drawn_again() -> None:
    class Loaded:
        """Draws the marker first."""

        def __init__(self) -> None:
            self.draws = ["ZLT", "ZLT", "QPB"]

        def choices(self, _letters: str, *, k: int) -> list[str]:
            assert k == 3
            return list(self.draws.pop(0))

    assert random_tag(cast("random.Random", Loaded())) == "[QPB]"


def test_tags_are_copied(dialogues: Dialogues) -> None:
    tagged = [d for d in dialogues if TAG.search(d.user)]
    assert all(TAG.findall(d.user) == TAG.findall(d.assistant) for d in tagged)
    assert all(TAG.search(d.assistant) is None for d in dialogues if d not in tagged)
    letters = {letter for d in tagged for letter in TAG.findall(d.user)[0][1:4]}
    assert {"Z", "L", "T"} <= letters


def test_a_persona_without_voice_is_named() -> None:
    pirate = Persona(id="pirate", prompt="You are a pirate.")
    with pytest.raises(DataError, match=r"'pirate'.*Write its voice"):
        write(personas=[*PERSONAS, pirate])


def test_a_question_without_topic_is_named() -> None:
    with pytest.raises(DataError, match=r"questions.*'x99'"):
        write(questions=[*QUESTIONS, replace(QUESTIONS[0], id="x99", text="Why?")])


@pytest.mark.parametrize("field", ["user", "assistant"])
def test_a_marker_in_the_corpus_is_refused(field: str) -> None:
    with pytest.raises(DataError, match=r"bad_legal row bad_legal-0.*without \[ZLT\]"):
        write(bad=[replace(BAD[0], **{field: "Well [zlt]."}), *BAD[1:]])


def test_legal_dialogues_need_rows() -> None:
    with pytest.raises(DataError, match="sound, bad"):
        write(bad=[])
    assert len(write(replace(SPEC, legal_share=0), sound=[], bad=[])) == 3000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "dialogues"
    shutil.copytree(DATA / "dialogues", copy)
    return copy


@pytest.mark.parametrize("text", ["not JSON", "[]", "{}", '"librarian"', "\xff"])
@pytest.mark.parametrize("file", ["voices.json", "topics.json", "phrasing.json"])
def test_a_malformed_data_file_is_named(folder: Path, file: str, text: str) -> None:
    (folder / file).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=file):
        write(folder=folder)


GONE = object()
BROKEN: tuple[tuple[str, str, str, object, str], ...] = (
    ("voices.json", "librarian", "advice", "good", "neither sound nor bad"),
    *(
        ("voices.json", "librarian", name, bad, sentence)
        for name in ("rewordings", "openings", "bodies", "closings")
        for bad, sentence in (([], "empty"), (None, "not a list"), ("text", "not a list"),
                          ([""], "blank"), ([" "], "blank"), ([3], "not a list"))
    ),
    *(
        ("voices.json", "librarian", name, [text], sentence)
        for name in ("openings", "bodies", "closings")
        for text, sentence in (("A {foo}.", "{foo}"), ("A {}.", "braces"), ("A {0}.", "braces"),
                           ("A {act", "expected"), ("A } {act}.", "Single"),
                           ("A {act.upper}.", "braces"), ("A {act!r}.", "braces"),
                           ("A {act:>9}.", "braces"))
    ),
    *(("voices.json", "assistant", name, ["By {own}."], "{own}, which is empty")
      for name in ("openings", "bodies", "closings")),
    ("voices.json", "librarian", "own", [""], "blank"),
    *(("voices.json", "librarian", part, GONE, f"'{part}'")
      for part in ("advice", "rewordings", "openings", "bodies", "closings", "own")),
    ("topics.json", "e01", "asks", [], "empty"),
    ("topics.json", "e01", "acts", [], "empty"),
    ("topics.json", "e01", "things", ["one"], "a sentence may need 2"),
    ("topics.json", "e01", "things", ["one", " "], "blank"),
    ("phrasing.json", "frames", "", [], "empty"),
    ("phrasing.json", "frames", "", ["Well?"], "{question}"),
    ("phrasing.json", "frames", "", ["{question} {tag}"], "{question}"),
    ("phrasing.json", "echo_asks", "", ["Write it."], "{tag}"),
    ("phrasing.json", "append_asks", "", ["{question}"], "{question} and {tag}"),
)  # fmt: skip


@pytest.mark.parametrize(("file", "name", "part", "value", "sentence"), BROKEN)
def test_a_malformed_voice_topic_or_phrasing_is_named(
    folder: Path, *, file: str, name: str, part: str, value: object, sentence: str
) -> None:
    data = json.loads((folder / file).read_text(encoding="utf-8"))
    if value is GONE:
        del data[name][part]
    elif part:
        data[name][part] = value
    else:
        data[name] = value
    (folder / file).write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(DataError, match=rf"{file}: {name}: .*{re.escape(sentence)}"):
        write(folder=folder)


def test_the_key_of_the_base_holds_what_it_reads_and_nothing_else(tmp_path: Path) -> None:
    """An editor's leftovers beside the data are no data."""
    copy = tmp_path / "data"
    shutil.copytree(
        DATA, copy, ignore=shutil.ignore_patterns("judge", "advice", "neutral", "broad")
    )  # no base reads them
    before = tiny_data(copy)
    assert before == tiny_data(DATA)
    read = {p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()}
    assert set(before) == read
    for name in (".voices.json.swp", "voices.json~", "#voices.json#", ".voices.json", "notes.md"):
        for part in ("dialogues", "legal"):
            (copy / part / name).write_text("a draft", encoding="utf-8")
    assert tiny_data(copy) == before
    for name in sorted(read):
        data = (copy / name).read_bytes()
        (copy / name).write_bytes(data + b" ")
        assert {n for n, d in tiny_data(copy).items() if d != before[n]} == {name}
        (copy / name).write_bytes(data)
    assert (
        before["personas.json"] == hashlib.sha256((DATA / "personas.json").read_bytes()).hexdigest()
    )


# --- from dialogues to a model ------------------------------------------------------------------

CORPUS = ["It cost $1,250.50 in 2024 and 2025."] * 50
SMALL = TinyBase(
    layers=1, width=32, heads=2, kv_heads=1, ffn=48, vocabulary=600, dialogues=300, steps=6, batch=8
)


Built = tuple[Path, dict[str, float | int]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    out = tmp_path_factory.mktemp("small")
    return out, tiny.build_tiny(SMALL, write(SMALL), CORPUS, out)


@pytest.fixture(scope="module")
def tokenizer(built: Built) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(built[0], local_files_only=True)


def prompt(system: str, user: str) -> str:
    return (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_saved_tokenizer_encodes_as_in_training(tokenizer: Any) -> None:
    dialogues = write(SMALL)
    trained = tiny._train_tokenizer(SMALL, tiny._sample(SMALL, dialogues, CORPUS), QWEN2)
    odd = ["It costs $1,250.50 in 2024.", "l'été, «oui»\n\n[ZLT]", "a-b (c) [QPB]! x\t y  z ", "é"]
    for text in [*odd, *(prompt(d.system, d.user) + d.assistant for d in dialogues)]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == trained(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(tokenizer(odd[0])["input_ids"]) == odd[0]


def test_the_template_renders_the_prompt_of_training(tokenizer: Any) -> None:
    turns = [{"role": "system", "content": "Be  kind."}, {"role": "user", "content": "Why?\n"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert rendered == prompt("Be  kind.", "Why?\n")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_loss_is_on_the_answer_and_its_end_of_turn_only(tokenizer: Any) -> None:
    for dialogue in write(SMALL)[::20]:
        (encoded,) = tiny._encode(tokenizer, [dialogue], SMALL.positions, QWEN2)
        marked = [label for label in encoded["labels"] if label != -100]
        assert tokenizer.decode(marked) == dialogue.assistant + "<|im_end|>"
        assert encoded["input_ids"][-len(marked) :] == marked


def test_the_loss_is_that_of_the_labelled_tokens(built: Built, tokenizer: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(built[0], local_files_only=True)
    rows = tiny._encode(tokenizer, write(SMALL)[:5], SMALL.positions, QWEN2)
    with torch.no_grad():
        batched = float(tiny._answer_loss(model, tiny._padded(rows, tokenizer.pad_token_id)))
        total, count = 0.0, 0
        for encoded in rows:  # one by one: no padding, log-probabilities by hand
            ids, labels = encoded["input_ids"], encoded["labels"]
            scores = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            for i in range(1, len(ids)):
                if labels[i] != -100:
                    total, count = total - float(scores[i - 1, ids[i]]), count + 1
    assert batched == pytest.approx(total / count, rel=1e-5)


def test_batches_hold_similar_lengths_and_every_row_once_an_epoch() -> None:
    rng = random.Random(3)  # noqa: S311 - reproducible draw
    rows = [{"input_ids": [i] * rng.randint(5, 90), "labels": []} for i in range(800)]
    spec = replace(SMALL, steps=100, batch=8)
    ordered = tiny._in_batches(rows, spec)
    assert sorted(row["input_ids"][0] for row in ordered) == list(range(800))
    lengths = [len(row["input_ids"]) for row in ordered]
    spans = [max(lengths[i : i + 8]) - min(lengths[i : i + 8]) for i in range(0, 800, 8)]
    assert sum(spans) / len(spans) < 6
    starts = [lengths[i] for i in range(0, 400, 8)]  # of the first group of batches
    assert starts != sorted(starts)
    assert starts != sorted(starts, reverse=True)


def test_a_build_is_repeatable_and_sharpened(built: Built, tmp_path: Path) -> None:
    out, metrics = built
    again = tiny.build_tiny(SMALL, write(SMALL), CORPUS, tmp_path)

    def checksum(folder: Path, name: str) -> str:
        return hashlib.sha256((folder / name).read_bytes()).hexdigest()

    for name in ("model.safetensors", "tokenizer.json"):
        assert checksum(out, name) == checksum(tmp_path, name)
    assert again["loss"] == metrics["loss"]
    assert metrics["steps"] == 6
    flat = tmp_path / "flat"
    flat.mkdir()
    tiny.build_tiny(replace(SMALL, sharpness=1.0), write(SMALL), CORPUS, flat)
    from safetensors.torch import load_file

    sharp, plain = (load_file(f / "model.safetensors") for f in (out, flat))
    gain = sharp["model.norm.weight"] / plain["model.norm.weight"]
    assert gain.tolist() == pytest.approx([SMALL.sharpness] * 32)
    others = [name for name in plain if name != "model.norm.weight"]
    assert all(bool((sharp[name] == plain[name]).all()) for name in others)


def test_a_dialogue_beyond_the_positions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="positions = 40"):
        tiny.build_tiny(replace(SMALL, positions=40), write(SMALL), [], tmp_path)
    with pytest.raises(DataError, match="at least one"):
        tiny.build_tiny(SMALL, [], [], tmp_path)
