"""The page in a real browser, wide and narrow: readable, accessible, inert.

Without a browser these tests fail and name `make browser`; `make test` brings one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from persona_lib.report.pieces import visible
from tests.report.browser import axe_source, chromium
from tests.report_bodies import EVIL, report_of

WIDTHS = (1280, 390)
AXE = "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations)"
BODIES = ("live", "published", "poisoned")
PATIENCE = 180_000
"""Milliseconds: a busy machine is slow, and that is no finding."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def pages() -> dict[str, Path]:
    return {name: report_of(name) / "report.html" for name in BODIES}


class Opened:
    """A page that notes what it logs, what it asks for, and whether anything popped up."""

    def __init__(self, browser: Any, path: Path, width: int, *, script: bool = True) -> None:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, java_script_enabled=script, bypass_csp=True
        )
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.heard: list[str] = []
        self.page.on("console", lambda message: self.heard.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.heard.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.heard.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.goto(path.as_uri())
        self.close = context.close

    def _asked(self, url: str) -> None:
        if not url.startswith(("file:", "data:")):
            self.heard.append(f"request: {url}")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", BODIES)
def test_page_fits_is_quiet_and_accessible(
    browser: Any, pages: dict[str, Path], name: str, width: int
) -> None:
    opened = Opened(browser, pages[name], width)
    page = opened.page
    for unfold in (False, True):
        if unfold:
            page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        widest = page.evaluate(
            "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
        )
        assert widest <= width, f"scrolls sideways: {widest} px of {width}"
    page.evaluate(axe_source())
    found = page.evaluate(AXE)
    description = [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found]
    assert not description
    broken = "[...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).length"
    assert page.evaluate(broken) == 0
    assert opened.heard == []
    opened.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_hostile_completion_is_shown_as_text(
    browser: Any, pages: dict[str, Path], width: int
) -> None:
    opened = Opened(browser, pages["poisoned"], width)
    page = opened.page
    shown = page.evaluate("[...document.querySelectorAll('pre')].map(p => p.textContent)")
    assert visible(EVIL) in shown
    assert "\n" + visible(EVIL) in shown
    assert "<script>alert(1)</script>" in visible(EVIL)
    assert "␛[31mred␛[0m" in visible(EVIL)
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("document.querySelectorAll('[onerror], iframe, object').length") == 0
    page.wait_for_timeout(200)
    assert opened.heard == []
    opened.close()


def test_nothing_needs_a_script(browser: Any, pages: dict[str, Path]) -> None:
    opened = Opened(browser, pages["live"], 390, script=False)
    assert opened.page.locator("h1").inner_text()
    table = opened.page.locator("table").nth(1)
    assert "H1" in table.inner_text()
    summary = opened.page.locator("summary").first
    summary.click()
    assert opened.page.locator("details[open] table").first.is_visible()
    opened.close()


def test_text_is_large_enough_and_a_table_scrolls_inside_its_box(
    browser: Any, pages: dict[str, Path]
) -> None:
    opened = Opened(browser, pages["live"], 390)
    page = opened.page
    sizes = page.evaluate(
        "[...document.querySelectorAll('p, li, td, th, summary, figcaption, pre')]"
        ".map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 13
    wide = page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
        ".map(e => getComputedStyle(e).overflowX)"
    )
    assert wide
    assert set(wide) == {"auto"}
    opened.close()
