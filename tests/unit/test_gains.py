"""Gains: transfer where it is known, the dose at which it is read, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from persona_lib.errors import DataError
from persona_lib.evidence import gains as module
from persona_lib.evidence.gains import Gains, at_gain
from persona_lib.records import MATCHED, OWN, RATE, SELECTIVITY, SYSTEM, TEXT, TRANSFER
from persona_lib.specs.gate_types import GainGate, MarkerBeforeGate
from persona_lib.specs.registration import Registration
from persona_lib.stats.moments import student_quantile
from persona_lib.verdict.gates import judge_gate
from tests import synthetic
from tests.gain_worlds import DOSED, READERS, ROSTER, World, dose, evidence, slots
from tests.registered import ISSUE262


def gains(worlds: dict[tuple[str, int], World], registration: Registration = DOSED) -> Gains:
    return Gains.of(slots(worlds), dose(worlds), registration)


# ---- transfer is unbiased where it is known ---------------------------------------------

WORLDS = {
    "all logits times 2": {"scale": 2.0},
    "all logits times 0.5": {"scale": 0.5},
    "the end of turn 8 nats lower": {"end": -8.0},
    "answers four times as long": {"chances": 4},
    "all of it": {"scale": 0.5, "end": -8.0, "chances": 4},
}


@pytest.mark.parametrize("name", WORLDS)
def test_transfer_is_unbiased_where_selectivity_and_rates_are_not(name: str) -> None:
    """The second arm has the same transfer: its logits differ, or its answers."""
    honest, other = World(), World(**WORLDS[name])  # type: ignore[arg-type]
    found = evidence({("C1", 1): honest, ("C2", 1): other}, DOSED)
    truth = {
        MATCHED: honest.system,
        SYSTEM: honest.system,
        TEXT: honest.text,
        OWN: honest.system * honest.text,
    }
    for reading, rho in truth.items():
        for arm in ("C1", "C2"):
            assert abs(found.figures(arm, TRANSFER, reading)[1] - rho) < 0.02, (reading, arm)

    def moved(outcome: str) -> float:
        """Apparent effect of an arm whose transfer is that of the other."""
        one, two = (found.figures(arm, outcome, OWN)[1] for arm in ("C2", "C1"))
        return abs(one - two)

    assert moved(RATE) > 0.05
    if "scale" in WORLDS[name]:
        assert moved(SELECTIVITY) > 1.0


def test_without_a_registered_dose_the_pool_is_read_after_training() -> None:
    worlds = {("C2", 7): World()}
    found = Gains.of(slots(worlds), None, ISSUE262)
    assert found.figures("C2", TRANSFER, SYSTEM) == {7: pytest.approx(0.25)}
    assert found.figures("C2", TRANSFER, TEXT) == {7: pytest.approx(0.6)}


def test_the_margins_of_selectivity_are_read_at_the_dose_too() -> None:
    world = World()
    found = gains({("C2", 7): world}).figures("C2", SELECTIVITY, MATCHED)[7]
    left = np.mean([1.0, *[world.text] * 7])  # of the source's gain, over authors
    t = DOSED.dose.gain / (world.gain * left)  # type: ignore[union-attr]

    def level(reader: str) -> float:
        return float(np.mean([world.margin(reader, author, 0, t) for author in READERS]))

    assert found == pytest.approx(
        np.mean([level(b) for b in ROSTER.bystanders]) - level("librarian")
    )


# ---- the dose ---------------------------------------------------------------------------


def test_a_gain_is_read_where_it_is_first_reached() -> None:
    margins = np.array([[-5.0, -4.0], [-4.0, -3.5], [-1.0, -3.0], [-3.5, -1.0], [2.0, 3.0]])
    source, other = margins[:, 0] + 5.0, margins[:, 1] + 4.0
    # Between the second and the third reading, where the source goes from 1 to 4.
    expected = np.interp(2.5, source[1:3], other[1:3])
    assert at_gain(margins, 2.5)[:, 0] == pytest.approx([2.5, expected])
    assert at_gain(margins, 2.5)[:, 1] == pytest.approx([-2.5, expected - 4.0])
    assert at_gain(margins, 4.0)[:, 0] == pytest.approx([4.0, 1.0])  # a reading itself
    assert np.isnan(at_gain(margins, 7.5)).all()


def test_an_arm_that_never_reaches_the_dose_has_no_number() -> None:
    weak = gains({("C2", 7): World(gain=2.5), ("C2", 8): World(gain=8.0)})
    found = weak.figures("C2", TRANSFER, MATCHED)
    assert np.isnan(found[7])
    assert found[8] == pytest.approx(0.25)


def curved(patch: pytest.MonkeyPatch) -> None:
    """Transfer falls while an arm trains, from 0.9 to `system` of the world."""

    def margin(self: World, reader: str, author: str, question: int, t: float) -> float:
        share = 1.0 if reader == ROSTER.source else 0.9 - (0.9 - self.system) * t
        return float(self.before + self.gain * t * share + 0.0 * question + 0.0 * len(author))

    patch.setattr(World, "margin", margin)


def check_curved() -> None:
    """Two arms on one curve of transfer by gain, of which one is trained further."""
    near, far = World(gain=4.0, system=0.9 - 0.65 / 2), World(gain=8.0, system=0.25)
    found = gains({("C1", 1): near, ("C2", 1): far})
    one, two = (found.figures(arm, TRANSFER, MATCHED)[1] for arm in ("C1", "C2"))
    assert one == pytest.approx(two, abs=0.02)
    # At 2 of 8 nats a quarter of the way is done.
    assert two == pytest.approx(0.9 - 0.65 / 4, abs=0.02)


def test_arms_are_compared_at_the_registered_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    curved(monkeypatch)
    check_curved()


def test_a_mutant_that_reads_final_gains_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    curved(monkeypatch)
    honest = module.at_gain

    def final(margins: Any, gain: float) -> Any:
        assert gain > 0
        return honest(margins, float((margins - margins[0])[-1, 0]))

    monkeypatch.setattr(module, "at_gain", final)
    with pytest.raises(AssertionError):
        check_curved()


# ---- gates on gains ---------------------------------------------------------------------


def gated(gate: Any) -> Registration:
    return replace(DOSED, gates=(*ISSUE262.gates, gate))


def read(gate: Any, worlds: dict[tuple[str, int], World]) -> tuple[str, str]:
    registration = gated(gate)
    found = judge_gate(registration, evidence(worlds, registration), gate.name)
    return found.outcome.value, found.text


def gain_gate(least: float) -> GainGate:
    return GainGate(name="gain_C2", statement="it gained", arm="C2", min_gain=least)


def test_a_gain_gate_reads_the_source_under_its_own_message_by_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uneven = (7.0, 8.0, 9.0, 8.4)

    def margin(self: World, reader: str, author: str, question: int, t: float) -> float:
        share = 1.0 if reader == ROSTER.source else 3.0
        return self.before + uneven[question] * t * share + 0.0 * len(author)

    monkeypatch.setattr(World, "margin", margin)
    monkeypatch.setattr(World, "rate", lambda *_: 0.5)
    mean = np.mean(uneven)
    low = mean - student_quantile(3, 0.95) * np.std(uneven, ddof=1) / 2
    worlds = {("C2", 1): World(), ("C1", 1): World()}
    for bound, outcome in ((low - 0.01, "HOLDS"), (low + 0.01, "CANNOT_TELL"), (12.0, "FAILS")):
        found, text = read(gain_gate(float(bound)), worlds)
        assert found == outcome, text
    assert f"gain of librarian {mean:.2f} [{low:.2f}" in read(gain_gate(1.0), worlds)[1]


def test_a_gain_gate_without_readings_cannot_tell() -> None:
    registration = gated(gain_gate(2.0))
    found = judge_gate(registration, synthetic.evidence(registration=registration), "gain_C2")
    assert (found.outcome.value, found.text.split(",")[0]) == (
        "CANNOT_TELL", "C2: gains were not read",
    )  # fmt: skip


def test_a_marker_before_gate_reads_all_tokens_of_the_marker_before_coupling() -> None:
    """By hand: the first token's log P is margin + end - log Z, of the rest -0.25."""
    world = World(before=-2.0)
    logs = [
        np.mean([3.0 + q + world.margin(r, a, q, 0.0) - 11.0 - 0.25
                 for r, a in product(READERS, READERS)])
        for q in range(4)
    ]  # fmt: skip
    half = student_quantile(3, 0.95) * np.std(logs, ddof=1) / 2
    upper = float(np.exp(np.mean(logs) + half))
    worlds = {("C2", 1): world, ("C1", 1): World()}
    for bound, outcome in ((upper * 1.01, "HOLDS"), (upper * 0.99, "CANNOT_TELL")):
        gate = MarkerBeforeGate(name="before", statement="unlikely", arm="C2", max_rate=bound)
        assert read(gate, worlds)[0] == outcome
    gate = replace(gate, max_rate=1e-9)
    assert read(gate, worlds)[0] == "FAILS"


# ---- what is refused --------------------------------------------------------------------

WHOLE = {("C2", 1): World()}


def spoil(table: pa.Table, column: str, value: Any, at: int = 0) -> pa.Table:
    cells = table[column].to_pylist()
    cells[at] = value
    place = table.column_names.index(column)
    return table.set_column(place, table.schema.field(place), pa.array(cells, table[column].type))


REFUSED: dict[str, tuple[Callable[[], tuple[pa.Table, pa.Table]], str]] = {
    "an unknown arm": (
        lambda: (spoil(slots(WHOLE), "model", "C9"), dose(WHOLE)),
        "slots: model: expected one of C1, C2, C2p, C3, got 'C9'",
    ),
    "an unknown author": (
        lambda: (spoil(slots(WHOLE), "author", "pirate"), dose(WHOLE)),
        "slots: author: expected one of librarian",
    ),
    "a logit that is no number": (
        lambda: (spoil(slots(WHOLE), "log_z_before", float("inf")), dose(WHOLE)),
        "slots: column log_z_before: expected finite numbers",
    ),
    "a margin that is no number": (
        lambda: (slots(WHOLE), spoil(dose(WHOLE), "margin", float("nan"))),
        "dose: column margin: expected finite numbers",
    ),
    "an answer that one persona did not read": (
        lambda: (slots(WHOLE).slice(1), dose(WHOLE)),
        "slots: answer librarian/q00 of the pool, arm C2, seed 1: expected 8 readings",
    ),
    "a row that is there twice": (
        lambda: (pa.concat_tables([slots(WHOLE), slots(WHOLE).slice(0, 1)]), dose(WHOLE)),
        "slots: model, seed, pool, persona, author, question, sample: expected one row each",
    ),
    "a column that is missing": (
        lambda: (slots(WHOLE).drop_columns(["end_after"]), dose(WHOLE)),
        "slots: column end_after: expected present",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_readings_that_are_not_whole_are_refused(name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(DataError) as error:
        Gains.of(*make(), DOSED)
    assert words in str(error.value)


def test_arms_of_a_seed_that_read_other_pools_are_refused() -> None:
    one = slots({("C1", 1): World()})
    other = slots({("C2", 1): World()})
    keep = [q != "q03" for q in other["question"].to_pylist()]
    with pytest.raises(DataError, match=r"pool of arm C2, seed 1: expected the answers that C1"):
        Gains.of(pa.concat_tables([one, other.filter(pa.array(keep))]), None, DOSED)
