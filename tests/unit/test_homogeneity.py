"""How alike texts are: against scikit-learn, statsmodels and pairs counted one by one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics.pairwise import cosine_similarity
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from persona_lib.errors import DataError
from persona_lib.stats.homogeneity import (
    distinct_share,
    distinct_shares,
    mean_of_known,
    ngrams,
    read_words,
    repeated,
    similarity,
    spread,
)

VOCABULARY = ["red", "blue", "green", "one", "two", "tree", "house", "it", "don't", "Ärger"]


def drawn_texts(n: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(VOCABULARY, rng.integers(1, 12))) for _ in range(n)]


def test_words_are_those_of_scikit_learn() -> None:
    texts = ["The tree, the TREE!", "", "don't 3 x_y", "ärger Ärger", "tree"]
    found = read_words(texts)
    vectors = CountVectorizer(token_pattern=r"(?u)\w+").fit_transform(texts).toarray()
    assert found.texts == 5
    assert found.vocabulary == vectors.shape[1]
    assert found.lengths.tolist() == vectors.sum(axis=1).tolist()
    for text in range(5):
        counts = np.bincount(found.word[found.text == text], minlength=found.vocabulary)
        assert sorted(counts.tolist()) == sorted(vectors[text].tolist())


def test_equal_words_have_equal_numbers_whatever_their_case() -> None:
    found = read_words(["The tree", "the TREE, Straße", "STRASSE"])
    assert found.word.tolist() == [0, 1, 0, 1, 2, 2]
    assert found.text.tolist() == [0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_ngrams_stay_within_their_text(n: int) -> None:
    texts = [*drawn_texts(8, 3), "", "one", "one two"]
    words = read_words(texts)
    gram, text = ngrams(words, n)
    split = [words.word[words.text == i].tolist() for i in range(len(texts))]
    expected = [
        (tuple(own[k : k + n]), i) for i, own in enumerate(split) for k in range(len(own) - n + 1)
    ]
    assert text.tolist() == [i for _, i in expected]
    for (a, (one, _)), (b, (two, _)) in itertools.combinations(enumerate(expected), 2):
        assert (gram[a] == gram[b]) == (one == two)


def test_ngrams_of_nothing_and_of_no_length() -> None:
    assert ngrams(read_words(["", ""]), 2)[0].size == 0
    assert ngrams(read_words(["one"]), 3)[0].size == 0
    with pytest.raises(DataError, match="n: expected >= 1"):
        ngrams(read_words(["one"]), 0)


@pytest.mark.parametrize("size", [1, 2, 4, 6, 8])
def test_distinct_share_is_the_mean_over_every_draw(size: int) -> None:
    counts = np.array([4, 1, 2, 1])
    grams = np.repeat(np.arange(4), counts)
    sets = [len({grams[i] for i in draw}) for draw in itertools.combinations(range(8), size)]
    assert distinct_share(counts, size) == pytest.approx(np.mean(sets) / size, abs=1e-12)


def test_distinct_share_by_hand() -> None:
    # a a b: of the 3 pairs, "a a" has one kind and two have both: (1 + 2 + 2) / 3 / 2
    assert distinct_share(np.array([2, 1]), 2) == pytest.approx(5 / 6)
    assert distinct_share(np.array([2, 1]), 3) == pytest.approx(2 / 3)
    assert distinct_share(np.array([2, 1]), 1) == pytest.approx(1.0)
    assert math.isnan(distinct_share(np.array([2, 1]), 4))


def test_distinct_share_does_not_fall_with_length_alone() -> None:
    rng = np.random.default_rng(5)
    shares = []
    for n in (400, 4_000):
        counts = np.bincount(rng.integers(0, 300, n))
        shares.append((distinct_share(counts[counts > 0], 200), (counts > 0).sum() / n))
    (short, plain_short), (long, plain_long) = shares
    assert abs(short - long) < 0.03
    assert plain_short > 5 * plain_long


@pytest.mark.parametrize(("counts", "size"), [([2, 0], 1), ([-1], 1), ([2], 0)])
def test_impossible_counts_are_refused(counts: list[int], size: int) -> None:
    with pytest.raises(DataError, match="expected >= 1"):
        distinct_share(np.array(counts), size)


def test_distinct_shares_are_those_of_each_group() -> None:
    rng = np.random.default_rng(6)
    gram, group = rng.integers(0, 9, 60), rng.choice([0, 1, 3], 60)
    found = distinct_shares(gram, group, 5, 10)
    for one in (0, 1, 3):
        counts = np.unique(gram[group == one], return_counts=True)[1]
        assert found[one] == distinct_share(counts, 10)
    assert np.isnan(found[[2, 4]]).all()
    assert np.isnan(distinct_shares(gram[:0], group[:0], 2, 10)).all()


SHAPE = (2, 3, 4)


def unbalanced() -> tuple[list[str], np.ndarray]:
    """Texts of 24 cells with 1 to 3 texts each, some of them empty, one cell without any."""
    rng = np.random.default_rng(7)
    cell = np.repeat(np.arange(24), rng.integers(1, 4, 24))
    texts = drawn_texts(cell.size, 8)
    texts[3] = texts[10] = "!?"
    cell[cell == 17] = -1
    return texts, cell


def cosines(texts: list[str]) -> np.ndarray:
    return cosine_similarity(CountVectorizer(token_pattern=r"(?u)\w+").fit_transform(texts))


def pair_means(texts: list[str], cell: np.ndarray) -> dict[tuple[int, int], float]:
    """Mean cosine of every two cells of one run, within a cell of its unlike texts."""
    table = cosines(texts)
    known = np.array([any(c.isalnum() for c in text) for text in texts])
    found = {}
    for a, b in itertools.combinations_with_replacement(range(24), 2):
        rows, others = (np.flatnonzero((cell == c) & known) for c in (a, b))
        pairs = [table[i, j] for i in rows for j in others if i != j]
        if pairs:
            found[a, b] = float(np.mean(pairs))
    return found


def test_similarity_is_the_mean_over_pairs_of_scikit_learn() -> None:
    texts, cell = unbalanced()
    means = pair_means(texts, cell)
    place = [tuple(int(i) for i in np.unravel_index(c, SHAPE)) for c in range(24)]
    found = similarity(read_words(texts), cell, SHAPE)

    for q in range(4):
        runs = []
        for s in range(2):
            of = [
                m
                for (a, b), m in means.items()
                if a != b and place[a][0] == place[b][0] == s and place[a][2] == place[b][2] == q
            ]
            runs.append(np.mean(of))
        assert found.across[q] == pytest.approx(np.mean(runs), abs=1e-12)
        own = [m for (a, b), m in means.items() if a == b and place[a][2] == q]
        assert found.within[q] == pytest.approx(np.mean(own), abs=1e-12)

    def other(without: int | None) -> float:
        pairs = []
        for one, two in itertools.combinations([q for q in range(4) if q != without], 2):
            of = [
                m
                for (a, b), m in means.items()
                if place[a][:2] == place[b][:2] and {place[a][2], place[b][2]} == {one, two}
            ]
            pairs.append(np.mean(of))
        return float(np.mean(pairs))

    assert found.other == pytest.approx(other(None), abs=1e-12)
    assert found.other_without == pytest.approx([other(q) for q in range(4)], abs=1e-12)


def test_similarity_by_hand() -> None:
    # personas 0 and 1, question 0: "a b" and "a c" share one of two words: 1 / 2.
    # persona 0, question 1: "a b" again: cosine 1 with its own other answer.
    found = similarity(read_words(["a b", "a c", "a b"]), np.array([0, 2, 1]), (1, 2, 2))
    assert found.across[0] == pytest.approx(0.5)
    assert math.isnan(found.across[1])
    assert np.isnan(found.within).all()
    assert found.other == pytest.approx(1.0)
    assert np.isnan(found.other_without).all()


def test_flattening_shows() -> None:
    voices, topics = ["arr matey", "dear child", "whilst verily"], ["tea", "rain", "bus", "fog"]
    cells = [(p, q) for p in range(3) for q in range(4) for _ in range(2)]
    at = np.array([p * 4 + q for p, q in cells])
    apart = similarity(read_words([f"{voices[p]} {topics[q]}" for p, q in cells]), at, (1, 3, 4))
    flat = similarity(read_words([f"{voices[0]} {topics[q]}" for _, q in cells]), at, (1, 3, 4))
    assert apart.within == pytest.approx(1.0)
    assert apart.across == pytest.approx(1 / 3)  # the topic, one word of three
    assert apart.other == pytest.approx(2 / 3)  # the voice
    assert flat.across == pytest.approx(flat.within)


def test_texts_without_words_are_in_no_pair() -> None:
    found = similarity(read_words(["", "...", ""]), np.array([0, 1, 2]), (1, 3, 1))
    assert np.isnan(found.across).all()
    assert np.isnan(found.within).all()
    assert math.isnan(found.other)
    assert np.isnan(found.other_without).all()


def test_a_question_in_no_pair_is_missing_from_the_jackknife() -> None:
    texts = ["a b", "a c", "a d", "?"]
    found = similarity(read_words(texts), np.arange(4), (1, 1, 4))
    assert found.other == pytest.approx(0.5)
    assert found.other_without[:3] == pytest.approx(0.5)
    assert math.isnan(found.other_without[3])


@pytest.mark.parametrize("cell", [[0], [0, 6], [0, -2]])
def test_cells_have_to_fit(cell: list[int]) -> None:
    with pytest.raises(DataError, match="cells of texts"):
        similarity(read_words(["one", "two"]), np.array(cell), (1, 2, 3))


def test_spread_is_that_of_a_two_way_layout() -> None:
    rng = np.random.default_rng(9)
    table = rng.normal(size=(5, 7)) + 2 * rng.normal(size=(5, 1)) + rng.normal(size=(1, 7))
    found = spread(table)
    long = pd.DataFrame(
        [(f"p{p}", f"q{q}", table[p, q]) for p in range(5) for q in range(7)],
        columns=["persona", "question", "value"],
    )
    squares = anova_lm(ols("value ~ C(persona) + C(question)", data=long).fit())["mean_sq"]
    assert found.sd == pytest.approx(math.sqrt(squares["C(persona)"] / 7))
    assert found.noise == pytest.approx(math.sqrt(squares["Residual"] / 7))
    for q in range(7):
        left = np.delete(table, q, axis=1).mean(axis=1)
        assert found.without[q] == pytest.approx(np.std(left, ddof=1))


def test_spread_says_what_it_cannot_know() -> None:
    one = spread(np.ones((1, 4)))
    assert math.isnan(one.sd)
    assert math.isnan(one.noise)
    assert np.isnan(one.without).all()
    single = spread(np.array([[1.0], [3.0]]))
    assert single.sd == pytest.approx(math.sqrt(2))
    assert math.isnan(single.noise)
    assert np.isnan(single.without).all()
    assert math.isnan(spread(np.zeros((3, 4))).noise)
    with pytest.raises(DataError, match="missing"):
        spread(np.array([[1.0, math.nan], [0.0, 1.0]]))


def test_repeated_texts_are_all_of_them_and_empty_ones_are_not() -> None:
    found = repeated(["a", "b", "", "a", "", "A"])
    assert found.tolist() == [True, False, False, True, False, False]
    assert repeated([]).size == 0


def test_mean_of_known_leaves_out_what_is_missing() -> None:
    values = np.array([[1.0, math.nan, math.nan], [3.0, 5.0, math.nan]])
    assert mean_of_known(values, 0).tolist()[:2] == [2.0, 5.0]
    assert math.isnan(mean_of_known(values, 0)[2])
