"""What every panel is made of: data, its own gates, caveats, and whether it may be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from persona_lib.verdict.gate_result import GateOutcome, GateResult

if TYPE_CHECKING:
    import pyarrow as pa

READABLE, INVALID, UNAVAILABLE = "readable", "INVALID", "unavailable"
"""States of a panel: its gates hold; one does not; there is nothing to show."""


@dataclass(frozen=True, kw_only=True)
class Caveat:
    """Something that a reader has to know, raised by a rule.

    Attributes:
        code: name of the rule, lower-case with underscores ("saturated_probe").
        words: the sentence that is printed, with its figures.
    """

    code: str
    words: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel.

    Attributes:
        name: such as ``geometry``.
        title: what it shows, in a few words.
        data: its figures as strict JSON data: null for what is not known.
        gates: the panel's own gates; all have to hold for it to be read.
        caveats: raised by rule.
        missing: why there is nothing to show, "" where there is something.
    """

    name: str
    title: str
    data: Mapping[str, Any]
    gates: tuple[GateResult, ...] = ()
    caveats: tuple[Caveat, ...] = ()
    missing: str = ""

    @property
    def state(self) -> str:
        """``readable``, ``INVALID`` or ``unavailable``."""
        if self.missing:
            return UNAVAILABLE
        held = all(gate.outcome is GateOutcome.HOLDS for gate in self.gates)
        return READABLE if held else INVALID

    @property
    def reason(self) -> str:
        """Why the panel is not to be read, "" where it is."""
        broken = [gate.line for gate in self.gates if not gate.holds]
        return self.missing or "; ".join(broken)

    def to_json(self) -> dict[str, Any]:
        """Return strict JSON data."""
        return {
            "name": self.name,
            "title": self.title,
            "state": self.state,
            "reason": self.reason,
            "gates": [gate.to_json() for gate in self.gates],
            "caveats": [asdict(caveat) for caveat in self.caveats],
            "data": dict(self.data),
        }


def of_some(scores: pa.Table, kept: pa.Table, *, what: str, code: str) -> tuple[Caveat, ...]:
    """Return a caveat where a panel's rows are of some of the scored seeds only.

    Empty where both are of the same seeds, or where rows have seeds that were not scored.

    Args:
        scores: score rows, with their seed.
        kept: the rows that the panel reads.
        what: what these are, in the plural.
        code: the caveat's.
    """
    if any("seed" not in table.column_names for table in (scores, kept)):
        return ()  # whoever reads the rows says so
    scored, there = (set(t.column("seed").unique().to_pylist()) for t in (scores, kept))
    if not there < scored:
        return ()
    words = (
        f"{what} were kept of {len(there)} of {len(scored)} seeds "
        f"({', '.join(str(seed) for seed in sorted(there))}): this panel speaks of no other"
    )
    return (Caveat(code=code, words=words),)
