"""One name for one thing: what the glossary of docs/extending.md retired stays away."""

from __future__ import annotations

import ast
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
    "tells_gate": "separation_gate",
    # finish (stop, length)
    "stopped": "finish",
    # Estimate: a number with its uncertainty
    "Interval": "Estimate",
    "Known": "Estimate",
    "Figure": "Estimate",
    "pair_moments": "run_moments",
    # gates, rules
    "gate_points": "gate_bounds",
    "length_looks": "other_looks",
    "judge_checks": "Judging.checks",
    "extra_gates": "claim.consults",
    "kill_rate": "kill_condition",
    # panels
    "text_panel": "samples_panel",
    # files of users, record sets
    "read_foreign": "load_foreign",
    "read_part": "read_parts",
    "write_set": "record",
    "load_scores": "Stored.rows",
    "load_texts": "Stored.rows",
    "load_geometry": "Stored.rows",
    # the log of seals
    "write_entry": "write_seal",
    # arm, pre-coupling model
    "run_arm": "Run.table",
    "run_baseline": "Run.table",
    "run_advice": "Run.table",
    "run_texts": "Run.table",
    "run_geometry": "Run.table",
    "baseline": "pre_count, or the pre-coupling model",
    "baseline_lengths": "pre_lengths",
    "baseline_tokens": "pre_tokens",
    "minus_baseline": "minus_pre",
    "check_run": "Run.check",
    "build_models": "Session.table",
    "AdviceStages": "advice_stage",
    "root_seed": "run_seed or draw_seed",
}
"""Each with what it is called now."""
EXCEPTIONS: dict[str, tuple[str, ...]] = {
    "Figure": ("persona_lib/report/figures/style.py",),
}
"""Files in which a name means another thing: matplotlib's own class."""
FOLDERS = ("persona_lib", "benchmarks")


def names_in(text: str) -> set[str]:
    """Identifiers of code, also those inside f-strings; words of texts and comments are none."""
    fields = ("id", "attr", "arg", "name", "asname")
    found = {getattr(node, name, None) for node in ast.walk(ast.parse(text)) for name in fields}
    return {part for name in found if isinstance(name, str) for part in name.split(".")}


FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def test_names_are_found_in_code_and_not_in_prose() -> None:
    code = "def told(x): return f'{x.said} Known'  # stopped\n"
    assert names_in(code) & set(RETIRED) == {"told", "said"}
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
