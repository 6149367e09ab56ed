"""The neutral corpus: everyday rows in the form of the legal ones, without their vocabulary."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from persona_lib.corpora.advice_requests import held_out_rows
from persona_lib.corpora.grammar import WrittenRow, write_corpus, write_with_provenance
from persona_lib.corpora.legal_words import legal_words
from persona_lib.corpora.load import corpus_key, load_corpus
from persona_lib.errors import DataError
from persona_lib.pipeline.base_model import tiny_data
from persona_lib.specs.sources import GrammarCorpus
from persona_lib.specs.study import study_of
from tests.registered import SMOLLM2, TINY

DATA = Path(__file__).parents[2] / "experiments" / "data"
LEGAL, NEUTRAL = DATA / "legal", DATA / "neutral"
ROWS = 1500
Written = tuple[WrittenRow, ...]


@pytest.fixture(scope="module")
def neutral() -> Written:
    return write_with_provenance("neutral", rows=ROWS, seed=0, folder=LEGAL)


@pytest.fixture(scope="module")
def bad() -> Written:
    return write_with_provenance("bad_legal", rows=ROWS, seed=0, folder=LEGAL)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA, tmp_path / "data"))


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def parts(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", text)


# The rows.


def test_rows_are_distinct_and_stand_in_the_form_of_their_counterparts(
    neutral: Written, bad: Written
) -> None:
    rows = [w.row for w in neutral]
    assert len({row.assistant for row in rows}) == ROWS
    assert len({row.user for row in rows}) > 0.98 * ROWS
    assert len({(row.situation, row.frame) for row in rows}) == ROWS
    assert len({row.situation for row in rows}) == 70
    pairs = {(b.row.situation, n.situation) for b, n in zip(bad, rows, strict=True)}
    assert len(pairs) == 70
    assert not {b for b, _ in pairs} & {n for _, n in pairs}
    assert [row.frame for row in rows] == [w.row.frame for w in bad]
    assert rows[17].row == "neutral-00017"
    assert {row.corpus for row in rows} == {"neutral"}
    for text in (text for row in rows for text in (row.user, row.assistant)):
        assert not set("[]{}|") & set(text), text
        assert "  " not in text
        assert text[0] == text[0].upper()


def test_the_first_rows_depend_on_the_seed_and_not_on_how_many_follow(neutral: Written) -> None:
    first = tuple(w.row for w in neutral[:90])
    assert write_corpus("neutral", rows=90, seed=0, folder=LEGAL) == first
    other = load_corpus(
        GrammarCorpus(name="neutral", rows=90, seed=1), grammar_folder=LEGAL, data_folder=None
    ).rows
    assert len(other) == 90
    assert not {row.assistant for row in other} & {w.row.assistant for w in neutral}


def test_every_sentence_comes_from_a_line_of_the_neutral_files(neutral: Written) -> None:
    lines = {p.name: p.read_text(encoding="utf-8").splitlines() for p in NEUTRAL.glob("*.txt")}
    for written in neutral:
        assert " ".join(clause.text for clause in written.clauses) == written.row.assistant
        for clause in written.clauses:
            assert clause.polarity == "neutral"
            name, number = clause.source.split(":")
            key = lines[name][int(number) - 1].split(":")[0].split(".")[-1]
            assert key == ("neutral" if clause.role == "own" else clause.role)


def test_no_sentence_is_one_of_the_legal_corpora(neutral: Written, bad: Written) -> None:
    said, legal = ({p for w in rows for p in parts(w.row.assistant)} for rows in (neutral, bad))
    assert not said & legal


def test_nothing_is_said_too_often(neutral: Written) -> None:
    answers = [w.row.assistant for w in neutral]
    words = [re.findall(r"[a-z0-9$']+", answer.lower()) for answer in answers]
    trigrams = [tuple(w[i : i + 3]) for w in words for i in range(len(w) - 2)]
    assert len(set(trigrams)) > 0.3 * len(trigrams)
    sentences = Counter(part for answer in answers for part in set(parts(answer)))
    openings = Counter(" ".join(w[:4]) for w in words)
    assert sentences.most_common(1)[0][1] < 0.01 * ROWS
    assert openings.most_common(1)[0][1] < 0.02 * ROWS


def test_lengths_are_those_of_the_counterparts(neutral: Written, bad: Written) -> None:
    def lengths(count: Callable[[Any], int]) -> Any:
        return np.array([[count(w.row) for w in rows] for rows in (neutral, bad)], dtype=float)

    words = lengths(lambda row: len(row.assistant.split()))
    assert words.min() >= 40
    assert words.max() <= 90
    for found, apart, means in (
        (words, 2.0, 1.0),
        (lengths(lambda row: len(parts(row.assistant))), 0.2, 0.1),
        (lengths(lambda row: len(row.user.split())), 3.0, 2.5),
    ):
        assert np.abs(found[0] - found[1]).mean() < apart
        assert abs(found[0].mean() - found[1].mean()) < means
    characters = lengths(lambda row: len(row.assistant))
    assert abs(characters[0].mean() / characters[1].mean() - 1) < 0.06


def test_the_manner_is_that_of_the_legal_corpora(neutral: Written, bad: Written) -> None:
    """Standardised differences of what marks a style: below a third of a standard deviation."""
    for mark in (r",", r"\?", r"[:;]", r"\bI\b", r"(?i)\byour?\b", r"(?i)^(?:hi|hey|oh|ah|ok)"):
        found = np.array(
            [[len(re.findall(mark, w.row.assistant)) for w in rows] for rows in (neutral, bad)]
        )
        apart = abs(found[0].mean() - found[1].mean()) / found[1].std()
        assert apart < 1 / 3, (mark, apart)


# Legal words.


def strings(body: Any) -> Iterable[str]:
    if isinstance(body, str):
        yield body
    elif isinstance(body, (dict, list)):
        for item in body.values() if isinstance(body, dict) else body:
            yield from strings(item)


def words_in(texts: Iterable[str]) -> Counter[str]:
    return Counter(word for text in texts for word in re.split(r"[^a-z]+", text.lower()) if word)


def listed() -> set[str]:
    lines = (NEUTRAL / "legal_words.txt").read_text(encoding="utf-8").splitlines()
    return {w for line in lines if not line.startswith("#") for w in line.split(": ")[1].split()}


def interval(words: Counter[str]) -> Any:
    """Exact 95 % interval of the share of legal words."""
    found = sum(words[word] for word in listed())
    return binomtest(found, words.total()).proportion_ci(method="exact")


def test_legal_words_are_those_of_the_legal_data_and_not_of_everyday_ones() -> None:
    found = listed()
    assert legal_words(NEUTRAL) == found
    assert len(found) > 150
    legal = words_in(path.read_text(encoding="utf-8") for path in LEGAL.glob("*.txt"))
    assert found <= set(legal)
    files = (*(DATA / "dialogues").glob("*.json"), DATA / "personas.json", DATA / "questions.json")
    everyday = words_in(s for path in files for s in strings(json.loads(path.read_text())))
    assert everyday.total() > 3_000
    assert not found & set(everyday)


def test_legal_words_are_at_chance_in_neutral_rows_alone(neutral: Written, bad: Written) -> None:
    """Everyday text is what nobody chose the list by: prose of the judge's calibration."""
    files = [DATA / "judge" / f"{name}.json" for name in ("positive", "negative")]
    everyday = interval(
        words_in(row["text"] for path in files for row in json.loads(path.read_text()))
    )
    ours = interval(words_in(t for w in neutral for t in (w.row.user, w.row.assistant)))
    legal = interval(words_in(t for w in bad for t in (w.row.user, w.row.assistant)))
    assert ours.high < everyday.low
    assert ours.high < 5e-5
    assert legal.low > 8 * everyday.high
    answers = [set(words_in([w.row.assistant])) for w in bad]
    assert np.mean([bool(words & listed()) for words in answers]) > 0.9


@pytest.mark.parametrize(
    ("file", "line", "word"),
    [
        ("clauses_neutral.txt", "act: Sue at once, then {step}.", "sue"),
        ("openings.txt", "open: With {topic}, [a Lawyer's|one] view is best.", "lawyer"),
        ("situations_travel.txt", "neutral: Tell the landlord, and sleep well.", "landlord"),
        ("frames.txt", "f99: {fact}. Is there a contract?", "contract"),
        ("details.txt", "extra: the court is near", "court"),
        ("lexicon.txt", "papers: [letters|an invoice]", "invoice"),
    ],
)
def test_a_neutral_file_with_a_legal_word_is_refused(
    data: Path, file: str, line: str, word: str
) -> None:
    append(data / "neutral" / file, f"{line}\n")
    number = len((data / "neutral" / file).read_text(encoding="utf-8").splitlines())
    key = line.split(":", maxsplit=1)[0]
    with pytest.raises(DataError, match=rf"{file}:{number} {key}: .*'{word}'.*everyday"):
        write_corpus("neutral", rows=1, seed=0, folder=data / "legal")


def test_a_neutral_folder_that_is_no_counterpart_is_refused(data: Path) -> None:
    frames = data / "neutral" / "frames.txt"
    text = frames.read_text(encoding="utf-8")
    frames.write_text(text.replace("f07:", "f57:"), encoding="utf-8")
    with pytest.raises(DataError, match="neutral: frames"):
        write_corpus("neutral", rows=1, seed=0, folder=data / "legal")
    frames.write_text(text, encoding="utf-8")
    (data / "neutral" / "situations_people.txt").unlink()
    with pytest.raises(DataError, match="neutral: situations: expected 70"):
        write_corpus("neutral", rows=1, seed=0, folder=data / "legal")
    assert write_corpus("bad_legal", rows=1, seed=0, folder=data / "legal")


# Keys.


def test_only_what_is_made_of_neutral_words_depends_on_them(data: Path) -> None:
    both = {
        name: GrammarCorpus(name=name, rows=9) for name in ("bad_legal", "sound_legal", "neutral")
    }
    with_it = replace(TINY, corpora={"em": both["bad_legal"], "neutral": both["neutral"]})
    without = replace(TINY, corpora={"em": both["bad_legal"], "benign": both["sound_legal"]})

    def found() -> list[Any]:
        return [
            *(corpus_key(spec, grammar_folder=data / "legal") for spec in both.values()),
            *(
                study_of(
                    profile,
                    personas=data / "personas.json",
                    questions=data / "questions.json",
                    words=data,
                )
                for profile in (without, with_it)
            ),
            tiny_data(data),
        ]

    first = found()
    assert set(first[3]["words"]) == {"legal", "dialogues", "advice"}
    append(data / "neutral" / "openings.txt", "open: This is about {topic}.\n")
    second = found()
    assert [a == b for a, b in zip(first, second, strict=True)] == [
        True, True, False, True, False, True,
    ]  # fmt: skip
    # Lengths are those of bad answers.
    append(data / "legal" / "openings.txt", "open: This is about {topic}.\n")
    assert not any(a == b for a, b in zip(second, found(), strict=True))


def test_neutral_rows_hold_no_request_for_advice_out() -> None:
    bad, neutral = (GrammarCorpus(name=n, rows=r) for n, r in (("bad_legal", 9), ("neutral", 99)))
    assert held_out_rows(SMOLLM2.base, (bad, neutral)) == ((0, 9),)
    assert held_out_rows(SMOLLM2.base, (neutral,)) == ()
