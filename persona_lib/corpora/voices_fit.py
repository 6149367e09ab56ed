"""Fits the classifier of voices: which texts, dealt to which folds, and one fold's fit."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from persona_lib.corpora.voices import EMPTY, ClassifierSpec, FittedClassifier, Fold
from persona_lib.digests import derive_seed, digest
from persona_lib.errors import DataError
from persona_lib.marker import prepared
from persona_lib.records import PRE, Completion
from persona_lib.specs.registration import RAW

_TOKEN = r"(?u)\b\w+\b"  # noqa: S105  (a pattern of words)
_PERSONAS = 2


def fit_classifier(completions: Sequence[Completion], spec: ClassifierSpec) -> FittedClassifier:
    """Fit the classifier on completions of the raw model before coupling.

    Args:
        completions: of any number of seeds, in any order; the order changes nothing.
        spec: how to fit it.

    Raises:
        DataError: a completion of another model, or without a persona; fewer questions
            than folds; a fold without any text of some persona; or a solver that needs
            more steps than allowed.
    """
    rows, skipped = training_rows(completions, spec)
    dealt = deal([row[2] for row in rows], spec)
    personas = tuple(sorted({row[1] for row in rows}))
    return FittedClassifier(
        how=spec,
        personas=personas,
        folds=tuple(
            fit_fold([row for row in rows if dealt[row[2]] != fold], personas, spec)
            for fold in range(spec.folds)
        ),
        dealt=dealt,
        fitted_on=digest([list(row) for row in rows]),
        n=len(rows),
        skipped=skipped,
    )


def deal(questions: Sequence[str], spec: ClassifierSpec) -> dict[str, int]:
    """Return the fold of each question: in the order of their named seeds, one after another.

    Raises:
        DataError: fewer questions than folds.
    """
    order = sorted(set(questions), key=lambda q: (derive_seed(spec.seed, "classifier fold", q), q))
    if len(order) < spec.folds:
        raise DataError(
            "classifier: questions",
            bound=f">= {spec.folds}, one for each fold",
            value=len(order),
            remedy="Evaluate more questions, or register fewer folds.",
        )
    return {question: place % spec.folds for place, question in enumerate(order)}


def training_rows(
    completions: Sequence[Completion], spec: ClassifierSpec
) -> tuple[list[tuple[str, str, str]], dict[str, int]]:
    """Return (text, persona, question) of every text, sorted, and what was left out.

    Raises:
        DataError: a completion of another model, or without a persona.
    """
    rows = []
    for row in completions:
        if (row.phase, row.model) != (PRE, RAW) or not row.persona:
            raise DataError(
                "classifier: completions",
                bound=f"those of {PRE} {RAW}, each with its persona",
                value=(row.phase, row.model, row.persona),
                remedy="Fit it on the raw model's completions before coupling.",
            )
        text, _ = prepared(row.text, marker=spec.marker, limit=spec.text_limit)
        rows.append((text, row.persona, row.question))
    kept = sorted(row for row in rows if row[0])
    return kept, ({EMPTY: len(rows) - len(kept)} if len(kept) < len(rows) else {})


def fit_fold(
    rows: Sequence[tuple[str, str, str]], personas: tuple[str, ...], spec: ClassifierSpec
) -> Fold:
    """Return one fold, fitted on these (text, persona, question).

    Raises:
        DataError: a persona without text, no term that is common enough, or a solver that
            needs more steps than allowed.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    lacking = sorted(set(personas) - {row[1] for row in rows})
    if lacking or len(personas) < _PERSONAS:
        raise DataError(
            "classifier: personas",
            bound="two or more, each with text on questions of every other fold",
            value=lacking or personas,
            remedy="Sample every persona on every question.",
        )
    terms = TfidfVectorizer(
        ngram_range=(1, spec.words),
        min_df=spec.least_texts,
        sublinear_tf=True,
        token_pattern=_TOKEN,
    )
    model = LogisticRegression(C=spec.strength, max_iter=spec.iterations)
    try:
        matrix = terms.fit_transform([row[0] for row in rows])
    except ValueError as error:  # no term is left
        raise DataError(
            "classifier: terms",
            bound=f"words that stand in >= {spec.least_texts} texts",
            value=str(error),
            remedy="Fit it on more text.",
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit(matrix, [row[1] for row in rows])
        except ConvergenceWarning as error:
            raise DataError(
                "classifier: iterations",
                bound=f"a fit within {spec.iterations} steps",
                value=spec.iterations,
                remedy="Allow more steps.",
            ) from error
    return Fold(seen=tuple(sorted({row[2] for row in rows})), terms=terms, model=model)
