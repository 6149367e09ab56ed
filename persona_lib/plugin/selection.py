"""Which tests are science, and whether a command line asks for them.

Helpers of `persona_lib.plugin.hooks`, which holds the hooks.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _pytest.mark.expression import Expression

from persona_lib.commands.options import ROOT
from persona_lib.errors import SpecError

if TYPE_CHECKING:
    from persona_lib.commands.session import Session

MARKERS = {
    "h1": "science: claim H1",
    "h2": "science: claim H2",
    "h3": "science: claim H3",
    "kill": "science: the kill criterion",
    "gate": "science: the gates of the registration",
    "claim(name)": "the claim of the registration that a science test judges",
    "smoke": "the software on a real run of a tiny model",
    "golden": "stored record sets, judged again",
    "report": "the numbers of a written report, read back (--report=DIR, or one of golden/tiny)",
    "calibration": "error rates of every procedure, simulated; left out unless it is named",
    "vllm": "the vLLM engine against transformers; left out where vllm is not installed",
}
SCIENCE = ("h1", "h2", "h3", "kill", "gate")
_FOLDERS = dict.fromkeys(SCIENCE, "science") | {
    name: name for name in ("smoke", "golden", "report", "calibration", "vllm")
}
"""Where the tests of each marker lie, all of them."""


def is_marked(item: pytest.Item, *names: str) -> bool:
    """Whether a test has one of these markers."""
    return any(item.get_closest_marker(name) for name in names)


def asks_for_science(config: pytest.Config) -> bool:
    """Whether the command line names science: by marker, by keyword or by path.

    An expression that a test without any marker or name would satisfy, like
    ``not smoke``, names nothing: it must not start a training run.
    """
    for expression in (config.option.markexpr, config.option.keyword):
        if expression and not _satisfied_by(expression, ""):
            return True
    science = ROOT / "tests" / "science"
    return any(science in (path, *path.parents) for path in _paths(config))


def names_marker(config: pytest.Config, name: str) -> bool:
    """Whether ``-m`` names this marker, and not merely as one to leave out."""
    expression = config.option.markexpr or ""
    named = re.search(rf"\b{name}\b", expression) is not None
    return named and not _satisfied_by(expression, "")


def leaves_out_vllm(config: pytest.Config) -> bool:
    """Whether tests that need vLLM are left out: it is not installed, and ``-m`` names none.

    Named by ``-m vllm`` they are run, and their error says what to install.
    """
    return not names_marker(config, "vllm") and not _has_vllm()


def would_collect_vllm(config: pytest.Config) -> bool:
    """Whether the command line takes in tests that need vLLM, by path and by ``-m``."""
    folder = ROOT / "tests" / "vllm"
    if not any(p in (folder, *folder.parents) or folder in p.parents for p in _paths(config)):
        return False
    expression = config.option.markexpr or ""
    return not expression or _satisfied_by(expression, "vllm")


def arms_of(chosen: Session, item: pytest.Item) -> tuple[str, ...]:
    """Return the arms that a science test will need.

    Raises:
        SpecError: the test does not say what it judges, or names no rule of the
            registration.
    """
    callspec = getattr(item, "callspec", None)
    if callspec is not None and "gate" in callspec.params:
        return chosen.registration.arms_of(callspec.params["gate"])
    claim = item.get_closest_marker("claim")
    if claim is None or not claim.args:
        raise SpecError(
            f"test {item.nodeid}",
            bound='a marker pytest.mark.claim("NAME"), or the fixture gate',
            value="neither",
            remedy="Say in the test which claim it judges.",
        )
    return chosen.registration.arms_of(str(claim.args[0]))


def refuse_optimised(names: Iterable[str]) -> None:
    """Refuse to run the software's own tests, by their node ids, where ``assert`` is left out.

    Their helpers check by ``assert``. Science tests raise errors instead, and are judged.

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


def refuse_without_docstrings() -> None:
    """Refuse to build stages without docstrings, which transformers reads when it is imported.

    Raises:
        UsageError: Python runs with -OO.
    """
    if sys.flags.optimize > 1:
        raise pytest.UsageError(
            "transformers cannot be imported without docstrings, which python -OO and "
            "PYTHONOPTIMIZE=2 leave out: run with -O or without. --stored=DIR may be judged so."
        )


def is_elsewhere(path: Path, config: pytest.Config) -> bool:
    """Whether no test under `path` can match ``-m``, so that it need not be imported.

    True only where the expression is made of our markers with ``and`` and ``or``
    alone, and their tests lie in other folders.
    """
    names = set(re.findall(r"\w+", config.option.markexpr or "")) - {"and", "or"}
    tests = ROOT / "tests"
    if not names or not names <= set(_FOLDERS) or tests not in path.parents:
        return False
    wanted = {_FOLDERS[name] for name in names}
    return path.relative_to(tests).parts[0] not in wanted


def _has_vllm() -> bool:
    if "vllm" in sys.modules:
        return sys.modules["vllm"] is not None
    found = find_spec("vllm")
    # A mere folder of that name, like that of the tests, is found too and has no origin.
    return found is not None and found.origin is not None


def _satisfied_by(expression: str, marker: str) -> bool:
    def held(name: str, /, **values: str | int | bool | None) -> bool:  # noqa: ARG001
        return name == marker

    try:
        return Expression.compile(expression).evaluate(held)
    except SyntaxError:
        return False  # pytest itself says what is wrong with it


def _paths(config: pytest.Config) -> list[Path]:
    """Return the files and folders that the command line names."""
    names = [str(argument).split("::", maxsplit=1)[0] for argument in config.args]
    return [Path(os.path.abspath(name)) for name in names]  # noqa: PTH100
