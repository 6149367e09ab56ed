"""Calibration of a judge of persona-following: a gate before any of its answers is read.

The judge says for (persona, question, completion) whether the completion speaks as that
persona: ``yes``, ``partial`` or ``no``. It is first asked about triples whose answer is
known, in three classes that are never pooled, because an error in one is no error in
another:

``positive`` (expected yes)
    Text that follows the named persona. All 73 read as yes: Wilson's lower end of the
    yes share is 0.9500, so at most 5 % of such text is missed.
``red_team`` (expected no)
    The persona's words without its voice, prompt injections among them. All 73 read as
    no: the upper end is 0.0500, so at most 5 % of such text gets past the judge.
``negative`` (expected no)
    The source's voice under another persona. All 73 read as no: at most 5 % of what
    leaks from the source is credited to another persona.

Each of the three holds at a two-sided 95 %, for text *like these triples*: one author,
English, 40 to 61 words. It does not bound the error on a model's own completions. A
judge whose true error in some class is 5 % has a clean sheet there, and so passes, with
probability 0.95^73 = 2.4 % at most. The price: one that errs once in a hundred has three
clean sheets in 0.99^219 = 11 % of trials; 1 in 1,000 gives 80 %.

``partial`` counts against the judge in every class: it is not the yes that a positive
asks for and not the no that the others ask for. The bounds therefore hold whichever way
a panel counts ``partial`` later. ``unscored``, an answer that never came or cannot be
read, counts against it as well. With fewer answers than registered, nothing can be told.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from persona_lib.digests import digest
from persona_lib.errors import DataError
from persona_lib.panels.judge.base import UNSCORED
from persona_lib.panels.judge.calibration_spec import LEAST, CalibrationSpec, ClassSpec
from persona_lib.panels.judge.triples import ANSWERS, NO, PARTIAL, YES
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.proportions import wilson
from persona_lib.stats.thresholds import shown
from persona_lib.verdict.gate_result import GateOutcome, bounded

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ClassResult:
    """What a judge showed on one class.

    Attributes:
        name, direction, threshold, asked: of the registration; `asked` is its n.
        yes, partial, no, unscored: answers of each kind. They sum to `share.n`.
        share: yes share as `direction` counts it, with Wilson's interval; NaN without
            answers. Triples are the units.
        outcome: holds, fails or cannot tell.
    """

    name: str
    direction: str
    threshold: float
    asked: int
    yes: int
    partial: int
    no: int
    unscored: int
    share: Estimate
    outcome: GateOutcome

    @property
    def line(self) -> str:
        """Name, outcome, figure and bound in one line."""
        end = "lower" if self.direction == LEAST else "upper"
        sign = ">=" if self.direction == LEAST else "<="
        n = f"{self.share.n} of {self.asked}" if self.share.n < self.asked else f"{self.asked}"
        return (
            f"{self.name}: {self.outcome.value} (yes share {self.share.rounded(4)}, "
            f"needs {end} end {sign} {shown(self.threshold)}; n = {n}: {self.yes} yes, "
            f"{self.partial} partial, {self.no} no, {self.unscored} unscored)"
        )


@dataclass(frozen=True, kw_only=True)
class CalibrationResult:
    """A calibrated judge, bound by digest (SHA-256) to what was calibrated.

    Attributes:
        judge: digest of the judge: model, version, sampling.
        rubric: digest of the rubric, the text that the judge is given.
        triples: digest of what it was asked (`persona_lib.panels.judge.triples.triples_digest`).
        spec: digest of the `CalibrationSpec`.
        confidence: level of the intervals.
        classes: one result for each registered class, in its order.
    """

    judge: str
    rubric: str
    triples: str
    spec: str
    confidence: float
    classes: tuple[ClassResult, ...]

    @property
    def outcome(self) -> GateOutcome:
        """HOLDS where every class does, FAILS where one does, CANNOT_TELL otherwise."""
        found = {one.outcome for one in self.classes}
        for possible in (GateOutcome.FAILS, GateOutcome.CANNOT_TELL):
            if possible in found:
                return possible
        return GateOutcome.HOLDS

    def to_json(self) -> dict[str, Any]:
        """Return strict JSON data: NaN becomes null, the outcome is written out."""
        body = {**asdict(self), "outcome": self.outcome.value}
        for one, judged in zip(body["classes"], self.classes, strict=True):
            one["outcome"] = judged.outcome.value
            one["share"] = judged.share.ends()
        return {**body, "classes": list(body["classes"])}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CalibrationResult:
        """Return what `to_json` wrote, judged again from its counts.

        Raises:
            DataError: figures or outcomes are not those that the counts give.
        """
        result = cls(
            **{name: data[name] for name in ("judge", "rubric", "triples", "spec", "confidence")},
            classes=tuple(_again(one, data["confidence"]) for one in data["classes"]),
        )
        if result.to_json() != data:
            raise DataError(
                "calibration",
                bound=f"what its counts give ({result.outcome.value})",
                value=data,
                remedy="Calibrate the judge again.",
            )
        return result


def judge_calibration(
    spec: CalibrationSpec,
    answers: Mapping[str, Sequence[str]],
    *,
    judge: str,
    rubric: str,
    triples: str,
) -> CalibrationResult:
    """Judge a judge on its answers to the calibration triples.

    Args:
        spec: the registered classes.
        answers: for each triple of a class one of `ANSWERS`, or `UNSCORED`. A class
            that is left out has no answers, and cannot tell.
        judge: digest of the judge, a SHA-256 in 64 hexadecimal digits.
        rubric: digest of the rubric.
        triples: digest of what was asked (`persona_lib.panels.judge.triples.triples_digest`).

    Raises:
        DataError: a digest that is none, a class that is not registered, an unknown
            answer, or more answers than registered triples.
    """
    for field, value in (("judge", judge), ("rubric", rubric), ("triples", triples)):
        if not _DIGEST.fullmatch(value):
            raise DataError(
                f"calibration: {field}",
                bound="a SHA-256 in 64 hexadecimal digits",
                value=value,
                remedy="Give the digest of what was calibrated.",
            )
    names = [one.name for one in spec.classes]
    for name in answers:
        if name not in names:
            raise DataError(
                "calibration: answers",
                bound=f"classes among {', '.join(names)}",
                value=name,
                remedy="Register the class, or leave its answers out.",
            )
    return CalibrationResult(
        judge=judge,
        rubric=rubric,
        triples=triples,
        spec=digest(spec),
        confidence=spec.confidence,
        classes=tuple(
            _judged(one, answers.get(one.name, ()), spec.confidence) for one in spec.classes
        ),
    )


def check_bound(result: CalibrationResult, *, judge: str, rubric: str) -> None:
    """Check that a calibration speaks of this judge with this rubric.

    Raises:
        DataError: it was made with another judge or another rubric.
    """
    for field, wanted in (("judge", judge), ("rubric", rubric)):
        if getattr(result, field) != wanted:
            raise DataError(
                f"calibration: {field}",
                bound=f"digest {wanted}",
                value=getattr(result, field),
                remedy="Calibrate this judge with this rubric.",
            )


def _again(one: Mapping[str, Any], confidence: float) -> ClassResult:
    """Return a stored class, judged again from its counts."""
    spec = ClassSpec(
        name=one["name"], direction=one["direction"], threshold=one["threshold"], n=one["asked"]
    )
    given = [answer for answer in (*ANSWERS, UNSCORED) for _ in range(one[answer])]
    return _judged(spec, given, confidence)


def _judged(one: ClassSpec, answers: Sequence[str], confidence: float) -> ClassResult:
    counts = dict.fromkeys((*ANSWERS, UNSCORED), 0)
    for place, answer in enumerate(answers, start=1):
        if answer not in counts:
            raise DataError(
                f"calibration: {one.name}, answer {place}",
                bound=f"one of {', '.join(counts)}",
                value=answer,
                remedy=f"Hand over {UNSCORED} for what cannot be read.",
            )
        counts[answer] += 1
    if len(answers) > one.n:
        raise DataError(
            f"calibration: {one.name}: answers",
            bound=f"at most the registered n = {one.n}",
            value=len(answers),
            remedy="Ask each triple once; register the n that is asked.",
        )
    hits = counts[YES] if one.direction == LEAST else len(answers) - counts[NO]
    share = _share(hits, len(answers), confidence)
    return ClassResult(
        name=one.name,
        direction=one.direction,
        threshold=one.threshold,
        asked=one.n,
        yes=counts[YES],
        partial=counts[PARTIAL],
        no=counts[NO],
        unscored=counts[UNSCORED],
        share=share,
        outcome=_outcome(one, share),
    )


def _outcome(one: ClassSpec, share: Estimate) -> GateOutcome:
    if share.n < one.n:
        return GateOutcome.CANNOT_TELL
    if one.direction == LEAST:
        return bounded(share, least=one.threshold)
    return bounded(share, most=one.threshold)


def _share(hits: int, n: int, confidence: float) -> Estimate:
    low, high = wilson(hits, n, confidence)
    return Estimate.plain(value=hits / n if n else math.nan, low=low, high=high, n=n, clusters=n)
