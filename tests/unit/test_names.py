"""One name for one thing: what the glossary of docs/extending.md retired stays away."""

from __future__ import annotations

import io
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RETIRED = {
    # describe
    "told": "describe, or what it holds",
    "_told": "_describe",
    "said": "describe, or what it holds",
    "profile_told": "profile_description",
    "seeds_told": "describe_seeds",
    "tell_waiting": "report_waiting",
    # finish (stop, length)
    "stopped": "finish",
    # Estimate: a number with its uncertainty
    "Interval": "Estimate",
    "Known": "Estimate",
    "Figure": "Estimate",
    # arm, pre-coupling model
    "run_arm": "Run.table",
    "run_baseline": "Run.table",
    "run_advice": "Run.table",
    "run_texts": "Run.table",
    "run_geometry": "Run.table",
    "root_seed": "run_seed or draw_seed",
}
"""Each with what it is called now."""
EXCEPTIONS: dict[str, tuple[str, ...]] = {
    "Figure": ("persona_lib/report/figures/style.py",),
    "stopped": ("persona_lib/panels/judge/prices.py", "persona_lib/panels/judge/remote.py"),
}
"""Files in which a name means another thing: a purse whose workers have stopped, a drawing."""
FOLDERS = ("persona_lib", "experiments", "benchmarks")


def names_in(text: str) -> set[str]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}


FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def test_names_are_found_in_code_and_not_in_prose() -> None:
    assert names_in("def told(x): return x.said  # stopped\n") & set(RETIRED) == {"told", "said"}
    assert len(FILES) > 150


@pytest.mark.parametrize("name", RETIRED)
def test_a_retired_name_is_not_used(name: str) -> None:
    allowed = EXCEPTIONS.get(name, ())
    users = [
        str(place)
        for path in FILES
        if (place := path.relative_to(ROOT)).as_posix() not in allowed
        and name in path.read_text(encoding="utf-8")
        and name in names_in(path.read_text(encoding="utf-8"))
    ]
    assert users == [], f"now called {RETIRED[name]}"
