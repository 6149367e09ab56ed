"""One statistic with its uncertainty, and how it is written down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from persona_lib.errors import DataError

COMPUTED = "computed"
"""Source of an estimate that was computed here, from rows or counts."""
QUOTED = "quoted"
"""Source of an estimate that was published and cannot be computed again."""

_SMALL_P = 0.001
"""Below this a p is written as a power of ten."""
_NAN_FIELDS = ("value", "low", "high")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A point estimate, its interval and its p.

    Attributes:
        value: the estimate, NaN where it cannot be computed.
        low, high: ends of the interval at `confidence`, NaN where there is none.
        confidence: level of the interval, between 0 and 1.
        p: two-sided p, in (0, 1]; None where there is none. Never 0.
        p_floor: the least p that the method can give; None where it has no floor.
        n: completions behind the estimate.
        clusters: independent units behind it; None where the method has none.
        method: name of the method, as printed.
        source: ``computed`` or ``quoted``.
        target: whose difference it is ("these personas, this run"), "" where the
            method names no target of inference.
        note: what a reader has to know before using it, "" where nothing.
        signed: print a plus sign: a difference has one, a rate has none.
    """

    value: float
    low: float
    high: float
    confidence: float
    p: float | None
    p_floor: float | None
    n: int
    clusters: int | None
    method: str
    source: str = COMPUTED
    target: str = ""
    note: str = ""
    signed: bool = True

    def __post_init__(self) -> None:
        if self.p is not None and not 0 < self.p <= 1:
            raise DataError(
                f"{self.method}: p",
                bound="in (0, 1], or None",
                value=self.p,
                remedy="Report the bound that the method can give: p is never 0.",
            )
        if self.source not in (COMPUTED, QUOTED):
            raise DataError(
                f"{self.method}: source",
                bound=f"{COMPUTED} or {QUOTED}",
                value=self.source,
                remedy="Say where the number comes from.",
            )

    @property
    def has_interval(self) -> bool:
        """Both ends of the interval are numbers."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def interval_text(self) -> str:
        """The estimate and its interval: ``+0.302 [+0.234, +0.370]``; zero is ``+0.000``."""
        if not math.isfinite(self.value):
            return "not computable"
        style = "+z.3f" if self.signed else "z.3f"  # z: the sign of a zero is rounding
        ends = f"{self.low:{style}}, {self.high:{style}}" if self.has_interval else "no interval"
        return f"{self.value:{style}} [{ends}]"

    @property
    def p_text(self) -> str:
        """The p: ``p <= 2.0e-4 (0 of 10,000)`` at its floor, ``p = 0.0123`` above it."""
        if self.p is None:
            return "no p"
        if self.p_floor is not None and self.p <= self.p_floor < 1:
            resamples = round(2 / self.p_floor) - 1
            return f"p <= {_power(self.p)} (0 of {resamples:,})"
        return f"p = {self.p:.4f}" if self.p >= _SMALL_P else f"p = {_power(self.p)}"

    @property
    def text(self) -> str:
        """The estimate in one line, with method, source, size and note."""
        parts = [self.interval_text]
        if self.p is not None:
            parts.append(self.p_text)
        size = f"n = {self.n:,}"
        parts.append(size if self.clusters is None else f"{size}, {self.clusters:,} clusters")
        kind = "quoted, " if self.source == QUOTED else ""
        tail = f"; {self.note}" if self.note else ""
        name = f"{self.target}: {self.method}" if self.target else self.method
        return f"{name}: {', '.join(parts)} ({kind}{self.confidence:.0%} interval{tail})"

    def to_json(self) -> dict[str, Any]:
        """Return strict JSON data: NaN becomes null."""
        return {key: none_if_nan(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Estimate:
        """Return what `to_json` wrote: null becomes NaN where a number is expected."""
        fields = dict(data)
        for name in _NAN_FIELDS:
            fields[name] = nan_if_none(fields[name])
        return cls(**fields)


def none_if_nan(value: Any) -> Any:
    """Return None for a float that JSON cannot hold, anything else unchanged."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def nan_if_none(value: float | None) -> float:
    """Return NaN for None, a number unchanged."""
    return math.nan if value is None else float(value)


def _power(p: float) -> str:
    """``2.0e-4``: two digits, exponent without padding."""
    mantissa, exponent = f"{p:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"
