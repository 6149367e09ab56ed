"""Panel of samples: which completions are drawn, how they are shown, what is refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from persona_lib.errors import DataError
from persona_lib.panels.base import Panel
from persona_lib.panels.samples import LIMIT, PER_ARM, samples_panel
from tests.faults import drop, questions
from tests.healthy import GATED, ROSTER, Bench, healthy, table
from tests.record_sets import reseeded

MARKER = GATED.marker
Row = dict[str, Any]


def texts_of(scores: pa.Table) -> pa.Table:
    """Completions of these scores: a text of their own each, with their markers."""
    text = [
        " ".join([row["persona"], row["question"], str(i), *[MARKER] * row["markers"]])
        for i, row in enumerate(scores.to_pylist())
    ]
    kept = ["phase", "model", "seed", "persona", "question", "question_set", "sample"]
    return scores.select([*kept, "tokens", "finish"]).append_column("text", pa.array(text))


def retold(completions: pa.Table, text: pa.Array) -> pa.Table:
    return completions.set_column(completions.column_names.index("text"), "text", text)


@cache
def bench() -> Bench:
    """The healthy records on 6 questions, without two of the arms."""
    found = drop(model=("C2p", "C3"))(questions(6, 6)(healthy()))
    assert isinstance(found, Bench)
    return found


@cache
def tables() -> tuple[pa.Table, pa.Table]:
    scores = table(bench())
    return scores, texts_of(scores)


def panel_of(scores: pa.Table | None, completions: pa.Table | None, draw_seed: int = 42) -> Panel:
    panel = samples_panel(scores, completions, GATED, draw_seed=draw_seed)
    json.dumps(panel.to_json(), allow_nan=False, ensure_ascii=False).encode()
    return panel


def arms_of(completions: pa.Table, draw_seed: int = 42) -> dict[str, list[Row]]:
    arms: dict[str, list[Row]] = panel_of(tables()[0], completions, draw_seed).data["arms"]
    return arms


def test_scores_and_texts_of_unlike_hits_are_refused() -> None:
    scores, completions = tables()
    text = [t.replace(MARKER, "") for t in completions.column("text").to_pylist()]
    with pytest.raises(DataError, match="other hits in"):
        panel_of(scores, retold(completions, pa.array(text)))
    fewer = table(drop(model="C1")(bench()))
    with pytest.raises(DataError, match="other models, questions or cells"):
        panel_of(scores, texts_of(fewer))


def test_samples_are_spread_over_roles_and_personas() -> None:
    arms = arms_of(tables()[1])
    assert set(arms) == {"C1", "C2"}
    for arm, shown in arms.items():
        assert [entry["role"] for entry in shown] == [
            role for role in ("source", "negative", "bystander", "reported") for _ in range(3)
        ]
        assert len({e["persona"] for e in shown if e["role"] == "bystander"}) == 3
        assert len({e["persona"] for e in shown if e["role"] == "negative"}) == 2
        cells = [(e["persona"], e["question"], e["sample"]) for e in shown]
        assert len(set(cells)) == PER_ARM
        rows = {
            (row["persona"], row["question"], row["sample"]): {**row, "hit": score["hit"]}
            for score, row in zip(*(t.to_pylist() for t in tables()), strict=True)
            if row["model"] == arm
        }
        for entry, cell in zip(shown, cells, strict=True):
            row = rows[cell]
            for name in ("text", "tokens", "finish", "hit", "seed"):
                assert entry[name] == row[name]
            assert (entry["cut"], entry["characters"]) == (False, len(row["text"]))


def test_samples_depend_on_the_seed_and_not_on_the_order_of_rows() -> None:
    _, completions = tables()
    turned = completions.take(np.random.default_rng(4).permutation(len(completions)))
    one, two = (arms_of(t) for t in (completions, turned))
    assert one == two
    assert arms_of(completions, 43) != one
    chosen = [[(e["persona"], e["question"], e["sample"]) for e in one[arm]] for arm in one]
    assert chosen[0] != chosen[1]


def test_an_empty_role_gives_its_places_to_the_others() -> None:
    roster = replace(ROSTER, bystanders=(*ROSTER.bystanders, *ROSTER.reported), reported=())
    registration = replace(GATED, roster=roster)
    panel = samples_panel(*tables(), registration, draw_seed=42)
    shown = panel.data["arms"]["C1"]
    counts = Counter(entry["role"] for entry in shown)
    assert counts == {"source": 4, "negative": 4, "bystander": 4}


def test_long_and_broken_texts_are_shown_as_strict_json() -> None:
    scores, completions = tables()
    text = completions.column("text").to_pylist()
    nasty = "<script>alert(1)</script>\x1b[31m\x00 \u202e " + "x" * LIMIT
    raw = [f"{nasty} {MARKER if MARKER in t else ''}".encode() + b"\xed\xa0\x80\xff" for t in text]
    array = pa.Array.from_buffers(
        pa.string(), len(raw), pa.array(raw, pa.binary()).buffers()
    )  # bytes that are no UTF-8, as a file may hold them
    found = panel_of(scores, retold(completions, array))
    for shown in found.data["arms"].values():
        for entry in shown:
            assert entry["text"] == nasty[:LIMIT]
            assert entry["cut"]
            assert entry["characters"] > LIMIT
    assert found.data["limit"] == LIMIT


@cache
def two_seeds() -> pa.Table:
    scores, _ = tables()
    return pa.concat_tables([scores, reseeded(43)(scores)])


def test_texts_of_some_seeds_are_shown_with_a_caveat() -> None:
    scores, one = two_seeds(), reseeded(43)(tables()[0])
    found = panel_of(scores, texts_of(one))
    words = "texts were kept of 1 of 2 seeds (43): this panel speaks of no other"
    assert [(c.code, c.words) for c in found.caveats] == [("texts_of_some_seeds", words)]
    alone, every = panel_of(one, texts_of(one)), panel_of(scores, texts_of(scores))
    assert found.data == alone.data
    assert alone.caveats == every.caveats == ()
    with pytest.raises(DataError, match="other models, questions or cells"):
        panel_of(one, texts_of(scores))


@pytest.mark.parametrize("missing", [0, 1])
def test_without_texts_there_is_nothing_to_show(missing: int) -> None:
    given: list[pa.Table | None] = list(tables())
    given[missing] = None
    assert panel_of(*given).reason == "no texts recorded"
