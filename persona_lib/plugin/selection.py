"""Which tests are science, and whether a command line asks for them.

Helpers of `persona_lib.plugin.hooks`, which holds the hooks.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _pytest.mark.expression import Expression

from persona_lib.commands import options
from persona_lib.errors import SpecError

if TYPE_CHECKING:
    from persona_lib.commands.session import Session
    from persona_lib.specs.registration import Registration

MARKERS = {
    "gate": "science: the gates of the registration",
    "claim(name)": "the claim of the registration that a science test judges",
}
_SCIENCE = re.compile(r"persona_lib\.plugin\.science|pytest\.mark\.claim\(")
"""What a file of science tests has in it."""
_MOST_READ = 2**20


def marker_of(claim: str) -> str:
    """Return the marker of a claim: its name in small letters."""
    return re.sub(r"\W", "_", claim).lower()


def markers_of(registration: Registration) -> dict[str, str]:
    """Return every marker of the science and what it means."""
    claims = {marker_of(c.name): f"science: claim {c.name}" for c in registration.judged}
    return claims | MARKERS


def is_science(item: pytest.Item) -> bool:
    """Whether a test judges a claim or a gate."""
    names = {"verdict", "gate"} & {*getattr(item, "fixturenames", ())}
    return bool(names) or item.get_closest_marker("claim") is not None


def asks_for_science(config: pytest.Config) -> bool:
    """Whether the command line names science: by marker, by keyword, by path or by option.

    An expression that a test without any marker or name would satisfy, like
    ``not smoke``, names nothing: it must not start a training run.
    """
    for expression in (config.option.markexpr, config.option.keyword):
        if expression and not satisfied_by(expression, ""):
            return True
    return only_science(config) or any(map(_holds_science, paths(config)))


def only_science(config: pytest.Config) -> bool:
    """Whether an option of ours stands alone: with no expression and no path it means science."""
    free = not (config.option.markexpr or config.option.keyword)
    return free and not paths(config) and _given(config)


def arms_of(chosen: Session, item: pytest.Item) -> tuple[str, ...]:
    """Return the arms that a science test will need.

    Raises:
        SpecError: the test does not say what it judges, or names no rule of the
            registration.
    """
    return chosen.registration.arms_of(rule_of(item))


def rule_of(item: pytest.Item) -> str:
    """Return the claim or gate that a science test judges; SpecError where it does not say."""
    given = getattr(getattr(item, "callspec", None), "params", {})
    claim = item.get_closest_marker("claim")
    found = given.get("gate") or given.get("verdict") or (claim and claim.args and claim.args[0])
    if not found:
        raise SpecError(
            f"test {item.nodeid}",
            bound='a marker pytest.mark.claim("NAME"), or the fixture gate',
            value="neither",
            remedy="Say in the test which claim it judges.",
        )
    return str(found)


def unknown_names(config: pytest.Config) -> list[str]:
    """Return the names of ``-m`` that are no marker here: claims that there are not."""
    names = dict.fromkeys(re.findall(r"\w+", config.option.markexpr or ""))
    known = {re.split(r"\W", line, maxsplit=1)[0] for line in config.getini("markers")}
    return [name for name in names if name not in {*known, "and", "or", "not"}]


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
    """Return the files and folders that the user names on the command line."""
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        return []
    names = [str(argument).split("::", maxsplit=1)[0] for argument in config.args]
    return [Path(os.path.abspath(name)) for name in names]  # noqa: PTH100


def _holds_science(path: Path) -> bool:
    """Whether a file holds science tests, or every test file of a folder does."""
    files = [path] if path.is_file() else list(path.rglob("test_*.py"))
    return bool(files) and all(_is_science_file(file) for file in files)


def _is_science_file(path: Path) -> bool:
    if path.suffix != ".py" or path.stat().st_size > _MOST_READ:
        return False
    return _SCIENCE.search(path.read_text(encoding="utf-8", errors="replace")) is not None


def _given(config: pytest.Config) -> bool:
    """Whether any of our options is on the command line."""
    names = (name.replace("-", "_") for name in options.OPTIONS)
    return any(getattr(config.option, name, None) for name in names)
