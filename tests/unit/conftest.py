"""Fixtures of several unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.loopback import Loopback, Script, Serve


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers on loopback, which stop after the test."""
    with ExitStack() as running:

        def start(script: Script) -> Loopback:
            return running.enter_context(Loopback(script))

        yield start
