"""Warnings are errors in the software's own tests, while they are collected and run.

A user's run, which judges claims or reads back a report, must not fail by what a
library or another plugin warns of: there pytest.ini shows warnings.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from _pytest.config import parse_warning_filter

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: torch's threads beyond them would wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = Path(__file__).resolve().parent
USERS = (HERE / "science", HERE / "report" / "test_the_report.py")
"""Tests that users run."""
SHARED = "FLATLAND_TESTS_SHARED"
"""The folder of what several test files read and one of them makes, for all workers."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the shared folder, unless the process that started this one has; it is removed then."""
    if SHARED not in os.environ:
        os.environ[SHARED] = tempfile.mkdtemp(prefix="flatland-tests-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(SHARED), ignore_errors=True))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fail to import a test file that warns; in a user's, only a misspelt marker fails."""
    misspelt = ("error::pytest.PytestUnknownMarkWarning",)
    with warnings.catch_warnings():
        for text in misspelt if _is_users(collector.path) else _strict(collector.config):
            warnings.filterwarnings(*parse_warning_filter(text, escape=False))
        return (yield)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Fail a test that warns, unless a filter of its own says otherwise."""
    # pytest registers the marker, and reads it, with its plugin of that name.
    if not _is_users(item.path) and item.config.pluginmanager.hasplugin("warnings"):
        marker = pytest.mark.filterwarnings(*_strict(item.config))
        item.add_marker(marker, append=False)


@pytest.fixture(scope="session", autouse=True)
def _collect_garbage() -> Iterator[None]:
    """Find handles that were left open in reference cycles while a warning still fails a test.

    Set up first and so torn down last, within the last test.
    """
    yield
    gc.collect()


def _is_users(path: Path) -> bool:
    return any(path == users or users in path.parents for users in USERS)


def _strict(config: pytest.Config) -> tuple[str, ...]:
    """Return filters, the later ones stronger: `-W` of the command line is the strongest."""
    ignored = [text for text in config.getini("filterwarnings") if text.startswith("ignore")]
    return ("error", *ignored, *(config.option.pythonwarnings or ()))
