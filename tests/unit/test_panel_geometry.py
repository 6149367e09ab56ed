"""The geometry panel: its figures, its gate, and what it refuses to say."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from persona_lib.errors import DataError, SpecError
from persona_lib.models.hidden_states import READOUTS, geometry_rows
from persona_lib.panels.base import INVALID, READABLE, UNAVAILABLE, Panel
from persona_lib.panels.geometry import geometry_panel
from persona_lib.records import POST, PRE, GeometryRow, ModelId, table_of, write_rows
from persona_lib.specs.registration import Registration
from tests.registered import ISSUE262

ROSTER = ISSUE262.roster
PERSONAS = ROSTER.all
BYSTANDERS = [PERSONAS.index(name) for name in ROSTER.bystanders]
QUESTIONS = 6
LAYERS = (6, 14, 22)
RAW, EM, C1, C2 = (PRE, "raw"), (PRE, "em"), (POST, "C1"), (POST, "C2")
Key = tuple[str, str]


def draw(seed: int, *, common: float = 0.0, noise: float = 0.3) -> np.ndarray:
    """(personas, questions, readouts, layers, width) states; `common` adds one direction."""
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(len(PERSONAS), 1, 1, 1, 24))
    states = own + noise * rng.normal(size=(len(PERSONAS), QUESTIONS, 3, len(LAYERS), 24))
    states[..., 0] += common
    return states


def rows(
    model: Key, states: np.ndarray, seed: int = 42, personas: Sequence[str] = PERSONAS
) -> list[GeometryRow]:
    return geometry_rows(
        states, personas=personas, questions=[(f"e{q:02}", "evaluation") for q in range(QUESTIONS)],
        source=ROSTER.source, layers=LAYERS, blocks=28, model=ModelId(*model), run_seed=seed,
    )  # fmt: skip


def table(listed: Sequence[GeometryRow]) -> pa.Table:
    return table_of(listed, GeometryRow)


def panel_of(
    models: Mapping[Key, np.ndarray], registration: Registration = ISSUE262, **more: Any
) -> Panel:
    listed = [row for model, states in models.items() for row in rows(model, states)]
    return geometry_panel(table(listed), registration, **more)


def look(panel: Panel, model: Key, readout: str = "last_token", layer: int = 14,
         centred: bool = False) -> dict[str, Any]:  # fmt: skip
    (found,) = [
        entry for entry in panel.data["looks"]
        if (entry["phase"], entry["model"]) == model
        and (entry["readout"], entry["layer"], entry["centred"]) == (readout, layer, centred)
    ]  # fmt: skip
    return dict(found)


def change(found: Mapping[str, Any], other: str) -> dict[str, Any]:
    (entry,) = [entry for entry in found["changes"] if entry["from"] == other]
    return dict(entry)


def to_source(states: np.ndarray, readout: str = "last_token", layer: int = 14,
              centred: bool = False, who: Sequence[int] = BYSTANDERS) -> np.ndarray:  # fmt: skip
    """(questions,) mean cosine with the source, written out."""
    here = states[:, :, READOUTS.index(readout), LAYERS.index(layer)]
    means = []
    for q in range(QUESTIONS):
        vectors = here[:, q] - (here[:, q].mean(axis=0) if centred else 0.0)
        source = vectors[PERSONAS.index(ROSTER.source)]
        cosines = [v @ source / math.sqrt((v @ v) * (source @ source)) for v in vectors]
        means.append(float(np.mean([cosines[p] for p in who])))
    return np.array(means)


# ---- figures ----------------------------------------------------------------------------


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("readout", "layer"), [("prompt_mean", 6), ("response_mean", 22)])
def test_levels_are_means_over_bystanders_then_questions(
    readout: str, layer: int, centred: bool
) -> None:
    states = draw(1)
    found = look(panel_of({RAW: states}), RAW, readout, layer, centred)["cosine"]
    values = to_source(states, readout, layer, centred)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found["value"] == pytest.approx(values.mean())
    assert found["sd"] == pytest.approx(np.std(values, ddof=1))
    assert [found["low"], found["high"]] == pytest.approx([low, high])
    assert (found["n"], found["cells"], found["missing"]) == (QUESTIONS, 7 * QUESTIONS, 0)
    assert found["seeds"] == {"42": pytest.approx(values.mean())}


def test_negatives_and_reported_personas_are_in_no_mean() -> None:
    states = draw(1)
    moved = states.copy()
    for name in (*ROSTER.negatives, *ROSTER.reported):
        moved[PERSONAS.index(name)] *= -1
    was, now = (look(panel_of({RAW: s}), RAW)["cosine"] for s in (states, moved))
    assert now["value"] == pytest.approx(was["value"])
    # They are personas all the same: their directions count in the mean that is subtracted.
    was, now = (look(panel_of({RAW: s}), RAW, centred=True)["cosine"] for s in (states, moved))
    assert abs(now["value"] - was["value"]) > 1e-3


def test_relabelled_personas_give_other_numbers() -> None:
    states = draw(1)
    names = list(PERSONAS)
    a, b = names.index(ROSTER.negatives[0]), names.index(ROSTER.bystanders[0])
    names[a], names[b] = names[b], names[a]
    panel = geometry_panel(table(rows(RAW, states, personas=names)), ISSUE262)
    found = look(panel, RAW)["cosine"]["value"]
    swapped = [a if p == b else p for p in BYSTANDERS]
    assert found == pytest.approx(to_source(states, who=swapped).mean())
    assert abs(found - to_source(states).mean()) > 1e-3


@pytest.mark.parametrize("centred", [False, True])
def test_changes_are_paired_by_question(centred: bool) -> None:
    before, after = draw(1), draw(1) + 0.5 * draw(2)
    found = change(look(panel_of({RAW: before, C1: after}), C1, centred=centred), "raw")["cosine"]
    test = stats.ttest_rel(to_source(after, centred=centred), to_source(before, centred=centred))
    low, high = test.confidence_interval(0.95)
    means = to_source(after, centred=centred).mean() - to_source(before, centred=centred).mean()
    assert found["value"] == pytest.approx(means)
    assert [found["low"], found["high"]] == pytest.approx([low, high])
    assert found["p"] == pytest.approx(test.pvalue)
    assert found["n"] == QUESTIONS


def test_an_arm_changes_from_the_raw_model_and_from_the_one_under_it() -> None:
    states = {RAW: draw(1), EM: draw(2), C1: draw(3), C2: draw(4)}
    panel = panel_of(states)
    changes = {m: [c["from"] for c in look(panel, m)["changes"]] for m in states}
    assert changes == {RAW: [], EM: ["raw"], C1: ["raw"], C2: ["raw", "em"]}
    for other in (RAW, EM):
        value = to_source(states[C2]).mean() - to_source(states[other]).mean()
        assert change(look(panel, C2), other[1])["cosine"]["value"] == pytest.approx(value)
    without = panel_of({RAW: states[RAW], C2: states[C2]})
    assert [c["from"] for c in look(without, C2)["changes"]] == ["raw"]


def entropy_rank(rows: np.ndarray) -> float:
    values = np.linalg.svd(rows)[1]
    return float(np.exp(stats.entropy(values[values > 1e-9])))


@pytest.mark.parametrize("centred", [False, True])
def test_ranks_are_of_all_centroids_with_a_jackknife_over_questions(centred: bool) -> None:
    before, after = draw(1), draw(1) + 0.5 * draw(2)

    def rank(states: np.ndarray, kept: Sequence[int]) -> float:
        middles = states[:, list(kept), READOUTS.index("last_token"), LAYERS.index(14)].mean(axis=1)
        return entropy_rank(middles - middles.mean(axis=0) if centred else middles)

    every = range(QUESTIONS)
    full = [rank(s, every) for s in (before, after)]
    without = [[rank(s, [q for q in every if q != out]) for out in every] for s in (before, after)]
    panel = panel_of({RAW: before, C1: after})
    t = float(stats.t.ppf(0.975, QUESTIONS - 1))

    def half(left_out: np.ndarray) -> float:
        spread = ((left_out - left_out.mean()) ** 2).sum()
        return t * math.sqrt((QUESTIONS - 1) / QUESTIONS * spread)

    level = look(panel, C1, centred=centred)["rank"]
    assert level["value"] == pytest.approx(full[1])
    assert level["high"] - level["value"] == pytest.approx(half(np.array(without[1])))
    moved = change(look(panel, C1, centred=centred), "raw")["rank"]
    assert moved["value"] == pytest.approx(full[1] - full[0])
    assert moved["value"] - moved["low"] == pytest.approx(half(np.subtract(without[1], without[0])))


def test_flattening_is_a_change_towards_one_and_a_smaller_rank() -> None:
    before = draw(1)
    middle = before.mean(axis=0, keepdims=True) + 1.5
    after = middle + 0.2 * (before - before.mean(axis=0, keepdims=True))
    panel = panel_of({RAW: before, EM: after})
    found = change(look(panel, EM), "raw")
    assert found["cosine"]["low"] > 0.5
    assert found["rank"]["high"] < -1
    assert found["words"] == "bystanders lie nearer to the source"
    assert look(panel, EM)["cosine"]["value"] > 0.9
    back = change(look(panel_of({RAW: after, EM: before}, ceiling=0.99), EM), "raw")
    assert back["cosine"]["high"] < -0.5
    assert back["words"] == "bystanders lie further from the source"
    # Shrunk by one factor, personas keep their directions as seen from their mean.
    centred = change(look(panel, EM, centred=True), "raw")["cosine"]
    assert centred["value"] == pytest.approx(0.0, abs=1e-6)


def test_an_interval_around_zero_is_undecided_and_never_no_change() -> None:
    before = draw(1)
    rng = np.random.default_rng(3)
    panel = panel_of({RAW: before, C1: before + 0.01 * rng.normal(size=before.shape)})
    changes = [(c["cosine"], c["words"]) for e in panel.data["looks"] for c in e["changes"]]
    changes += [(entry, entry["words"]) for entry in panel.data["largest"]]
    around = [words for known, words in changes if known["low"] < 0 < known["high"]]
    assert len(around) > 5
    assert all(words.startswith("undecided: a change from -") for words in around)
    assert not any("no change" in words for _, words in changes)
    # Bonferroni's p ends at 1.
    assert max(entry["p"] for entry in panel.data["largest"]) == 1.0


def test_the_largest_change_is_one_of_as_many_looks_as_layers() -> None:
    before, after = draw(1), draw(1)
    after[:, :, :, 2] += 0.4  # layer 22
    after[:, :, :, 0] += 0.1
    panel = panel_of({RAW: before, C1: after})
    (found,) = [entry for entry in panel.data["largest"]
                if (entry["readout"], entry["centred"]) == ("last_token", False)]  # fmt: skip
    test = stats.ttest_rel(to_source(after, layer=22), to_source(before, layer=22))
    low, high = test.confidence_interval(1 - 0.05 / 3)
    assert (found["model"], found["from"], found["layer"], found["of"]) == ("C1", "raw", 22, 3)
    assert [found["low"], found["high"]] == pytest.approx([low, high])
    assert found["p"] == pytest.approx(3 * test.pvalue)
    (fall,) = [entry for entry in panel_of({RAW: after, C1: before}).data["largest"]
               if (entry["readout"], entry["centred"]) == ("last_token", False)]  # fmt: skip
    assert (fall["layer"], fall["high"]) == (22, pytest.approx(-low))


# ---- seeds and missing states -----------------------------------------------------------


def test_seeds_are_pooled_by_question_and_listed() -> None:
    one, two = draw(1), draw(2)
    panel = geometry_panel(table(rows(RAW, one, 42) + rows(RAW, two, 137)), ISSUE262)
    found = look(panel, RAW)
    pooled = (to_source(one) + to_source(two)) / 2
    assert found["cosine"]["value"] == pytest.approx(pooled.mean())
    assert found["cosine"]["sd"] == pytest.approx(np.std(pooled, ddof=1))
    assert found["cosine"]["n"] == QUESTIONS
    assert found["cosine"]["cells"] == 2 * 7 * QUESTIONS
    assert found["cosine"]["seeds"] == {
        "42": pytest.approx(to_source(one).mean()), "137": pytest.approx(to_source(two).mean()),
    }  # fmt: skip
    assert found["rank"]["value"] == pytest.approx(np.mean(list(found["rank"]["seeds"].values())))
    assert len(set(found["rank"]["seeds"].values())) == 2


def test_missing_states_are_counted_and_left_out_on_both_sides() -> None:
    before, after = draw(1), draw(1) + 0.5 * draw(2)
    after[BYSTANDERS[0], 2, READOUTS.index("response_mean")] = np.nan
    after[PERSONAS.index(ROSTER.source), 4, READOUTS.index("response_mean")] = np.nan
    panel = panel_of({RAW: before, C1: after})
    found = look(panel, C1, "response_mean")
    assert (found["cosine"]["missing"], found["cosine"]["n"]) == (1 + 7, QUESTIONS - 1)
    there = [q for q in range(QUESTIONS) if q != 4]
    means = [to_source(s, "response_mean") for s in (after, before)]
    partly = [to_source(s, "response_mean", who=BYSTANDERS[1:])[2] for s in (after, before)]
    for mean, value in zip(means, partly, strict=True):
        mean[2] = value
    moved = change(found, "raw")["cosine"]
    assert moved["value"] == pytest.approx((means[0] - means[1])[there].mean())
    assert moved["n"] == QUESTIONS - 1
    (caveat,) = [c for c in panel.caveats if c.code == "missing_states"]
    # Both centrings of three layers.
    assert caveat.words.startswith(f"{6 * 8} of {2 * 18 * 7 * QUESTIONS:,} cosines are missing")
    assert "own_texts" in {c.code for c in panel.caveats}
    alone = {c.code for c in panel_of({RAW: before}).caveats}
    assert alone == set()


def test_with_one_question_there_is_no_interval() -> None:
    states = draw(1)[:, :1]
    listed = geometry_rows(
        states, personas=PERSONAS, questions=[("e00", "evaluation")], source=ROSTER.source,
        layers=LAYERS, blocks=28, model=ModelId(PRE, "raw"), run_seed=42,
    )  # fmt: skip
    more = [replace(row, model="em", cosine=row.cosine / 2) for row in listed]
    panel = geometry_panel(table([*listed, *more]), ISSUE262)
    found = look(panel, EM, centred=True)
    assert found["cosine"]["low"] is None
    assert found["rank"]["low"] is None
    assert change(found, "raw")["words"] == "no interval: nothing can be said of a change"
    assert panel.gates[0].outcome.value == "CANNOT_TELL"
    json.dumps(panel.to_json(), allow_nan=False)


# ---- the gate ---------------------------------------------------------------------------


def test_saturated_cosines_fire_the_gate_and_are_never_read_as_no_change() -> None:
    before = draw(1, common=40.0)
    panel = panel_of({RAW: before, C1: before + 0.05 * draw(2)})
    assert look(panel, RAW)["cosine"]["value"] > 0.97
    assert panel.gates[0].outcome.value == "FAILS"
    assert panel.state == INVALID
    assert "saturated: no room for a change to show: lowest of 9" in panel.reason
    for entry in panel.data["looks"]:
        for moved in entry["changes"]:
            assert moved["words"].startswith("saturated: no room") != entry["centred"]
            assert "no change" not in moved["words"]
    for entry in panel.data["largest"]:
        assert entry["words"].startswith("saturated: no room") != entry["centred"]
    assert all(w.startswith("saturated: no room for a change to show at every layer")
               for w in panel.data["words"].values())  # fmt: skip
    (caveat,) = [c for c in panel.caveats if c.code == "saturated_probe"]
    assert "last_token at layers 6, 14, 22" in caveat.words
    # Beside them stand centred values, which have room.
    assert look(panel, RAW, centred=True)["cosine"]["value"] < 0.5


def test_one_readout_with_room_keeps_the_panel_readable() -> None:
    before = draw(1)
    before[:, :, READOUTS.index("prompt_mean"), :, 0] += 40.0
    before[:, :, READOUTS.index("response_mean"), 1, 0] += 40.0
    panel = panel_of({RAW: before, C1: before + 0.05 * draw(2)})
    assert panel.state == READABLE
    words = panel.data["words"]
    assert words["last_token"] == "room at every layer"  # noqa: S105
    assert "at every layer" in panel.data["words"]["prompt_mean"]
    assert "at layers 14, where" in panel.data["words"]["response_mean"]
    (caveat,) = [c for c in panel.caveats if c.code == "saturated_probe"]
    assert "(prompt_mean at layers 6, 14, 22; response_mean at layers 14)" in caveat.words
    words = {name: change(look(panel, C1, name), "raw")["words"] for name in READOUTS}
    assert words["prompt_mean"].startswith("saturated")
    assert not words["last_token"].startswith("saturated")


def test_room_is_asked_of_the_model_that_a_change_starts_from() -> None:
    states = {RAW: draw(1), EM: draw(2, common=40.0), C2: draw(3, common=41.0)}
    found = look(panel_of(states), C2)
    assert not change(found, "raw")["words"].startswith("saturated")
    assert change(found, "em")["words"].startswith("saturated")


def test_the_gate_has_two_sides_and_a_middle() -> None:
    states = draw(1, common=2.0)
    levels = {(r, k): to_source(states, r, k) for r in READOUTS for k in LAYERS}
    least = min(levels.values(), key=lambda values: values.mean())
    low, high = stats.ttest_1samp(least, 0).confidence_interval(1 - 0.05 / 9)
    outcomes = {
        name: panel_of({RAW: states}, ceiling=ceiling).gates[0]
        for name, ceiling in (
            ("HOLDS", high + 1e-6), ("CANNOT_TELL", high - 1e-6), ("FAILS", low - 1e-6),
        )
    }  # fmt: skip
    roomy = panel_of({RAW: states, C1: draw(2)})
    assert (roomy.state, roomy.gates[0].name, roomy.gates[0].holds) == (
        READABLE, "probe_room", True,
    )  # fmt: skip
    assert set(roomy.data["words"].values()) == {"room at every layer"}
    assert "saturated_probe" not in {c.code for c in roomy.caveats}
    for name, gate in outcomes.items():
        assert gate.outcome.value == name
        assert [gate.low, gate.figure, gate.high] == pytest.approx([low, least.mean(), high])
    assert "room in doubt" in panel_of({RAW: states}, ceiling=high - 1e-6).reason
    at = panel_of({RAW: states}, ceiling=low + 1e-6).gates[0]
    assert at.outcome.value == "CANNOT_TELL"
    assert at.text.startswith("saturated")  # the mean itself lies above the ceiling


def test_without_the_raw_model_the_gate_cannot_tell() -> None:
    panel = panel_of({EM: draw(1), C2: draw(2)})
    assert panel.gates[0].outcome.value == "CANNOT_TELL"
    assert "the raw model was not recorded" in panel.reason
    assert [c["from"] for c in look(panel, C2)["changes"]] == ["em"]
    json.dumps(panel.to_json(), allow_nan=False)


# ---- what is refused --------------------------------------------------------------------


def test_without_rows_there_is_nothing_to_show() -> None:
    for nothing in (None, table([])):
        panel = geometry_panel(nothing, ISSUE262)
        assert (panel.state, panel.reason) == (UNAVAILABLE, "no hidden states recorded")


def test_rows_are_checked_whole() -> None:
    listed = rows(RAW, draw(1))
    for wrong, message in (
        ([*listed, listed[0]], "geometry: rows: expected one row a cell, got '1 repeated'"),
        (listed[:-1], "geometry: rows: .* got '1 missing'"),
        ([replace(listed[0], persona="pirate"), *listed[1:]], "geometry: persona: .*'pirate'"),
        ([replace(listed[0], readout="first"), *listed[1:]], "geometry: readout: .*'first'"),
        ([replace(listed[0], blocks=27), *listed[1:]], "geometry: blocks"),
        ([replace(listed[0], rank=1.0), *listed[1:]], "geometry: rank: expected the same"),
        (
            [replace(row, rank=1.0) if row.question == "e00" else row for row in listed],
            "geometry: rank: expected the same",
        ),
        ([replace(listed[0], rank_without=1.0), *listed[1:]], "geometry: rank_without"),
        ([replace(listed[0], cosine=math.inf), *listed[1:]], "geometry: values: expected finite"),
        ([r for r in listed if r.persona != ROSTER.bystanders[0]], "every bystander"),
    ):
        with pytest.raises(DataError, match=message):
            geometry_panel(table(wrong), ISSUE262)
    with pytest.raises(SpecError, match=r"model: expected one of pre raw, .* got 'post C9'"):
        geometry_panel(table([replace(r, phase=POST, model="C9") for r in listed]), ISSUE262)
    with pytest.raises(DataError, match="column rank: expected present"):
        geometry_panel(table(listed).drop_columns(["rank"]), ISSUE262)
    with pytest.raises(SpecError, match="ceiling"):
        geometry_panel(table(listed), ISSUE262, ceiling=1.5)


def test_a_record_set_of_seven_models_stays_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    models = [(PRE, p) for p in ISSUE262.priors] + [(POST, arm.name) for arm in ISSUE262.arms]
    listed = [
        row
        for phase, model in models
        for row in geometry_rows(
            rng.normal(size=(11, 20, 3, 6, 16)), personas=PERSONAS,
            questions=[(f"e{q:02}", "evaluation") for q in range(20)], source=ROSTER.source,
            layers=(6, 10, 14, 18, 22, 26), blocks=28, model=ModelId(phase, model), run_seed=42,
        )
    ]  # fmt: skip
    assert len(listed) == 7 * 3 * 6 * 2 * 10 * 20
    write_rows(tmp_path / "geometry.parquet", listed, GeometryRow)
    assert (tmp_path / "geometry.parquet").stat().st_size < 1_000_000
