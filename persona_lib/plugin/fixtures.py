"""What a science test can ask for, as pytest fixtures.

What a test learns travels on its report, as ``user_properties``: pytest writes those into
the JUnit file, and pytest-xdist carries them to the process that prints the table.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from persona_lib.commands.session import Session
from persona_lib.errors import FlatlandError

if TYPE_CHECKING:
    import pyarrow as pa

    from persona_lib.pipeline.run import Run
    from persona_lib.specs.profile import Profile
    from persona_lib.specs.registration import Registration
    from persona_lib.store.store import Store
    from persona_lib.verdict.gate_result import GateResult
    from persona_lib.verdict.verdict import Verdict

VERDICT, GATE, SUMMARY = "flatland_verdict", "flatland_gate", "flatland_summary"
"""Names of the properties that a test's report carries."""
SESSION = pytest.StashKey[Session]()
_LIBRARIES = r"(transformers|peft|trl|accelerate|datasets|torch|gguf|vllm)\b"


class Recorder:
    """Keeps what tests record, whatever pytest shows of it.

    Attributes:
        properties: names and values of every report, in order.
        printed: the table was printed and verdict.json written, or this was begun.
    """

    def __init__(self) -> None:
        self.properties: list[tuple[str, Any]] = []
        self.printed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a report's properties; under pytest-xdist, those of every worker."""
        self.properties += report.user_properties

    def found(self) -> dict[str, Any] | None:
        """Return verdicts, gates and arm summaries, each once; None where nothing was judged."""
        found: dict[str, dict[str, Any]] = {VERDICT: {}, GATE: {}}
        summaries: list[dict[str, Any]] = []
        # Every phase of a test reports them again, and many tests share a summary.
        for kind, text in dict.fromkeys(self.properties):
            if kind in found:
                body = json.loads(text)
                found[kind][body["name"]] = body
            elif kind == SUMMARY:
                summaries.append(json.loads(text))
        if not (found[VERDICT] or found[GATE]):
            return None
        return {"verdicts": found[VERDICT], "gates": found[GATE], "summaries": summaries}


@pytest.fixture(scope="session")
def flatland(pytestconfig: pytest.Config) -> Session:
    """The science session: everything that the other fixtures ask."""
    return pytestconfig.stash[SESSION]


@pytest.fixture(scope="session")
def registration(flatland: Session) -> Registration:
    """The registration that is judged under."""
    return flatland.registration


@pytest.fixture(scope="session")
def profile(flatland: Session) -> Profile:
    """The profile that is run."""
    return flatland.profile


@pytest.fixture(scope="session")
def store(flatland: Session) -> Store:
    """The stage cache."""
    return flatland.store


@pytest.fixture(scope="session")
def runs(flatland: Session) -> tuple[Run, ...]:
    """One run for each seed."""
    return flatland.runs


@pytest.fixture(scope="session")
def arm_scores(flatland: Session, pytestconfig: pytest.Config) -> Callable[[str], pa.Table]:
    """By the name of an arm, its scores of every seed: one row a completion."""
    from persona_lib.records import POST, ModelId

    def scores(arm: str) -> pa.Table:
        with _building(pytestconfig):
            return flatland.table([ModelId(POST, arm)], "scores")

    return scores


@pytest.fixture(scope="session")
def prior_scores(flatland: Session, pytestconfig: pytest.Config) -> Callable[[str], pa.Table]:
    """By the name of a prior, the scores of its model before coupling: false positives, lengths."""
    from persona_lib.records import PRE, ModelId

    def scores(prior: str) -> pa.Table:
        with _building(pytestconfig):
            return flatland.table([ModelId(PRE, prior)], "scores")

    return scores


@pytest.fixture
def verdict(
    request: pytest.FixtureRequest, flatland: Session, pytestconfig: pytest.Config
) -> Verdict:
    """The verdict of the test's claim, recorded before the test asserts anything.

    An INVALID verdict is an error of this fixture, not a failure of the test.
    """
    from persona_lib.plugin.selection import rule_of
    from persona_lib.verdict.verdict import require_valid

    with _building(pytestconfig):
        name = rule_of(request.node)
        judging = flatland.judging(name)
        found = judging.claim(name)
        _record(request.node, VERDICT, found.to_json(), judging.summary)
        require_valid(found)
    return found


@pytest.fixture
def gate(
    request: pytest.FixtureRequest, flatland: Session, pytestconfig: pytest.Config
) -> GateResult:
    """The result of one gate, recorded before the test asserts anything."""
    with _building(pytestconfig):
        judging = flatland.judging(request.param)
        found = judging.gate(request.param)
    _record(request.node, GATE, found.to_json(), judging.summary)
    return found


@contextmanager
def lenient() -> Iterator[None]:
    """Let no warning end a run of hours: it is shown at the end.

    What libraries say of their own future is no news of the run.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module=_LIBRARIES)
        yield


@contextmanager
def _building(config: pytest.Config) -> Iterator[None]:
    """Let progress bars through pytest's capture; turn our errors into one clear line."""
    capture = config.pluginmanager.getplugin("capturemanager")
    uncaptured = capture.global_and_fixture_disabled() if capture else nullcontext()
    try:
        with uncaptured, lenient():
            yield
    except FlatlandError as error:
        # Without its cause, which would be printed as a second error with a traceback.
        text = f"{type(error).__name__}: {error}"
        raise pytest.fail.Exception(text, pytrace=False) from None


def _record(item: pytest.Item, kind: str, body: dict[str, Any], summary: dict[str, Any]) -> None:
    for name, value in ((kind, body), (SUMMARY, summary)):
        item.user_properties.append((name, json.dumps(value, sort_keys=True, allow_nan=False)))
    item.user_properties.append((f"{body['name']}.outcome", str(body["outcome"])))
