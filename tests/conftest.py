"""What holds in the software's own tests alone: which are run, and that warnings are errors.

A user's run, which judges claims or reads back a report, must not fail by what a
library or another plugin warns of: there pytest.ini shows warnings.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Generator, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from _pytest.config import parse_warning_filter

from persona_lib.plugin import selection

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: torch's threads beyond them would wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = Path(__file__).resolve().parent
USERS = (HERE / "science", HERE / "report" / "test_the_report.py")
"""Tests that users run."""
SHARED = "FLATLAND_TESTS_SHARED"
"""The folder of what several test files read and one of them makes, for all workers."""
OWN = ("smoke", "golden", "report", "calibration", "vllm")
"""Markers of the software's own tests, and the folders in which all of theirs lie."""
WITHOUT_VLLM = (
    "vllm: tests/vllm was left out, as vllm is not installed here: make test-vllm runs it"
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m h1`` import the science tests only: the others import torch.

    Only where the expression is made of markers with ``and`` and ``or`` alone; those that are
    not our `OWN` are names of claims.
    """
    names = set(re.findall(r"\w+", config.option.markexpr or "")) - {"and", "or"}
    if selection.only_science(config):
        names = {"science"}
    if not names or "not" in names or HERE not in collection_path.parents:
        return None
    wanted = {name if name in OWN else "science" for name in names}
    return True if collection_path.relative_to(HERE).parts[0] not in wanted else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the simulations unless they are named, and vLLM's tests where it is missing."""
    left = ["calibration"] if not _names(config, "calibration") else []
    left += ["vllm"] if _leaves_out_vllm(config) else []
    out = [item for item in items if left and any(map(item.get_closest_marker, left))]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]
    if not hasattr(config, "workerinput"):
        _refuse_optimised(item.nodeid for item in items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:  # noqa: ARG001
    """Refuse for the workers of pytest-xdist, whose own errors here would be internal ones."""
    _refuse_optimised(ids)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what was left out."""
    folder, expression = HERE / "vllm", config.option.markexpr
    paths = selection.paths(config)
    asked = any(p in (folder, *folder.parents) or folder in p.parents for p in paths)
    wanted = asked and (not expression or selection.satisfied_by(expression, "vllm"))
    if wanted and _leaves_out_vllm(config):
        terminalreporter.write_line(WITHOUT_VLLM)


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


def _names(config: pytest.Config, name: str) -> bool:
    """Whether ``-m`` names this marker, and not merely as one to leave out."""
    expression = config.option.markexpr or ""
    named = re.search(rf"\b{name}\b", expression) is not None
    return named and not selection.satisfied_by(expression, "")


def _leaves_out_vllm(config: pytest.Config) -> bool:
    """Whether vLLM is not installed and ``-m`` does not name it.

    Named, its tests are run, and their error says what to install.
    """
    if _names(config, "vllm"):
        return False
    if "vllm" in sys.modules:
        return sys.modules["vllm"] is None
    found = find_spec("vllm")
    # A mere folder of that name, like that of the tests, is found too and has no origin.
    return found is None or found.origin is None


def _refuse_optimised(names: Iterable[str]) -> None:
    """Refuse to run tests, by their node ids, where ``assert`` is left out.

    Science tests raise errors instead, and are judged.

    Raises:
        UsageError: Python runs with -O, and such a test would be run.
    """
    ours = (n for n in names if n.startswith("tests/") and not n.startswith("tests/science/"))
    if sys.flags.optimize and (name := next(ours, None)) is not None:
        raise pytest.UsageError(
            "the software's own tests check by assert, which python -O and PYTHONOPTIMIZE leave "
            f"out: {name} and others could not fail. Run them without; science tests may be run "
            "with it."
        )
