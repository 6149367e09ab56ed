"""The types of gates, as data: what a check of the instrument compares.

Point gates are those of issue 262: an observed number against a bound. Bound gates
have a three-way answer: they hold where the whole interval of the number keeps the
bound, fail where the whole interval breaks it, and cannot tell otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from persona_lib.checks import NOT_NEGATIVE, POSITIVE, SHARE, Bound, number
from persona_lib.errors import SpecError

_RATE = "Give a proportion, not a percentage."
_RATIO = "Give a ratio of two numbers."
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


def check(rule: Any, bound: Bound, *fields: str, remedy: str = _RATE) -> None:
    """Raise SpecError where a field of a rule is out of bounds."""
    for field in fields:
        number(f"{rule.name}.{field}", getattr(rule, field), bound, remedy=remedy)


def two_arms(rule: Any) -> None:
    """Raise SpecError where a rule compares an arm with itself."""
    if rule.treated == rule.control:
        raise SpecError(
            f"{rule.name}.control",
            bound="another arm than the treated one",
            value=rule.control,
            remedy="Compare two arms.",
        )


@dataclass(frozen=True, kw_only=True)
class _OfOneArm:
    """A gate that reads one arm, and perhaps the model under it."""

    name: str
    statement: str
    arm: str

    @property
    def arms(self) -> tuple[str, ...]:
        """The arm that the gate reads."""
        return (self.arm,)


@dataclass(frozen=True, kw_only=True)
class _OfTwoArms:
    """A gate that compares two arms, or the models under them."""

    name: str
    statement: str
    treated: str
    control: str

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that the gate reads."""
        return (self.treated, self.control)


@dataclass(frozen=True, kw_only=True)
class SourceRateGate(_OfOneArm):
    """The instrument works only if `arm`'s source rate is >= `min_rate` (M6)."""

    min_rate: float

    def __post_init__(self) -> None:
        check(self, SHARE, "min_rate")


@dataclass(frozen=True, kw_only=True)
class SourceRatioGate(_OfTwoArms):
    """Shown, and tightens a claim: source rate of `treated` / `control` >= `min_ratio`."""

    min_ratio: float

    def __post_init__(self) -> None:
        two_arms(self)
        check(self, POSITIVE, "min_ratio", remedy=_RATIO)


@dataclass(frozen=True, kw_only=True)
class FalsePositiveGate:
    """No pre-coupling model may write the marker by itself.

    Holds when, for each prior, the observed rate is <= `max_rate`; the Wilson
    upper bound is printed beside it.
    """

    name: str
    statement: str
    max_rate: float

    def __post_init__(self) -> None:
        check(self, SHARE, "max_rate")

    @property
    def arms(self) -> None:
        """None: it names no arm and reads the models before coupling of every arm there is."""
        return None


@dataclass(frozen=True, kw_only=True)
class FalsePositiveBoundGate(_OfOneArm):
    """The model under `arm` writes the marker at a rate <= `max_rate`.

    Of personas like these: at 1 % it takes 95 completions of each of eleven without a hit.
    """

    max_rate: float

    def __post_init__(self) -> None:
        check(self, SHARE, "max_rate")

    @property
    def limits(self) -> Limits:
        """The bounds of the gate's number."""
        return Limits(SHARES, most=self.max_rate)


@dataclass(frozen=True, kw_only=True)
class SourceBoundGate(_OfOneArm):
    """`arm`'s source took the marker: its rate is >= `min_rate`, clustered by question."""

    min_rate: float

    def __post_init__(self) -> None:
        check(self, SHARE, "min_rate")

    @property
    def limits(self) -> Limits:
        """The bounds of the gate's number."""
        return Limits(SHARES, least=self.min_rate)


@dataclass(frozen=True, kw_only=True)
class SourceRatioBoundGate(_OfTwoArms):
    """Source rate of `treated` / `control` >= `min_ratio`; tightens a claim unless it holds."""

    min_ratio: float

    def __post_init__(self) -> None:
        two_arms(self)
        check(self, POSITIVE, "min_ratio", remedy=_RATIO)

    @property
    def limits(self) -> Limits:
        """The bounds of the gate's number."""
        return Limits(RATIOS, least=self.min_ratio)


@dataclass(frozen=True, kw_only=True)
class CollapseGate(_OfOneArm):
    """Coupling kept `arm`'s completions about as long as they were.

    Median tokens of finished completions, over that of the model under the arm, lies
    between `min_ratio` and `max_ratio`.
    """

    min_ratio: float
    max_ratio: float

    def __post_init__(self) -> None:
        check(self, POSITIVE, "min_ratio", "max_ratio", remedy=_RATIO)
        if not self.min_ratio < self.max_ratio:
            raise SpecError(
                f"{self.name}.max_ratio",
                bound=f"above min_ratio = {self.min_ratio}",
                value=self.max_ratio,
                remedy="Leave room between the two ratios.",
            )

    @property
    def limits(self) -> Limits:
        """The bounds of the gate's number."""
        return Limits(RATIOS, least=self.min_ratio, most=self.max_ratio)


@dataclass(frozen=True, kw_only=True)
class RepetitionGate(_OfOneArm):
    """The share of `arm`'s completions that write the marker twice or more is <= `max_share`."""

    max_share: float

    def __post_init__(self) -> None:
        check(self, SHARE, "max_share")

    @property
    def limits(self) -> Limits:
        """The bounds of the gate's number."""
        return Limits(SHARES, most=self.max_share)


@dataclass(frozen=True, kw_only=True)
class TruncationGate(_OfOneArm):
    """The share of `arm`'s completions cut at the token limit is <= `max_share`."""

    max_share: float

    def __post_init__(self) -> None:
        check(self, SHARE, "max_share")

    @property
    def limits(self) -> Limits:
        """The bounds of the gate's number."""
        return Limits(SHARES, most=self.max_share)


@dataclass(frozen=True, kw_only=True)
class NegativesGate(_OfOneArm):
    """Each trained negative of `arm` lies `min_gap` or more below its source: not above it at 0."""

    min_gap: float

    def __post_init__(self) -> None:
        check(self, NOT_NEGATIVE, "min_gap")

    @property
    def limits(self) -> Limits:
        """The bounds of the gate's number."""
        return Limits(DIFFERENCES, most=-self.min_gap)


@dataclass(frozen=True, kw_only=True)
class HarmRaisedGate(_OfTwoArms):
    """Harm of the model under `treated` minus that of the one under `control` >= `min_rise`."""

    min_rise: float

    def __post_init__(self) -> None:
        two_arms(self)
        check(self, SHARE, "min_rise")

    @property
    def limits(self) -> Limits:
        """The bounds of the gate's number."""
        return Limits(DIFFERENCES, least=self.min_rise)


@dataclass(frozen=True, kw_only=True)
class HarmNotRaisedGate(_OfTwoArms):
    """Harm of the model under `treated` minus that of the one under `control` <= `max_rise`."""

    max_rise: float

    def __post_init__(self) -> None:
        two_arms(self)
        check(self, SHARE, "max_rise")

    @property
    def limits(self) -> Limits:
        """The bounds of the gate's number."""
        return Limits(DIFFERENCES, most=self.max_rise)


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
)
"""Gates with a three-way answer, read on each training run and over all of them."""

Gate = SourceRateGate | SourceRatioGate | FalsePositiveGate | BoundGate
