"""All pytest glue of Flatland: options, fixtures, and the verdict table.

What a test learns travels on its report, as ``user_properties``: pytest writes
those into the JUnit file, and pytest-xdist carries them from its workers to the
process that prints the table and writes verdict.json.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from experiments import session as sessions
from experiments.session import Session
from persona_lib.errors import FlatlandError
from persona_lib.progress import shown, silent

if TYPE_CHECKING:
    import pyarrow as pa

    from persona_lib.pipeline import Run
    from persona_lib.profile import Profile
    from persona_lib.registration import Registration
    from persona_lib.store import Store
    from persona_lib.verdict import GateResult, Verdict

MARKERS = {
    "h1": "science: claim H1",
    "h2": "science: claim H2",
    "h3": "science: claim H3",
    "kill": "science: the kill criterion",
    "gate": "science: the gates of the registration",
    "claim(name)": "the claim of the registration that a science test judges",
    "smoke": "the software on a real run of a tiny model",
    "golden": "stored record sets, judged again",
}
SCIENCE = ("h1", "h2", "h3", "kill", "gate")
FOLDERS = {**dict.fromkeys(SCIENCE, "science"), "smoke": "smoke", "golden": "golden"}
"""Where the tests of each marker lie, all of them."""
HINT = 'science: pytest -m h1, or pytest -m "h1 or h2 or h3 or kill or gate" (see README.md)'
VERDICT, GATE, SUMMARY = "flatland_verdict", "flatland_gate", "flatland_summary"
SESSION = pytest.StashKey[Session]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add Flatland's options."""
    group = parser.getgroup("flatland", "Flatland: what to run and where to keep it")
    group.addoption("--experiment", help="registration to judge under (default: issue262)")
    group.addoption("--profile", help="base model, data and scale (default: tiny)")
    group.addoption("--seeds", help="root seeds, for example 42,137 (default: 42)")
    group.addoption("--stored", metavar="DIR", help="judge stored records; train nothing")
    group.addoption("--store", metavar="DIR", help="stage cache (default: .flatland/store)")
    group.addoption("--data", metavar="DIR", help="folder with the published corpora")
    group.addoption("--plan", action="store_true", help="print stages and costs; run nothing")
    group.addoption("--report", metavar="DIR", help="where verdict.json goes (.flatland/report)")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and choose registration, profile and evidence."""
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    if config.rootpath != sessions.ROOT:
        # pytest looks for its root in every argument that is a folder, also in the
        # value of an option that it does not know yet.
        raise pytest.UsageError(
            f"pytest took {config.rootpath} for its root instead of {sessions.ROOT}. Write "
            "options that name a folder with an equals sign: --store=DIR, --stored=DIR, "
            "--report=DIR, --data=DIR."
        )
    try:
        config.stash[SESSION] = _session(config)
    except FlatlandError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """With ``--plan``, print the plan instead of running tests."""
    if not config.option.plan:
        return None
    config._do_configure()
    try:
        from experiments.plan import plan_text

        print(plan_text(config.stash[SESSION]))  # noqa: T201  (the plan is the output)
        return int(pytest.ExitCode.OK)
    except FlatlandError as error:
        raise pytest.UsageError(str(error)) from error
    finally:
        config._ensure_unconfigure()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what would be judged, and from what."""
    chosen = config.stash[SESSION]
    if chosen.stored is not None:
        origin = f"stored records {chosen.stored}"
    else:
        seeds = ", ".join(map(str, chosen.seeds))
        origin = f"profile {chosen.profile.name}, seeds {seeds}, store {chosen.store_root}"
    digest = chosen.registration.digest[:12]
    return [f"flatland: {chosen.registration.name} ({digest}), {origin}", f"flatland {HINT}"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One gate test for each gate of the registration."""
    if "gate" in metafunc.fixturenames:
        gates = metafunc.config.stash[SESSION].registration.gates
        metafunc.parametrize("gate", [gate.name for gate in gates], indirect=True)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m h1`` import the science tests only: the others import torch.

    Applies where the expression is made of our markers with ``and`` and ``or``
    alone, so that nothing it selects can lie elsewhere.
    """
    names = set(re.findall(r"\w+", config.option.markexpr or "")) - {"and", "or"}
    tests = sessions.ROOT / "tests"
    if not names or not names <= set(FOLDERS) or tests not in collection_path.parents:
        return None
    wanted = {FOLDERS[name] for name in names}
    return True if collection_path.relative_to(tests).parts[0] not in wanted else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave science out of a bare run, and note which arms the rest will need."""
    if not (config.option.markexpr or config.option.keyword or _names_science(config)):
        science = [item for item in items if _is_science(item)]
        if science:
            config.hook.pytest_deselected(items=science)
            items[:] = [item for item in items if not _is_science(item)]
    chosen = config.stash[SESSION]
    try:
        needed = {arm for item in items if _is_science(item) for arm in _arms(chosen, item)}
    except FlatlandError as error:
        raise pytest.UsageError(str(error)) from error
    chosen.arms = tuple(a.name for a in chosen.registration.arms if a.name in needed)


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


def _arm_fixture(name: str) -> Callable[..., pa.Table]:
    @pytest.fixture(scope="session", name=name.lower())
    def arm(flatland: Session, pytestconfig: pytest.Config) -> pa.Table:
        with _building(pytestconfig):
            return flatland.scores("post", flatland.registration.arm(name).name)

    arm.__doc__ = f"Scores of arm {name}, every seed: one row a completion."
    return arm


c1, c2, c2p, c3 = (_arm_fixture(name) for name in ("C1", "C2", "C2p", "C3"))


@pytest.fixture(scope="session")
def false_positive_baseline(flatland: Session, pytestconfig: pytest.Config) -> dict[str, pa.Table]:
    """Scores of every pre-coupling model, by prior: false positives and lengths."""
    with _building(pytestconfig):
        return {prior: flatland.scores("pre", prior) for prior in flatland.registration.priors}


@pytest.fixture
def verdict(
    request: pytest.FixtureRequest, flatland: Session, pytestconfig: pytest.Config
) -> Verdict:
    """The verdict of the test's claim, recorded before the test asserts anything.

    An INVALID verdict is an error of this fixture, not a failure of the test.
    """
    marker = request.node.get_closest_marker("claim")
    with _building(pytestconfig):
        found = flatland.judge(marker.args[0])
        summary = _summary(flatland, found.name)
    _record(request.node, VERDICT, found.name, found.to_json(), summary)
    if found.outcome.name == "INVALID":
        pytest.fail(f"InvalidClaimError: {found.text}", pytrace=False)
    return found


@pytest.fixture
def gate(
    request: pytest.FixtureRequest, flatland: Session, pytestconfig: pytest.Config
) -> GateResult:
    """The result of one gate, recorded before the test asserts anything."""
    name = request.param
    with _building(pytestconfig):
        found = flatland.judge_gate(name)
        summary = _summary(flatland, name)
    _record(request.node, GATE, name, found.to_json(), summary)
    return found


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the verdict table and write verdict.json."""
    recorded = _recorded(terminalreporter)
    if recorded is None:
        return
    from experiments.outcome import table_text, write_outcome

    chosen = config.stash[SESSION]
    terminalreporter.section("Flatland", sep="=")
    terminalreporter.write_line(table_text(recorded))
    folder = Path(config.option.report or sessions.ROOT / ".flatland" / "report")
    path = write_outcome(folder, chosen, recorded)
    terminalreporter.write_line(f"written: {path}")


def _session(config: pytest.Config) -> Session:
    option = config.option
    stored = Path(option.stored) if option.stored else None
    worker = hasattr(config, "workerinput")
    return Session(
        registration=sessions.choose_registration(option.experiment, stored),
        profile=sessions.choose_profile(option.profile),
        seeds=sessions.choose_seeds(option.seeds),
        store_root=sessions.choose_store(option.store),
        stored=stored,
        user_data=sessions.choose_data(option.data),
        progress=silent if worker else shown(),
    )


@contextmanager
def _building(config: pytest.Config) -> Iterator[None]:
    """Let progress bars through pytest's capture; turn our errors into one clear line."""
    capture = config.pluginmanager.getplugin("capturemanager")
    try:
        if capture is None:
            yield
        else:
            with capture.global_and_fixture_disabled():
                yield
    except FlatlandError as error:
        pytest.fail(f"{type(error).__name__}: {error}", pytrace=False)


def _summary(flatland: Session, rule: str) -> dict[str, Any]:
    from persona_lib.verdict import summary

    return summary(flatland.registration, flatland.evidence(flatland.arms_of(rule)))


def _record(
    item: pytest.Item, kind: str, name: str, body: dict[str, Any], summary: dict[str, Any]
) -> None:
    text = json.dumps(body, sort_keys=True, allow_nan=False)
    item.user_properties.append((kind, text))
    item.user_properties.append((SUMMARY, json.dumps(summary, sort_keys=True, allow_nan=False)))
    item.user_properties.append((f"{name}.outcome", str(body["outcome"])))


def _recorded(reporter: pytest.TerminalReporter) -> dict[str, Any] | None:
    """Return verdicts, gates and arm summaries of every report, each once."""
    found: dict[str, dict[str, Any]] = {VERDICT: {}, GATE: {}}
    summaries: list[dict[str, Any]] = []
    for reports in reporter.stats.values():
        for report in reports:
            for kind, text in getattr(report, "user_properties", ()):
                if kind in found:
                    body = json.loads(text)
                    found[kind][body["name"]] = body
                elif kind == SUMMARY:
                    summaries.append(json.loads(text))
    if not (found[VERDICT] or found[GATE]):
        return None
    return {"verdicts": found[VERDICT], "gates": found[GATE], "summaries": summaries}


def _is_science(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in SCIENCE)


def _arms(chosen: Session, item: pytest.Item) -> tuple[str, ...]:
    claim = item.get_closest_marker("claim")
    if claim is not None:
        return chosen.arms_of(claim.args[0])
    callspec = getattr(item, "callspec", None)
    return chosen.arms_of(callspec.params["gate"]) if callspec else ()


def _names_science(config: pytest.Config) -> bool:
    """Whether an argument names the science tests' folder, or a path inside it."""
    science = sessions.ROOT / "tests" / "science"
    for argument in config.args:
        path = Path(os.path.abspath(str(argument).split("::", maxsplit=1)[0]))  # noqa: PTH100
        if path == science or science in path.parents:
            return True
    return False
