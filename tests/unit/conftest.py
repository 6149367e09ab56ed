"""Fixtures of several unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.loopback import PROXIES, Loopback, Script, Serve


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers on loopback, which stop after the test."""
    with ExitStack() as running:

        def start(script: Script) -> Loopback:
            return running.enter_context(Loopback(script))

        yield start


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no option of an SDK and no proxy."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for vendor in ("ANTHROPIC", "OPENAI"):
        for name in ("API_KEY", "BASE_URL", "CUSTOM_HEADERS", "AUTH_TOKEN"):
            monkeypatch.delenv(f"{vendor}_{name}", raising=False)
