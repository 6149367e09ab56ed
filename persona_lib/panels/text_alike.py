"""How alike the completions of each model are, and how that differs from the model under it.

Every figure rests on the questions that all models answered, and is paired by question
with the model under an arm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from persona_lib.evidence.cells import Bools, Floats, Ints, Model
from persona_lib.marker import without_marker
from persona_lib.panels.text_rows import ALL, Rows, ends, known
from persona_lib.panels.text_samples import Texts
from persona_lib.stats.directions import Known, jackknifed, over_questions
from persona_lib.stats.estimate import none_if_nan
from persona_lib.stats.homogeneity import (
    Words,
    distinct_shares,
    mean_of_known,
    ngrams,
    read_words,
    repeated,
    similarity,
    spread,
)

MIN_NGRAMS = 50
"""Fewest n-grams that distinct-n is measured on: a question with fewer has none."""
BYSTANDER = "bystander"


@dataclass(frozen=True, eq=False)
class Figure:
    """One statistic of one model.

    Attributes:
        by_question: (Q,) values whose mean it is; of a jackknife, the statistic without
            each question.
        full: the statistic itself where it is jackknifed, None for a mean.
        n: completions behind it.
        least: the smallest value that it can have.
        beside: further figures, as JSON data.
    """

    by_question: Floats
    full: float | None
    n: int
    least: float | None = None
    beside: Mapping[str, Any] | None = None

    def describe(self, confidence: float) -> dict[str, Any]:
        """Return value, interval and size as JSON data."""
        found = _known(self.by_question, self.full, confidence)
        return known(found, self.n, least=self.least) | dict(self.beside or {})

    def change(self, under: Figure, confidence: float) -> dict[str, Any]:
        """Return this minus the other's, paired by question, as JSON data."""
        full = None if self.full is None or under.full is None else self.full - under.full
        found = _known(self.by_question - under.by_question, full, confidence)
        return known(found, self.n + under.n) | {"p": none_if_nan(found.p)}


Figures = dict[Model, dict[str, Figure]]


def describe(rows: Rows, figures: Figures) -> list[dict[str, Any]]:
    """Return figures and changes of every model as JSON data."""
    found = []
    for model, mine in figures.items():
        under = rows.under(model)
        theirs = figures.get(under, {}) if under else {}
        found.append(
            {
                "phase": model[0],
                "model": model[1],
                "under": under[1] if under else None,
                "figures": {name: one.describe(rows.confidence) for name, one in mine.items()},
                "changes": {
                    name: one.change(theirs[name], rows.confidence)
                    for name, one in mine.items()
                    if name in theirs
                },
            }
        )
    return found


def shared_questions(rows: Rows) -> Ints:
    """Return the indices of the questions that every model answered."""
    asked = (rows.grid.n > 0).all(axis=(0, 1, 2))
    return np.flatnonzero(asked).astype(np.int64)


def spreads(rows: Rows) -> Figures:
    """Return how far personas lie apart in rate and in length: all of them, and bystanders."""
    grid, questions = rows.grid, shared_questions(rows)
    if not questions.size:
        return {model: {} for model in grid.models}
    of: dict[str, Bools | Floats] = {"rate": grid.row_hit}
    if grid.tokens is not None:
        of["length"] = grid.tokens
    tables = {name: rows.cells(values)[..., questions] for name, values in of.items()}
    roster = rows.registration.roster
    pools = {
        ALL: list(range(len(grid.personas))),
        BYSTANDER: [grid.personas.index(name) for name in roster.bystanders],
    }
    counts = grid.n[..., questions]
    return {
        model: {
            f"sd_{name}_{pool}": _spread(tables[name][m][:, members], counts[m][:, members])
            for name in of
            for pool, members in pools.items()
        }
        for m, model in enumerate(grid.models)
    }


def _spread(table: Floats, counts: Floats) -> Figure:
    found = spread(mean_of_known(table, 0))
    noise = {"noise": none_if_nan(found.noise)}
    return Figure(found.without, found.sd, int(counts.sum()), least=0.0, beside=noise)


@dataclass(frozen=True, eq=False)
class Alike:
    """What texts have in common.

    Attributes:
        figures: by model.
        kept: completions of each cell that distinct-n and duplicates are measured on.
        sizes: n-grams that distinct-n draws of each question, by n; None where too few.
        empty: (R,) whether a completion is empty once the marker is cut out.
        duplicates: share of completions that are not the only ones with their text.
    """

    figures: Figures
    kept: int
    sizes: dict[str, int | None]
    empty: Bools
    duplicates: dict[Model, dict[str, Any]]


def alike(texts: Texts) -> Alike | None:
    """Return what texts have in common, model by model; None where no question is shared."""
    rows, questions = texts.rows, shared_questions(texts.rows)
    if not questions.size:
        return None
    marker = rows.registration.marker
    cut = [
        without_marker(text, marker) if hit else text.strip()
        for text, hit in zip(texts.text, rows.grid.row_hit.tolist(), strict=True)
    ]
    words = read_words(cut)
    asked = np.isin(rows.grid.row_question, questions)
    kept = int(rows.grid.n[..., questions].min())
    first = asked & (_rank(texts) < kept)
    figures = {model: _similar(rows, words, model, questions) for model in rows.grid.models}
    sizes: dict[str, int | None] = {}
    for n in (1, 2):
        shares, sizes[str(n)] = _distinct(rows, words, n, first)
        for m, model in enumerate(rows.grid.models):
            size = int((rows.of(model) & first).sum())
            figures[model][f"distinct_{n}"] = Figure(shares[m][questions], None, size)
    duplicates = {}
    for model in rows.grid.models:
        figures[model]["duplicates"], duplicates[model] = _duplicates(rows, cut, model, first)
    empty = np.array([not text for text in cut], dtype=np.bool_)
    return Alike(figures, kept, sizes, empty, duplicates)


def _similar(rows: Rows, words: Words, model: Model, questions: Ints) -> dict[str, Figure]:
    """Return mean cosines of pairs, and how much more alike a persona's own answers are."""
    grid = rows.grid
    shape = (len(grid.seeds), len(grid.personas), questions.size)
    of = rows.of(model) & np.isin(grid.row_question, questions)
    place = np.searchsorted(questions, grid.row_question[of])
    cell = np.full(of.shape, -1, dtype=np.int64)
    cell[of] = np.ravel_multi_index((grid.row_seed[of], grid.row_persona[of], place), shape)
    found = similarity(words, cell, shape)
    n = int((of & (words.lengths > 0)).sum())
    return {
        "across_personas": Figure(found.across, None, n, least=0.0),
        "within_persona": Figure(found.within, None, n, least=0.0),
        "other_question": Figure(found.other_without, found.other, n, least=0.0),
        "gap": Figure(found.within - found.across, None, n),
    }


def _distinct(rows: Rows, words: Words, n: int, first: Bools) -> tuple[Floats, int | None]:
    """Return (M, Q) distinct-n, mean over runs, and the n-grams drawn of each question."""
    grid = rows.grid
    shape = (len(grid.models), len(grid.seeds), len(grid.questions))
    gram, text = ngrams(words, n)
    mine = first[text]
    gram, text = gram[mine], text[mine]
    at = (grid.row_model[text], grid.row_seed[text], grid.row_question[text])
    group = np.ravel_multi_index(at, shape)
    totals = np.bincount(group, minlength=int(np.prod(shape)))
    enough = totals[totals >= MIN_NGRAMS]
    if not enough.size:
        return np.full((shape[0], shape[2]), np.nan), None
    size = int(enough.min())
    shares = distinct_shares(gram, group, totals.size, size).reshape(shape)
    return np.asarray([mean_of_known(of, 0) for of in shares]), size


def _duplicates(
    rows: Rows, cut: list[str], model: Model, first: Bools
) -> tuple[Figure, dict[str, Any]]:
    """Return the share of completions whose text another one of the same run has as well."""
    grid = rows.grid
    flagged = np.zeros(len(cut), dtype=np.bool_)
    there = np.array([bool(text) for text in cut], dtype=np.bool_)
    of = rows.of(model) & first & there
    for seed in range(len(grid.seeds)):
        run = np.flatnonzero(of & (grid.row_seed == seed))
        flagged[run] = repeated([cut[i] for i in run.tolist()])
    sums, n = rows.grid.by_question(flagged, of)
    shares = np.full(n.shape, np.nan)
    np.divide(sums, n, out=shares, where=n > 0)
    found = rows.share(flagged, of)
    return Figure(shares[shared_questions(rows)], None, found.n), ends(found)


def _rank(texts: Texts) -> Ints:
    """Return (R,) the place of each completion within its cell, by sample, from 0."""
    grid = texts.rows.grid
    at = (grid.row_model, grid.row_seed, grid.row_persona, grid.row_question)
    cell = np.ravel_multi_index(at, grid.n.shape)
    order = np.lexsort((texts.sample, cell))
    ordered = cell[order]
    start = np.searchsorted(ordered, ordered, side="left")
    rank = np.empty(cell.size, dtype=np.int64)
    rank[order] = np.arange(cell.size) - start
    return rank


def _known(by_question: Floats, full: float | None, confidence: float) -> Known:
    if full is None:
        return over_questions(by_question, confidence)
    return jackknifed(full, by_question, confidence)
