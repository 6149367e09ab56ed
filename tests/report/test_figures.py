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
from persona_lib.report.figures.doses import doses
from persona_lib.report.figures.style import styled
from persona_lib.report.numbers import svg_texts
from persona_lib.report.pieces import Node, plain
from tests.gain_worlds import SHARES, SOURCES, STEPS
from tests.gain_worlds import factorial as worlds_of
from tests.report_bodies import ROOT, body_of, factorial, live, report_of, write

NAMES = ("cosines", "doses", "forest", "hero", "lengths", "scatter")
OKABE_ITO = {
    "#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7",
}  # fmt: skip
GREYS = {"#1b1b1b", "#5a5a5a", "#d0d0d0", "#8a8a8a", "#ffffff"}
OURS = {"#a34800", "#b8d8ea"}
"""Vermillion, darker for the rule and its words (contrast 6.1 on white), and sky, paler."""


@pytest.fixture(scope="module")
def drawn() -> dict[str, Any]:
    return draw(Node(live()))


@pytest.fixture(scope="module")
def twelve() -> dict[str, Any]:
    """Figures of twelve arms of two sources, under claims over training runs."""
    return {n: d for n, d in draw(Node(factorial())).items() if isinstance(d, Drawing)}


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


# ---- dose curves, and arms of several sources -------------------------------------------

SEEDS = (3, 5, 8)


def dosed(body: dict[str, Any]) -> Any:
    with styled():
        return doses(Node(body))


def check_doses(body: dict[str, Any]) -> None:
    """Every line is where theory has it, in the axes of its cell, in the line of its source."""
    drawing = dosed(body)
    assert isinstance(drawing, Drawing)
    cells = {ax.get_title(loc="left"): ax for ax in drawing.figure.axes if ax.axison}
    assert list(cells) == list(SHARES)
    noted = {(one["series"], one["step"]["value"]): one for one in drawing.plotted if "step" in one}
    for (arm, seed), world in worlds_of(SEEDS).items():
        cell, source = arm.split("@")
        # Of the source's gain, the share that is left over all authors of the pool.
        left = (1 + 6 * world.text) / 7
        own = [world.gain * left * step / 100 for step in STEPS]
        style = "-" if source == SOURCES[0] else "--"
        lines_of = [line for line in cells[cell].lines if line.get_linestyle() == style]
        for gains, name in ((own, "of_source"), ([world.system * g for g in own], "of_bystanders")):
            drawn = [k for k in lines_of if list(k.get_ydata()) == pytest.approx(gains)]
            assert drawn, (arm, seed, name)
            assert tuple(drawn[0].get_xdata()) == STEPS
            for step, gain in zip(STEPS, gains, strict=True):
                found = noted[f"{arm} {seed}", step][name]
                assert found["value"] == pytest.approx(gain)
        assert [5.0, 5.0] in [list(line.get_ydata()) for line in cells[cell].lines]
    for cell, ax in cells.items():
        flat = [w.system for (arm, _), w in worlds_of(SEEDS).items() if arm.split("@")[0] == cell]
        assert ax.get_title(loc="right") == f"transfer {sum(flat) / 6:.2f}"


def test_doses_draw_every_run_in_the_axes_of_its_cell() -> None:
    check_doses(factorial())


@pytest.mark.parametrize("fields", [("arm", "cell"), ("seed",), ("of_source",), ("source",)])
def test_a_mutant_whose_arms_or_seeds_are_exchanged_is_killed(fields: tuple[str, ...]) -> None:
    body = factorial()
    curves = body["panels"]["gains"]["data"]["curves"]
    # Neighbours are seeds of an arm; the last is of another cell and source.
    one, other = curves[0], curves[1] if fields == ("seed",) else curves[-1]
    for field in fields:
        one[field], other[field] = other[field], one[field]
    with pytest.raises((AssertionError, KeyError)):
        check_doses(body)


def test_doses_say_what_is_not_reached_and_in_how_many_seeds() -> None:
    def titles(body: dict[str, Any]) -> list[str]:
        return [ax.get_title(loc="right") for ax in dosed(body).figure.axes]

    body = live()
    assert titles(body) == ["transfer 0.20", "transfer 0.50 (1 of 2 seeds)"]
    data = body["panels"]["gains"]["data"]
    data["curves"] = [c for c in data["curves"] if (c["arm"], c["seed"]) == ("C2", 137)]
    data["cells"] = [{"cell": "C2", "transfer": None, "seeds": 0, "of": 1}]
    assert titles(body) == ["never there"]  # one arm, one seed
    data["registered_gain"], data["cells"] = None, []
    assert titles(body) == [""]
    assert "without a registered gain" in plain(dosed(body).alt)


@pytest.mark.parametrize(
    "spoil",
    [
        {"steps": []}, {"steps": [0, 1]}, {"steps": "0123"}, {"steps": None},
        {"steps": [1e300] * 11}, {"of_source": [1e9] * 11}, {"of_bystanders": ["1"] * 11},
        {"arm": None}, {"cell": ["C1"]}, {"source": {"a": 1}},
    ],
)  # fmt: skip
def test_a_curve_that_is_none_is_not_drawn(spoil: dict[str, Any]) -> None:
    body = live()
    curves = body["panels"]["gains"]["data"]["curves"]
    curves[0] |= spoil
    found = dosed(body)
    assert isinstance(found, Drawing)
    assert "C1 42" not in {one["series"] for one in found.plotted}
    assert "C1 137" in {one["series"] for one in found.plotted}


def test_no_doses_and_too_many_cells_are_sentences() -> None:
    body = live()
    data = body["panels"]["gains"]["data"]
    data["curves"] = [{**data["curves"][0], "cell": f"c{i}"} for i in range(25)]
    found = dosed(body)
    assert isinstance(found, str)
    assert "too many cells" in found
    for curves in ([], None, "none", [None]):
        data["curves"] = curves
        found = dosed(body)
        assert isinstance(found, str)
        assert "no dose curve is drawn" in found


def test_figures_of_twelve_arms_fit_and_are_readable(twelve: dict[str, Any]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    assert set(twelve) == {"doses", "forest", "hero", "scatter"}
    for name, drawing in twelve.items():
        canvas = FigureCanvasAgg(drawing.figure)
        canvas.draw()
        box = drawing.figure.get_tightbbox(canvas.get_renderer())
        assert box.x0 >= -0.01, name
        assert box.x1 <= drawing.figure.get_figwidth() + 0.01, name
        assert box.y0 >= -0.01, name
        assert box.y1 <= drawing.figure.get_figheight() + 0.01, name
        assert min(text.get_fontsize() for text in texts(drawing)) >= 7, name


def test_the_hero_groups_arms_by_source_and_draws_d_and_the_kill(twelve: dict[str, Any]) -> None:
    body = factorial()
    rates, _, contrasts, side = twelve["hero"].figure.axes
    names = [text.get_text() for text in rates.get_yticklabels()]
    priors = {"A": "raw", "B0": "neutral", "B1": "neutral", "D1": "benign", "E0": "em", "E1": "em"}
    cells = [f"{cell} ({prior})" for cell, prior in priors.items()]
    assert names == [SOURCES[0], *cells, SOURCES[1], *cells]
    found = lines(rates)
    places = dict(zip([13 - i for i in range(14)], names, strict=True))
    for place, name in places.items():
        if name in SOURCES:
            assert not [line for line in found if len(line) == 2 and line[1] == place]
            continue
        source = SOURCES[0] if place > 6 else SOURCES[1]
        arm = next(a for a in body["summary"]["arms"] if a["name"] == f"{name.split()[0]}@{source}")
        assert (arm["bystanders"]["rate"], place) in found
        assert (arm["source"]["rate"], place) in found
    found = lines(contrasts)
    for place, claim in zip((4, 3, 2, 1, 0), body["verdicts"], strict=True):
        assert (claim["effect"]["value"], place) in found
        bars = {line[0] for line in found if line[2:] == (place - 0.32, place + 0.32)}
        assert bars == ({0.05} if claim["name"] == "kill" else {0.10})
    rules = [text.get_text() for text in side.texts if text.get_text().startswith("all")]
    assert rules == ["all > 0.10"] * 4
    assert "A bar is the smallest rise worth publishing" in plain(twelve["hero"].caption)


def test_the_forest_has_a_column_for_each_source(twelve: dict[str, Any]) -> None:
    body = factorial()
    axes = twelve["forest"].figure.axes
    assert [ax.get_title() for ax in axes] == list(SOURCES)
    order = [text.get_text() for text in axes[0].get_yticklabels()]
    assert order[:2] == list(SOURCES)  # a source of some arm is among the sources, not reported
    heights = dict(zip(order, axes[0].get_yticks(), strict=True))
    for ax, source in zip(axes, SOURCES, strict=True):
        points = {line for line in lines(ax) if len(line) == 2}
        own = [arm for arm in body["summary"]["arms"] if arm["name"].endswith(source)]
        assert len(points) == 6 * 11
        for i, arm in enumerate(own):
            for row in arm["personas"]:
                at = heights[row["persona"]] + 0.37 - 0.74 / 6 * (i + 0.5)
                near = [x for x, y in points if y == pytest.approx(at)]
                assert near == [row["rate"]], (arm["name"], row["persona"])
    assert "in it the other sources are reported" in plain(twelve["forest"].caption)


def test_sources_are_told_apart_by_fill_in_the_scatter(twelve: dict[str, Any]) -> None:
    marks = [m for m in twelve["scatter"].figure.axes[0].lines if len(m.get_xdata()) == 1]
    assert len(marks) == 12 * 3
    body = factorial()
    for arm in body["summary"]["arms"]:
        fill = "full" if arm["name"].endswith(SOURCES[0]) else "none"
        for run in arm["by_seed"]:
            at = (run["source"]["rate"], run["bystanders"]["rate"])
            assert fill in {
                m.get_fillstyle() for m in marks if (m.get_xdata()[0], m.get_ydata()[0]) == at
            }
    legend = [text.get_text() for text in twelve["scatter"].figure.legends[0].get_texts()]
    assert legend == [*SHARES, *SOURCES]


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
