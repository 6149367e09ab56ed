"""Whose voice is this: a classifier of personas by words and pairs of words, cross-fitted.

TF-IDF terms and a multinomial logistic regression are fitted on completions of the raw model
before coupling, once for each fold of the questions without that fold's questions. A
completion of any model is read by the fold that was fitted without its question. Text without
a term that the fold knows is unscored.

It knows the personas' voices as the raw model writes them; text by another hand may be
misjudged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from persona_lib.checks import POSITIVE, number, numbers, whole
from persona_lib.digests import digest
from persona_lib.errors import DataError
from persona_lib.marker import TEXT_LIMIT, prepared
from persona_lib.records import Place

EMPTY = "empty"
"""Why a completion is unscored or not fitted on: nothing is left without its markers."""
NO_TERMS = "no_known_terms"
"""Why a completion is unscored: the fold knows no term of it."""
EVERY_FOLD = -1
"""Fold of a prediction on a question that no fold was fitted on: the mean over all folds."""

_BATCH = 2_000
_VERSION = 1


class Text(Protocol):
    """A completion that is read: text and coordinates, as of `persona_lib.records.Completion`."""

    @property
    def persona(self) -> str:
        """Id of the persona."""

    @property
    def question(self) -> str:
        """Id of the question."""

    @property
    def place(self) -> Mapping[str, Any]:
        """All coordinates by name."""

    @property
    def text(self) -> str:
        """What was said."""


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """How the classifier is fitted and read.

    Attributes:
        marker: what is cut out of every text beforehand.
        words: longest run of words that is a term.
        least_texts: a term counts if it stands in as many texts of the fold.
        strength: inverse of the L2 penalty.
        folds: parts that the questions are dealt to.
        seed: root of the named seeds by which questions are dealt.
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
        whole("classifier.folds", self.folds, 2, remedy="Give a whole number.")
        names = ("words", "least_texts", "within", "iterations", "text_limit")
        numbers("classifier", self, names, remedy="Give a whole number.")
        number("classifier.strength", self.strength, POSITIVE, remedy="Give a positive number.")

    @property
    def digest(self) -> str:
        """SHA-256 of the spec, 64 hexadecimal digits: the rubric of a judge that it makes."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction(Place):
    """What the classifier made of one completion.

    Attributes:
        top: the persona that comes first, "" where the completion is unscored.
        rank: place of the completion's own persona, from 0; -1 where it is unscored.
        fold: the fold that judged it, or `EVERY_FOLD`.
        reason: why it is unscored, "" where it is not.
    """

    top: str
    rank: int
    fold: int
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedClassifier:
    """The cross-fitted classifier.

    Attributes:
        how: its spec.
        personas: the classes, sorted by name.
        folds: the fitted parts.
        dealt: the fold that judges each question.
        fitted_on: SHA-256 of the texts with their personas and questions.
        n: texts that it was fitted on.
        skipped: texts that were left out, by reason.
    """

    how: ClassifierSpec
    personas: tuple[str, ...]
    folds: tuple[Fold, ...]
    dealt: Mapping[str, int]
    fitted_on: str
    n: int
    skipped: Mapping[str, int]

    @property
    def seen(self) -> tuple[tuple[str, ...], ...]:
        """The questions that each fold was fitted on."""
        return tuple(fold.seen for fold in self.folds)

    def predict(self, items: Sequence[Text]) -> tuple[Prediction, ...]:
        """Return whom each item sounds like, in order, by a fold without its question.

        A question that no fold was fitted on, as of a calibration triple, is judged by the
        mean of all folds' probabilities.

        Raises:
            DataError: a persona that it was not fitted on, or a question that the fold
                which is to judge it has seen.
        """
        found: dict[int, Prediction] = {}
        places: dict[int, list[int]] = {}
        for place, item in enumerate(items):
            if item.persona not in self.personas:
                raise DataError(
                    "classifier: persona",
                    bound=f"one of {', '.join(self.personas)}",
                    value=item.persona,
                    remedy="Fit the classifier on every persona that it is to judge.",
                )
            places.setdefault(self._fold_for(item.question), []).append(place)
        for fold, listed in sorted(places.items()):
            for start in range(0, len(listed), _BATCH):
                part = listed[start : start + _BATCH]
                ranked = self._ranked([items[place] for place in part], fold)
                found |= zip(part, ranked, strict=True)
        return tuple(found[place] for place in range(len(items)))

    def _fold_for(self, question: str) -> int:
        """Return the fold that may judge a question; refuse where it has seen it."""
        fold = self.dealt.get(question, EVERY_FOLD)
        if any(question in one.seen for one in self._asked(fold)):
            raise DataError(
                f"classifier: question {question}",
                bound=f"one that fold {fold} was fitted without",
                value=question,
                remedy="Judge it by the fold that leaves it out.",
            )
        return fold

    def _ranked(self, items: Sequence[Text], fold: int) -> list[Prediction]:
        marker, limit = self.how.marker, self.how.text_limit
        texts = [prepared(item.text, marker=marker, limit=limit)[0] for item in items]
        total: NDArray[np.float64] = np.zeros((len(items), len(self.personas)))
        known: NDArray[np.int64] = np.zeros(len(items), dtype=np.int64)
        for one in self._asked(fold):
            matrix = one.terms.transform(texts)
            known += matrix.getnnz(axis=1)
            total += one.model.predict_proba(matrix)
        # Stable: equal probabilities keep the order of names, on every machine.
        order = np.argsort(-total, axis=1, kind="stable")
        return [
            self._prediction(item, text, int(terms), row, fold)
            for item, text, terms, row in zip(items, texts, known, order, strict=True)
        ]

    def _prediction(
        self, item: Text, text: str, terms: int, order: NDArray[np.intp], fold: int
    ) -> Prediction:
        reason = "" if terms else (NO_TERMS if text else EMPTY)
        own = self.personas.index(item.persona)
        return Prediction(
            **item.place,
            top="" if reason else self.personas[int(order[0])],
            rank=-1 if reason else int(np.flatnonzero(order == own)[0]),
            fold=fold,
            reason=reason,
        )

    def _asked(self, fold: int) -> tuple[Fold, ...]:
        return self.folds if fold == EVERY_FOLD else (self.folds[fold],)
