"""How alike texts are: words in common, repeated n-grams, and the spread of personas.

Words stand for tokens: whoever judges stored texts has no tokenizer. Pairs of texts are
compared through sums of unit vectors, so that n texts cost n steps and not n squared.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from persona_lib.checks import whole
from persona_lib.errors import DataError
from persona_lib.stats.moments import Floats, finite

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_WORD = re.compile(r"\w+")
_PAIR = 2
_ROUNDING = 1e-15
"""A mean square up to this is rounding and tells of no spread."""


@dataclass(frozen=True, eq=False)
class Words:
    """The words of N texts, one text after the other.

    Attributes:
        word: (W,) a number from 0 for each word; equal words have equal numbers.
        text: (W,) index of the text that each word stands in, ascending.
        texts: N, texts without a word among them.
        vocabulary: how many words there are.
    """

    word: Ints
    text: Ints
    texts: int
    vocabulary: int

    @property
    def lengths(self) -> Ints:
        """(N,) words of each text."""
        return np.bincount(self.text, minlength=self.texts).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Similarity:
    """Mean cosines of pairs of texts; NaN where there is no such pair.

    Attributes:
        across: (Q,) pairs of unlike personas that answer one question.
        within: (Q,) pairs of one persona that answer one question.
        other: pairs of one persona that answer two questions, mean over pairs of questions.
        other_without: (Q,) `other` without each question, for the jackknife: a question
            is in many pairs. NaN where the question is in none.
    """

    across: Floats
    within: Floats
    other: float
    other_without: Floats


@dataclass(frozen=True, eq=False)
class Spread:
    """How far personas lie apart.

    Attributes:
        sd: standard deviation of the persona means, G - 1 in the denominator.
        noise: the standard deviation that personas without any difference would show;
            NaN where no cell differs from what persona and question make of it.
        without: (Q,) `sd` without each question, for the jackknife.
    """

    sd: float
    noise: float
    without: Floats


def read_words(texts: Sequence[str]) -> Words:
    r"""Return the words of texts: runs of letters, digits and underscores, case folded.

    This is ``\w+``, so that "don't" is two words and punctuation none.
    """
    number: dict[str, int] = {}
    word: list[int] = []
    length = []
    for text in texts:
        found = _WORD.findall(text.casefold())
        word += [number.setdefault(one, len(number)) for one in found]
        length.append(len(found))
    return Words(
        word=np.array(word, dtype=np.int64),
        text=np.repeat(np.arange(len(length), dtype=np.int64), length),
        texts=len(length),
        vocabulary=len(number),
    )


def ngrams(words: Words, n: int) -> tuple[Ints, Ints]:
    """Return every run of n words within one text.

    Returns:
        (G,) a number for each n-gram, equal for equal ones, and (G,) its text.

    Raises:
        DataError: n is below 1.
    """
    whole("n", n, 1, remedy="Count single words or longer runs.", error=DataError)
    gram = words.word
    for step in range(1, n):
        gram = gram[:-1] * words.vocabulary + words.word[step:]
        gram = np.unique(gram, return_inverse=True)[1].astype(np.int64)
    start = words.text[: gram.size]
    one_text = start == words.text[n - 1 :][: gram.size]
    return gram[one_text], start[one_text]


def distinct_share(counts: Ints, size: int) -> float:
    """Return the share of distinct n-grams among `size` drawn from all, without replacement.

    A text twice as long repeats itself more, so that distinct over all n-grams (Li,
    Galley, Brockett, Gao and Dolan 2016, NAACL, 110) falls with length alone. The
    expected number among a fixed number of draws does not: it is rarefaction,

        sum_i 1 - C(N - N_i, m) / C(N, m)

    for N_i n-grams of kind i, N together, m drawn (Hurlbert 1971, Ecology 52:577).
    Nothing is drawn: the expectation is exact. At m = N it is distinct over all.

    Args:
        counts: (K,) how often each n-gram occurs.
        size: m.

    Returns:
        The expected number over m, in (0, 1]; NaN where there are fewer than m.

    Raises:
        DataError: m below 1, or a count below 1.
    """
    from scipy.special import gammaln

    whole("size", size, 1, remedy="Draw one n-gram or more.", error=DataError)
    counts = np.asarray(counts, dtype=np.int64)
    if (counts < 1).any():
        remedy = "Leave out what does not occur."
        raise DataError("counts", bound=">= 1", value=int(counts.min()), remedy=remedy)
    total = int(counts.sum())
    if total < size:
        return math.nan
    kinds, repeats = np.unique(counts, return_counts=True)
    rest = total - kinds
    missed = np.zeros(kinds.size)
    may = rest >= size
    left = rest[may]
    log = gammaln(left + 1) - gammaln(left - size + 1)
    log -= gammaln(total + 1) - gammaln(total - size + 1)
    missed[may] = np.exp(log)
    return float((repeats * (1 - missed)).sum() / size)


def distinct_shares(gram: Ints, group: Ints, groups: int, size: int) -> Floats:
    """Return `distinct_share` of each group of n-grams.

    Args:
        gram: (G,) n-grams.
        group: (G,) the group of each, from 0 to `groups` - 1.
        groups: how many groups there are.
        size: n-grams drawn from each.

    Returns:
        (groups,) shares, NaN for a group with fewer than `size`.
    """
    found = np.full(groups, np.nan)
    if not gram.size:
        return found
    kinds = int(gram.max()) + 1
    keys, counts = np.unique(group * kinds + gram, return_counts=True)
    ends = np.searchsorted(keys // kinds, np.arange(groups + 1))
    for i in range(groups):
        of = counts[ends[i] : ends[i + 1]]
        found[i] = distinct_share(of, size) if of.size else math.nan
    return found


def similarity(words: Words, cell: Ints, shape: tuple[int, int, int]) -> Similarity:
    """Return mean cosines between term-frequency vectors of texts.

    Every run, persona and question counts alike, however many texts it has: a cell's
    texts are averaged first. Only texts of one run are paired. A text without a word has
    no direction and takes no part.

    Args:
        words: of N texts.
        cell: (N,) flat index of each text's cell, -1 to leave a text out.
        shape: runs S, personas P, questions Q, as the cells are numbered.

    Raises:
        DataError: a text without a cell, or a cell outside the shape.
    """
    cell = np.asarray(cell, dtype=np.int64)
    cells = math.prod(shape)
    if cell.shape != (words.texts,) or (cell < -1).any() or (cell >= cells).any():
        raise DataError(
            "cells of texts",
            bound=f"one a text, from -1 to {cells - 1}",
            value=cell.shape,
            remedy="Number every text's cell.",
        )
    mean, n = _cell_means(words, cell, cells)
    squares = _squares(mean)
    runs, personas, questions = shape
    counted, lengths = n.reshape(shape), squares.reshape(shape)
    own = _divided(counted**2 * lengths - counted, counted * (counted - 1))
    there = (counted > 0).sum(axis=1).astype(np.float64)
    sums = _squares(_over_personas(shape) @ mean).reshape(runs, questions)
    unlike = _divided(sums - lengths.sum(axis=1), there * (there - 1))
    other, without = _other_question(mean, n > 0, shape)
    return Similarity(
        across=mean_of_known(unlike, 0),
        within=mean_of_known(own.reshape(runs * personas, questions), 0),
        other=other,
        other_without=without,
    )


def spread(table: Floats) -> Spread:
    """Return how far the means of personas lie apart, and how much of that is noise.

    The expected square of the standard deviation is the variance between personas
    plus MS / Q, MS the mean square of persona by question (two-way layout with questions
    as the repeated factor); ``noise`` is the root of MS / Q.

    Args:
        table: (G, Q) a mean of each persona and question.

    Returns:
        NaN in place of what one persona, one question, or what is left of two, cannot show.

    Raises:
        DataError: no table of numbers, or a cell is missing.
    """
    table = finite(table, 2)
    personas, questions = table.shape
    unknown = np.full(questions, np.nan)
    if personas < _PAIR:
        return Spread(math.nan, math.nan, unknown)
    means = table.mean(axis=1, keepdims=True)
    sd = float(means.std(ddof=1))
    if questions < _PAIR:
        return Spread(sd, math.nan, unknown)
    residuals = table - means - table.mean(axis=0, keepdims=True) + table.mean()
    square = float(np.square(residuals).sum()) / ((personas - 1) * (questions - 1))
    without = (table.sum(axis=1, keepdims=True) - table) / (questions - 1)
    noise = math.sqrt(square / questions) if square > _ROUNDING else math.nan
    return Spread(sd, noise, without.std(axis=0, ddof=1))


def repeated(texts: Sequence[str]) -> Bools:
    """Return (N,) whether each text occurs more than once; an empty one never does."""
    counts = Counter(texts)
    return np.array([bool(text) and counts[text] > 1 for text in texts], dtype=np.bool_)


def mean_of_known(values: Floats, axis: int) -> Floats:
    """Return the mean over an axis of the values that are not NaN; NaN where all are."""
    known = ~np.isnan(values)
    return _divided(np.where(known, values, 0.0).sum(axis=axis), known.sum(axis=axis))


def _divided(sums: Floats, counts: NDArray[Any]) -> Floats:
    """Return sums / counts, NaN where nothing was counted."""
    found = np.full(np.shape(sums), np.nan)
    np.divide(sums, counts, out=found, where=counts > 0)
    return found


def _cell_means(words: Words, cell: Ints, cells: int) -> tuple[csr_array, Floats]:
    """Return (cells, vocabulary) means of unit vectors, and (cells,) texts behind each."""
    from scipy.sparse import csr_array

    pair, counts = np.unique(words.text * words.vocabulary + words.word, return_counts=True)
    text, word = np.divmod(pair, max(words.vocabulary, 1))
    lengths = np.sqrt(np.bincount(text, counts.astype(np.float64) ** 2, minlength=words.texts))
    n = np.bincount(cell[(cell >= 0) & (lengths > 0)], minlength=cells).astype(np.float64)
    kept = cell[text] >= 0
    text, word = text[kept], word[kept]
    weights = counts[kept] / lengths[text] / n[cell[text]]
    shape = (cells, words.vocabulary)
    return csr_array((weights, (cell[text], word)), shape=shape), n


def _squares(rows: csr_array) -> Floats:
    """Return the squared length of every row."""
    return np.asarray(rows.multiply(rows).sum(axis=1), dtype=np.float64)


def _over_personas(shape: tuple[int, int, int]) -> csr_array:
    """Return the matrix that adds up cells over personas, run by run and question by question."""
    from scipy.sparse import csr_array

    cells = math.prod(shape)
    run, _, question = np.unravel_index(np.arange(cells), shape)
    row = run * shape[2] + question
    return csr_array((np.ones(cells), (row, np.arange(cells))), shape=(shape[0] * shape[2], cells))


def _other_question(
    mean: csr_array, there: Bools, shape: tuple[int, int, int]
) -> tuple[float, Floats]:
    """Return the mean over pairs of questions, and that without each question."""
    runs, personas, questions = shape
    total, count = np.zeros((questions, questions)), np.zeros((questions, questions))
    for block in range(runs * personas):
        at = slice(block * questions, (block + 1) * questions)
        rows, known = mean[at], there[at]
        total += (rows @ rows.T).toarray()
        count += np.outer(known, known)
    for table in (total, count):
        np.fill_diagonal(table, 0.0)
    pairs = _divided(total, count)
    known = ~np.isnan(pairs)
    held, of = np.where(known, pairs, 0.0), known.sum(axis=1)
    value = _divided(held.sum(), known.sum())
    without = _divided(held.sum() - 2 * held.sum(axis=1), known.sum() - 2 * of)
    return float(value), np.asarray(np.where(of > 0, without, np.nan))
