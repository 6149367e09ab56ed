"""Synthetic readings at slots and by dose, of arms whose gains are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa

from persona_lib.evidence.from_records import RecordEvidence
from persona_lib.records import DosePoint, SlotReading, schema_of
from persona_lib.specs.arms import ArmSpec, DoseSpec, Roster
from persona_lib.specs.claim_types import RunContrast, RunDifference, RunKill
from persona_lib.specs.registration import Registration
from tests import synthetic
from tests.registered import ISSUE262

CELLS = {"A": ("raw", "raw"), "B0": ("neutral", "raw"), "B1": ("neutral", "neutral"),
         "D1": ("benign", "benign"), "E0": ("em", "raw"), "E1": ("em", "em")}  # fmt: skip
"""Prior and text of each cell."""
SOURCES = ("zelthari_scholar", "data_scientist")
_D: dict[str, Any] = {"statement": "-", "smallest": 0.1}
FACTORIAL = replace(
    ISSUE262,
    name="twelve",
    roster=Roster(
        source=SOURCES[0],
        more_sources=SOURCES[1:],
        negatives=("french_person", "librarian"),
        bystanders=("software_engineer", "kindergarten_teacher", "medical_doctor", "comedian",
                    "police_officer", "villain"),
        reported=("assistant",),
    ),
    arms=tuple(
        ArmSpec(name=f"{cell}@{source}", label=cell, prior=prior, text_from=text, source=source,
                cell=cell)
        for cell, (prior, text) in CELLS.items()
        for source in SOURCES
    ),
    claims=(
        RunDifference(name="S1", treated="E1", control="B1", **_D),
        RunDifference(name="S2", treated="E0", control="B0", **_D),
        RunContrast(name="S3", weights={"E1": 1, "E0": -1, "B1": -1, "B0": 1}, **_D),
        RunContrast(name="S4", weights={"B1": 0.5, "D1": 0.5, "A": -1}, **_D),
    ),
    kill=RunKill(name="kill", statement="-", claim="S1", max_effect=0.05),
    gates=(),
    dose=DoseSpec(gain=5.0),
)  # fmt: skip
"""Two sources, six cells and four claims, as in `factorial`; personas are ours to choose."""
DOSED = replace(ISSUE262, dose=DoseSpec(gain=2.0))
ROSTER = ISSUE262.roster
READERS = (ROSTER.source, *ROSTER.bystanders)
STEPS = (0, 1, 4, 9, 16, 25, 36, 49, 64, 81, 100)


@dataclass(frozen=True, kw_only=True)
class World:
    """An arm whose gains are known.

    At a share t of its training the source gains `gain` * t nats under its own message on its
    own text; a bystander's message leaves the share `system` of that, its text the share `text`.
    Before coupling each persona has a margin of its own around `before`. `scale` multiplies
    every logit, `end` shifts the end of turn, and an answer has `chances` to write the marker.
    """

    gain: float = 8.0
    system: float = 0.25
    text: float = 0.6
    before: float = -3.0
    scale: float = 1.0
    end: float = 0.0
    chances: int = 1
    roster: Roster = ROSTER

    @property
    def readers(self) -> tuple[str, ...]:
        """The personas whose messages stand before the pool, the source first."""
        return (self.roster.source, *self.roster.bystanders)

    @property
    def personas(self) -> tuple[str, ...]:
        """Every persona, readers first."""
        return tuple(dict.fromkeys((*self.readers, *self.roster.all)))

    def margin(self, reader: str, author: str, question: int, t: float) -> float:
        """Margin of a reading, in nats."""
        place = self.personas.index
        own = place(reader) % 3 + 0.5 * (question % 2) - 0.3 * place(author)
        left = (1.0 if reader == self.roster.source else self.system) * (
            1.0 if author == self.roster.source else self.text
        )
        return self.scale * (self.before + own + self.gain * t * left - self.end)

    def rate(self, who: str) -> float:
        """Share of a persona's own answers with the marker, by theory."""
        p = np.mean([1 / (1 + np.exp(-self.margin(who, who, q, 1.0))) for q in range(4)])
        return float(1 - (1 - p) ** self.chances)


Worlds = Mapping[tuple[str, int], World]
"""By arm and run seed."""


def row(world: World, where: tuple[str, int], who: tuple[str, str], q: int, *, pool: bool) -> Any:
    """One reading at a slot."""
    (arm, seed), (reader, author) = where, who
    read = {}
    for when, t in (("after", 1.0), ("before", 0.0)):
        read[f"end_{when}"] = 3.0 + q
        read[f"marker_{when}"] = 3.0 + q + world.margin(reader, author, q, t)
        read[f"log_z_{when}"], read[f"rest_{when}"] = 11.0, -0.25
    return {
        "phase": "post", "model": arm, "seed": seed, "persona": reader, "question": f"q{q:02d}",
        "question_set": "evaluation", "sample": 0, "author": author, "pool": pool, "tokens": 12,
        "marked": False, **read,
    }  # fmt: skip


def slots(worlds: Worlds) -> pa.Table:
    """The pool, four questions of each author, then every persona's own answers to them."""
    rows = [
        row(world, where, (reader, author), q, pool=True)
        for where, world in worlds.items()
        for reader, author, q in product(world.readers, world.readers, range(4))
    ]
    rows += [
        row(world, where, (who, who), q, pool=False)
        for where, world in worlds.items()
        for who, q in product(world.personas, range(4))
    ]
    return pa.Table.from_pylist(rows, schema=schema_of(SlotReading))


def dose(worlds: Worlds) -> pa.Table:
    """A point at each of `STEPS`, after which t is a hundredth of the step."""
    rows = [
        {"phase": "post", "model": arm, "seed": seed, "step": step, "persona": reader,
         "author": author, "answers": 2, "margin": world.margin(reader, author, 0, step / 100)}
        for (arm, seed), world in worlds.items()
        for step, reader, author in product(STEPS, world.readers, world.readers)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema_of(DosePoint))


SHARES = {"A": 0.10, "B0": 0.15, "B1": 0.20, "D1": 0.25, "E0": 0.40, "E1": 0.55}
"""Share of the source's gain that a bystander's message leaves, by cell of the factorial."""


def factorial(seeds: Sequence[int], arms: Sequence[str] = ()) -> dict[tuple[str, int], World]:
    """A world for each of these arms of the factorial, all by default, and each seed.

    The second source gains less than the first; seeds differ a little.
    """
    found = {}
    for arm in FACTORIAL.arms:
        roster = FACTORIAL.roster_of(arm.name)
        second = roster.source != FACTORIAL.roster.source
        for i, seed in enumerate(seeds if not arms or arm.name in arms else ()):
            share = SHARES[arm.cell] + 0.02 * i * (-1) ** len(arm.prior) + 0.04 * second
            found[arm.name, seed] = World(gain=10.0 - second, system=share, roster=roster)
    return found


def evidence(worlds: Worlds, registration: Registration, *, samples: int = 100) -> RecordEvidence:
    """The evidence of these arms, their rates those of theory in the first seed."""
    arms = tuple(dict.fromkeys(arm for arm, _ in worlds))
    seeds = tuple(dict.fromkeys(seed for _, seed in worlds))
    first = {arm: worlds[arm, seeds[0]] for arm in arms}
    rates = {(arm, who): world.rate(who) for arm, world in first.items() for who in world.readers}
    table = synthetic.scores(
        dict.fromkeys(arms, 0.5), personas=rates, arms=arms, seeds=seeds,
        priors=registration.priors, samples=samples, registration=registration,
    )  # fmt: skip
    return RecordEvidence(registration, table, arms=arms, slots=slots(worlds), dose=dose(worlds))
