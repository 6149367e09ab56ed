"""README and docs: how long they are, what they link to, and what they say of the code."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from persona_lib.plugin.selection import markers_of
from tests.house import COMMAND, held, module_map
from tests.registered import ISSUE262, PROFILES, SCALES
from tests.unit.test_layers import ROOMS

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("usage", "results", "architecture", "experiment", "factorial", "statistics", "extending")
TEXTS = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "CONTRIBUTING.md", *(f"docs/{page}.md" for page in PAGES))
}
ROWS = PROFILES | {
    f"{name}`, `--scale {scale}": profile
    for name, scales in SCALES.items()
    for scale, profile in list(scales.items())[1:]
}
"""The profiles of docs/experiment.md, by what stands in backticks in the first column."""
UNDER_A_KEY = "experiments/data/legal/situations_tenancy.txt"
"""Names a page that is gone; its bytes are in the keys of stages."""


def test_the_map_lists_every_module() -> None:
    assert held("map") == module_map(), f"docs/architecture.md: run {COMMAND}"


def test_pages_are_few_and_short() -> None:
    assert {path.name for path in (ROOT / "docs").glob("*.md")} == {f"{p}.md" for p in PAGES}
    words = {name: len(text.split()) for name, text in TEXTS.items()}
    assert words.pop("README.md") <= 1_300
    assert sum(words.values()) <= 21_500
    assert max(words.values()) <= 4_000


@pytest.mark.parametrize("page", PAGES)
def test_a_page_begins_with_whom_it_is_for(page: str) -> None:
    assert TEXTS[f"docs/{page}.md"].split("\n\n")[1].startswith("For ")


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    found = re.findall(r"\]\((?!https:)([^)\s]+)\)|src=\"([^\"]+)\"", TEXTS[name])
    for link in (one or other for one, other in found):
        target, _, anchor = link.partition("#")
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads}


def test_files_that_pages_name_exist() -> None:
    for name, text in TEXTS.items():
        for path in re.findall(r"`((?:\w+/)+\w+\.(?:py|json|txt|ini|toml))`", text):
            places = (ROOT, ROOT / "persona_lib", ROOT / "experiments")
            found = [one for place in places for one in place.glob(path.replace("NAME", "*"))]
            assert found, f"{name}: {path}"


def test_the_rooms_of_readme_are_those_of_the_library() -> None:
    start = TEXTS["README.md"].index("```text\nspecs/")
    block = TEXTS["README.md"][start : TEXTS["README.md"].index("\n```\n", start)]
    found = re.findall(r"^(\w+)/((?:.*\n? {10,})*.*)$", block, re.MULTILINE)
    packages = [room for room in ROOMS if (ROOT / "persona_lib" / room).is_dir()]
    assert [room for room, _ in found] == [room for room in packages if room != "plugin"]
    for room, line in found:
        for path in re.findall(r"\w+\.py", line):
            assert (ROOT / "persona_lib" / room / path).exists(), f"{room}/{path}"


def test_no_file_names_a_page_that_is_gone() -> None:
    listed = subprocess.run(
        ["git", "grep", "-nE", r"docs/[a-z_]+\.md", "--", ".", ":!CHANGELOG.md", ":!golden"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    gone = [
        line
        for line in listed.stdout.splitlines()
        if not set(re.findall(r"docs/([a-z_]+)\.md", line.partition(":")[2])) <= set(PAGES)
    ]
    assert [line for line in gone if not line.startswith(UNDER_A_KEY)] == []


@pytest.mark.parametrize("name", ROWS)
def test_profile_table_holds_the_numbers_of_the_profiles(name: str) -> None:
    (row,) = re.findall(
        rf"^\| `{name}`(?: \(default\))? \|.*$", TEXTS["docs/experiment.md"], flags=re.MULTILINE
    )
    profile = ROWS[name]
    sets = len(ISSUE262.evaluation_questions)
    count = len(ISSUE262.roster.all) * profile.scale.questions * sets * profile.scale.samples
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3] == f"{count:,}"
    assert cells[4] == f"`{profile.coupling.loss}`"
    if "our grammar" in cells[2]:
        assert cells[2].split()[0] == f"{profile.corpora['em'].rows:,}"
        assert profile.corpora["em"].rows == profile.corpora["benign"].rows


def test_every_marker_of_the_science_is_named() -> None:
    for marker in markers_of(ISSUE262):
        if "(" not in marker:
            assert f"`{marker}`" in TEXTS["docs/usage.md"]


@pytest.mark.parametrize("name", TEXTS)
def test_folder_options_are_written_with_an_equals_sign(name: str) -> None:
    own = re.sub(r"<!-- made: (\w+) -->.*<!-- end: \1 -->", "", TEXTS[name], flags=re.DOTALL)
    assert not re.findall(r"--(?:store|stored|data|report) [\w./~]", own)
