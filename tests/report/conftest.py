"""What the tests of the report share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report_bodies import report_of


@pytest.fixture(scope="session")
def report_folder(pytestconfig: pytest.Config) -> Path:
    """The report in ``--report=DIR``; without the option, one made of golden/tiny."""
    return Path(pytestconfig.option.report or report_of("tiny"))
