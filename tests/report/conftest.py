"""What the tests of the report share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report_bodies import body_of, write


@pytest.fixture(scope="session")
def report_folder(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report in ``--report=DIR``; without the option, one made of golden/tiny."""
    if pytestconfig.option.report:
        return Path(pytestconfig.option.report)
    return write(tmp_path_factory.mktemp("report"), body_of())
