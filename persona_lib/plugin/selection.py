"""Which tests are science, and whether a command line asks for them.

Helpers of `persona_lib.plugin.hooks`, which holds the hooks.
"""

from __future__ import annotations

import os
import sys
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
}
SCIENCE = ("h1", "h2", "h3", "kill", "gate")


def is_marked(item: pytest.Item, *names: str) -> bool:
    """Whether a test has one of these markers."""
    return any(item.get_closest_marker(name) for name in names)


def asks_for_science(config: pytest.Config) -> bool:
    """Whether the command line names science: by marker, by keyword or by path.

    An expression that a test without any marker or name would satisfy, like
    ``not smoke``, names nothing: it must not start a training run.
    """
    for expression in (config.option.markexpr, config.option.keyword):
        if expression and not satisfied_by(expression, ""):
            return True
    science = ROOT / "tests" / "science"
    return any(science in (path, *path.parents) for path in paths(config))


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


def satisfied_by(expression: str, marker: str) -> bool:
    """Whether a test with this marker and no other, "" for none, fits an expression."""

    def held(name: str, /, **values: str | int | bool | None) -> bool:  # noqa: ARG001
        return name == marker

    try:
        return Expression.compile(expression).evaluate(held)
    except SyntaxError:
        return False  # pytest itself says what is wrong with it


def paths(config: pytest.Config) -> list[Path]:
    """Return the files and folders that the command line names."""
    names = [str(argument).split("::", maxsplit=1)[0] for argument in config.args]
    return [Path(os.path.abspath(name)) for name in names]  # noqa: PTH100
