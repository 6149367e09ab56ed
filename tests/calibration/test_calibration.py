"""Error rates, measured where the truth is known, against bars that were set beforehand.

`pytest -m calibration` runs the whole suite. Bare `pytest` runs a slice of it: the same
bars on a tenth of the data, or less, widened by the chance error of so few.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest

from persona_lib.stats.estimate import Estimate
from persona_lib.verdict.claims import Outcome
from tests.calibration.bars import BARS, BINDING, FAST, FULL, NOT_MET, Bar
from tests.calibration.procedures import Tally, passes_h3
from tests.calibration.table import quoted, row, text
from tests.synthetic import verdict


def by_name(bar: Bar) -> str:
    return bar.name


@pytest.mark.calibration
@pytest.mark.parametrize("bar", BINDING, ids=by_name)
def test_bar(bar: Bar) -> None:
    tally = bar.measure(FULL)
    assert bar.holds(tally), f"{tally.rate:.4f} +- {tally.error:.4f}, bar {bar.text}"


@pytest.mark.calibration
@pytest.mark.parametrize("bar", NOT_MET, ids=by_name)
def test_what_is_said_not_to_be_met_is_not_met(bar: Bar) -> None:
    assert not bar.holds(bar.measure(FULL)), "it is met: take `not_met` away"


QUOTED = quoted()
NAMED = {bar.name: bar for bar in BARS}


@pytest.mark.calibration
@pytest.mark.parametrize("name", QUOTED, ids=str)
def test_quoted_figures_are_of_this_code(name: str) -> None:
    """Other versions of NumPy may draw other numbers, so that equality is not asked for."""
    now, written = NAMED[name].measure(FULL), QUOTED[name][1]
    chance = math.hypot(now.error, written.error) + 1 / now.n
    assert abs(now.rate - written.rate) <= 4 * chance


@pytest.mark.parametrize("bar", BINDING, ids=by_name)
def test_bar_with_few(bar: Bar) -> None:
    tally = bar.measure(FAST)
    assert bar.holds_with_few(tally), f"{tally.hits} of {tally.n}, bar {bar.text}"


def test_quoted_figures_name_their_bars_and_meet_them() -> None:
    assert len(QUOTED) >= 20
    for name, (bar, tally) in QUOTED.items():
        assert (bar, tally.n) == (NAMED[name].text, NAMED[name].count), name
        assert NAMED[name].holds(tally) is (NAMED[name] not in NOT_MET), name
    assert {bar.name for bar in NOT_MET} <= set(QUOTED)


def test_the_page_has_every_bar_once() -> None:
    def never(bar: Bar) -> Tally:
        return Tally(0, bar.count)

    lines = text(never).splitlines()
    assert [bar.name for bar in BARS if lines.count(row(bar, never(bar))) != 1] == []


@pytest.mark.parametrize("rate", [0.50, 0.54, 0.56, 0.60, 0.65, 0.70, 0.80])
def test_h3_is_read_as_verdicts_read_it(rate: float) -> None:
    found = verdict("H3", rates={"C2": rate, "C2p": 0.60})
    assert passes_h3(found.effect) is (found.outcome is Outcome.SUPPORTED)


@pytest.mark.parametrize(
    ("low", "value", "p", "passes"),
    [
        (-0.04, 0.05, 0.11, True),
        (-0.04, 0.06, 0.11, False),
        (-0.04, -0.06, 0.11, False),
        (-0.04, 0.05, 0.10, False),
        (-0.05, 0.01, 0.11, False),
    ],
)
def test_h3_at_its_thresholds(low: float, value: float, p: float, passes: bool) -> None:
    bare = Estimate.bare(2_800, 280, 0.95, "made up", "", value=value)
    assert passes_h3(replace(bare, low=low, high=1.0, p=p)) is passes


def test_every_row_has_a_name_of_its_own() -> None:
    assert max(Counter(bar.name for bar in BARS).values()) == 1


def test_widened_bounds_still_bind() -> None:
    """What is wrong by far fails with few data sets; what is at its bound does not."""
    size = next(bar for bar in BARS if bar.text == "[0.044, 0.06]")
    few = {hits: size.holds_with_few(Tally(hits, 1_000)) for hits in (10, 44, 60, 100)}
    assert few == {10: False, 44: True, 60: True, 100: False}
