"""A headless Chromium for tests; a missing one is an error that says what to do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from persona_lib.errors import PreflightError

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
REMEDY = "Run `make browser`: these tests open a report in a real browser."


def executable() -> str:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise PreflightError(f"a browser ({', '.join(NAMES)})", remedy=REMEDY)
    return found


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser with an empty profile of its own; it ends with the block."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise PreflightError("the package playwright", remedy=REMEDY) from error
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=executable(), headless=True, args=FLAGS, timeout=180_000
        )
        try:
            yield browser
        finally:
            browser.close()


def axe_source() -> str:
    from importlib.resources import files

    try:
        return files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    except ModuleNotFoundError as error:
        raise PreflightError("the package axe-playwright-python", remedy=REMEDY) from error
