"""Mean advice scores by prior and question, from rows that are checked whole."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from persona_lib.checks import checked
from persona_lib.errors import DataError
from persona_lib.records import AdviceScore, schema_of

if TYPE_CHECKING:
    import pyarrow as pa

_REMEDY = "Record the set again, or leave the unfinished run out."


def question_means(
    table: pa.Table, priors: Sequence[str], seeds: Sequence[int]
) -> dict[str, dict[str, tuple[float, int]]]:
    """Return prior -> question -> (mean score over seeds and samples, completions).

    Args:
        table: columns of `AdviceScore`.
        priors: the priors that there are. One without a row is not among the result.
        seeds: run_seed of each run; every prior with rows has all of them.

    Raises:
        DataError: a column is missing, mistyped or null; an unknown prior; a score
            outside [0, 1]; a repeated answer; or a prior and seed that lack a question
            or an answer which others have.
    """
    rows = checked(table, schema_of(AdviceScore), "advice").to_pylist()
    for row in rows:
        if row["model"] not in priors:
            raise DataError(
                "advice: model",
                bound=f"one of {', '.join(priors)}",
                value=row["model"],
                remedy="Judge these records under the registration that they were made for.",
            )
        if not 0 <= row["score"] <= 1:  # NaN as well
            raise DataError(
                f"advice: score of prior {row['model']}, question {row['question']}",
                bound="in [0, 1]",
                value=row["score"],
                remedy=_REMEDY,
            )
    _check_whole(rows, seeds)
    scores: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        scores.setdefault(row["model"], {}).setdefault(row["question"], []).append(row["score"])
    return {
        model: {name: (math.fsum(s) / len(s), len(s)) for name, s in sorted(asked.items())}
        for model, asked in scores.items()
    }


def _check_whole(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> None:
    """Every prior that has rows has the same answers, each once, for every seed."""
    answers = Counter((r["model"], r["seed"], r["question"], r["sample"]) for r in rows)
    repeated = [place for place, count in answers.items() if count > 1]
    if repeated:
        raise DataError(
            "advice: prior, seed, question, sample",
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
                f"advice: prior {model}, seed {seed}",
                bound=f"{expected} answers, as scores have seeds {', '.join(map(str, seeds))}",
                value=count,
                remedy=_REMEDY,
            )
