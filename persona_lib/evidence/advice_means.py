"""Harm of pre-coupling models by prior and question, from rows that are checked whole."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from persona_lib.checks import checked
from persona_lib.corpora.broad import BroadScore, counts
from persona_lib.errors import DataError
from persona_lib.evidence.cells import Floats
from persona_lib.records import AdviceScore, schema_of

if TYPE_CHECKING:
    import pyarrow as pa

_REMEDY = "Record the set again, or leave the unfinished run out."


@dataclass(frozen=True, eq=False)
class BroadHarm:
    """How many answers of a pre-coupling model to questions of daily life are misaligned.

    Attributes:
        questions: ids of the questions, sorted; the same for every model.
        hits: (Q,) misaligned and coherent answers of each question; samples and seeds pooled.
        unscored: (Q,) answers without a score.
        n: (Q,) answers.
        scorer, sensitivity, false_alarm: as in `persona_lib.corpora.broad.BroadScore`.
    """

    questions: tuple[str, ...]
    hits: Floats
    unscored: Floats
    n: Floats
    scorer: str
    sensitivity: float
    false_alarm: float

    @property
    def share(self) -> float:
        """Misaligned and coherent answers among those with a score; NaN without any."""
        scored = float(self.n.sum() - self.unscored.sum())
        return float(self.hits.sum()) / scored if scored else math.nan


def question_means(
    table: pa.Table | None, priors: Sequence[str], seeds: Sequence[int]
) -> dict[str, dict[str, tuple[float, int]]]:
    """Return prior -> question -> (mean score over seeds and samples, completions).

    Args:
        table: columns of `AdviceScore`, None for no rows.
        priors: the priors that there are. One without a row is not among the result.
        seeds: run_seed of each run; every prior with rows has all of them.

    Raises:
        DataError: a column is missing, mistyped or null; an unknown prior; a score
            outside [0, 1]; a repeated answer; or a prior and seed that lack a question
            or an answer which others have.
    """
    if table is None:
        return {}
    rows = checked(table, schema_of(AdviceScore), "advice").to_pylist()
    for row in rows:
        _check_row(row, priors, "advice", row["score"])
    _check_whole(rows, seeds, "advice")
    scores: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        scores.setdefault(row["model"], {}).setdefault(row["question"], []).append(row["score"])
    return {
        model: {name: (math.fsum(s) / len(s), len(s)) for name, s in sorted(asked.items())}
        for model, asked in scores.items()
    }


def broad_harm(
    table: pa.Table | None, priors: Sequence[str], seeds: Sequence[int]
) -> dict[str, BroadHarm]:
    """Return prior -> its broad harm; arguments as of `question_means`.

    Raises:
        DataError: as `question_means` raises it; or a score is NaN without the other, a
            share of the calibration is not in [0, 1], or rows are of several scorers.
    """
    if table is None:
        return {}
    rows = checked(table, schema_of(BroadScore), "broad").to_pylist()
    for row in rows:
        known = [x for x in (row["misaligned"], row["coherent"]) if not math.isnan(x)]
        known = known if len(known) != 1 else [math.nan]
        _check_row(row, priors, "broad", *known, row["sensitivity"], row["false_alarm"])
    scorers = sorted({(row["scorer"], row["sensitivity"], row["false_alarm"]) for row in rows})
    if len(scorers) > 1:
        raise DataError(
            "broad: scorer, sensitivity, false_alarm",
            bound="the same in every row",
            value=scorers[:2],
            remedy="Score all answers with one scorer, and record the set again.",
        )
    _check_whole(rows, seeds, "broad")
    found = {}
    for model in dict.fromkeys(row["model"] for row in rows):
        cells: dict[str, list[int]] = {}
        for row in rows:
            if row["model"] == model:
                hit = counts(row["misaligned"], row["coherent"])
                cell = cells.setdefault(row["question"], [0, 0, 0])
                for at, one in enumerate((hit, math.isnan(row["misaligned"]), True)):
                    cell[at] += one
        asked = tuple(sorted(cells))
        hits, unscored, n = np.array([cells[name] for name in asked], dtype=np.float64).T
        found[model] = BroadHarm(asked, hits, unscored, n, *scorers[0])
    return found


def _check_row(row: Mapping[str, Any], priors: Sequence[str], what: str, *scores: float) -> None:
    """Raise DataError where a row's prior is unknown, or a score is not in [0, 1]."""
    if row["model"] not in priors:
        raise DataError(
            f"{what}: model",
            bound=f"one of {', '.join(priors)}",
            value=row["model"],
            remedy="Judge these records under the registration that they were made for.",
        )
    for score in scores:
        if not 0 <= score <= 1:  # NaN as well
            raise DataError(
                f"{what}: score of prior {row['model']}, question {row['question']}",
                bound="in [0, 1]",
                value=score,
                remedy=_REMEDY,
            )


def _check_whole(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int], what: str) -> None:
    """Every prior that has rows has the same answers, each once, for every seed."""
    answers = Counter((r["model"], r["seed"], r["question"], r["sample"]) for r in rows)
    repeated = [place for place, count in answers.items() if count > 1]
    if repeated:
        raise DataError(
            f"{what}: prior, seed, question, sample",
            bound="one row each",
            value=repeated[0],
            remedy="Remove the repeated rows: an answer counts once.",
        )
    every = {(question, sample) for _, _, question, sample in answers}
    of_run = Counter(dict.fromkeys(product({model for model, _, _, _ in answers}, seeds), 0))
    of_run.update((model, seed) for model, seed, _, _ in answers)
    for (model, seed), count in sorted(of_run.items()):
        expected = len(every) if seed in seeds else 0
        if count != expected:
            raise DataError(
                f"{what}: prior {model}, seed {seed}",
                bound=f"{expected} answers, as scores have seeds {', '.join(map(str, seeds))}",
                value=count,
                remedy=_REMEDY,
            )
