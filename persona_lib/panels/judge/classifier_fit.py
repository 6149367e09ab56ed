"""Fitting the embedded judge: which texts, dealt to which folds, and one fold's fit."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from persona_lib.checks import POSITIVE, number, whole
from persona_lib.digests import derive_seed, digest
from persona_lib.errors import DataError
from persona_lib.panels.judge.base import TEXT_LIMIT, prepared
from persona_lib.records import PRE, Completion
from persona_lib.specs.registration import RAW

EMPTY = "empty"
"""Why a completion is unscored or not fitted on: nothing is left without its markers."""

_TOKEN = r"(?u)\b\w+\b"  # noqa: S105  (a pattern of words)
_VERSION = 1
_PERSONAS = 2


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """How the classifier is fitted and read.

    Attributes:
        marker: what is cut out of every text beforehand.
        words: longest run of words that is a term.
        least_texts: a term counts if it stands in as many texts of the fold.
        strength: inverse of the L2 penalty.
        folds: parts that the questions are dealt to.
        seed: root of the named seeds by which they are dealt.
        within: ``partial`` is a persona among so many first ones.
        iterations: most steps of the solver; needing more is an error.
        text_limit: characters of a text that are read.
        version: of the code.
    """

    marker: str
    words: int = 2
    least_texts: int = 2
    strength: float = 1.0
    folds: int = 5
    seed: int = 262
    within: int = 3
    iterations: int = 1_000
    text_limit: int = TEXT_LIMIT
    version: int = _VERSION

    def __post_init__(self) -> None:
        for name, least in (
            ("words", 1),
            ("least_texts", 1),
            ("folds", 2),
            ("within", 1),
            ("iterations", 1),
            ("text_limit", 1),
        ):
            whole(f"classifier.{name}", getattr(self, name), least, remedy="Give a whole number.")
        number("classifier.strength", self.strength, POSITIVE, remedy="Give a positive number.")

    @property
    def digest(self) -> str:
        """SHA-256 of the spec, 64 hexadecimal digits: this judge's rubric."""
        return digest(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """One fitted part.

    Attributes:
        seen: questions of the texts that it was fitted on, sorted; read off those texts.
        terms: the fitted vectoriser.
        model: the fitted regression; its classes are personas, sorted by name.
    """

    seen: tuple[str, ...]
    terms: Any
    model: Any


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
