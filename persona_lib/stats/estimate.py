"""`Estimate`: a number with its uncertainty, and how it is written down."""

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

LEAST_P = 1e-15
"""A smaller p is written as a bound: a double no longer tells 1 - p from 1."""
EXACT = "exact "
"""How the name of a method begins that counts every arrangement: its floor is reached, not a
bound from resamples."""

_SMALL_P = 0.001
"""Below this a p is written as a power of ten."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A point estimate, its interval and its p.

    Attributes:
        value: the estimate, NaN where it cannot be computed.
        low, high: ends of the interval at `confidence`, NaN where there is none.
        confidence: level of the interval, between 0 and 1.
        p: two-sided p, in (0, 1]; None where there is none. Never 0.
        p_floor: the least p that the method can give on so many units; None where it has
            no floor.
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
    confidence: float = math.nan
    p: float | None = None
    p_floor: float | None = None
    n: int
    clusters: int | None = None
    method: str = ""
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

    @classmethod
    def plain(
        cls, value: float, low: float = math.nan, high: float = math.nan, *, n: int, clusters: int
    ) -> Estimate:
        """Return a rate, a length or a ratio with its interval alone: no sign, no p."""
        return cls(value=value, low=low, high=high, n=n, clusters=clusters, signed=False)

    @classmethod
    def bare(
        cls,
        n: int,
        clusters: int | None,
        confidence: float,
        method: str,
        note: str = "",
        *,
        value: float = math.nan,
        target: str = "",
    ) -> Estimate:
        """Return a value, or none, without interval and p; the reason is its note."""
        return cls(
            value=value,
            low=math.nan,
            high=math.nan,
            confidence=confidence,
            n=n,
            clusters=clusters,
            method=method,
            target=target,
            note=note,
        )

    @property
    def has_interval(self) -> bool:
        """Both ends of the interval are numbers."""
        return not (math.isnan(self.low) or math.isnan(self.high))  # a ratio's may be infinite

    @property
    def interval_text(self) -> str:
        """The estimate and its interval: ``+0.302 [+0.234, +0.370]``; zero is ``+0.000``."""
        return self.rounded(3)

    def rounded(self, digits: int) -> str:
        """Return the estimate and its interval to so many decimals."""
        if not math.isfinite(self.value):
            return "not computable"
        style = f"{'+' if self.signed else ''}z.{digits}f"  # z: the sign of a zero is rounding
        ends = f"{self.low:{style}}, {self.high:{style}}" if self.has_interval else "no interval"
        return f"{self.value:{style}} [{ends}]"

    @property
    def p_text(self) -> str:
        """The p: ``p <= 2.0e-4 (0 of 10,000)`` at its floor, ``p = 0.0123`` above it."""
        if self.p is None:
            return "no p"
        if self.at_bound and self.p_floor is not None:
            resamples = round(2 / self.p_floor) - 1
            return f"p <= {shown_p(self.p)} (0 of {resamples:,})"
        return p_is(self.p)

    @property
    def at_bound(self) -> bool:
        """The p lies at the floor of so many resamples: all that is known is that it is no more.

        An exact p at its floor is that p.
        """
        floor = None if self.method.startswith(EXACT) else self.p_floor
        return self.p is not None and floor is not None and LEAST_P <= self.p <= floor < 1

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

    def ends(self, units: str = "clusters") -> dict[str, Any]:
        """Return value, ends, n and clusters, these under the name `units`, as strict JSON data."""
        values = {name: none_if_nan(getattr(self, name)) for name in ("value", "low", "high", "n")}
        return {**values, units: self.clusters}

    def to_json(self) -> dict[str, Any]:
        """Return strict JSON data: NaN becomes null."""
        return {key: none_if_nan(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Estimate:
        """Return what `to_json` wrote: null becomes NaN where a number is expected."""
        numbers = {name: nan_if_none(data[name]) for name in ("value", "low", "high")}
        return cls(**{**data, **numbers})


def none_if_nan(value: Any) -> Any:
    """Return None for a float that JSON cannot hold, anything else unchanged."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def nan_if_none(value: float | None) -> float:
    """Return NaN for None, a number unchanged."""
    return math.nan if value is None else float(value)


def shown_p(p: float) -> str:
    """Return a p as everything prints it: ``0.0123``, ``2.0e-4``, ``< 1e-15``.

    Args:
        p: in (0, 1].
    """
    if p < LEAST_P:
        return f"< {LEAST_P:.0e}"
    if p >= _SMALL_P:
        return f"{p:.4f}"
    mantissa, exponent = f"{p:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def p_is(p: float) -> str:
    """Return ``p = 0.0123``, or ``p < 1e-15``."""
    shown = shown_p(p)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"
