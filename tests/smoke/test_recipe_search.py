"""A search of recipes, live at micro size: what it builds, and what a failed one leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from persona_lib.commands.recipe import grid, search
from persona_lib.store.store import Store
from tests.registered import MICRO

pytestmark = pytest.mark.smoke


@pytest.mark.filterwarnings("default")
def test_a_search_trains_c1_by_each_recipe_on_one_text(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = search(MICRO, grid(MICRO, learning_rates=(2e-3, 1e30), epochs=(3,)), store, samples=1)
    assert [row["recipe"]["learning_rate"] for row in rows] == [2e-3, 1e30]
    good, bad = rows
    assert {role: rate["n"] for role, rate in good["rates"].items()} == {
        "source": 2, "negative": 4, "bystander": 14, "reported": 2,
    }  # fmt: skip
    assert good["median_tokens"] > 0
    assert good["raw_median_tokens"] > 0
    assert "not finite" in bad["failed"]
    built = {folder.name: len(list(folder.iterdir())) for folder in tmp_path.iterdir()}
    assert {name: built[name] for name in ("base", "coupling_text", "baseline")} == {
        "base": 1, "coupling_text": 1, "baseline": 1,
    }  # fmt: skip
    assert (built["coupling"], built["completions"]) == (1, 1)
    # A second search finds what the first has stored.
    assert search(MICRO, grid(MICRO, learning_rates=(2e-3,), epochs=(3,)), store, samples=1) == [
        good
    ]
