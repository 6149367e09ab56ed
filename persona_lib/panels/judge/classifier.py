"""The embedded judge: a completion follows its persona if the classifier of voices says so.

``yes`` where its own persona comes first, ``partial`` where it is among the first few, ``no``
otherwise; text without a term that the classifier knows is unscored
(`persona_lib.corpora.voices`). The calibration triples show what it misjudges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from persona_lib.corpora.voices import ClassifierSpec, FittedClassifier, Prediction
from persona_lib.corpora.voices_fit import fit_classifier
from persona_lib.digests import digest
from persona_lib.panels.judge.base import UNSCORED, Item, Judgement, JudgeSpec, judgement_of
from persona_lib.panels.judge.triples import NO, PARTIAL, YES
from persona_lib.records import Completion

CLASSIFIER = "classifier"
"""Kind of this judge, in its `JudgeSpec`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassifierJudge(FittedClassifier):
    """The cross-fitted classifier as a judge."""

    @property
    def spec(self) -> JudgeSpec:
        """What tells it from others; `revision` binds it to folds and texts."""
        dealt = {question: self.dealt[question] for question in sorted(self.dealt)}
        return JudgeSpec(
            kind=CLASSIFIER,
            model=f"tfidf 1-{self.how.words} words, logistic regression",
            served_by="none",
            revision=digest({"dealt": dealt, "fitted_on": self.fitted_on}),
            rubric=self.how.digest,
            temperature=None,
            max_tokens=0,
            marker=self.how.marker,
            text_limit=self.how.text_limit,
        )

    def judge(self, items: Sequence[Item]) -> tuple[Judgement, ...]:
        """Return one judgement for each item, in order.

        Raises:
            DataError: as `predict`.
        """
        return self.answers(items, self.predict(items))

    def answers(
        self, items: Sequence[Item], predictions: Sequence[Prediction]
    ) -> tuple[Judgement, ...]:
        """Return what `judge` returns, of predictions that were made of these items."""
        judge = self.spec.digest
        return tuple(
            judgement_of(item, judge=judge, answer=self._answer(found), reason=found.reason)
            for item, found in zip(items, predictions, strict=True)
        )

    def _answer(self, prediction: Prediction) -> str:
        if prediction.reason:
            return UNSCORED
        if prediction.rank == 0:
            return YES
        return PARTIAL if prediction.rank < self.how.within else NO


def fit_judge(completions: Sequence[Completion], spec: ClassifierSpec) -> ClassifierJudge:
    """Fit the judge on completions of the raw model before coupling.

    Raises:
        DataError: as `persona_lib.corpora.voices_fit.fit_classifier`.
    """
    fitted = fit_classifier(completions, spec)
    return ClassifierJudge(**{field.name: getattr(fitted, field.name) for field in fields(fitted)})
