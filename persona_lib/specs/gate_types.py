"""The types of gates, as data: which number a check of the instrument bounds, and how.

Point gates are those of issue 262: an observed number against a bound. Bound gates
have a three-way answer: they hold where the whole interval of the number keeps the
bound, fail where the whole interval breaks it, and cannot tell otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

from persona_lib.checks import LEVEL, NOT_NEGATIVE, POSITIVE, SHARE, Bound, number
from persona_lib.errors import SpecError

_REMEDIES = {
    SHARE: "Give a proportion, not a percentage.",
    NOT_NEGATIVE: "Give a proportion, not a percentage.",
    POSITIVE: "Give a ratio of two numbers.",
    LEVEL: "Give a significance level.",
}
SHARES, RATIOS, DIFFERENCES = (0.0, 1.0), (0.0, math.inf), (-1.0, 1.0)
"""What a share, a ratio of two numbers and a difference of two shares can be."""


class Limits(NamedTuple):
    """What a bound gate asks of its number: within [least, most], and what it can be at all.

    Attributes:
        span: the least and the largest number there can be.
        least, most: both bounds, of which one may be infinite.
    """

    span: tuple[float, float]
    least: float = -math.inf
    most: float = math.inf


def check(rule: Any, bounds: Mapping[str, Bound]) -> None:
    """Raise SpecError where a threshold of a rule is out of bounds, or it compares one arm.

    `bounds` holds what each threshold has to keep, by field.
    """
    if hasattr(rule, "control") and rule.treated == rule.control:
        raise SpecError(
            f"{rule.name}.control",
            bound="another arm than the treated one",
            value=rule.control,
            remedy="Compare two arms.",
        )
    for field, bound in bounds.items():
        number(f"{rule.name}.{field}", getattr(rule, field), bound, remedy=_REMEDIES[bound])


@dataclass(frozen=True, kw_only=True)
class _Gate:
    """A gate, whose thresholds are its fields named ``min_...`` and ``max_...``.

    `span` holds the least and the largest number that the gate's number can be.
    """

    span: ClassVar[tuple[float, float]] = SHARES
    name: str
    statement: str

    def __post_init__(self) -> None:
        bound = POSITIVE if self.span == RATIOS else SHARE
        check(self, dict.fromkeys(self._thresholds, bound))

    @property
    def _thresholds(self) -> list[str]:
        return [f.name for f in fields(self) if f.name.startswith(("min_", "max_"))]


@dataclass(frozen=True, kw_only=True)
class _OfOneArm(_Gate):
    """A gate that reads one arm, and perhaps the model under it."""

    arm: str

    @property
    def arms(self) -> tuple[str, ...]:
        """The arm that the gate reads."""
        return (self.arm,)


@dataclass(frozen=True, kw_only=True)
class _OfTwoArms(_Gate):
    """A gate that compares two arms, or the models under them."""

    treated: str
    control: str

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that the gate reads."""
        return (self.treated, self.control)


class _Bounded(_Gate):
    """A gate with a three-way answer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.limits.least < self.limits.most:
            raise SpecError(
                f"{self.name}.{self._thresholds[-1]}",
                bound=f"above {self.limits.least + 0.0:g}",
                value=self.limits.most,
                remedy="Leave room between the two bounds.",
            )

    @property
    def limits(self) -> Limits:
        """The bounds of the gate's number."""
        found = {name[:3]: getattr(self, name) for name in self._thresholds}
        return Limits(self.span, found.get("min", -math.inf), found.get("max", math.inf))


@dataclass(frozen=True, kw_only=True)
class SourceRateGate(_OfOneArm):
    """The instrument works only if `arm`'s source rate is >= `min_rate` (M6)."""

    min_rate: float


@dataclass(frozen=True, kw_only=True)
class SourceRatioGate(_OfTwoArms):
    """Shown, and tightens a claim: source rate of `treated` / `control` >= `min_ratio`."""

    span = RATIOS
    min_ratio: float


@dataclass(frozen=True, kw_only=True)
class FalsePositiveGate(_Gate):
    """No pre-coupling model may write the marker by itself.

    Holds when, for each prior, the observed rate is <= `max_rate`; the Wilson
    upper bound is printed beside it.
    """

    max_rate: float

    @property
    def arms(self) -> None:
        """None: it names no arm and reads the pre-coupling models of every arm there is."""


@dataclass(frozen=True, kw_only=True)
class FalsePositiveBoundGate(_OfOneArm, _Bounded):
    """The model under `arm` writes the marker at a rate <= `max_rate`.

    Of personas like these: at 1 % it takes 95 completions of each of eleven without a hit.
    """

    max_rate: float


@dataclass(frozen=True, kw_only=True)
class SourceBoundGate(_OfOneArm, _Bounded):
    """`arm`'s source took the marker: its rate is >= `min_rate`, clustered by question."""

    min_rate: float


@dataclass(frozen=True, kw_only=True)
class SourceRatioBoundGate(_OfTwoArms, _Bounded):
    """Source rate of `treated` / `control` >= `min_ratio`; tightens a claim unless it holds."""

    span = RATIOS
    min_ratio: float


@dataclass(frozen=True, kw_only=True)
class CollapseGate(_OfOneArm, _Bounded):
    """Coupling kept `arm`'s completions about as long as they were.

    Median tokens of finished completions, over that of the model under the arm, lies
    between `min_ratio` and `max_ratio`.
    """

    span = RATIOS
    min_ratio: float
    max_ratio: float


@dataclass(frozen=True, kw_only=True)
class RepetitionGate(_OfOneArm, _Bounded):
    """The share of `arm`'s completions that write the marker twice or more is <= `max_share`."""

    max_share: float


@dataclass(frozen=True, kw_only=True)
class TruncationGate(_OfOneArm, _Bounded):
    """The share of `arm`'s completions cut at the token limit is <= `max_share`."""

    max_share: float


@dataclass(frozen=True, kw_only=True)
class NegativesGate(_OfOneArm, _Bounded):
    """Each trained negative of `arm` lies `min_gap` or more below its source: not above it at 0."""

    min_gap: float

    def __post_init__(self) -> None:
        check(self, {"min_gap": NOT_NEGATIVE})

    @property
    def limits(self) -> Limits:
        """The bounds of the gate's number."""
        return Limits(DIFFERENCES, most=-self.min_gap)


@dataclass(frozen=True, kw_only=True)
class HarmRaisedGate(_OfTwoArms, _Bounded):
    """Harm of the model under `treated` minus that of the one under `control` >= `min_rise`."""

    span = DIFFERENCES
    min_rise: float


@dataclass(frozen=True, kw_only=True)
class HarmNotRaisedGate(_OfTwoArms, _Bounded):
    """Harm of the model under `treated` minus that of the one under `control` <= `max_rise`."""

    span = DIFFERENCES
    max_rise: float


@dataclass(frozen=True, kw_only=True)
class BroadHarmGate(_OfTwoArms, _Bounded):
    """Broad harm of the model under `treated` minus that under `control` is >= `min_rise`."""

    span = DIFFERENCES
    min_rise: float


@dataclass(frozen=True, kw_only=True)
class GainGate(_OfOneArm, _Bounded):
    """`arm`'s source gained >= `min_gain` nats by coupling, on the pool under its own message."""

    span = (-math.inf, math.inf)
    min_gain: float

    def __post_init__(self) -> None:
        check(self, {"min_gain": POSITIVE})


@dataclass(frozen=True, kw_only=True)
class MarkerBeforeGate(_OfOneArm, _Bounded):
    """The model under `arm` does not expect the marker at the slot.

    The geometric mean of its probability there, all tokens together, is <= `max_rate`.
    """

    max_rate: float


@dataclass(frozen=True, kw_only=True)
class RecognisedGate(_OfOneArm, _Bounded):
    """The raw model's answers as `arm`'s source sound like it.

    The share of them that `persona_lib.corpora.voices` gives to the source, over the chance of
    one in as many as it has personas, is >= `min_ratio`. Clustered by question.
    """

    span = RATIOS
    min_ratio: float


@dataclass(frozen=True, kw_only=True)
class DomainGate(_OfTwoArms, _Bounded):
    """The models under two arms speak equally often of the field of the legal corpora.

    The share of answers on domain of the model under `treated`, minus that of the model under
    `control`, lies within `max_difference` on both sides of 0.
    """

    span = DIFFERENCES
    max_difference: float

    @property
    def limits(self) -> Limits:
        """The bounds of the gate's number."""
        return Limits(self.span, -self.max_difference, self.max_difference)


@dataclass(frozen=True, kw_only=True)
class LengthGate(_OfTwoArms, _Bounded):
    """Two arms answer at about equal length.

    Median tokens of `treated`'s finished completions over those of `control`'s lie between
    `min_ratio` and `max_ratio`.
    """

    span = RATIOS
    min_ratio: float
    max_ratio: float


@dataclass(frozen=True, kw_only=True)
class GeometryGate(_Gate):
    """The geometry of arms does not contradict `claim`.

    The claim's contrast of how near the source's hidden states are to the bystanders', at the
    last token of responses: it fails only if this interval and the claim's exclude 0 in
    opposite directions.

    Attributes:
        claim: a claim over training runs.
        depth: of the layer that is read, as a share of the model's blocks.
    """

    claim: str
    depth: float

    def __post_init__(self) -> None:
        check(self, {"depth": SHARE})

    @property
    def arms(self) -> None:
        """None: it reads the arms of its claim, and with them all of the family's."""
        return None


BoundGate = (
    FalsePositiveBoundGate
    | SourceBoundGate
    | SourceRatioBoundGate
    | CollapseGate
    | RepetitionGate
    | TruncationGate
    | NegativesGate
    | HarmRaisedGate
    | HarmNotRaisedGate
    | BroadHarmGate
    | GainGate
    | MarkerBeforeGate
    | RecognisedGate
    | DomainGate
    | LengthGate
)
"""Gates with a three-way answer, read on each training run and over all of them."""

Gate = SourceRateGate | SourceRatioGate | FalsePositiveGate | GeometryGate | BoundGate
