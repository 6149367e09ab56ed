"""Figures: drawn where verdict.json says, readable in one column, in equal bytes."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from persona_lib.report.figures import Drawing, draw, files_of
from persona_lib.report.numbers import svg_texts
from persona_lib.report.pieces import Node, plain
from tests.report_bodies import ROOT, body_of, live, report_of, write

NAMES = ("cosines", "forest", "hero", "lengths", "scatter")
OKABE_ITO = {
    "#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7",
}  # fmt: skip
GREYS = {"#1b1b1b", "#5a5a5a", "#d0d0d0", "#8a8a8a", "#ffffff"}
OURS = {"#a34800", "#b8d8ea"}
"""Vermillion, darker for the rule and its words (contrast 6.1 on white), and sky, paler."""


@pytest.fixture(scope="module")
def drawn() -> dict[str, Any]:
    return draw(Node(live()))


def texts(drawing: Drawing) -> list[Any]:
    from matplotlib.text import Text

    drawing.figure.draw_without_rendering()
    found = drawing.figure.findobj(Text)
    return [one for one in found if one.get_visible() and one.get_text()]


def test_every_figure_is_drawn_and_has_an_alternative(drawn: dict[str, Any]) -> None:
    assert set(drawn) == set(NAMES)
    for name in NAMES:
        assert isinstance(drawn[name], Drawing), drawn[name]
        assert len(plain(drawn[name].alt)) > 40
        assert len(plain(drawn[name].caption)) > 80
        assert drawn[name].plotted


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_one_column_wide_with_text_of_seven_points_that_stands_out(
    drawn: dict[str, Any], name: str
) -> None:
    """Contrast of at least 4.5 to white (WCAG 2.2, 1.4.3): marks bear the colours, not words."""
    from matplotlib.colors import to_hex

    assert 85 <= drawn[name].figure.get_figwidth() * 25.4 <= 90
    for text in texts(drawn[name]):
        assert text.get_fontsize() >= 7
        contrast = 1.05 / (luminance(to_hex(text.get_color())) + 0.05)
        assert contrast >= 4.5, (text.get_text(), text.get_color(), contrast)


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2, from #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_runs_over_the_edge(drawn: dict[str, Any], name: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = drawn[name].figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.get_tightbbox(canvas.get_renderer())
    assert box.x0 >= -0.01
    assert box.y0 >= -0.01
    assert box.x1 <= figure.get_figwidth() + 0.01
    assert box.y1 <= figure.get_figheight() + 0.01


@pytest.mark.parametrize("name", NAMES)
def test_colours_are_told_apart_by_every_eye(drawn: dict[str, Any], name: str) -> None:
    svg = files_of(name, drawn[name])[f"{name}.svg"].decode().lower()
    assert set(re.findall(r"#[0-9a-f]{6}", svg)) <= OKABE_ITO | GREYS | OURS


def test_equal_bodies_give_equal_bytes(tmp_path: Path) -> None:
    one, two = report_of("live"), write(tmp_path, live())
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(files) == 3 + 3 * len(NAMES)
    for path in files:
        assert (one / path).read_bytes() == (two / path).read_bytes(), path
    assert sorted(p.relative_to(two) for p in two.rglob("*") if p.is_file()) == files


def lines(ax: Any) -> set[tuple[float, ...]]:
    return {(*map(float, line.get_xdata()), *map(float, line.get_ydata())) for line in ax.lines}


def test_hero_draws_rates_intervals_and_thresholds_where_they_are(drawn: dict[str, Any]) -> None:
    body = live()
    arms, claims = body["summary"]["arms"], body["verdicts"][:3]
    rates, _, differences, _ = drawn["hero"].figure.axes
    found = lines(rates)
    for place, arm in zip(range(len(arms) - 1, -1, -1), arms, strict=True):
        for pool in ("source", "bystanders"):
            count = arm[pool]
            assert (count["rate"], place) in found
            assert (count["low"], count["high"], place, place) in found
    assert (0.05, 0.05, 1.52, 2.48) in found  # the kill criterion, in the row of C2
    assert (0.5, 0.5, 0, 1) in found  # the gate on the source
    found = lines(differences)
    bounds = ((0.20,), (0.15,), (-0.05, 0.05, 0.15))
    for place, claim, own in zip((2, 1, 0), claims, bounds, strict=True):
        effect = claim["effect"]
        assert (effect["value"], place) in found
        assert (effect["low"], effect["high"], place, place) in found
        bars = {line[0] for line in found if line[2:] == (place - 0.32, place + 0.32)}
        assert bars == set(own)
    rules = [text.get_text() for text in texts(drawn["hero"]) if "= 0." in text.get_text()]
    assert rules == [">= 0.20", ">= 0.15", "|d| <= 0.05"]  # H3's own, and no artefact's bound
    band = differences.collections[0].get_paths()[0].vertices
    assert {round(float(x), 9) for x in band[:, 0]} == {-0.05, 0.05}


def test_forest_draws_every_persona_of_every_arm(drawn: dict[str, Any]) -> None:
    found = lines(drawn["forest"].figure.axes[0])
    points = [line for line in found if len(line) == 2]
    spans = {line[:2] for line in found if len(line) == 4 and line[2] == line[3]}
    for arm in live()["summary"]["arms"]:
        for row in arm["personas"]:
            assert any(x == row["rate"] for x, _ in points)
            assert (row["low"], row["high"]) in spans
    names = [t.get_text() for t in drawn["forest"].figure.axes[0].get_yticklabels()]
    assert names[0] == "librarian"
    assert len(names) == 11


def test_scatter_draws_each_run_and_the_pool_where_runs_are_unknown() -> None:
    body = live()
    body["summary"]["arms"][0]["by_seed"][1]["bystanders"]["rate"] = 0.25
    found = lines(draw(Node(body))["scatter"].figure.axes[0])
    for arm in body["summary"]["arms"]:
        for run in arm["by_seed"]:
            assert (run["source"]["rate"], run["bystanders"]["rate"]) in found
    for arm in body["summary"]["arms"]:
        arm["by_seed"] = []
    drawing = draw(Node(body))["scatter"]
    found = lines(drawing.figure.axes[0])
    for arm in body["summary"]["arms"]:
        assert (arm["source"]["rate"], arm["bystanders"]["rate"]) in found
    assert "all training runs together" in plain(drawing.caption)


def test_lengths_mark_the_common_support(drawn: dict[str, Any]) -> None:
    support = live()["panels"]["lengths"]["data"]["support"]
    boxes = [box.get_paths()[0].vertices for box in drawn["lengths"].figure.axes[0].collections]
    spans = {(float(box[:, 0].min()), float(box[:, 0].max())) for box in boxes}
    assert {(one["support"]["low"], one["support"]["high"]) for one in support} == spans


def test_lengths_say_where_arms_share_none() -> None:
    body = live()
    support = body["panels"]["lengths"]["data"]["support"][0]["support"]
    support["low"], support["high"], support["share"] = 70.0, 2.0, 0.0
    drawing = draw(Node(body))["lengths"]
    assert "no common range" in [text.get_text() for text in texts(drawing)]
    assert len(drawing.figure.axes[0].collections) == 2


def test_cosines_draw_every_layer_and_the_ceiling(drawn: dict[str, Any]) -> None:
    data = live()["panels"]["geometry"]["data"]
    plotted = {p["value"]["value"] for p in drawn["cosines"].plotted if "layer" in p}
    assert plotted == {look["cosine"]["value"] for look in data["looks"]}
    for column, readout in enumerate(sorted(data["readouts"])):
        ax = drawn["cosines"].figure.axes[column]
        assert ax.get_title() == readout.replace("_", " ")
        ys = {float(y) for line in ax.lines for y in line.get_ydata()}
        assert data["ceiling"] in ys
        low, high = ax.get_ylim()
        own = [k for k in data["looks"] if k["readout"] == readout and not k["centred"]]
        assert {k["cosine"]["value"] for k in own} <= ys
        assert all(low <= k["cosine"]["value"] <= high for k in own)


def test_what_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    body = body_of("golden/published")
    found = draw(Node(body))
    assert isinstance(found["cosines"], str)
    assert isinstance(found["lengths"], str)
    folder = Path(shutil.copytree(report_of("live"), tmp_path / "one"))
    write(folder, body)  # a figure of an earlier report does not stay behind
    assert not (folder / "figures" / "cosines.svg").exists()
    assert found["lengths"] in (folder / "report.md").read_text(encoding="utf-8") or (
        "No figure is drawn" in (folder / "report.md").read_text(encoding="utf-8")
    )


def test_no_arms_no_figures() -> None:
    body = body_of("golden/published")
    body["summary"]["arms"], body["verdicts"], body["gates"] = [], [], []
    assert all(isinstance(one, str) for one in draw(Node(body)).values())


def test_names_are_never_formulas() -> None:
    body = live()
    body["summary"]["arms"][0]["name"] = "$\\frac{1}{0}$"
    drawing = draw(Node(copy.deepcopy(body)))["hero"]
    svg = files_of("hero", drawing)["hero.svg"].decode()
    assert "$\\frac{1}{0}$ (raw)" in svg_texts(svg)  # a formula would be glyphs one by one


def test_records_name_a_place_for_every_number(drawn: dict[str, Any]) -> None:
    for name in NAMES:
        record = json.loads(files_of(name, drawn[name])[f"{name}.json"])
        assert set(record) == {"figure", "plotted", "texts", "ticks"}
        for one in record["plotted"]:
            for key, description in one.items():
                assert key == "series" or description is None or {"at", "value"} <= set(description)


def test_the_figure_of_the_readme_is_that_of_the_real_run() -> None:
    """Numbers to the last digit; pixels nearly, because fonts are drawn by a library."""
    import io

    import numpy as np
    from matplotlib.image import imread

    made = files_of("hero", draw(Node(body_of("golden/smollm2")))["hero"])
    kept = ROOT / "docs" / "figures"
    assert json.loads((kept / "hero.json").read_text()) == json.loads(made["hero.json"])
    shown, fresh = imread(kept / "hero.png"), imread(io.BytesIO(made["hero.png"]))
    assert shown.shape == fresh.shape
    assert float(np.abs(shown - fresh).mean()) < 0.002
