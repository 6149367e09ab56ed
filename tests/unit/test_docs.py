"""What the README says of the tree and of the profiles is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments.issue262 import ISSUE262
from experiments.profiles import PROFILES, SCALES
from persona_lib.plugin.selection import MARKERS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")


PROFILE_ROWS = PROFILES | {
    f"{name}`, `--scale {scale}": profile
    for name, scales in SCALES.items()
    for scale, profile in list(scales.items())[1:]
}
"""The profiles of README's table, by what stands in backticks in its first column."""


@pytest.mark.parametrize("name", list(PROFILE_ROWS))
def test_profile_table_holds_the_numbers_of_the_profiles(name: str) -> None:
    (row,) = re.findall(rf"^\| `{name}`(?: \(default\))? \|.*$", README, flags=re.MULTILINE)
    profile = PROFILE_ROWS[name]
    sets = len(ISSUE262.evaluation_questions)
    count = len(ISSUE262.roster.all) * profile.scale.questions * sets * profile.scale.samples
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3] == f"{count:,}"
    assert cells[4] == f"`{profile.coupling.loss}`"
    if "our grammar" in cells[2]:
        assert cells[2].split()[0] == f"{profile.em.rows:,}"
        assert profile.em.rows == profile.benign.rows


@pytest.mark.parametrize("text", [README, DESIGN], ids=["README", "design"])
def test_tree_lists_every_file(text: str) -> None:
    for folder in ("experiments", "persona_lib", "golden"):
        start = text.index(f"\n{folder}/")
        listed = text[start : text.index("\n```", start)]
        for path in (ROOT / folder).iterdir():
            if path.name.startswith(("_", ".")):
                continue
            assert re.search(rf"(?<![\w.]){re.escape(path.name)}(?![\w])", listed), (
                f"{folder}/{path.name} is not in the tree"
            )


def test_every_marker_of_the_science_is_named() -> None:
    for marker in MARKERS:
        if "(" not in marker:
            assert f"`{marker}`" in README


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/design.md"])
def test_folder_options_are_written_with_an_equals_sign(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.findall(r"--(?:store|stored|data|report) [\w./~]", text)


def test_the_tests_that_the_report_page_names_exist() -> None:
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) >= 18
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named <= defined, named - defined
