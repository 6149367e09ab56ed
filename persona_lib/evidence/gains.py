"""Gains: how far coupling moved an arm towards its marker, read at slots and by dose.

A margin is the logit of the marker's first token minus that of the end of turn; a gain is a
margin after coupling minus the one before, on the same text. Additive shifts of either logit
that are the same for all personas cancel in a gain, a common scale in a ratio of gains.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from persona_lib.checks import checked
from persona_lib.errors import DataError
from persona_lib.evidence.cells import Floats
from persona_lib.evidence.score_table import LOGITS, PROBABILITIES, without_slot
from persona_lib.records import (
    MATCHED,
    OWN,
    POST,
    SYSTEM,
    TRANSFER,
    DosePoint,
    SlotReading,
    schema_of,
)
from persona_lib.specs.registration import Registration
from persona_lib.stats.moments import mean_of_known

_REMEDY = "Record the set again, or leave the unfinished run out."
_NOT_READ = ("tokens", "marked")
"""Columns of `SlotReading` that no gain reads."""
_NO_POOL = "a file has own answers, and no pool of answers that are read under every system message"


@dataclass(frozen=True, eq=False)
class Curve:
    """An arm's margins by dose: (T,) steps, and (T, readers, authors) means, source first."""

    steps: tuple[int, ...]
    margins: Floats


class Margins(NamedTuple):
    """Mean margin of some answers after and before coupling, in nats, and how many they are."""

    after: float
    before: float
    answers: int


_NONE = Margins(math.nan, math.nan, 0)


@dataclass(frozen=True, eq=False)
class Gains:
    """Readings at slots, checked whole, and the doses of couplings if they were read.

    Attributes:
        registration: names everything.
        slots: columns of `SlotReading`.
        dose: columns of `DosePoint`, None where no coupling read one.
    """

    registration: Registration
    slots: pa.Table
    dose: pa.Table | None

    @classmethod
    def of(
        cls,
        slots: pa.Table,
        dose: pa.Table | None,
        registration: Registration,
        *,
        gaps: bool = False,
    ) -> Gains:
        """Return the gains of these rows.

        With `gaps`, `_NOT_READ` may be missing and `PROBABILITIES` be NaN.

        Raises:
            DataError: a column is missing, mistyped or null; an unknown arm or persona; a
                reading that is not finite; a repeated place; or an answer of the pool that is
                not read under every system message of its arm.
        """
        needed = [c for c in schema_of(SlotReading) if not gaps or c.name not in _NOT_READ]
        slots = checked(slots, pa.schema(needed), "slots")
        _check_names(slots, registration, "slots", ("persona", "author"))
        _check_finite(slots, "slots", LOGITS if gaps else (*LOGITS, *PROBABILITIES))
        keys = ["model", "seed", "pool", "persona", "author", "question", "sample"]
        _check_once(slots, "slots", keys)
        _check_crossed(slots, registration)
        if dose is not None:
            dose = checked(dose, schema_of(DosePoint), "dose")
            _check_names(dose, registration, "dose", ("persona", "author"))
            _check_finite(dose, "dose", ("margin",))
            _check_once(dose, "dose", ["model", "seed", "step", "persona", "author"])
        return cls(registration, slots, dose)

    def of_seed(self, seed: int) -> Gains:
        """Return the readings of one training run."""
        of = pc.field("seed") == seed
        dose = None if self.dose is None else self.dose.filter(of)
        return replace(self, slots=self.slots.filter(of), dose=dose)

    def figures(self, arm: str, outcome: str, reading: str) -> dict[int, float]:
        """Return transfer or selectivity of an arm by run seed; see `Evidence.figures`.

        They are read after training; ``matched`` where the source's gain first reaches the
        registered dose, each margin on a straight line between the readings beside it.
        """
        dose = self.registration.dose
        if reading != MATCHED:
            found = {seed: self.after(arm, seed, reading) for seed in self._seeds(arm)}
        elif dose is not None:
            found = {
                seed: at_gain(mean_of_known(curve.margins, 2), dose.gain)
                for seed, curve in self.curves(arm).items()
            }
        else:
            found = {}
        return {seed: _outcome(pair, outcome) for seed, pair in found.items() if pair is not None}

    def curves(self, arm: str) -> dict[int, Curve]:
        """Return the dose curve of each run of an arm, by run seed."""
        return self._curves.get(arm, {})

    @cached_property
    def _curves(self) -> dict[str, dict[int, Curve]]:
        if self.dose is None:
            return {}
        arms = pc.unique(self.dose["model"]).to_pylist()
        return {arm: self._of_dose(arm, self.dose.filter(pc.field("model") == arm)) for arm in arms}

    def _of_dose(self, arm: str, rows: pa.Table) -> dict[int, Curve]:
        who, found = self._readers(arm), {}
        for seed in sorted(set(rows["seed"].to_pylist())):
            own = rows.filter(pc.field("seed") == seed)
            steps = tuple(sorted(set(own["step"].to_pylist())))
            margins = np.full((len(steps), len(who), len(who)), math.nan)
            at = [
                [known.index(name) for name in own[column].to_pylist()]
                for column, known in (("step", steps), ("persona", who), ("author", who))
            ]
            margins[tuple(at)] = own["margin"].to_numpy()
            found[seed] = Curve(steps, margins)
        return found

    def source_gains(self, arm: str) -> tuple[Floats, Floats]:
        """Return (Q,) sums of the source's gains by question, and (Q,) how many there are.

        Read in the pool under the source's system message, or in its own answers where there
        is no pool.
        """
        rows = self._rows(arm, pool=self._pooled(arm))
        rows = rows.filter(pc.field("persona") == self.registration.source_of(arm))
        return _by_question(rows, _margin(rows, "after") - _margin(rows, "before"))

    def marker_before(self, arm: str) -> tuple[Floats, Floats]:
        """Return (Q,) sums of log P(marker) before coupling by question, and (Q,) how many.

        At the slots of the pool, or of its own answers where there is none: all tokens of the
        marker, by the pre-coupling model under the arm; nats. Slots without it are left out.
        """
        rows = self._rows(arm, pool=self._pooled(arm))
        rows = rows.filter(~pc.is_nan(pc.field("log_z_before")))
        parts = [rows[f"{name}_before"].to_numpy() for name in ("marker", "log_z", "rest")]
        return _by_question(rows, parts[0] - parts[1] + parts[2])

    def _readers(self, arm: str) -> tuple[str, ...]:
        roster = self.registration.roster_of(arm)
        return (roster.source, *roster.bystanders)

    def _rows(self, arm: str, *, pool: bool) -> pa.Table:
        return self.slots.filter((pc.field("model") == arm) & (pc.field("pool") == pool))

    def _pooled(self, arm: str) -> bool:
        return any(where[2] for where in self.cells if where[0] == arm)

    def _seeds(self, arm: str) -> list[int]:
        return sorted({where[1] for where in self.cells if where[0] == arm})

    @cached_property
    def cells(self) -> dict[tuple[str, int, bool], dict[tuple[str, str], Margins]]:
        """Margins by arm, seed and pool, then by reader and author."""
        names = ("model", "seed", "pool", "persona", "author")
        columns = [self.slots[name] for name in names]
        margins = [pa.array(_margin(self.slots, when)) for when in ("after", "before")]
        table = pa.table([*columns, *margins], names=[*names, "after", "before"])
        means = table.group_by(list(names), use_threads=False).aggregate(
            [("after", "mean"), ("before", "mean"), ([], "count_all")]
        )
        found: dict[tuple[str, int, bool], dict[tuple[str, str], Margins]] = {}
        for row in means.to_pylist():
            cells = found.setdefault((row["model"], row["seed"], row["pool"]), {})
            read = Margins(row["after_mean"], row["before_mean"], row["count_all"])
            cells[row["persona"], row["author"]] = read
        return found

    def after(self, arm: str, seed: int, reading: str) -> Floats | None:
        """Return what `at_gain` gives, from the readings after training; None without any."""
        cells = self.cells.get((arm, seed, reading != OWN))
        if cells is None:
            return None
        who = self._readers(arm)
        if reading == OWN:
            places = [[(name, name)] for name in who]
        elif reading == SYSTEM:
            places = [[(reader, author) for author in who] for reader in who]
        else:
            places = [[(who[0], author)] for author in who]
        means = np.array(
            [[np.mean([cells.get(p, _NONE)[when] for p in of]) for when in (0, 1)] for of in places]
        )
        return np.column_stack([means[:, 0] - means[:, 1], means[:, 0]])


def unread(table: pa.Table, gains: Gains | None, registration: Registration) -> tuple[str, ...]:
    """Return a sentence for each thing that a table of `score_table.ROWS` cannot say of gains."""
    if gains is None:
        why = f"Gains, transfer and selectivity: the set has no columns {', '.join(LOGITS)}."
        return (why,) if registration.reads_slots else ()
    arms = without_slot(table)
    lost, of = (sum(counts[at] for counts in arms.values()) for at in (0, 1))
    each = ", ".join(f"{arm} {count:,}" for arm, (count, _) in arms.items() if count)
    found = [f"Gains of {lost:,} of {of:,} completions of arms: no slot ({each})."] if lost else []
    found += [f"Gains by {what}: {_NO_POOL}." for what in ("system message", "text")]
    found += ["Gains at a dose: a file has readings after training alone."]
    known = ~np.isnan(gains.slots["log_z_before"].to_numpy())
    if not known.all():
        why = f"{', '.join(PROBABILITIES)} are not given in {(~known).sum():,} of {known.size:,}"
        found += [f"P(marker) at the slot: {why} slots."]
    return tuple(found)


def at_gain(margins: Floats, gain: float) -> Floats:
    """Return gains and margins where the source's gain first reaches a value.

    Args:
        margins: (T, P) margins by dose, the first before training; the source is the first.
        gain: nats.

    Returns:
        (P, 2) gains and margins on straight lines between two readings; NaN where the
        source's gain never reaches `gain`.
    """
    gains = margins - margins[0]
    reached = np.flatnonzero(gains[:, 0] >= gain)
    if not reached.size:
        return np.full((margins.shape[1], 2), math.nan)
    to = int(reached[0])
    before, after = gains[to - 1, 0], gains[to, 0]
    share = (gain - before) / (after - before)
    return np.stack([of[to - 1] + share * (of[to] - of[to - 1]) for of in (gains, margins)], axis=1)


def _outcome(pair: Floats, outcome: str) -> float:
    """Return an outcome of (P, 2) gains and margins, the source first."""
    gains, margins = pair.T
    if outcome == TRANSFER:
        return float(gains[1:].mean() / gains[0]) if gains[0] > 0 else math.nan
    return float(margins[1:].mean() - margins[0])


def _margin(rows: pa.Table, when: str) -> Floats:
    found: Floats = rows[f"marker_{when}"].to_numpy() - rows[f"end_{when}"].to_numpy()
    return found


def _by_question(rows: pa.Table, values: Floats) -> tuple[Floats, Floats]:
    _, at = np.unique(rows["question"].to_pylist(), return_inverse=True)
    sums, n = np.bincount(at, weights=values), np.bincount(at)
    return sums.astype(np.float64), n.astype(np.float64)


def _check_names(
    table: pa.Table, registration: Registration, where: str, personas: Iterable[str]
) -> None:
    known: dict[str, Sequence[str]] = {
        "phase": (POST,),
        "model": [arm.name for arm in registration.arms],
        **dict.fromkeys(personas, registration.roster.all),
    }
    for column, names in known.items():
        odd = sorted(set(pc.unique(table[column]).to_pylist()) - set(names))
        if odd:
            raise DataError(
                f"{where}: {column}",
                bound=f"one of {', '.join(names)}",
                value=odd[0],
                remedy="Judge these records under the registration that they were made for.",
            )


def _check_finite(table: pa.Table, where: str, columns: Sequence[str]) -> None:
    for name in columns:
        if not pc.all(pc.is_finite(table[name])).as_py() and table.num_rows:
            raise DataError(
                f"{where}: column {name}", bound="finite numbers", value="NaN or infinite",
                remedy="Leave out what has no slot: an unfinished completion has no row.",
            )  # fmt: skip


def _check_once(table: pa.Table, where: str, keys: list[str]) -> None:
    places = table.group_by(keys, use_threads=False).aggregate([([], "count_all")])
    twice = places.filter(pc.field("count_all") > 1)
    if twice.num_rows:
        raise DataError(
            f"{where}: {', '.join(keys)}", bound="one row each",
            value=tuple(twice.slice(0, 1).to_pylist()[0][key] for key in keys), remedy=_REMEDY,
        )  # fmt: skip


def _check_crossed(slots: pa.Table, registration: Registration) -> None:
    """Every answer of the pool is read under the source's and every bystander's message."""
    pool = slots.filter(pc.field("pool"))
    keys = ["model", "seed", "author", "question", "sample"]
    readers = pool.group_by(keys, use_threads=False).aggregate([([], "count_all")])
    read: dict[tuple[int, str], dict[str, set[tuple[str, str, int]]]] = {}
    for row in readers.to_pylist():
        asked = 1 + len(registration.roster_of(row["model"]).bystanders)
        if row["count_all"] != asked:
            raise DataError(
                f"slots: answer {row['author']}/{row['question']} of the pool, arm {row['model']}, "
                f"seed {row['seed']}",
                bound=f"{asked} readings, one under each system message",
                value=row["count_all"],
                remedy=_REMEDY,
            )
        of = read.setdefault((row["seed"], registration.source_of(row["model"])), {})
        of.setdefault(row["model"], set()).add((row["author"], row["question"], row["sample"]))
    for (seed, source), arms in read.items():
        first, *others = arms
        for other in others:
            if arms[other] != arms[first]:
                raise DataError(
                    f"slots: pool of arm {other}, seed {seed}",
                    bound=f"the answers that {first} read, whose source is {source} too",
                    value=f"{len(arms[other] ^ arms[first])} answers that one of them did not read",
                    remedy=_REMEDY,
                )
