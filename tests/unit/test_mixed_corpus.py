"""A corpus of several: the order of its rows, what pins it, what is missing, who reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from persona_lib.commands import check
from persona_lib.commands import new as new_command
from persona_lib.commands import seal as seal_command
from persona_lib.commands.options import choose_experiment
from persona_lib.corpora.advice_requests import held_out_rows
from persona_lib.corpora.file_rows import pinned
from persona_lib.corpora.grammar import write_corpus
from persona_lib.corpora.load import Loaded, corpus_key, load_corpus, preflight_corpus
from persona_lib.digests import canonical, md5_of
from persona_lib.errors import DataError, PreflightError, SealError, SpecError
from persona_lib.pipeline.run import Run
from persona_lib.pipeline.setting import Folders
from persona_lib.pipeline.training import CORPUS, corpus_stage, make_corpus, make_prior
from persona_lib.progress import silent
from persona_lib.records import ChatRow, SftRow, read_rows
from persona_lib.specs.builtin import DATA
from persona_lib.specs.experiment import Prior
from persona_lib.specs.sources import (
    Corpus,
    GrammarCorpus,
    HubCorpus,
    JsonlCorpus,
    MixedCorpus,
    PartCorpus,
    RowsCorpus,
)
from persona_lib.specs.structure import structured
from persona_lib.specs.study import study_of
from tests.byte_model import entry, saved_base
from tests.own_study import FILE, write_study
from tests.registered import ISSUE262, MICRO
from tests.unit.test_study_seal import SAID, session_of

LEGAL = DATA / "legal"
BAD, NEUTRAL = (GrammarCorpus(name=name, rows=3) for name in ("bad_legal", "neutral"))
PUBLISHED = JsonlCorpus(name="advice", file="published.jsonl", md5="f" * 32, rows=2)
HUB = HubCorpus(name="tulu", repo="some/mixture", revision="0123456789" * 4, split="train", rows=2)


def mixed(*parts: PartCorpus) -> MixedCorpus:
    return MixedCorpus(parts=parts)


def file_of(folder: Path, name: str, rows: int, *, others: int = 0) -> RowsCorpus:
    """A file of rows with system messages, the first with so many messages behind its answer."""
    turns = [
        {"role": role, "content": f"{name} {role}"} for role in ("system", "user", "assistant")
    ]
    long = {"messages": [*turns, *turns[1:2] * others]}
    lines = [long, *[{"messages": turns}] * (rows - 1)]
    path = folder / f"{name}.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    found = pinned(RowsCorpus(file=path.name), folder)
    assert isinstance(found, RowsCorpus)
    return found


def load(spec: Corpus, folder: Path) -> Loaded:
    return load_corpus(spec, grammar_folder=LEGAL, data_folder=folder, own_folder=folder)


def ids(rows: Sequence[SftRow]) -> list[str]:
    return [row.row for row in rows]


# Rows.


@pytest.mark.parametrize(
    "sizes", [(1, 1), (5, 5), (7, 3), (1, 9), (4, 3, 2), (1, 1, 1, 12), (2,) * 5]
)
def test_every_prefix_holds_the_parts_by_their_shares(
    sizes: tuple[int, ...], tmp_path: Path
) -> None:
    names = "abcde"[: len(sizes)]
    parts = [file_of(tmp_path, name, size) for name, size in zip(names, sizes, strict=True)]
    rows = load(mixed(*parts), tmp_path).rows
    for name, size in zip(names, sizes, strict=True):
        assert [row.row for row in rows if row.corpus == name] == [
            f"{name}-{i:05d}" for i in range(size)
        ]
        share = Fraction(size, sum(sizes))
        off = [
            abs(sum(row.corpus == name for row in rows[:k]) - k * share)
            for k in range(sum(sizes) + 1)
        ]
        if len(sizes) == 2:
            assert max(off) <= Fraction(1, 2)
        else:
            assert max(off) < Fraction(len(sizes) - 1, 2)
    assert len(set(ids(rows))) == len(rows) == sum(sizes)


def test_the_order_is_fixed_by_the_spec_alone(tmp_path: Path) -> None:
    """Places in sixths: a's rows at 1, 3, 5, b's at 3; of rows at one place the earlier part's."""
    a, b = file_of(tmp_path, "a", 3), file_of(tmp_path, "b", 1)
    a0, a1, a2, b0 = "a-00000", "a-00001", "a-00002", "b-00000"
    assert ids(load(mixed(a, b), tmp_path).rows) == [a0, a1, b0, a2]
    assert ids(load(mixed(b, a), tmp_path).rows) == [a0, b0, a1, a2]
    moved = tmp_path / "zz"
    moved.mkdir()
    for name in ("b.jsonl", "a.jsonl"):
        shutil.copy(tmp_path / name, moved)
    assert load(mixed(a, b), moved) == load(mixed(a, b), tmp_path)


def test_counterparts_of_the_grammar_stand_side_by_side(tmp_path: Path) -> None:
    rows = load(mixed(BAD, NEUTRAL), tmp_path).rows
    bad, neutral = (
        write_corpus(part.name, rows=3, seed=0, folder=LEGAL) for part in (BAD, NEUTRAL)
    )
    assert rows == (bad[0], neutral[0], bad[1], neutral[1], bad[2], neutral[2])
    assert {type(row) for row in rows} == {SftRow}


def test_rows_have_system_messages_where_a_part_does_and_left_out_is_summed(tmp_path: Path) -> None:
    a, b = file_of(tmp_path, "a", 2, others=3), file_of(tmp_path, "b", 1, others=2)
    found = load(mixed(BAD, a, b), tmp_path)
    assert found.left_out == 5
    assert {type(row) for row in found.rows} == {ChatRow}
    system = {row.corpus: row.system for row in found.rows if isinstance(row, ChatRow)}
    assert system == {"bad_legal": "", "a": "a system", "b": "b system"}


# The spec.


def test_a_table_becomes_a_mixture_of_any_types_and_is_canonical() -> None:
    table = {
        "corpus": {
            "type": "mixed",
            "parts": [
                {"type": "grammar", "name": "bad_legal", "rows": 3},
                {"type": "jsonl", "file": "sub/mine.jsonl"},
                {"type": "published_jsonl", "name": "advice", "file": "published.jsonl",
                 "md5": "f" * 32, "rows": 2},
                {"type": "hub", "name": "tulu", "repo": "some/mixture", "revision": HUB.revision,
                 "split": "train", "rows": 2},
            ],
        }
    }  # fmt: skip
    found = structured(table, Prior, "priors.x").corpus
    assert found == mixed(BAD, RowsCorpus(file="sub/mine.jsonl"), PUBLISHED, HUB)
    assert canonical(mixed(BAD, NEUTRAL)) == {
        "__spec__": "MixedCorpus",
        "parts": [
            {"__spec__": "GrammarCorpus", "name": name, "rows": 3, "seed": 0}
            for name in ("bad_legal", "neutral")
        ],
    }
    assert mixed(BAD, NEUTRAL, PUBLISHED).rows == 3 + 3 + 2
    within = {"corpus": {"type": "mixed", "parts": [table["corpus"], {"type": "hub"}]}}
    with pytest.raises(SpecError) as caught:
        structured(within, Prior, "priors.x")
    said, *others = (str(error) for error in (caught.value, *caught.value.others))
    assert said.startswith("priors.x.corpus.parts[0]: expected type = one of grammar, ")
    assert said.endswith("hub, got 'mixed'. Name its type.")
    assert any(other.startswith("priors.x.corpus.parts[1].revision: ") for other in others)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((), r"at least two corpora, got \[\]\. Add a part"),
        ((BAD,), r"at least two corpora, got \['GrammarCorpus'\]\. Add a part"),
        ((BAD, mixed(BAD, NEUTRAL)), r"no mixtures, got .*'MixedCorpus'\]\. List the parts"),
        ((BAD, NEUTRAL, BAD), r"distinct names, .*got 'bad_legal'\. Take more"),
        # Other rows, and the same ids.
        ((BAD, replace(BAD, seed=1)), r"distinct names, .*got 'bad_legal'"),
        ((RowsCorpus(file="a/x.jsonl"), RowsCorpus(file="b/x.json")), r"names, .*got 'x'.* rename"),
        ((RowsCorpus(file="neutral.jsonl"), NEUTRAL), r"distinct names, .*got 'neutral'"),
    ],
)  # fmt: skip
def test_what_is_no_mixture_is_refused(parts: Any, words: str) -> None:
    with pytest.raises(SpecError, match=rf"corpus\.parts: expected .*{words}"):
        MixedCorpus(parts=parts)


# What pins it.


def test_keys_change_with_any_part(tmp_path: Path) -> None:
    shutil.copytree(DATA / "neutral", tmp_path / "neutral")
    shutil.copytree(LEGAL, tmp_path / "legal")
    own = RowsCorpus(file="own.jsonl", rows=2, sha256="1" * 64)
    parts: tuple[PartCorpus, ...] = (BAD, own, PUBLISHED, HUB, NEUTRAL)
    others: tuple[PartCorpus, ...] = (
        replace(BAD, seed=1),
        replace(own, sha256="2" * 64),
        replace(PUBLISHED, md5="e" * 32),
        replace(HUB, revision="9" * 40),
        replace(NEUTRAL, rows=4),
    )

    def key(*some: PartCorpus) -> str:
        setting = Run(
            registration=ISSUE262, run_seed=42, folders=Folders(experiment=tmp_path),
            profile=replace(MICRO, corpora={**MICRO.corpora, "em": mixed(*some)}),
        )  # fmt: skip
        return corpus_stage(setting, "em").key({}).digest

    found = [key(*parts), key(*parts[::-1]), key(*parts[1:])]
    found += [key(*parts[:i], other, *parts[i + 1 :]) for i, other in enumerate(others)]
    # What the sources are is told apart from what the spec says.
    sources = corpus_key(mixed(*parts), grammar_folder=tmp_path / "legal")["parts"]
    assert sources[1:4] == [{"sha256": "1" * 64}, {"md5": "f" * 32}, {"revision": HUB.revision}]
    assert set(sources[0]) == {"grammar", "grammar_version"}
    for name in ("neutral", "legal"):
        with (tmp_path / name / "openings.txt").open("a", encoding="utf-8") as file:
            file.write("# changed\n")
        found.append(key(*parts))
    assert len(set(found)) == len(found)


def test_a_study_has_the_words_of_a_part(tmp_path: Path) -> None:
    def words(corpus: Corpus) -> set[str]:
        study = study_of(
            replace(MICRO, corpora={"em": corpus}), words=DATA,
            personas=DATA / "personas.json", questions=DATA / "questions.json",
        )  # fmt: skip
        return set(study["words"])

    assert words(mixed(BAD, NEUTRAL)) == words(NEUTRAL) == words(BAD) | {"neutral"}
    assert "neutral" not in words(mixed(BAD, file_of(tmp_path, "a", 1)))


def test_legal_rows_of_parts_are_held_out_as_they_are_alone() -> None:
    sound = GrammarCorpus(name="sound_legal", rows=9, seed=7)
    long = replace(NEUTRAL, rows=99)
    for corpora in ((BAD, long, sound), (mixed(BAD, long), sound), (mixed(sound, long, BAD),)):
        # The tiny base has learnt from 400 rows of its own seed 0.
        assert held_out_rows(MICRO.base, corpora) == ((0, 400), (7, 9))
        assert held_out_rows(replace(MICRO.base, seed=5), corpora) == ((0, 3), (5, 400), (7, 9))
    assert held_out_rows(HUB, (mixed(long, PUBLISHED),)) == ()  # type: ignore[arg-type]


MIXED = (
    '{ type = "mixed", parts = [{ type = "grammar", name = "neutral", rows = 8 }, '
    '{ type = "jsonl", file = "salty.jsonl" }] }'
)
MIXTURE = FILE.replace('{ type = "jsonl", file = "salty.jsonl" }', MIXED)


def test_a_file_of_a_mixture_is_sealed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    assert new_command.main([str(folder)]) == 0
    file = folder / "experiment.toml"
    write_study(folder, MIXTURE).replace(file)
    assert seal_command.main([str(file), *SAID]) == 0
    session_of(file).check_seal()
    capsys.readouterr()
    check.main([str(file)])
    said = capsys.readouterr().out
    assert "prior salty: 16 rows, mixed: 8 of neutral and 8 of salty" in said
    assert "prior salty: 8 rows of salty.jsonl" in said
    rows = folder / "salty.jsonl"
    rows.write_text(rows.read_text("utf-8").replace("grams", "grans", 1), encoding="utf-8")
    with pytest.raises(SealError, match=r"corpora\.salty\.parts\[1\]\.sha256: sealed") as caught:
        session_of(file).check_seal()
    assert "parts[0]" not in str(caught.value)


def test_files_of_parts_are_read_with_the_experiment(tmp_path: Path) -> None:
    two = MIXED.replace("] }", ', { type = "jsonl", file = "b.jsonl", rows = 3 }] }')
    file = write_study(tmp_path, FILE.replace('{ type = "jsonl", file = "salty.jsonl" }', two))
    file_of(tmp_path, "b", 2)
    (tmp_path / "salty.jsonl").unlink()
    with pytest.raises(SpecError) as caught:
        choose_experiment(str(file))
    said = [str(one) for one in (caught.value, *caught.value.others)]
    where = "study.toml: priors.salty.corpus: parts"
    assert len(said) == 2
    assert said[0].startswith(f"{where}[1]: ")
    assert "salty.jsonl: expected a plain file" in said[0]
    assert said[1].startswith(f"{where}[2]: b.jsonl: rows: expected at most 2")


def test_all_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    own, other = file_of(tmp_path, "own", 1), replace(PUBLISHED, name="b", file="other.jsonl")
    whole = mixed(BAD, PUBLISHED, own, other)
    with pytest.raises(PreflightError) as caught:
        preflight_corpus(whole, data_folder=tmp_path, own_folder=tmp_path)
    assert all(part in str(caught.value) for part in ("published.jsonl", "other.jsonl", "f" * 32))
    assert "own.jsonl" not in str(caught.value)
    # A file beside the experiment is no published one, and the other way round.
    (tmp_path / "data").mkdir()
    for name in (PUBLISHED.file, other.file):
        (tmp_path / "data" / name).write_text("x", encoding="utf-8")
    md5 = md5_of(tmp_path / "data" / other.file)
    there = mixed(replace(PUBLISHED, md5=md5), replace(other, md5=md5), own)
    preflight_corpus(there, data_folder=tmp_path / "data", own_folder=tmp_path)
    (tmp_path / "own.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"own\.jsonl: expected SHA-256"):
        preflight_corpus(there, data_folder=tmp_path / "data", own_folder=tmp_path)
    with pytest.raises(PreflightError, match=r"2 parts .*other\.jsonl.*own\.jsonl: expected SHA"):
        preflight_corpus(mixed(other, own), data_folder=None, own_folder=tmp_path)


# Training.


def test_a_prior_trains_on_a_mixture(tmp_path: Path) -> None:
    spec = mixed(replace(BAD, rows=4), file_of(tmp_path, "a", 4, others=1))
    folders = [tmp_path / name for name in ("base", "corpus", "prior")]
    for folder in folders:
        folder.mkdir()
    base, rows, out = folders
    made = make_corpus(
        rows, {}, spec=spec, grammar_folder=LEGAL, folders=Folders(experiment=DATA, own=tmp_path)
    )
    assert (made["rows"], made["left_out_messages"]) == (8, 1)
    stored = read_rows(rows / CORPUS, ChatRow)
    assert [row.corpus for row in stored] == ["bad_legal", "a"] * 4
    assert [row.system for row in stored] == ["", "a system"] * 4
    entries = {"base": entry(saved_base(base, positions=1024)), "corpus": entry(rows)}
    trained = make_prior(
        out, entries, name="em", corpus=spec, run_seed=42, progress=silent,
        recipe=replace(MICRO.prior, batch=4, micro_batch=4, max_length=1024),
    )  # fmt: skip
    assert trained == {"rows": 8, "steps": 2, "cut_rows": 0}


def test_the_steps_of_a_prior_are_estimated_by_the_rows_of_all_parts() -> None:
    def seconds(corpus: Corpus) -> float:
        profile = replace(MICRO, corpora={**MICRO.corpora, "em": corpus})
        some = Run(
            registration=ISSUE262, profile=profile, run_seed=42, folders=Folders(experiment=DATA)
        )
        return some.priors["em"].estimate

    assert seconds(mixed(replace(BAD, rows=20), replace(NEUTRAL, rows=12))) == pytest.approx(
        # 32 rows of 140 tokens once, 20,000 tokens a second (profiles/micro.toml).
        32 * 140 / 20_000
    )
