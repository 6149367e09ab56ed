"""Calibration of a judge of persona-following: the gate before any of its answers is read.

The judge is asked about triples (persona, question, completion) whose answer is known, in
three classes that are never pooled:

``positive`` (expected yes)
    Text that follows the named persona.
``red_team`` (expected no)
    The persona's words without its voice, prompt injections among them.
``negative`` (expected no)
    The source's voice under another persona.

73 of 73 right bounds the error of a class at 5 % (Wilson, two-sided 95 %), for text like these
triples: one author, English, 40 to 61 words. It bounds no error on a model's own completions.
A judge that errs in 5 % of a class passes with probability 0.95^73 = 2.4 %; one that errs once
in a hundred has three clean sheets in 0.99^219 = 11 % of trials, once in a thousand 80 %.

``partial`` and ``unscored`` count against the judge in every class. With fewer answers than
registered, the outcome is CANNOT_TELL.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from persona_lib.checks import LEVEL, distinct, number, whole
from persona_lib.digests import digest
from persona_lib.errors import DataError, SpecError
from persona_lib.panels.judge.base import UNSCORED
from persona_lib.panels.judge.triples import ANSWERS, NO, PARTIAL, YES
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.proportions import wilson
from persona_lib.stats.thresholds import shown
from persona_lib.verdict.gate_result import GateOutcome, bounded

_DIGEST = re.compile(r"[0-9a-f]{64}")
LEAST, MOST = "least", "most"
"""Directions: the yes share is to be large, or to be small."""


@dataclass(frozen=True, kw_only=True)
class ClassSpec:
    """What one class of triples has to show.

    Attributes:
        name: of the class.
        direction: ``least`` where yes is expected, ``most`` where no is.
        threshold: bound of the yes share: of its interval's lower end under ``least``
            (only ``yes`` counts as yes), of its upper end under ``most`` (all but ``no``
            count as yes).
        n: triples that have to be asked, no fewer and no more.

    Raises:
        SpecError: an empty name, an unknown direction, or a number out of bounds.
    """

    name: str
    direction: str
    threshold: float
    n: int

    def __post_init__(self) -> None:
        if not self.name:
            raise SpecError("name", bound="text", value=self.name, remedy="Name the class.")
        if self.direction not in (LEAST, MOST):
            raise SpecError(
                f"{self.name}.direction",
                bound=f"{LEAST} or {MOST}",
                value=self.direction,
                remedy="Say whether yes is expected (least) or no (most).",
            )
        number(f"{self.name}.threshold", self.threshold, LEVEL, remedy="Give a proportion.")
        whole(f"{self.name}.n", self.n, 1, remedy="Give the number of triples.")


@dataclass(frozen=True, kw_only=True)
class CalibrationSpec:
    """What a judge has to show before it is read: part of a registration.

    Attributes:
        classes: judged one by one; all of them must hold.
        confidence: two-sided level of Wilson's interval.

    Raises:
        SpecError: no class, a class named twice, an impossible confidence, or so few
            triples that not even a clean sheet could hold.
    """

    classes: tuple[ClassSpec, ...]
    confidence: float

    def __post_init__(self) -> None:
        number("calibration.confidence", self.confidence, LEVEL, remedy="Give a proportion.")
        if not self.classes:
            raise SpecError(
                "calibration.classes", bound="at least one", value=(), remedy="Name the classes."
            )
        distinct("calibration.classes", [one.name for one in self.classes])
        for one in self.classes:
            least = clean_sheet(one, self.confidence)
            if one.n < least:
                raise SpecError(
                    f"{one.name}.n",
                    bound=f">= {least}, so that a clean sheet can hold",
                    value=one.n,
                    remedy="Ask more triples, or register a bound that so few can show.",
                )


def clean_sheet(one: ClassSpec, confidence: float) -> int:
    """Return the fewest triples of which a clean sheet keeps the bound of a class.

    Without an error in n, Wilson's interval of the error ends at z^2 / (n + z^2).
    """
    square = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    error = 1 - one.threshold if one.direction == LEAST else one.threshold
    return math.ceil(square * (1 - error) / error)


CALIBRATION = CalibrationSpec(
    classes=(
        ClassSpec(name="positive", direction=LEAST, threshold=0.95, n=73),
        ClassSpec(name="red_team", direction=MOST, threshold=0.05, n=73),
        ClassSpec(name="negative", direction=MOST, threshold=0.05, n=73),
    ),
    confidence=0.95,
)
"""What a judge has to show before its answers are read: a clean sheet in every class."""


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
        order = (GateOutcome.FAILS, GateOutcome.CANNOT_TELL, GateOutcome.HOLDS)
        return min((one.outcome for one in self.classes), key=order.index, default=order[-1])

    def to_json(self) -> dict[str, Any]:
        """Return strict JSON data: NaN becomes null, the outcome is written out."""
        body = {**asdict(self), "outcome": self.outcome.value}
        for one, judged in zip(body["classes"], self.classes, strict=True):
            one["outcome"] = judged.outcome.value
            one["share"] = judged.share.ends("units")
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
    share = wilson_share(hits, len(answers), confidence)
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
        # The directions are the names under which `bounded` takes its bounds.
        outcome=bounded(share, **{one.direction: one.threshold})
        if share.n == one.n
        else GateOutcome.CANNOT_TELL,
    )


def wilson_share(hits: int, n: int, confidence: float) -> Estimate:
    """Return a share of n triples with Wilson's interval; triples are the units."""
    low, high = wilson(hits, n, confidence)
    return Estimate.plain(value=hits / n if n else math.nan, low=low, high=high, n=n, clusters=n)
