"""Panel of gains: counted once more row by row, and what is missing said as such."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from persona_lib.errors import DataError
from persona_lib.panels.base import Panel
from persona_lib.panels.gains import gains_panel
from persona_lib.specs.arms import DoseSpec
from persona_lib.specs.gate_types import GainGate, GeometryGate, MarkerBeforeGate
from persona_lib.specs.registration import Registration
from tests import synthetic
from tests.gain_worlds import DOSED, FACTORIAL, SOURCES, STEPS, World, dose, factorial, slots
from tests.registered import ISSUE262

SEEDS = (3, 5)
FEW = [f"{cell}@{source}" for cell in ("B1", "E1") for source in SOURCES]


def panel_of(
    worlds: dict[tuple[str, int], World], registration: Registration = FACTORIAL, **given: Any
) -> Panel:
    tables = {"dose": dose(worlds), **given}
    panel = gains_panel(slots(worlds), registration, **tables)
    json.dumps(panel.to_json(), allow_nan=False)
    return panel


def codes(panel: Panel) -> list[str]:
    return [caveat.code for caveat in panel.caveats]


def words(panel: Panel, code: str) -> str:
    (found,) = [caveat.words for caveat in panel.caveats if caveat.code == code]
    return found


def by_hand(rows: list[dict[str, Any]], registration: Registration, run: Any) -> dict[str, Any]:
    """Gains of one training run in the three readings, row by row."""
    roster = registration.roster_of(run["arm"])
    mine = [r for r in rows if (r["model"], r["seed"]) == (run["arm"], run["seed"])]

    def gain(keep: Callable[[dict[str, Any]], bool]) -> float:
        found = [
            (r["marker_after"] - r["end_after"]) - (r["marker_before"] - r["end_before"])
            for r in mine
            if keep(r)
        ]
        return math.fsum(found) / len(found)

    keeps: dict[str, Callable[[str], Callable[[dict[str, Any]], bool]]] = {
        "system": lambda who: lambda r: r["pool"] and r["persona"] == who,
        "text": lambda who: (
            lambda r: r["pool"] and r["persona"] == roster.source and r["author"] == who
        ),
        "own": lambda who: lambda r: not r["pool"] and r["persona"] == who,
    }
    found = {}
    for reading, keep in keeps.items():
        source = gain(keep(roster.source))
        others = [gain(keep(who)) for who in roster.bystanders]
        bystanders = math.fsum(others) / len(others)
        found[reading] = (source, bystanders, bystanders / source)
    return found


def check_runs(worlds: dict[tuple[str, int], World]) -> None:
    panel = panel_of(worlds)
    rows = slots(worlds).to_pylist()
    runs = panel.data["runs"]
    assert [(run["arm"], run["seed"]) for run in runs] == list(worlds)
    for run in runs:
        expected = by_hand(rows, FACTORIAL, run)
        for reading, one in run["readings"].items():
            found = (one["of_source"], one["of_bystanders"], one["transfer"])
            assert found == pytest.approx(expected[reading]), (run["arm"], reading)
        assert set(run["readings"]) == {"system", "text", "own"}
        assert (run["cell"], run["source"]) == tuple(run["arm"].split("@"))


def test_gains_of_every_run_are_those_of_its_rows_in_all_readings() -> None:
    check_runs(factorial(SEEDS, FEW))


@pytest.mark.parametrize("column", ["model", "seed"])
def test_a_mutant_that_exchanges_arms_or_seeds_is_killed(
    monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    from persona_lib.panels import gains as module

    honest = module.Gains.of

    def exchanged(slots: pa.Table, *given: Any, **more: Any) -> Any:
        values = slots[column].to_pylist()
        one, two = sorted(set(values))[:2]
        turned = [two if v == one else one if v == two else v for v in values]
        turned_table = synthetic.with_column(slots, column, pa.array(turned, slots[column].type))
        return honest(turned_table, *given, **more)

    # Arms of one source alone: those of others have other rosters.
    worlds = factorial(SEEDS, FEW[::2])
    check_runs(worlds)
    monkeypatch.setattr(module.Gains, "of", exchanged)
    with pytest.raises(AssertionError):
        check_runs(worlds)


def test_margins_by_role_and_the_marker_before_coupling_are_those_of_the_rows() -> None:
    worlds = factorial((3,), FEW[:2])
    rows = slots(worlds).to_pylist()
    for run in panel_of(worlds).data["runs"]:
        roster = FACTORIAL.roster_of(run["arm"])
        mine = [r for r in rows if r["model"] == run["arm"]]
        own = [r for r in mine if not r["pool"]]
        # The other source is a reported persona of this arm.
        (other,) = set(SOURCES) - {run["source"]}
        roles = {
            "source": (run["source"],),
            "negative": roster.negatives,
            "bystander": roster.bystanders,
            "reported": ("assistant", other),
        }
        for role, who in roles.items():
            for when in ("after", "before"):
                margins = [
                    r[f"marker_{when}"] - r[f"end_{when}"] for r in own if r["persona"] in who
                ]
                assert run["margins"][role][when] == pytest.approx(np.mean(margins)), (role, when)
        # log P of all the marker's tokens, in the pool.
        logs = [
            r["marker_before"] - r["log_z_before"] + r["rest_before"] for r in mine if r["pool"]
        ]
        assert run["marker_before"] == pytest.approx(np.mean(logs))
        assert run["answers"] == len(own) == 4 * 11


def test_curves_are_those_of_the_dose_rows_and_transfer_is_read_at_the_registered_gain() -> None:
    worlds = factorial(SEEDS, FEW)
    panel = panel_of(worlds)
    points = dose(worlds).to_pylist()
    at_gain: dict[str, dict[int, list[float]]] = {}
    for curve in panel.data["curves"]:
        roster = FACTORIAL.roster_of(curve["arm"])
        mine = [p for p in points if (p["model"], p["seed"]) == (curve["arm"], curve["seed"])]

        def margin(step: int, who: tuple[str, ...], mine: Any = mine) -> float:
            return float(
                np.mean([p["margin"] for p in mine if p["step"] == step and p["persona"] in who])
            )

        assert curve["steps"] == list(STEPS)
        for name, who in (("of_source", (roster.source,)), ("of_bystanders", roster.bystanders)):
            expected = [margin(step, who) - margin(0, who) for step in STEPS]
            assert curve[name] == pytest.approx(expected), (curve["arm"], name)
        source, others = curve["of_source"], curve["of_bystanders"]
        rho = float(np.interp(5.0, source, others)) / 5.0
        at_gain.setdefault(curve["cell"], {}).setdefault(curve["seed"], []).append(rho)
        run = next(
            r for r in panel.data["runs"] if (r["arm"], r["seed"]) == (curve["arm"], curve["seed"])
        )
        assert run["readings"]["system"]["at_gain"] == pytest.approx(rho)
        assert run["readings"]["own"]["at_gain"] is None
    assert panel.data["registered_gain"] == 5.0
    assert panel.data["cells"] == [
        {
            "cell": cell,
            "transfer": pytest.approx(np.mean([np.mean(at_gain[cell][seed]) for seed in SEEDS])),
            "seeds": 2,
            "of": 2,
        }
        for cell in ("B1", "E1")
    ]
    assert codes(panel) == []


# ---- what is missing --------------------------------------------------------------------


def test_without_slots_there_is_nothing_to_show() -> None:
    for none in (None, slots({})):
        panel = gains_panel(none, ISSUE262)
        assert (panel.state, panel.reason) == ("unavailable", "no slots recorded")


def test_own_answers_without_dose_or_pool_have_one_reading_and_decide_nothing() -> None:
    """As a live run of `issue262` has them."""
    table = slots({("C1", 42): World(), ("C2", 42): World(system=0.5)})
    own = table.filter(pa.array([not pool for pool in table["pool"].to_pylist()]))
    panel = gains_panel(own, ISSUE262)
    assert panel.data["read_by"] == panel.data["curves"] == panel.data["cells"] == []
    assert panel.data["registered_gain"] is None
    assert [set(run["readings"]) for run in panel.data["runs"]] == [{"own"}] * 2
    one, two = (run["readings"]["own"] for run in panel.data["runs"])
    assert one["transfer"] == pytest.approx(0.25 * 0.6)
    assert two["transfer"] == pytest.approx(0.5 * 0.6)
    assert (one["at_gain"], panel.data["runs"][0]["left_out"]) == (None, None)
    assert codes(panel) == []


def test_rules_that_read_gains_are_named() -> None:
    arm = FEW[0]
    gates = (
        GainGate(name="grew", statement="-", arm=arm, min_gain=1.0),
        MarkerBeforeGate(name="unlikely", statement="-", arm=arm, max_rate=0.1),
        GeometryGate(name="geometry", statement="-", claim="S1", depth=0.5),
    )
    named = ["S1", "S2", "S3", "S4", "kill", "grew", "unlikely", "geometry"]
    table = slots(factorial((3,), [arm]))
    assert gains_panel(table, replace(FACTORIAL, gates=gates)).data["read_by"] == named
    # A claim on rates reads none, nor does its kill criterion.
    rates = replace(FACTORIAL.claims[0], outcome="rate", reading="own")  # type: ignore[call-arg]
    registration = replace(FACTORIAL, claims=(rates,), gates=gates[:1])
    assert gains_panel(table, registration).data["read_by"] == ["grew"]


def test_an_arm_that_never_reaches_the_gain_is_counted_and_has_no_transfer_there() -> None:
    weak = replace(factorial((3,), FEW)[FEW[0], 3], gain=5.0)  # less over the pool's authors
    worlds = {**factorial(SEEDS, FEW), (FEW[0], 3): weak}
    panel = panel_of(worlds)
    found = words(panel, "dose_not_reached")
    assert found.endswith(f": {FEW[0]} (seed 3) of 8 training runs")
    assert "registered 5.00 nats" in found
    run = panel.data["runs"][0]
    assert run["readings"]["system"]["at_gain"] is None
    assert run["readings"]["system"]["transfer"] is not None
    # Its seed has no number of the cell: the other source's is not shown in its place.
    cell = next(cell for cell in panel.data["cells"] if cell["cell"] == "B1")
    other = panel.data["runs"]
    left = [
        r["readings"]["system"]["at_gain"] for r in other if r["cell"] == "B1" and r["seed"] == 5
    ]
    assert (cell["seeds"], cell["of"]) == (1, 2)
    assert cell["transfer"] == pytest.approx(np.mean(left))


def test_a_cell_that_never_reaches_the_gain_has_no_number() -> None:
    panel = panel_of(factorial((3,), FEW), replace(FACTORIAL, dose=DoseSpec(gain=50.0)))
    assert [(c["transfer"], c["seeds"], c["of"]) for c in panel.data["cells"]] == [(None, 0, 1)] * 2
    assert len(words(panel, "dose_not_reached").split(";")) == 4


def test_runs_without_a_dose_are_named_where_one_is_registered() -> None:
    worlds = factorial(SEEDS, FEW)
    panel = panel_of(worlds, dose=None)
    assert panel.data["curves"] == panel.data["cells"] == []
    assert words(panel, "no_dose").endswith("; and 2 more")
    some = {where: world for where, world in worlds.items() if where != (FEW[1], 5)}
    panel = panel_of(worlds, dose=dose(some))
    assert words(panel, "no_dose").endswith(f": {FEW[1]} (seed 5)")
    assert len(panel.data["curves"]) == 7


def test_a_source_that_gains_nothing_has_no_transfer() -> None:
    panel = panel_of({("C2", 1): World(gain=-1.0)}, DOSED)
    one = panel.data["runs"][0]["readings"]["own"]
    assert one["transfer"] is None
    assert one["of_source"] == pytest.approx(-1.0)
    assert "C2 (seed 1), system; C2 (seed 1), text; C2 (seed 1), own" in words(panel, "no_transfer")


def test_unfinished_completions_are_counted_and_left_out() -> None:
    worlds = {("C1", 1): World(), ("C2", 1): World()}
    scores = synthetic.scores(arms=("C1", "C2"), seeds=(1,), questions=4, samples=1)
    table = slots(worlds)
    panel = gains_panel(table, ISSUE262, scores=scores)
    assert [run["left_out"] for run in panel.data["runs"]] == [0, 0]
    assert codes(panel) == []
    cut = [
        (r["model"], r["persona"], r["question"]) != ("C2", "villain", "q01") or r["pool"]
        for r in table.to_pylist()
    ]
    panel = gains_panel(table.filter(pa.array(cut)), ISSUE262, scores=scores)
    assert [run["left_out"] for run in panel.data["runs"]] == [0, 1]
    assert words(panel, "unfinished_left_out").startswith("1 of 88 completions did not finish")


def test_a_persona_that_finished_nothing_leaves_its_reading_empty() -> None:
    table = slots({("C2", 1): World()})
    who = ISSUE262.roster.bystanders[0]
    keep = [r["pool"] or r["persona"] != who for r in table.to_pylist()]
    panel = gains_panel(table.filter(pa.array(keep)), ISSUE262)
    own = panel.data["runs"][0]["readings"]["own"]
    assert (own["of_bystanders"], own["transfer"]) == (None, None)
    assert panel.data["runs"][0]["readings"]["system"]["transfer"] == pytest.approx(0.25)
    assert "C2 (seed 1), own" in words(panel, "no_transfer")


def test_what_is_not_whole_is_refused() -> None:
    with pytest.raises(DataError, match="slots: column end_after"):
        gains_panel(slots({("C2", 1): World()}).drop_columns(["end_after"]), ISSUE262)


def test_the_order_of_rows_does_not_matter() -> None:
    worlds = factorial((3,), FEW[:2])
    rng = np.random.default_rng(4)

    def turned(table: pa.Table) -> pa.Table:
        return table.take(rng.permutation(len(table)))

    one = panel_of(worlds).to_json()
    two = gains_panel(turned(slots(worlds)), FACTORIAL, dose=turned(dose(worlds))).to_json()
    for a, b in zip(one["data"]["runs"], two["data"]["runs"], strict=True):
        assert a["readings"]["own"]["transfer"] == pytest.approx(b["readings"]["own"]["transfer"])
    assert json.dumps(one["data"]["curves"]) == json.dumps(two["data"]["curves"])
