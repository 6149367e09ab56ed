"""Gate ``probe_room``: do the raw model's cosines leave room for a change to show?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from persona_lib.panels.geometry_table import GeometryTable, Where
from persona_lib.records import PRE, ModelId
from persona_lib.specs.registration import RAW as RAW_PRIOR
from persona_lib.stats.directions import MEAN_METHOD, over_questions
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.thresholds import at_least, shown
from persona_lib.verdict.gate_result import GateOutcome, GateResult, bounded

CEILING = 0.95
"""Raw cosines above this leave no room; the published ones ran from 0.978 to 0.9999."""
GATE = "probe_room"
RAW = ModelId(PRE, RAW_PRIOR)
SATURATED = "saturated: no room for a change to show"
DOUBTFUL = "room in doubt: a change may have no room to show"


@dataclass(frozen=True, kw_only=True)
class Room:
    """Whether the uncentred cosines of a model leave room at one readout and layer."""

    readout: str
    layer: int
    known: Estimate
    ceiling: float

    @property
    def outcome(self) -> GateOutcome:
        """Does the whole interval lie below the ceiling?"""
        return bounded(self.known, most=self.ceiling)

    @property
    def holds(self) -> bool:
        """Whether there is room."""
        return self.outcome is GateOutcome.HOLDS

    @property
    def words(self) -> str:
        """Why a change cannot be read here, "" where it can."""
        if self.holds:
            return ""
        description = f"uncentred cosine {_span(self.known)}, ceiling {shown(self.ceiling)}"
        return f"{_blocked(self.known, self.ceiling)} ({description})"

    def to_json(self) -> dict[str, Any]:
        """Return strict JSON data."""
        return {
            "readout": self.readout,
            "layer": self.layer,
            **mean_json(self.known),
            "outcome": self.outcome.value,
            "words": self.words,
        }


def room_gate(
    found: GeometryTable, rooms: list[Room], confidence: float, ceiling: float
) -> GateResult:
    """Judge whether the raw model leaves room at one readout and layer at least."""
    figure, outcome = Estimate.bare(0, 0, confidence, MEAN_METHOD), GateOutcome.CANNOT_TELL
    text = f"the raw model was not recorded, needs a cosine <= {shown(ceiling)}"
    if measured := [room for room in rooms if not math.isnan(room.known.value)]:
        least = min(measured, key=lambda room: room.known.value)
        where = Where(least.readout, least.layer, centred=False)
        # The lowest of so many looks is selected: its interval is Bonferroni's.
        level = bonferroni(confidence, len(rooms))
        figure = over_questions(found.looks[RAW, where].by_question, level)
        outcome = bounded(figure, most=ceiling)
        text = (
            f"lowest of {len(rooms)} uncentred cosines of the raw model, {least.readout} at "
            f"layer {least.layer}: {_span(figure)}, needs <= {shown(ceiling)}"
        )
        if outcome is not GateOutcome.HOLDS:
            text = f"{_blocked(figure, ceiling)}: {text}"
    return GateResult(
        name=GATE,
        statement="The raw model's states of source and bystanders are not all but parallel "
        "at every readout and layer.",
        outcome=outcome,
        figure=figure.value,
        threshold=ceiling,
        text=text,
        low=figure.low,
        high=figure.high,
        kind="ProbeRoom",
    )


def readout_words(name: str, rooms: list[Room]) -> str:
    """Return one sentence on the room that the raw model leaves at a readout."""
    own = [room for room in rooms if room.readout == name]
    blocked = [room for room in own if not room.holds]
    if not own:
        return "the raw model was not recorded: whether there is room is not known"
    if not blocked:
        return "room at every layer"
    values = [room.known.value for room in blocked]
    layers = ", ".join(str(room.layer) for room in blocked)
    where = "every layer" if len(blocked) == len(own) else f"layers {layers}"
    return (
        f"{SATURATED} at {where}, where the raw model's uncentred cosines are "
        f"{min(values):.4f} to {max(values):.4f}; read the centred values"
    )


def mean_json(known: Estimate) -> dict[str, Any]:
    """Return a mean over n questions as strict JSON data."""
    return {name: value for name, value in known.ends().items() if name != "clusters"}


def bonferroni(confidence: float, looks: int) -> float:
    """Return the level of each of so many intervals that hold together."""
    return 1 - (1 - confidence) / looks


def _blocked(known: Estimate, ceiling: float) -> str:
    """Return why an uncentred cosine leaves no room: it is too high, or may be."""
    return SATURATED if at_least(known.value, ceiling) else DOUBTFUL


def _span(known: Estimate) -> str:
    return replace(known, signed=False).rounded(4)
