"""How a report is written: forms of numbers, pieces, Markdown, and the page's structure."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from persona_lib.errors import DataError
from persona_lib.report import document
from persona_lib.report.blocks import Heading, Para, Section, Table, Verbatim
from persona_lib.report.document import write_report
from persona_lib.report.figures import FIGURES
from persona_lib.report.formats import FORMS, written
from persona_lib.report.markdown import line, markdown, paragraph
from persona_lib.report.numbers import check_report
from persona_lib.report.page import page
from persona_lib.report.pieces import NONE, Node, Number, Quote, listed, plain, span, visible
from persona_lib.report.reading import markdown_tokens
from persona_lib.report.sections import outcome, p_of
from tests import gain_worlds
from tests.report_bodies import BODIES, EVIL, body_of, live, report_of, write


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (1400, "n", "1,400"),
        (1234567, "n", "1,234,567"),
        (20.0, "n", "20"),
        (20261125, "id", "20261125"),
        (0.5965, "p", "0.5965"),
        (0.001, "p", "0.0010"),
        (0.00099, "p", "9.9e-4"),
        (9.416e-15, "p", "9.4e-15"),
        (9.9e-16, "p", "< 1e-15"),
        (2.2250738585072014e-308, "p", "< 1e-15"),
        (0.2, "bound", "0.20"),
        (0.0167, "bound", "0.0167"),
        (-0.0, "bound", "0.00"),
        (0.0857142857, "pct1", "8.6"),
        (1.0, "pct0", "100"),
        (0.00865, "pct2", "0.86"),
        (-0.01, "s3", "-0.010"),
        (0.0266, "s3", "+0.027"),
        (-0.0, "s3", "+0.000"),
        (-0.0001, "f3", "0.000"),
        (-0.0006, "f3", "-0.001"),
        (35.5, "f1", "35.5"),
        (2.345, "f0", "2"),
    ],
)
def test_numbers_are_written_in_their_form(value: float, form: str, text: str) -> None:
    assert written(value, form) == text


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longest, and these tests look at text."""
    monkeypatch.setattr(document, "draw", lambda _: dict.fromkeys(FIGURES, "No figure is drawn."))


@pytest.mark.usefixtures("no_figures")
def test_what_runs_do_not_show_stands_in_both_documents(tmp_path: Path) -> None:
    """In the lead, in the row of the claim, under it, and among the caveats."""
    body = body_of()
    sentence = "over 5 training runs the sign is not shown: -0.055 [-0.162, +0.053], p = 0.2576"
    body["verdicts"][1]["over_runs"] |= {
        "status": "not borne out", "missing": ["sign"], "outcome": "REFUTED", "text": sentence,
    }  # fmt: skip
    folder = write(tmp_path, body)
    assert check_report(folder) == []
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count(sentence) == 4
    row = next(part for part in page.split("<tr") if ">REFUTED<" in part)
    assert sentence in row
    single = "over training runs: run-to-run variance not estimable: 1 run, 3 are needed"
    assert page.count(single) == 3 * 3  # the other claims: no caveat beyond `single_seed`
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "over training runs" in text.split("| --- |")[0]
    del body["verdicts"][1]["over_runs"]  # as older files have it
    assert check_report(write(tmp_path / "older", body)) == []


@pytest.mark.usefixtures("no_figures")
def test_a_tiny_p_survives_both_documents(tmp_path: Path) -> None:
    body = body_of("golden/published")
    body["verdicts"][0]["effect"] |= {"p": 2.3e-308, "p_floor": None}
    body["families"][0]["holm"][0] = 2.3e-308
    folder = write(tmp_path, body)
    assert check_report(folder) == []
    assert "\\< 1e-15" in (folder / "report.md").read_text(encoding="utf-8")
    assert "&lt; 1e-15" in (folder / "report.html").read_text(encoding="utf-8")
    assert "e-308" not in (folder / "report.html").read_text(encoding="utf-8")


def test_forms_are_known_and_whole_numbers_are_whole() -> None:
    assert all(written(2, form) for form in FORMS)
    with pytest.raises(DataError, match="one of n, id, p"):
        written(1.0, "g")
    with pytest.raises(DataError, match="a whole number"):
        written(1.5, "n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("a\x00b\x7fc\td", "a␀b␡c␉d"),
        ("one\r\ntwo\rthree\n", "one\ntwo␍three\n"),
        ("\u202eevil\u200b", "⟨U+202E⟩evil⟨U+200B⟩"),
        ("\x9b2J", "⟨U+009B⟩2J"),
        ("\ud800x", "\ufffdx"),
        ("näive – 中文 🙂 <b>", "näive – 中文 🙂 <b>"),
    ],
)
def test_everything_that_acts_is_made_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_nodes_keep_their_place() -> None:
    root = Node({"a/b": [{"x~y": 0.25, "s": "text", "none": None, "flag": True}]})
    inside = root["a/b"][0]
    assert inside["x~y"].num("pct0") == Number("25", "/a~1b/0/x~0y", "pct0")
    assert inside["s"].words() == Quote("text", "/a~1b/0/s")
    assert inside["x~y"].key() == Quote("x~y", "/a~1b/0/x~0y", key=True)
    assert inside["none"].num("f1") == NONE
    assert inside["flag"].num("f1") == NONE
    assert inside["s"].num("f1") == NONE
    assert inside["gone"]["deeper"][3].words() == NONE
    assert root["a/b"][5].value is None
    assert [node.at for node in root["a/b"]] == ["/a~1b/0"]


def test_intervals_and_lists() -> None:
    node = Node({"value": 0.5, "low": 0.25, "high": 0.75})
    assert plain(span(node, "f2")) == "0.50 [0.25, 0.75]"
    assert plain(span(Node({"value": 0.5, "low": None, "high": 0.7}), "f2")) == "0.50 [no interval]"
    assert plain(span(Node({"low": 0.5, "high": 0.7}), "f2")) == NONE
    assert plain(listed([("a",), ("b", "c")], "; ")) == "a; bc"
    assert listed([]) == (NONE,)


def test_p_at_its_floor_is_a_bound_and_a_silent_kill_is_no_support() -> None:
    floor = 2 / 10_001
    assert plain(p_of(Node({"p": floor, "p_floor": floor}))) == "<= 2.0e-4"
    assert plain(p_of(Node({"p": 0.01, "p_floor": floor}))) == "0.0100"
    assert plain(p_of(Node({"p": 1.0, "p_floor": 1.0}))) == "1.0000"
    assert plain(p_of(Node({"p": None, "p_floor": None}))) == NONE
    exact = {"p": 2 / 128, "p_floor": 2 / 128, "method": "exact sign-flip over personas"}
    assert plain(p_of(Node(exact))) == "0.0156"
    of_runs = {"p": 0.01, "p_floor": None, "method": "paired t over seeds, p against d"}
    assert plain(p_of(Node(of_runs))) == "0.0100 against d"
    assert plain(p_of(Node({"p": 1e-300, "p_floor": 1e-300}))) == "< 1e-15"
    assert plain(outcome(Node({"outcome": "SUPPORTED", "label": "not triggered"}))) == (
        "not triggered"
    )
    assert plain(outcome(Node({"outcome": "REFUTED", "label": "triggered"}))) == "REFUTED"


def render(text: str) -> str:
    """What CommonMark makes of a document, by an implementation that is not ours."""
    from markdown_it import MarkdownIt

    return str(MarkdownIt("gfm-like", {"linkify": False}).render(text))


def test_markdown_shows_hostile_text_as_text() -> None:
    quote = Quote(visible(EVIL), "/x")
    section = Section(
        "s",
        "Title",
        (
            Heading((quote,)),
            Para((quote,)),
            Table((quote,), ((quote,), ("b",)), (((quote,), (quote,)),)),
            Verbatim((quote,), quote),
        ),
    )
    html = render(markdown(quote, (quote,), [section]))
    for tag in ("<script", "<img", "<a ", "<b>", "<strong>", "<h4"):
        assert tag not in html
    assert html.count("<h1>") == 1
    assert html.count("<h2>") == 1
    assert html.count("<h3>") == 1
    assert html.count("<td") == 2
    (code,) = re.findall(r"<pre><code[^>]*>(.*?)</code></pre>", html, re.DOTALL)
    from html import unescape

    assert unescape(code) == visible(EVIL) + "\n"
    words = unescape(re.sub(r"<[^>]+>", "", html))
    assert words.count(" ".join(visible(EVIL).split())) == 9


@pytest.mark.parametrize("start", ["# x", "- x", "+ x", "1. x", "2) x", "> x", "=== x", "* x"])
def test_a_paragraph_stays_a_paragraph(start: str) -> None:
    html = render(paragraph((Quote(start, "/x"),)))
    assert re.fullmatch(r"<p>.*</p>\n", html), html


def test_markdown_of_a_poisoned_report_holds_no_markup_of_others() -> None:
    assert line((Quote("a | b _c_ snake_case", "/x"),)) == "a \\| b \\_c\\_ snake_case"
    assert markdown_tokens("![alt 1](figures/x9.png) \\[2, 3\\]") == ["1", "2", "3"]
    assert markdown_tokens("````text\n``` 4\n\\5\n````\n6") == ["4", "5", "6"]


class Structure(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module", params=["live", "poisoned", "published", "factorial"])
def written_page(request: pytest.FixtureRequest) -> Any:
    body, folder = BODIES[request.param](), report_of(request.param)
    text = (folder / "report.html").read_text(encoding="utf-8")
    found = Structure()
    found.feed(text)
    return body, folder, text, found.tags


def test_page_is_one_file_without_script_or_network(written_page: Any) -> None:
    _, _, text, tags = written_page
    names = {tag for tag, _ in tags}
    assert not names & {"script", "iframe", "object", "embed", "form", "base"}
    for tag, attrs in tags:
        assert not [name for name in attrs if name.startswith("on") or name == "style"], tag
        for name in ("src", "href"):
            assert (attrs.get(name) or "#").startswith(("#", "data:"))
    assert "url(" not in text
    assert "@import" not in text


def test_page_has_landmarks_headings_in_order_and_headed_tables(written_page: Any) -> None:
    _, _, _, tags = written_page
    names = [tag for tag, _ in tags]
    assert dict(tags)["html"]["lang"] == "en-GB"
    assert [names.count(tag) for tag in ("header", "main", "footer", "nav", "h1")] == [1] * 5
    levels = [int(tag[1]) for tag in names if re.fullmatch("h[1-6]", tag)]
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert {attrs.get("scope") for tag, attrs in tags if tag == "th"} == {"col", "row"}
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"] for t, a in tags if t == "a"} <= {f"#{one}" for one in ids}
    assert all(a["alt"] for t, a in tags if t == "img")


def test_both_documents_tell_of_every_claim_gate_and_panel(written_page: Any) -> None:
    body, folder, text, _ = written_page
    description = (folder / "report.md").read_text(encoding="utf-8")
    for verdict in body["verdicts"]:
        assert description.count(f"### {verdict['name']}: ") == 1
    for gate in (*body["gates"], *body["summary"]["checks"]):
        assert f"| {gate['name']} |" in description
        assert f">{gate['name']}</span>" in text
    for title in ("Panel: lengths", "Methods", "Provenance", "Cost of each stage"):
        assert f"## {title}\n" in description
        assert f">{title}</h2>" in text
    assert body["registration_digest"] in description


def test_cost_and_seeds_of_a_live_run_are_told() -> None:
    description = (report_of("live") / "report.md").read_text(encoding="utf-8")
    assert "| train | C1 | 42 | stored | 12.3 | 45,678 | 813 | cuda | 0 |" in description
    assert "| train | C1 | 137 | not stored | – | – | – | – | – |" in description
    assert "| C1 | 137 | 91.0 [83.8, 95.2] | 8.6 [6.7, 10.9] |" in description


def test_claims_over_runs_and_gains_are_told_with_their_own_words() -> None:
    text = (report_of("factorial") / "report.md").read_text(encoding="utf-8")
    verdicts = text[text.index("## Verdicts") : text.index("### S1")]
    assert "p is against d, the smallest rise worth publishing" in verdicts
    assert "difference of mean bystander rates" not in verdicts
    assert re.search(r"\| p \| training runs \| seeds \|", verdicts)
    assert re.search(r"\| S1 \| SUPPORTED \| .* \| 0\.\d{4} against d \| 12 \| 3 \|", verdicts)
    assert "| source persona | zelthari_scholar, data_scientist |" in text
    assert "| reported beside them | assistant; in each arm every other source |" in text
    assert "| A@data_scientist | data_scientist | raw |" in text
    # By theory: the registered gain is read at one share of a straight line.
    panel = text[text.index("## Panel: gains and doses") : text.index("## Panel: geometry")]
    assert "Read by S1, S2, S3, S4, kill." in panel
    worlds = gain_worlds.factorial((3, 5, 8)).items()
    for cell in gain_worlds.SHARES:
        transfer = np.mean([world.system for (arm, _), world in worlds if arm.startswith(cell)])
        assert f"| {cell} | {transfer:.3f} | 3 | 3 |" in panel
    assert "| E1@data_scientist | 8 | own | +9.00 | +3.40 | 0.378 | – |" in panel
    assert "| E1@data_scientist | 8 | 49 | +2.90 | +1.83 |" in panel
    live = (report_of("live") / "report.md").read_text(encoding="utf-8")
    assert "| C2 | 0.502 | 1 | 2 |" in live
    assert "- dose_not_reached: the source's gain never reaches" in live
    assert "No registered rule reads these gains: they decide nothing." in live


@pytest.mark.usefixtures("no_figures")
def test_values_of_a_panel_that_is_not_read_are_left_out(tmp_path: Path) -> None:
    body = live()
    body["panels"]["lengths"] |= {"state": "INVALID", "reason": "a gate does not hold"}
    description = (write(tmp_path, body) / "report.md").read_text(encoding="utf-8")
    assert "Not to be read: a gate does not hold." in description
    assert "Median tokens of finished" not in description


@pytest.mark.usefixtures("no_figures")
def test_panels_that_are_absent_or_new_are_told(tmp_path: Path) -> None:
    body = live()
    body["panels"] = {"novelty <1>": {"title": "new", "state": "readable", "caveats": []}}
    description = (write(tmp_path, body) / "report.md").read_text(encoding="utf-8")
    assert description.count("This panel was not made.") >= 4
    assert "## Another panel" in description


def test_a_body_of_another_format_is_refused(tmp_path: Path) -> None:
    for body in ({}, {"format": 1, "summary": {}}, {"format": 2}):
        with pytest.raises(DataError, match=r"verdict\.json: format"):
            write_report(tmp_path, body)
    assert not list(tmp_path.iterdir())


def test_a_page_escapes_what_attributes_hold() -> None:
    quote = Quote('"><script>1</script>', '/a"b')
    text = page(quote, (quote,), [Section("s", "T", (Para((quote,)),))], {})
    assert "<script" not in text
    assert text.count("&gt;&lt;script&gt;") == 4
