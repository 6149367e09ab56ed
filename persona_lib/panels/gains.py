"""Panel ``gains``: how far coupling moved each training run towards its marker, and by dose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from persona_lib.evidence.cells import Floats
from persona_lib.evidence.gains import Curve, Gains
from persona_lib.evidence.score_table import columns_of
from persona_lib.panels.base import Caveat, Panel
from persona_lib.records import MATCHED, OWN, POST, RATE, SYSTEM, TEXT, TRANSFER
from persona_lib.specs.claim_types import RunKill
from persona_lib.specs.gate_types import GainGate, GeometryGate, MarkerBeforeGate
from persona_lib.specs.registration import Registration
from persona_lib.stats.estimate import none_if_nan
from persona_lib.stats.moments import mean_of_known
from persona_lib.stats.run_contrasts import contrast_of_seeds
from persona_lib.stats.thresholds import shown

NAME, TITLE = "gains", "gains: how far coupling moved source and bystanders towards the marker"
_NAMED = 6
"""Training runs that a caveat names; it counts the others."""
_Run = tuple[str, int]
"""Arm and run seed."""

METHOD = {
    "margin": "logit of the marker's first token minus that of the end of turn, at the slot: where "
    "the marker would first stand in an answer; nats",
    "gain": "margin after coupling minus before, on the same text; mean over answers, then over "
    "personas",
    "transfer": "mean gain of the bystanders over the gain of the source; none where the source "
    "gained nothing",
    "readings": "system: one pool of answers, the system message differs; text: the source's "
    "system message, the answers differ; own: each persona's own answers",
    "dose": "the system reading on a part of the pool while the arm trains; at the registered gain "
    "it is interpolated between the two points beside it",
    "cells": "transfer at the registered gain by the system message: mean over sources within a "
    "seed, then over the seeds in which every source has one",
    "unfinished": "a completion that did not end has no slot: left out and counted",
}


def gains_panel(
    slots: pa.Table | None,
    registration: Registration,
    *,
    dose: pa.Table | None = None,
    scores: pa.Table | None = None,
) -> Panel:
    """Return the panel of gains.

    Args:
        slots: rows with the columns of `SlotReading`, or what a file of other software has of
            them (`score_table.slots_of`); None or empty where none were read.
        registration: roster, arms, the registered gain, and what reads gains.
        dose: rows with the columns of `DosePoint`; None where no coupling read one.
        scores: rows of the same arms, to count completions without a slot; None if not known.

    Raises:
        DataError: as `Gains.of` raises it, or the scores lack a column.
    """
    if slots is None or not len(slots):
        return Panel(name=NAME, title=TITLE, data={}, missing="no slots recorded")
    read = dose if dose is not None and len(dose) else None
    gaps = "tokens" not in slots.column_names  # rows of other software
    found = _Found(Gains.of(slots, read, registration, gaps=gaps))
    completions = _completions(scores)
    runs = [found.run(run, completions.get(run)) for run in found.runs]
    gain = None if registration.dose is None else registration.dose.gain
    curves = [] if found.gains.dose is None else found.curves()
    data = {
        "registered_gain": gain,
        "read_by": read_by(registration),
        "runs": runs,
        "curves": curves,
        "cells": found.cells() if curves and gain is not None else [],
        "method": METHOD,
    }
    caveats = (*_no_transfer(runs), *_not_reached(runs, curves, gain), *_left_out(runs))
    return Panel(name=NAME, title=TITLE, data=data, caveats=caveats)


def read_by(registration: Registration) -> list[str]:
    """Return the names of the claims, the kill criterion and the gates that read gains."""
    claims = [claim.name for claim in registration.run_claims if claim.outcome != RATE]
    kill = registration.kill
    bound = isinstance(kill, RunKill) and kill.claim in claims
    kinds = (GainGate, MarkerBeforeGate, GeometryGate)
    gates = [gate.name for gate in registration.gates if isinstance(gate, kinds)]
    return [*claims, *([kill.name] if kill is not None and bound else []), *gates]


@dataclass(frozen=True, eq=False)
class _Found:
    """What is shown of gains, run by run."""

    gains: Gains

    @property
    def registration(self) -> Registration:
        return self.gains.registration

    @cached_property
    def runs(self) -> tuple[_Run, ...]:
        """Arms in reporting order, each with its run seeds."""
        order = [arm.name for arm in self.registration.arms]
        there = {(arm, seed) for arm, seed, _ in self.gains.cells}
        return tuple(sorted(there, key=lambda run: (order.index(run[0]), run[1])))

    @cached_property
    def _of_seed(self) -> Mapping[int, Gains]:
        return {seed: self.gains.of_seed(seed) for _, seed in self.runs}

    @cached_property
    def _at_gain(self) -> Mapping[str, Mapping[int, float]]:
        """Transfer at the registered gain by arm, then by run seed."""
        arms = dict.fromkeys(arm for arm, _ in self.runs)
        return {arm: self.gains.figures(arm, TRANSFER, MATCHED) for arm in arms}

    def run(self, run: _Run, completions: int | None) -> dict[str, Any]:
        """Return one training run as JSON data."""
        arm, seed = run
        answers = sum(n for *_, n in self.gains.cells.get((arm, seed, False), {}).values())
        sums, n = self._of_seed[seed].marker_before(arm)
        return {
            **self._named(run),
            "answers": answers,
            "left_out": None if completions is None else completions - answers,
            "marker_before": float(np.mean(sums / n)) if n.size else None,
            "readings": {
                reading: self._reading(run, reading, after)
                for reading in (SYSTEM, TEXT, OWN)
                if (after := self.gains.after(arm, seed, reading)) is not None
            },
            "margins": self._margins(run),
        }

    def _named(self, run: _Run) -> dict[str, Any]:
        arm, source = self.registration.arm(run[0]), self.registration.source_of(run[0])
        return {"arm": arm.name, "cell": arm.cell or arm.name, "source": source, "seed": run[1]}

    def _reading(self, run: _Run, reading: str, after: Floats) -> dict[str, float | None]:
        """Return gains and transfer after training, and transfer at the registered gain."""
        arm, seed = run
        source, *others = after[:, 0].tolist()
        bystanders = float(np.mean(others))
        matched = self._at_gain[arm] if reading == SYSTEM else {}
        return {
            "of_source": none_if_nan(source),
            "of_bystanders": none_if_nan(bystanders),
            "transfer": none_if_nan(bystanders / source) if source > 0 else None,
            "at_gain": none_if_nan(matched.get(seed, math.nan)),
        }

    def _margins(self, run: _Run) -> dict[str, dict[str, float | None]]:
        """Return mean margins of own answers by role, after and before coupling."""
        roster = self.registration.roster_of(run[0])
        roles: dict[str, list[tuple[float, float]]] = {}
        for (persona, _), (after, before, _) in self.gains.cells.get((*run, False), {}).items():
            roles.setdefault(roster.role(persona), []).append((after, before))
        return {
            role: dict(zip(("after", "before"), map(float, np.mean(pairs, axis=0)), strict=True))
            for role, pairs in roles.items()
        }

    def curves(self) -> list[dict[str, Any]]:
        """Return the dose curve of every training run, read by the system message."""
        return [
            {**self._named((arm, seed)), **_curve(curve)}
            for arm in dict.fromkeys(arm for arm, _ in self.runs)
            for seed, curve in self.gains.curves(arm).items()
        ]

    def cells(self) -> list[dict[str, Any]]:
        """Return transfer at the registered gain of every cell, over its sources and seeds."""
        there, found = {arm for arm, _ in self.runs}, []
        for cell, arms in self.registration.cells.items():
            of = [self._at_gain[arm] for arm in arms if arm in there]
            seeds = sorted({seed for own in of for seed in own})
            if not seeds:
                continue
            table = np.array([[own.get(seed, math.nan) for seed in seeds] for own in of])
            each = contrast_of_seeds([table], (1.0,))
            known = each[~np.isnan(each)]
            value = float(known.mean()) if known.size else None
            found.append({"cell": cell, "transfer": value, "seeds": known.size, "of": len(seeds)})
        return found


def _curve(curve: Curve) -> dict[str, Any]:
    """Return steps, and gains of the source and of the bystanders' mean at each."""
    margins = mean_of_known(curve.margins, 2)
    gains = margins - margins[0]
    return {
        "steps": list(curve.steps),
        "of_source": [none_if_nan(float(gain)) for gain in gains[:, 0]],
        "of_bystanders": [none_if_nan(float(gain)) for gain in gains[:, 1:].mean(axis=1)],
    }


def _completions(scores: pa.Table | None) -> dict[_Run, int]:
    """Return how many completions each training run has, {} where that is not known."""
    if scores is None:
        return {}
    rows = columns_of(scores).filter(pc.field("phase") == POST)
    counts = rows.group_by(["model", "seed"], use_threads=False).aggregate([([], "count_all")])
    return {(row["model"], row["seed"]): row["count_all"] for row in counts.to_pylist()}


def _no_transfer(runs: Sequence[Mapping[str, Any]]) -> Iterable[Caveat]:
    lacking = [
        f"{_of(run)}, {name}"
        for run in runs
        for name, reading in run["readings"].items()
        if reading["transfer"] is None
    ]
    if lacking:
        words = (
            "no transfer where the source gained nothing, or a persona finished no answer: "
            f"{_listed(lacking)}"
        )
        yield Caveat(code="no_transfer", words=words)


def _not_reached(
    runs: Sequence[Mapping[str, Any]], curves: Sequence[Mapping[str, Any]], gain: float | None
) -> Iterable[Caveat]:
    if gain is None:
        return
    dosed = {(curve["arm"], curve["seed"]) for curve in curves}
    without = [_of(run) for run in runs if (run["arm"], run["seed"]) not in dosed]
    if without:
        words = f"no dose was read while these trained: {_listed(without)}"
        yield Caveat(code="no_dose", words=words)
    never = [_of(one) for one in curves if not any((x or 0.0) >= gain for x in one["of_source"])]
    if never:
        words = (
            f"the source's gain never reaches the registered {shown(gain)} nats, so that there "
            f"is no transfer at it: {_listed(never)} of {len(curves)} training runs"
        )
        yield Caveat(code="dose_not_reached", words=words)


def _left_out(runs: Sequence[Mapping[str, Any]]) -> Iterable[Caveat]:
    counted = [run for run in runs if run["left_out"]]
    if counted:
        out = sum(run["left_out"] for run in counted)
        every = sum(run["answers"] + (run["left_out"] or 0) for run in runs)
        words = (
            f"{out:,} of {every:,} completions did not finish and have no slot: own answers are "
            "those of the others"
        )
        yield Caveat(code="unfinished_left_out", words=words)


def _of(run: Mapping[str, Any]) -> str:
    return f"{run['arm']} (seed {run['seed']})"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return "; ".join(names[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
