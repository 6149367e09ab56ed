"""Panel ``geometry``: cosines of personas' hidden states with the source's, and ranks.

It reads stored cosines and ranks (`records.GeometryRow`), never states. Where the raw
states are all but parallel, it says "saturated" in place of "no change".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from persona_lib.checks import SHARE, number
from persona_lib.panels.base import Caveat, Panel, of_some
from persona_lib.panels.geometry_room import (
    CEILING,
    RAW,
    SATURATED,
    Room,
    bonferroni,
    mean_json,
    readout_words,
    room_gate,
)
from persona_lib.panels.geometry_table import GeometryTable, Look, Where, read_geometry
from persona_lib.records import POST, PRE, ModelId
from persona_lib.specs.registration import RAW as RAW_PRIOR
from persona_lib.specs.registration import Registration
from persona_lib.stats.directions import MEAN_METHOD, jackknifed, over_questions
from persona_lib.stats.estimate import Estimate, none_if_nan
from persona_lib.stats.moments import Floats
from persona_lib.stats.thresholds import shown

if TYPE_CHECKING:
    import pyarrow as pa

TITLE = "geometry of hidden states: source and bystanders"
_UNKNOWN = Estimate.bare(0, 0, math.nan, MEAN_METHOD)
_MEAN_OF = {
    "prompt_mean": "mean over the tokens of the prompt, as published",
    "last_token": "the last token of the prompt",
    "response_mean": "mean over the tokens of one completion of the model's own",
}
METHOD = {
    "cosine": "mean over bystanders and seeds of the cosine with the source, then over questions; "
    "t interval over questions",
    "change": "paired by question, on the cells that both models have; t interval and p over "
    "questions, for these personas in these runs, each look by itself",
    "centred": "the mean over personas is subtracted first, question by question; where all "
    "personas shrink towards it alike, the uncentred rank shows it and this does not",
    "rank": "effective rank (Roy and Vetterli 2007) of the centroids of all personas, mean over "
    "seeds; jackknife over questions",
    "largest": "the largest of as many looks as there are layers: interval and p are Bonferroni's "
    "over layers",
}


def geometry_panel(
    table: pa.Table | None, registration: Registration, *, ceiling: float = CEILING
) -> Panel:
    """Return the panel of recorded cosines and ranks.

    Args:
        table: rows with the columns of `GeometryRow`, of any models of the
            registration; None or empty where none were recorded.
        registration: roster, arms and level of intervals.
        ceiling: raw cosines above it leave no room for a change to show.

    Raises:
        DataError: a row is of another registration, repeated, or missing.
        SpecError: the ceiling is no share.
    """
    number("ceiling", ceiling, SHARE, remedy=f"{CEILING} is the default.")
    if table is None or not len(table):
        return Panel(name="geometry", title=TITLE, data={}, missing="no hidden states recorded")
    found = read_geometry(table, registration)
    judge = _Judge(found, registration, ceiling)
    rooms = judge.rooms()
    data = {
        "source": registration.roster.source,
        "bystanders": list(registration.roster.bystanders),
        "questions": len(found.questions),
        "layers": list(found.layers),
        "blocks": found.blocks,
        "confidence": judge.confidence,
        "ceiling": ceiling,
        "readouts": {name: _MEAN_OF[name] for name in found.readouts},
        "method": METHOD,
        "room": [room.to_json() for room in rooms],
        "words": {name: readout_words(name, rooms) for name in found.readouts},
        "looks": [judge.look(model, where) for model in found.models for where in found.places],
        "largest": judge.largest(),
    }
    return Panel(
        name="geometry",
        title=TITLE,
        data=data,
        gates=(room_gate(found, rooms, judge.confidence, ceiling),),
        caveats=_caveats(found, rooms, ceiling),
    )


def states_of_some(scores: pa.Table, states: pa.Table) -> tuple[Caveat, ...]:
    """Return a caveat where hidden states were kept of some of the scored seeds only."""
    return of_some(scores, states, what="hidden states", code="states_of_some_seeds")


@dataclass(frozen=True)
class _Judge:
    """Everything that is computed from one table."""

    found: GeometryTable
    registration: Registration
    ceiling: float

    @property
    def confidence(self) -> float:
        return self.registration.statistics.confidence

    def rooms(self) -> list[Room]:
        """Return the room that the raw model leaves, look by look; none if it is not there."""
        if RAW not in self.found.models:
            return []
        return [self.room(RAW, where) for where in self.found.places if not where.centred]

    def room(self, model: ModelId, where: Where) -> Room:
        """Return the room that a model leaves at one place, uncentred."""
        known = over_questions(self.found.looks[model, where].by_question, self.confidence)
        return Room(readout=where.readout, layer=where.layer, known=known, ceiling=self.ceiling)

    def look(self, model: ModelId, where: Where) -> dict[str, Any]:
        """Return one model at one readout, layer and centring, with its changes."""
        look = self.found.looks[model, where]
        known = over_questions(look.by_question, self.confidence)
        rank = jackknifed(look.rank, look.rank_without, self.confidence)
        return {
            "phase": model.phase,
            "model": model.name,
            **asdict(where),
            "cosine": {
                **mean_json(known),
                "sd": _sd(look.by_question),
                "cells": look.cells,
                "missing": look.missing,
                "seeds": _by_seed(look, look.seed_cosines),
            },
            "rank": {**mean_json(rank), "seeds": _by_seed(look, look.ranks)},
            "changes": [self._change(model, other, where) for other in self._references(model)],
        }

    def _references(self, model: ModelId) -> list[ModelId]:
        """Return the models that a model is compared with: the raw one, the one under it."""
        under = self.registration.arm(model.name).prior if model.phase == POST else RAW_PRIOR
        wanted = dict.fromkeys([RAW, ModelId(PRE, under)])
        return [other for other in wanted if other != model and other in self.found.models]

    def _change(self, model: ModelId, other: ModelId, where: Where) -> dict[str, Any]:
        after, before = self.found.looks[model, where], self.found.looks[other, where]
        known = over_questions(after.minus(before), self.confidence)
        rank = jackknifed(
            after.rank - before.rank, after.rank_without - before.rank_without, self.confidence
        )
        blocked = "" if where.centred else self.room(other, where).words
        return {
            "from": other.name,
            "cosine": {**mean_json(known), "p": known.p},
            "rank": {**mean_json(rank), "p": rank.p},
            "words": blocked or _direction(known, centred=where.centred),
        }

    def largest(self) -> list[dict[str, Any]]:
        """Return the largest change over layers of every model, readout and centring."""
        pairs = [(model, other) for model in self.found.models for other in self._references(model)]
        return [
            self._largest(model, other, readout, centre)
            for model, other in pairs
            for readout in self.found.readouts
            for centre in (False, True)
        ]

    def _largest(
        self, model: ModelId, other: ModelId, readout: str, centre: bool
    ) -> dict[str, Any]:
        looks = len(self.found.layers)
        changes = {}
        for layer in self.found.layers:
            where = Where(readout, layer, centred=centre)
            minus = self.found.looks[model, where].minus(self.found.looks[other, where])
            known = over_questions(minus, bonferroni(self.confidence, looks))
            if not math.isnan(known.value):
                changes[layer] = known
        at = max(changes, key=lambda layer: abs(changes[layer].value), default=None)
        known = _UNKNOWN if at is None else changes[at]
        blocked = ""
        if at is not None and not centre:
            blocked = self.room(other, Where(readout, at, centred=False)).words
        return {
            "phase": model.phase,
            "model": model.name,
            "from": other.name,
            "readout": readout,
            "centred": centre,
            "layer": at,
            "of": looks,
            **mean_json(known),
            "p": None if known.p is None else min(1.0, looks * known.p),
            "words": blocked or _direction(known, centred=centre),
        }


def _caveats(found: GeometryTable, rooms: list[Room], ceiling: float) -> tuple[Caveat, ...]:
    caveats = []
    if blocked := [room for room in rooms if not room.holds]:
        where = "; ".join(
            f"{name} at layers {', '.join(str(r.layer) for r in blocked if r.readout == name)}"
            for name in found.readouts
            if any(r.readout == name for r in blocked)
        )
        words = (
            f"{SATURATED} where uncentred cosines of the raw model are not shown to lie below "
            f"{shown(ceiling)} ({where}); the centred values stand beside them"
        )
        caveats.append(Caveat(code="saturated_probe", words=words))
    if "response_mean" in found.readouts and len(found.models) > 1:
        words = (
            "response_mean reads what each model wrote itself: a change may lie in the text and "
            "not in how the model represents the persona"
        )
        caveats.append(Caveat(code="own_texts", words=words))
    if found.missing:
        words = (
            f"{found.missing:,} of {found.cells:,} cosines are missing (empty responses, or "
            "states without a direction); means are over the others"
        )
        caveats.append(Caveat(code="missing_states", words=words))
    return tuple(caveats)


def _direction(known: Estimate, *, centred: bool) -> str:
    """Return what a change says; an interval around 0 is no proof of "no change"."""
    seen = ", seen from the mean of all personas" if centred else ""
    if math.isnan(known.low):
        return "no interval: nothing can be said of a change"
    if known.low > 0:
        return f"bystanders lie nearer to the source{seen}"
    if known.high < 0:
        return f"bystanders lie further from the source{seen}"
    return f"undecided: a change from {known.low:+z.4f} to {known.high:+z.4f} is compatible"


def _sd(by_question: Floats) -> float | None:
    """Return the standard deviation over the questions that are known, None below two."""
    values = by_question[~np.isnan(by_question)]
    return float(values.std(ddof=1)) if values.size > 1 else None


def _by_seed(look: Look, values: Sequence[float] | Floats) -> dict[str, float | None]:
    """Return one number a seed as strict JSON data."""
    pairs = zip(look.seeds, values, strict=True)
    return {str(seed): none_if_nan(float(value)) for seed, value in pairs}
