"""The checker: every digit of a report changed, one at a time, and how many of them it notices."""

from __future__ import annotations

import base64
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from persona_lib.report.numbers import check_report, wrong
from persona_lib.report.reading import Found, markdown_tokens, read_page, tokens
from tests.report_bodies import live, report_of


@pytest.fixture(scope="module")
def body() -> dict[str, Any]:
    return live()


@pytest.fixture(scope="module")
def folder() -> Path:
    return report_of("live")


@pytest.fixture(scope="module")
def small() -> Path:
    return report_of("published")


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    """The small report, to be broken."""
    return Path(shutil.copytree(small, tmp_path / "copy"))


def changed(text: str, at: int, step: int = 1) -> str:
    """The digit at a place, moved by a step around ten."""
    return f"{text[:at]}{(int(text[at]) + step) % 10}{text[at + 1 :]}"


def digits(text: str) -> list[int]:
    return [found.start() for found in re.finditer("[0-9]", text)]


def test_an_untouched_report_has_no_problem(folder: Path, small: Path) -> None:
    assert check_report(folder) == []
    assert check_report(small) == []


def test_a_report_of_a_real_model_has_no_problem(tmp_path: Path) -> None:
    """Its layers are not evenly spaced, and its lengths reach from 2 to 2,048 tokens."""
    folder = Path(shutil.copytree(report_of("real"), tmp_path / "real"))
    assert check_report(folder) == []
    record = json.loads((folder / "figures" / "cosines.json").read_text(encoding="utf-8"))
    layer = next(run for run in record["texts"] if run[0][0] == "15")
    layer[0][0] = "16"
    (folder / "figures" / "cosines.json").write_text(json.dumps(record), encoding="utf-8")
    assert check_report(folder)


def test_every_changed_digit_of_the_page_is_noticed(folder: Path, body: dict[str, Any]) -> None:
    read = read_page((folder / "report.html").read_text(encoding="utf-8"))
    tried = missed = 0
    for piece in read.pieces:
        for at in digits(piece.text):
            for step in range(1, 10):
                tried += 1
                mutant = Found(changed(piece.text, at, step), piece.at, piece.form)
                missed += not wrong(mutant, body)
    assert tried > 50_000
    assert missed == 0, f"{missed} of {tried}"


def test_every_changed_digit_of_the_markdown_is_noticed(folder: Path) -> None:
    page = tokens(read_page((folder / "report.html").read_text(encoding="utf-8")))
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert markdown_tokens(text) == page
    tried = missed = 0
    # Line by line: what is not on the line cannot have changed.
    for line in text.split("\n"):
        own = markdown_tokens(line)
        for at in digits(line):
            tried += 1
            missed += markdown_tokens(changed(line, at)) == own
    assert tried > 5_000
    assert missed == 0, f"{missed} of {tried}"


def test_files_with_one_changed_digit_are_refused(copy: Path) -> None:
    """End to end, on a drawn sample of digits of each file, that of a figure among them."""
    draw = random.Random(20261125)  # noqa: S311  (which digits are tried)
    for name in ("report.html", "report.md", "figures/hero.svg", "figures/hero.json"):
        path = copy / name
        text = path.read_text(encoding="utf-8")
        places = _visible(text, name)
        for at in draw.sample(places, 10):
            path.write_text(changed(text, at), encoding="utf-8")
            assert check_report(copy), f"{name}: {text[at - 40 : at + 20]!r}"
        path.write_text(text, encoding="utf-8")
    assert check_report(copy) == []


def _visible(text: str, name: str) -> list[int]:
    """Where the digits that a reader sees stand in a file."""
    if name.endswith(".html"):
        start = text.index("<body>")
        # An apostrophe is written with digits that no reader sees.
        text = re.sub(r"&#\d+;", lambda m: "x" * len(m.group()), text)
        spans = [m.span(1) for m in re.finditer(r">([^<>]+)<", text[start:])]
        return [start + a + i for a, b in spans for i in digits(text[start + a : start + b])]
    if name.endswith(".svg"):
        spans = [m.span(1) for m in re.finditer(r"<text[^>]*>([^<]*)</text>", text)]
        return [a + i for a, b in spans for i in digits(text[a:b])]
    if name.endswith(".json"):
        spans = [m.span(1) for m in re.finditer(r'"value": ([-\d.e]+)', text)]
        # Twelve figures of a double are told apart by every reader; the last ones need not be.
        return [a + i for a, b in spans for i in digits(text[a : min(b, a + 12)])]
    lines = re.sub(r"\]\([^)]*\)", lambda m: "x" * len(m.group()), text)
    return digits(lines)


def test_a_number_in_the_wrong_row_is_refused(copy: Path) -> None:
    """Text and place agree, but the place is that of another claim."""
    page = (copy / "report.html").read_text(encoding="utf-8")
    h1 = '<span data-at="/verdicts/0/effect/value" data-as="s3">+0.302</span>'
    h2 = '<span data-at="/verdicts/1/effect/value" data-as="s3">-0.384</span>'
    assert h1 in page
    assert h2 in page
    (copy / "report.html").write_text(page.replace(h1, h2, 1), encoding="utf-8")
    assert any("stands in the row of /verdicts/0/name" in one for one in check_report(copy))


def test_a_figure_that_is_not_the_pages_is_refused(copy: Path) -> None:
    """A point that was moved has no text that could tell."""
    path = copy / "figures" / "hero.svg"
    svg = path.read_text(encoding="utf-8")
    found = re.search(r"M (\d+)\.", svg)
    assert found
    path.write_text(svg.replace(found.group(), "M 1.", 1), encoding="utf-8")
    assert check_report(copy) == [
        "figures/hero.svg is not the figure of report.html",
    ]


@pytest.mark.parametrize(("old", "new"), [(">40<", ">20<"), (">27.4<", ">82.5<")])
def test_a_text_of_a_figure_that_stands_there_twice_is_refused(
    copy: Path, old: str, new: str
) -> None:
    """File and page agree, and the text is one that the figure has elsewhere."""
    path, page = copy / "figures" / "hero.svg", copy / "report.html"
    svg = path.read_bytes()
    assert old.encode() in svg
    other = svg.replace(old.encode(), new.encode(), 1)
    path.write_bytes(other)
    text = page.read_text(encoding="utf-8")
    embedded = base64.b64encode(svg).decode()
    assert embedded in text
    page.write_text(text.replace(embedded, base64.b64encode(other).decode()), encoding="utf-8")
    problems = check_report(copy)
    assert problems
    assert all("hero.svg" in one and "noted are" in one for one in problems)


def test_numbers_without_a_place_are_refused(copy: Path) -> None:
    page = (copy / "report.html").read_text(encoding="utf-8")
    for old, new in (
        ("</footer>", "<p>in 3 of 4 runs</p></footer>"),
        ("</footer>", '<p title="in 9 runs">.</p></footer>'),
        ("Wilson 1927", "Wilson 1928"),
        ("Wilson 1927", "Wilson 19270"),
        ("</footer>", "<script>1</script></footer>"),
        ('alt="Dot plot', 'alt="7 Dot plot'),
    ):
        assert old in page
        (copy / "report.html").write_text(page.replace(old, new, 1), encoding="utf-8")
        assert any("report.html" in one for one in check_report(copy)), new


def test_a_report_of_other_data_is_refused(copy: Path, folder: Path) -> None:
    shutil.copy(folder / "verdict.json", copy / "verdict.json")
    assert len(check_report(copy)) > 100


def test_missing_files_are_named(tmp_path: Path) -> None:
    assert [one.split()[0] for one in check_report(tmp_path)] == [
        "verdict.json",
        "report.md",
        "report.html",
    ]


@pytest.mark.parametrize(
    ("text", "form", "value", "good"),
    [
        ("0.302", "f3", 0.3024, True),
        ("0.302", "f3", 0.30249, True),
        ("0.303", "f3", 0.3024, False),
        ("+0.302", "s3", 0.302, True),
        ("-0.302", "s3", 0.302, False),
        ("8.6", "pct1", 0.0857142, True),
        ("8.5", "pct1", 0.0857142, False),
        ("8.6", "f1", 0.0857142, False),
        ("1,400", "n", 1400, True),
        ("1,401", "n", 1400, False),
        ("14,00", "n", 1400, False),
        ("1400", "id", 1400, True),
        ("2.0e-4", "p", 0.00019998, True),
        ("2.1e-4", "p", 0.00019998, False),
        ("2.0e-5", "p", 0.00019998, False),
        ("0.0002", "p", 0.00019998, True),
        ("< 1e-15", "p", 2.3e-308, True),
        ("< 1e-15", "p", 9.9e-16, True),
        ("< 1e-15", "p", 1.1e-15, False),
        ("< 1e-15", "p", 0.0, False),
        ("< 1e-15", "f4", 2.3e-308, False),
        ("< 1e-16", "p", 1e-300, False),
        ("< 1e-14", "p", 1e-300, False),
        ("2.3e-308", "p", 2.3e-308, False),
        ("1.1e-15", "p", 1.1e-15, True),
        ("0.50", "bound", 0.5, True),
        ("0.51", "bound", 0.5, False),
        ("0.5", "f1", "0.5", False),
        ("1", "n", True, False),
        ("0.5", "f1", None, False),
    ],
)
def test_what_counts_as_a_rendering(text: str, form: str, value: Any, good: bool) -> None:
    assert (wrong(Found(text, "/x", form), {"x": value}) == "") is good


@pytest.mark.parametrize(
    ("text", "form", "good"),
    [
        ("d >= 0.20 and p < 0.001", "words", True),
        ("d >= 0.21 and p < 0.001", "words", False),
        ("rule", "key", True),
        ("role", "key", False),
    ],
)
def test_what_counts_as_a_quotation(text: str, form: str, good: bool) -> None:
    body = {"rule": "d >= 0.20 and p < 0.001"}
    assert (wrong(Found(text, "/rule", form), body) == "") is good


def test_places_that_are_not_there_are_named() -> None:
    for at in ("/b", "/a/7", "/a/x", "/a/0/c"):
        assert "not there" in wrong(Found("1", at, "n"), json.loads('{"a": [1]}'))
