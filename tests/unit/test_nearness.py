"""Nearness of the source's states to the bystanders', and the gate that it may contradict."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from persona_lib.errors import DataError, SpecError
from persona_lib.evidence.nearness import nearness
from persona_lib.models.hidden_states import LAST_RESPONSE, Passage, read_states
from persona_lib.records import GeometryRow, schema_of
from persona_lib.specs.gate_types import GeometryGate
from persona_lib.verdict.gates import judge_gate
from tests.byte_model import loaded
from tests.gain_worlds import FACTORIAL

GATE = GeometryGate(name="geometry_S1", statement="-", claim="S1", depth=0.6)
RULES = replace(FACTORIAL, gates=(GATE,))
ARM = "E1@zelthari_scholar"
SEEDS = (3, 5, 8)


def rows() -> pa.Table:
    """Cosines that differ in every column; the other source and readouts are there as well."""
    rng = np.random.default_rng(1)
    found = [
        {"phase": phase, "model": model, "seed": seed, "readout": readout, "layer": layer,
         "blocks": 10, "centred": centred, "persona": who, "question": q, "question_set": "e",
         "cosine": float(rng.uniform(-1, 1)), "rank": 1.0, "rank_without": 1.0}
        for phase, model in (("post", ARM), ("post", "A@zelthari_scholar"), ("pre", "em"))
        for seed, readout, layer, centred in product(
            SEEDS, (LAST_RESPONSE, "last_token"), (2, 5, 9), (True, False)
        )
        for who, q in product(FACTORIAL.roster.all, ("e1", "e2"))
    ]  # fmt: skip
    return pa.Table.from_pylist(found, schema=schema_of(GeometryRow))


def test_nearness_is_the_mean_over_bystanders_and_questions_at_one_layer() -> None:
    table = rows()
    frame = table.to_pandas()
    own = frame[(frame.phase == "post") & (frame.model == ARM) & frame.centred
                & (frame.readout == LAST_RESPONSE)
                & frame.persona.isin(FACTORIAL.roster.bystanders)]  # fmt: skip
    for depth, layer in ((0.6, 5), (0.1, 2), (1.0, 9)):
        expected = own[own.layer == layer].groupby("seed").cosine.mean().to_dict()
        assert nearness(table, FACTORIAL, ARM, depth) == pytest.approx(expected)
    assert nearness(table, FACTORIAL, "E0@zelthari_scholar", 0.6) == {}


def test_a_response_without_a_state_is_left_out() -> None:
    table = rows()
    cosines = table["cosine"].to_pylist()
    gone = [math.nan if at % 3 else x for at, x in enumerate(cosines)]
    place = table.column_names.index("cosine")
    table = table.set_column(place, table.schema.field(place), pa.array(gone))
    frame = table.to_pandas()
    own = frame[(frame.phase == "post") & (frame.model == ARM) & frame.centred & (frame.layer == 5)
                & (frame.readout == LAST_RESPONSE)
                & frame.persona.isin(FACTORIAL.roster.bystanders)]  # fmt: skip
    expected = own.groupby("seed").cosine.mean().to_dict()
    assert nearness(table, FACTORIAL, ARM, 0.6) == pytest.approx(expected)
    far = table.set_column(place, table.schema.field(place), pa.array([1.5] * len(gone)))
    with pytest.raises(DataError, match=r"geometry: column cosine: expected in \[-1, 1\]"):
        nearness(far, FACTORIAL, ARM, 0.6)


def test_the_state_of_a_response_is_that_of_its_last_token() -> None:
    passages = [Passage(prompt=[5, 6, 7], response=[8, 9]), Passage(prompt=[40, 41], response=[])]
    whole = [Passage(prompt=[5, 6, 7, 8, 9])]
    found = read_states(loaded(), passages, (1, 2), batch=2, readouts=(LAST_RESPONSE,))
    last = read_states(loaded(), whole, (1, 2), batch=1, readouts=("last_token",))
    assert found[0] == pytest.approx(last[0], abs=1e-5)
    assert np.isnan(found[1]).all()


@dataclass(eq=False)
class Fake:
    """Evidence of which S1 has these contrasts of transfer and of nearness, seed by seed."""

    transfer: tuple[float, ...]
    near: tuple[float, ...]
    registration: Any = RULES
    uneven: bool = False

    def single_runs(self) -> tuple[Any, ...]:
        return (self,)

    def check_arm(self, arm: str) -> None:
        assert arm in {one.name for one in RULES.arms}

    def figures(self, arm: str, *_: str) -> dict[int, float]:
        return self._of(arm, self.transfer)

    def nearness(self, arm: str, depth: float) -> dict[int, float]:
        assert depth == 0.6
        return self._of(arm, self.near)

    def _of(self, arm: str, contrast: tuple[float, ...]) -> dict[int, float]:
        shares = contrast if arm.startswith("E1") else (0.0,) * len(contrast)
        return dict(zip(SEEDS, shares, strict=False))


RISES, FALLS, NEITHER = (0.20, 0.22, 0.21), (-0.20, -0.22, -0.21), (-0.2, 0.3, 0.0)


@pytest.mark.parametrize(
    ("transfer", "near", "outcome"),
    [
        (RISES, FALLS, "FAILS"),
        (FALLS, RISES, "FAILS"),
        (RISES, RISES, "HOLDS"),
        (FALLS, FALLS, "HOLDS"),
        (RISES, NEITHER, "HOLDS"),
        (NEITHER, FALLS, "HOLDS"),
        (RISES, FALLS[:2], "CANNOT_TELL"),
        (RISES, (), "CANNOT_TELL"),
        ((), FALLS, "CANNOT_TELL"),
    ],
)
def test_geometry_contradicts_where_both_intervals_exclude_0_on_two_sides(
    transfer: tuple[float, ...], near: tuple[float, ...], outcome: str
) -> None:
    found = judge_gate(RULES, cast("Any", Fake(transfer, near)), GATE.name)
    assert found.outcome.value == outcome, found.text


def test_a_geometry_gate_names_a_claim_over_runs() -> None:
    with pytest.raises(SpecError, match=r"geometry_S1.claim: expected one of S1, .*'H1'"):
        replace(RULES, gates=(replace(GATE, claim="H1"),))
