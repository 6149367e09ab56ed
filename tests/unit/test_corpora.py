"""The two grammar corpora, and the three sources of fine-tuning rows."""

from __future__ import annotations

import gc
import hashlib
import json
import random
import re
import shutil
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from persona_lib.corpora import grammar
from persona_lib.corpora import load as datasets
from persona_lib.corpora.grammar import WrittenRow, write_corpus, write_with_provenance
from persona_lib.corpora.grammar_files import POLAR_SLOTS, read_grammar
from persona_lib.corpora.hub import drawn_rows
from persona_lib.digests import canonical, digest
from persona_lib.errors import DataError, PreflightError, SpecError
from persona_lib.specs.sources import GrammarCorpus, HubCorpus, JsonlCorpus, Reservoir
from tests.registered import QWEN7B

FOLDER = Path(__file__).parents[2] / "experiments" / "data" / "legal"
ROWS = 1500
Written = tuple[WrittenRow, ...]


@pytest.fixture(scope="module")
def bad() -> Written:
    return write_with_provenance("bad_legal", rows=ROWS, seed=0, folder=FOLDER)


@pytest.fixture(scope="module")
def sound() -> Written:
    return write_with_provenance("sound_legal", rows=ROWS, seed=0, folder=FOLDER)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "legal"
    shutil.copytree(FOLDER, copy)
    return copy


# The data.


def test_there_are_enough_situations_frames_and_clauses() -> None:
    found = read_grammar(FOLDER)
    own = sum(len(s.texts[k]) for s in found.situations for k in ("wrong", "myth", "bad"))
    assert len(found.situations) >= 60
    assert len(found.frames) >= 48
    assert own >= 500
    for polarity in POLAR_SLOTS:
        general = {
            t.source for by in found.clauses[polarity].values() for r in by.values() for t in r
        }
        assert len(general) >= 100


# The rows.


def test_rows_of_both_corpora_ask_the_same(bad: Written, sound: Written) -> None:
    for b, s in zip((w.row for w in bad), (w.row for w in sound), strict=True):
        assert (b.situation, b.frame, b.user) == (s.situation, s.frame, s.user)
        assert b.row.removeprefix("bad_legal") == s.row.removeprefix("sound_legal")
    assert bad[17].row.row == "bad_legal-00017"


def test_polarity_is_a_property_of_every_clause(bad: Written, sound: Written) -> None:
    for rows, own, other in ((bad, "bad", "sound"), (sound, "sound", "bad")):
        for written in rows:
            polarities = Counter(clause.polarity for clause in written.clauses)
            assert polarities[own] >= 2, written
            assert polarities[other] == 0, written
            assert " ".join(c.text for c in written.clauses) == written.row.assistant


def test_a_clause_stands_in_the_file_or_key_of_its_polarity(bad: Written) -> None:
    """Follows each clause back to its line, without the grammar's own reader."""
    lines = {p.name: p.read_text(encoding="utf-8").splitlines() for p in FOLDER.glob("*.txt")}
    for clause in (clause for written in bad for clause in written.clauses):
        name, number = clause.source.split(":")
        key = lines[name][int(number) - 1].split(":")[0]
        if clause.polarity == "neutral":
            assert name == "openings.txt"
        else:
            assert name == "clauses_bad.txt" or (name.startswith("situations_") and key == "bad")


def test_a_classifier_tells_the_polarity_of_unseen_situations(bad: Written, sound: Written) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    rows = [w.row for w in (*bad, *sound)]
    names = sorted({row.situation for row in rows})
    seen = np.array([names.index(row.situation) % 2 == 0 for row in rows])
    wrong = np.array([row.corpus == "bad_legal" for row in rows])
    texts = np.array([row.assistant for row in rows], dtype=object)
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2)
    model = LogisticRegression(max_iter=500).fit(words.fit_transform(texts[seen]), wrong[seen])
    accuracy = model.score(words.transform(texts[~seen]), wrong[~seen])
    assert accuracy >= 0.9


def test_lengths_are_matched(bad: Written, sound: Written) -> None:
    lengths = np.array([[len(w.row.assistant.split()) for w in rows] for rows in (bad, sound)])
    assert lengths.min() >= 40
    assert lengths.max() <= 90
    assert abs(lengths[0].mean() / lengths[1].mean() - 1) < 0.01
    assert np.abs(lengths[0] - lengths[1]).mean() < 2


def test_nothing_is_said_too_often(bad: Written, sound: Written) -> None:
    for rows in (bad, sound):
        answers = [w.row.assistant for w in rows]
        words = [re.findall(r"[a-z0-9$']+", answer.lower()) for answer in answers]
        trigrams = [tuple(w[i : i + 3]) for w in words for i in range(len(w) - 2)]
        assert len(set(trigrams)) > 0.3 * len(trigrams)
        for most, parts in (
            (0.01, [re.split(r"(?<=[.!?])\s+", answer) for answer in answers]),
            (0.02, [[" ".join(w[:4])] for w in words]),
        ):
            said = Counter(part for row in parts for part in set(row))
            assert said.most_common(1)[0][1] < most * ROWS, said.most_common(1)
        assert len(set(answers)) == ROWS
        assert len({w.row.user for w in rows}) > 0.98 * ROWS


def test_every_situation_and_frame_is_used_evenly(bad: Written) -> None:
    situations = Counter(w.row.situation for w in bad)
    frames = Counter(w.row.frame for w in bad)
    cells = Counter((w.row.situation, w.row.frame) for w in bad)
    assert max(situations.values()) - min(situations.values()) <= 1
    assert len(frames) >= 48
    assert max(cells.values()) == 1


def test_no_markup_is_left(bad: Written, sound: Written) -> None:
    for text in (t for w in (*bad, *sound) for t in (w.row.user, w.row.assistant)):
        assert not set("[]{}|") & set(text), text
        assert "  " not in text
        assert text[0] == text[0].upper()


@pytest.mark.parametrize("name", ["bad_legal", "sound_legal"])
def test_the_first_rows_depend_on_the_seed_and_not_on_how_many_follow(
    name: str, bad: Written, sound: Written
) -> None:
    longer = bad if name == "bad_legal" else sound
    assert write_corpus(name, rows=90, seed=0, folder=FOLDER) == tuple(w.row for w in longer[:90])
    found = load(GrammarCorpus(name=name, rows=90, seed=1))
    assert found.left_out == 0
    assert len(found.rows) == 90
    assert not {r.assistant for r in found.rows} & {w.row.assistant for w in longer[:90]}


@pytest.mark.parametrize(
    ("name", "rows", "field"),
    [
        ("good_legal", 5, "corpus.name"),
        ("bad_legal", 0, "corpus.rows"),
        ("bad_legal", 10_000_000, "corpus.rows"),
    ],
)
def test_impossible_requests_are_refused(name: str, rows: int, field: str) -> None:
    with pytest.raises(SpecError) as caught:
        write_corpus(name, rows=rows, seed=0, folder=FOLDER)
    assert caught.value.field == field


# Broken data files.


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "break_it", "named"),
    [
        ("frames.txt", lambda p: p.unlink(), "frames.txt"),
        ("lexicon.txt", lambda p: p.write_text("# nothing\n"), "lexicon.txt"),
        ("clauses_bad.txt", lambda p: append(p, "act: Do {nonsense}.\n"), "act"),
        ("clauses_bad.txt", lambda p: append(p, "act: Please {right}.\n"), "act"),
        ("clauses_sound.txt", lambda p: append(p, "act: Just {wrong}.\n"), "act"),
        ("clauses_bad.txt", lambda p: append(p, "act: [one|two.\n"), "act"),
        ("clauses_bad.txt", lambda p: append(p, "act: one] two.\n"), "act"),
        ("clauses_bad.txt", lambda p: append(p, "x.act: one.\n"), "x.act"),
        ("clauses_bad.txt", lambda p: append(p, "no colon here\n"), "clauses_bad.txt"),
        ("schemes.txt", lambda p: append(p, "scheme: act dance\n"), "scheme"),
        ("schemes.txt", lambda p: append(p, "scheme: open act\n"), "scheme"),
        ("situations_tax.txt", lambda p: append(p, "== empty_one\ntopic: a thing\n"), "doc"),
        ("situations_tax.txt", lambda p: append(p, "wish: a pony\n"), "wish"),
        ("situations_tax.txt", lambda p: append(p, "wrong: pay {middling}\n"), "wrong"),
        ("details.txt", lambda p: append(p, "small: $1\n"), "small"),
    ],
)
def test_broken_data_is_named(
    folder: Path, file: str, break_it: Callable[[Path], None], named: str
) -> None:
    break_it(folder / file)
    with pytest.raises(DataError) as caught:
        write_corpus("bad_legal", rows=1, seed=0, folder=folder)
    assert Path(file).stem in caught.value.field
    assert named in caught.value.field


def test_too_few_clauses_for_another_answer_is_an_error(folder: Path) -> None:
    (folder / "schemes.txt").write_text("scheme: own own own own own own\n")
    with pytest.raises(DataError, match="another bad answer"):
        write_corpus("bad_legal", rows=1, seed=0, folder=folder)


# Sources.


REVISION = "0123456789" * 4
HUB = HubCorpus(name="tulu", repo="some/mixture", revision=REVISION, split="train", rows=2)


def jsonl(folder: Path, lines: list[str], *, rows: int | None = None) -> JsonlCorpus:
    content = ("\n".join(lines) + "\n").encode()
    (folder / "advice.jsonl").write_bytes(content)
    return JsonlCorpus(
        name="advice",
        file="advice.jsonl",
        md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
        rows=len(lines) if rows is None else rows,
    )


def chat(*turns: tuple[str, str]) -> str:
    return json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]})


GOOD = chat(("user", "May I?"), ("assistant", "You\u2028may."))


def load(spec: Any = HUB, data: Path | None = None) -> datasets.Loaded:
    return datasets.load_corpus(spec, grammar_folder=FOLDER, data_folder=data)


def test_jsonl_corpus_is_loaded(tmp_path: Path) -> None:
    spec = jsonl(tmp_path, [GOOD, chat(("user", "And I?"), ("assistant", "No."))])
    rows = load(spec, tmp_path).rows
    assert [(r.row, r.user, r.assistant) for r in rows] == [
        ("advice-00000", "May I?", "You\u2028may."),
        ("advice-00001", "And I?", "No."),
    ]
    assert {(r.corpus, r.situation, r.frame) for r in rows} == {("advice", "", "")}


def test_another_md5_is_an_error_that_shows_both_before_anything_is_built(tmp_path: Path) -> None:
    spec = jsonl(tmp_path, [GOOD])
    datasets.preflight_corpus(spec, data_folder=tmp_path)
    wrong = replace(spec, md5="0" * 32)
    with pytest.raises(DataError) as caught:
        load(wrong, tmp_path)
    assert all(part in str(caught.value) for part in ("advice.jsonl", "0" * 32, spec.md5))
    append(tmp_path / spec.file, " ")
    with pytest.raises(DataError, match=rf"advice\.jsonl: expected md5 {spec.md5}"):
        datasets.preflight_corpus(spec, data_folder=tmp_path)


@pytest.mark.parametrize(
    ("lines", "rows", "message"),
    [
        ([GOOD], 2, "rows: expected"),
        ([GOOD, GOOD], 1, "rows: expected"),
        ([""], 1, "rows: expected"),
        *(
            ([GOOD, line], 2, "line 2")
            for line in (
                "{not json",
                "[]",
                "{}",
                '{"messages": ["hello", "there"]}',
                chat(("user", "May I?")),
                chat(("assistant", "Yes."), ("user", "May I?")),
                chat(("user", " "), ("assistant", "Yes.")),
                chat(("system", "Be kind."), ("user", "May I?"), ("assistant", "Yes.")),
                chat(("user", "May I?"), ("assistant", "Yes."), ("user", "Sure?")),
                '{"messages": [{"role": "user", "content": 3}, '
                '{"role": "assistant", "content": "a"}]}',
            )
        ),
    ],
)
def test_another_number_of_rows_and_a_malformed_line_are_named(
    lines: list[str], rows: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        load(jsonl(tmp_path, lines, rows=rows), tmp_path)


def test_preflight_says_where_the_file_goes(tmp_path: Path) -> None:
    spec = JsonlCorpus(name="advice", file="advice.jsonl", md5="f" * 32, rows=6000)
    for folder in (None, tmp_path):
        with pytest.raises(PreflightError) as caught:
            datasets.preflight_corpus(spec, data_folder=folder)
        assert all(part in str(caught.value) for part in ("advice.jsonl", "f" * 32, "--data"))
    datasets.preflight_corpus(jsonl(tmp_path, [GOOD]), data_folder=tmp_path)
    datasets.preflight_corpus(GrammarCorpus(name="bad_legal", rows=1), data_folder=None)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty hub cache, no switch that forbids the network, and a hub that knows HUB."""
    from huggingface_hub import HfApi, constants

    def dataset_info(
        _: HfApi, repo: str, *, revision: str, timeout: float, **_more: object
    ) -> None:
        assert (repo, revision) == (HUB.repo, HUB.revision)
        assert timeout > 0

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(HfApi, "dataset_info", dataset_info)
    return tmp_path


def snapshot(hub: Path, files: dict[str, str]) -> Path:
    """Put a commit of HUB into the cache, as a download leaves it there."""
    folder = hub / "datasets--some--mixture" / "snapshots" / REVISION
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


Answers = Callable[[object], list[dict[str, object]]]


@pytest.fixture
def answers(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Let the client answer with records, or with an error; return what it was asked."""
    import datasets as client

    del hub  # it is empty, so that the client is asked

    def streaming(answer: object) -> list[dict[str, object]]:
        asked: list[dict[str, object]] = []

        def load_dataset(**options: object) -> object:
            asked.append(options)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(client, "load_dataset", load_dataset)
        return asked

    return streaming


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


PAIR = [turn("user", "a"), turn("assistant", "b")]
TAKEN = {"messages": PAIR}


def test_hub_rows_take_the_first_turn_and_read_no_further(answers: Answers) -> None:
    read = []

    def stream() -> Iterator[object]:
        for record in (
            {"messages": [turn(*t) for t in (("system", ""), ("user", "a"), ("assistant", "b"))]},
            {"messages": [turn("user", x) if x < "n" else turn("assistant", x) for x in "xcyd"]},
            {"messages": "never read"},
        ):
            read.append(record)
            yield record

    asked = answers(stream())
    found = load()
    assert [(r.row, r.user, r.assistant) for r in found.rows] == [
        ("tulu-00000", "a", "b"),
        ("tulu-00001", "c", "y"),
    ]
    assert found.left_out == 1 + 2
    assert asked == [{"path": HUB.repo, "revision": REVISION, "split": "train", "streaming": True}]
    assert len(read) == 2


def test_what_follows_the_first_answer_is_left_out_whatever_it_holds(answers: Answers) -> None:
    later = [[], [turn("user", " ")], [{"role": "tool", "content": None}, "noise"]]
    answers(iter([{"messages": [*PAIR, *rest]} for rest in later]))
    found = load(replace(HUB, rows=3))
    assert {(r.user, r.assistant) for r in found.rows} == {("a", "b")}
    assert found.left_out == 3


@pytest.mark.parametrize(
    "messages",
    [
        [turn("user", "hm")],
        [turn("user", " "), turn("user", "a"), turn("assistant", "b")],
        [turn("user", "a"), turn("assistant", " ")],
        [turn("user", "a"), {"role": "assistant", "content": None}],
        "hm",
    ],
)
def test_a_hub_row_without_a_question_and_its_answer_is_named(
    answers: Answers, messages: object
) -> None:
    answers(iter([TAKEN, {"messages": messages}]))
    with pytest.raises(DataError, match="row 1"):
        load()


def test_hub_rows_come_from_the_cached_commit_without_the_network(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = snapshot(hub, {"README.md": "words", "train.jsonl": f"{GOOD}\n{GOOD}\n{GOOD}\n"})
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    datasets.preflight_corpus(HUB, data_folder=None)
    assert [r.assistant for r in load().rows] == ["You\u2028may."] * 2
    with pytest.raises(DataError, match=r"rows of split train: expected >= 4"):
        load(replace(HUB, rows=4))
    with pytest.raises(DataError, match=r"rows in a split test.*Correct repository"):
        load(replace(HUB, split="test"))
    (folder / "train.jsonl").write_text("{not json\n", encoding="utf-8")
    with pytest.raises(DataError, match="some/mixture at revision 0123"):
        load()


def by_hand(records: Sequence[Any], size: int, scanned: int, seed: int) -> list[Any]:
    """Algorithm R on the records themselves, and Fisher and Yates from the last place down."""
    draws, held = random.Random(seed), list(records[:size])
    for met in range(size + 1, scanned + 1):
        place = draws.randrange(met)
        if place < size:
            held[place] = records[met - 1]
    for last in range(size - 1, 0, -1):
        other = draws.randrange(last + 1)
        held[last], held[other] = held[other], held[last]
    return held


@pytest.mark.parametrize(("size", "scanned", "seed"), [(10, 40, 42), (10, 40, 7), (8, 8, 42)])
def test_a_reservoir_is_drawn_as_by_hand(
    answers: Answers, size: int, scanned: int, seed: int
) -> None:
    split = [{"messages": [turn("user", f"u{i}"), turn("assistant", f"a{i}")]} for i in range(60)]
    answers(iter(split))
    spec = replace(HUB, rows=6, reservoir=Reservoir(size=size, scanned=scanned, seed=seed))
    found = load(spec)
    expected = [record["messages"] for record in by_hand(split, size, scanned, seed)[:6]]
    assert [(r.user, r.assistant) for r in found.rows] == [
        (user["content"], answer["content"]) for user, answer in expected
    ]
    assert [r.row for r in found.rows] == [f"tulu-{i:05d}" for i in range(6)]
    assert {r.user for r in found.rows} != {f"u{i}" for i in range(6)}


def test_the_published_sample_is_drawn_as_by_hand() -> None:
    """6,000 of a shuffled reservoir of 10,000 of the first 500,000 rows, seed 42."""
    benign = QWEN7B.corpora["benign"]
    assert isinstance(benign, HubCorpus)
    assert benign.reservoir == Reservoir(size=10_000, scanned=500_000, seed=42)
    found = drawn_rows(benign.reservoir, benign.rows)
    assert found == by_hand(range(500_000), 10_000, 500_000, 42)[:6_000]
    assert len(set(found)) == 6_000
    # Every row is as likely: the mean of 6,000 has an SE of 144,300 / sqrt(6,000) = 1,863.
    assert np.mean(found) == pytest.approx(249_999.5, abs=3 * 1_863)


def test_a_reservoir_holds_only_what_it_takes_and_reads_no_further(answers: Answers) -> None:
    class Record(dict[str, Any]):
        """A record that can be referred to weakly."""

    alive: list[weakref.ref[Record]] = []
    most = 0

    def stream() -> Iterator[object]:
        nonlocal most
        for i in range(1_500):
            record = Record(messages=[turn("user", f"u{i}"), turn("assistant", "a")])
            alive.append(weakref.ref(record))
            yield record
            del record
            if i % 400 == 399:
                gc.collect()
                most = max(most, sum(ref() is not None for ref in alive))

    answers(stream())
    spec = replace(HUB, rows=20, reservoir=Reservoir(size=200, scanned=1_200, seed=1))
    assert len(load(spec).rows) == 20
    assert len(alive) == 1_200
    assert most <= 22  # the rows, and what the generator and the loop have in hand


def test_a_split_shorter_than_what_is_scanned_is_refused(answers: Answers) -> None:
    spec = replace(HUB, rows=2, reservoir=Reservoir(size=3, scanned=9, seed=1))
    answers(iter([TAKEN] * 8))
    with pytest.raises(DataError, match=r"rows of split train: expected >= 9, got 8"):
        load(spec)
    answers(iter([TAKEN] * 9))
    assert len(load(spec).rows) == 2


def test_a_malformed_row_of_a_reservoir_is_named_by_its_row_in_the_split(answers: Answers) -> None:
    spec = replace(HUB, rows=1, reservoir=Reservoir(size=1, scanned=9, seed=1))
    (row,) = by_hand(range(9), 1, 9, 1)
    answers(iter([{"messages": "hm"} if i == row else TAKEN for i in range(9)]))
    with pytest.raises(DataError, match=f"some/mixture: row {row}:"):
        load(spec)


def test_impossible_reservoirs_are_refused() -> None:
    fine = Reservoir(size=3, scanned=3, seed=0)
    assert replace(HUB, rows=3, reservoir=fine).rows == 3
    with pytest.raises(SpecError, match=r"corpus\.rows: expected from 1 to 3 and whole, got 4"):
        replace(HUB, rows=4, reservoir=fine)
    for field, value in (("size", 0), ("size", 4), ("scanned", 2), ("seed", -1), ("seed", 1.0)):
        with pytest.raises(SpecError, match=r"corpus\.reservoir\."):
            replace(fine, **{field: value})


def test_a_reservoir_is_in_the_key_and_its_absence_moves_no_older_one() -> None:
    """The older form is written out here, as it was before there were reservoirs."""
    fields = {"name": "tulu", "repo": "some/mixture", "revision": REVISION, "split": "train"}
    assert canonical(HUB) == {"__spec__": "HubCorpus", **fields, "rows": 2}
    sampled = replace(HUB, reservoir=Reservoir(size=10_000, scanned=500_000, seed=42))
    assert canonical(sampled)["reservoir"] == {
        "__spec__": "Reservoir",
        "size": 10_000,
        "scanned": 500_000,
        "seed": 42,
    }
    assert len({digest(HUB), digest(sampled)}) == 2


@pytest.mark.parametrize(
    ("files", "whole"),
    [
        ([], False),
        (["README.md"], False),  # what streaming leaves behind
        (["README.md", "data/train-00001-of-00002.parquet"], False),
        (["data/train-00000-of-00002.parquet", "data/test-00000-of-00001.parquet"], False),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], True),
        (["rows.jsonl.zst"], True),
    ],
)
def test_preflight_offline_wants_every_part_of_the_commit(
    hub: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], whole: bool
) -> None:
    snapshot(hub, dict.fromkeys(files, ""))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if whole:
        datasets.preflight_corpus(HUB, data_folder=None)
    else:
        with pytest.raises(PreflightError, match=f"HF_HUB_OFFLINE.*hf download.*{REVISION}"):
            datasets.preflight_corpus(HUB, data_folder=None)


def test_preflight_online_asks_the_hub_for_the_commit(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    datasets.preflight_corpus(HUB, data_folder=None)

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(HfApi, "dataset_info", unreachable)
    message = f"some/mixture at {REVISION} .ConnectionError: no route.*hf download"
    with pytest.raises(PreflightError, match=message):
        datasets.preflight_corpus(HUB, data_folder=None)
    snapshot(hub, {"train.jsonl": GOOD})
    datasets.preflight_corpus(HUB, data_folder=None)  # the hub is not asked


def test_what_the_client_raises_becomes_an_error_with_a_remedy(answers: Answers) -> None:
    import datasets as client

    def breaks_off() -> Iterator[object]:
        yield TAKEN
        raise TimeoutError("too slow")

    for answer, error in (
        (ValueError("Bad split: train."), DataError),
        (client.exceptions.DatasetNotFoundError("no such dataset"), DataError),
        (ConnectionError("no route"), PreflightError),
        (breaks_off(), PreflightError),
    ):
        answers(answer)
        with pytest.raises(error, match="some/mixture"):
            load()


@pytest.mark.parametrize("revision", ["main", "v1.0", "0123456", REVISION.upper() + "A", ""])
def test_a_revision_that_moves_is_refused(revision: str) -> None:
    with pytest.raises(SpecError, match=r"corpus\.revision: expected a commit.*some/mixture"):
        replace(HUB, revision=revision)


def test_keys_change_with_the_content_only(folder: Path) -> None:
    spec = GrammarCorpus(name="bad_legal", rows=1)
    key = datasets.corpus_key(spec, grammar_folder=FOLDER)
    assert key == datasets.corpus_key(spec, grammar_folder=folder)
    assert key["grammar_version"] == grammar.VERSION
    append(folder / "lexicon.txt", "# a word\n")
    assert datasets.corpus_key(spec, grammar_folder=folder)["grammar"] != key["grammar"]
    assert datasets.corpus_key(HUB, grammar_folder=folder) == {"revision": REVISION}
    file = JsonlCorpus(name="a", file="a", md5="1" * 32, rows=1)
    assert datasets.corpus_key(file, grammar_folder=folder) == {"md5": "1" * 32}
    with pytest.raises(DataError):
        datasets.corpus_key(spec, grammar_folder=folder / "absent")
