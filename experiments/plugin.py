"""All pytest glue of Flatland: options, fixtures, and the verdict table.

What a test learns travels on its report, as ``user_properties``: pytest writes
those into the JUnit file, and pytest-xdist carries them from its workers to the
process that prints the table and writes verdict.json.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from experiments import selection
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
    if config.rootpath != sessions.ROOT and not _given(config):
        # Installed beside another project's tests: nothing of ours is asked for.
        config.pluginmanager.unregister(name="experiments.plugin")
        return
    for name, meaning in selection.MARKERS.items():
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
    return [f"flatland: {chosen.registration.name} ({digest}), {origin}"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One gate test for each gate of the registration."""
    if "gate" in metafunc.fixturenames:
        gates = metafunc.config.stash[SESSION].registration.gates
        metafunc.parametrize("gate", [gate.name for gate in gates], indirect=True)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m h1`` import the science tests only: the others import torch."""
    return True if selection.is_elsewhere(collection_path, config) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave science out unless it is asked for, and note which arms the rest will need."""
    asked = selection.asks_for_science(config)
    out = [
        item
        for item in items
        if selection.is_science(item) and (not asked or _has_no_gates(config, item))
    ]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]
    chosen = config.stash[SESSION]
    science = [item for item in items if selection.is_science(item)]
    try:
        needed = {arm for item in science for arm in selection.arms_of(chosen, item)}
        if science:
            sessions.check_report(_report_folder(config))
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
    from persona_lib.verdict import require_valid

    marker = request.node.get_closest_marker("claim")
    with _building(pytestconfig):
        found = flatland.judge(marker.args[0])
        summary = _summary(flatland, found.name)
        _record(request.node, VERDICT, found.name, found.to_json(), summary)
        require_valid(found)
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
        if not selection.asks_for_science(config):
            terminalreporter.write_line(HINT)
        return
    from experiments.outcome import table_text, write_outcome

    terminalreporter.section("Flatland", sep="=")
    terminalreporter.write_line(table_text(recorded))
    try:
        path = write_outcome(_report_folder(config), config.stash[SESSION], recorded)
    except (OSError, FlatlandError) as error:
        # The verdicts stand above all the same: what was computed is not lost.
        terminalreporter.write_line(f"verdict.json could not be written: {error}", red=True)
    else:
        terminalreporter.write_line(f"written: {path}")


def _given(config: pytest.Config) -> bool:
    """Whether any of our options is on the command line."""
    names = ("experiment", "profile", "seeds", "stored", "store", "data", "plan", "report")
    return any(getattr(config.option, name, None) for name in names)


def _report_folder(config: pytest.Config) -> Path:
    return sessions.choose_report(config.option.report)


def _has_no_gates(config: pytest.Config, item: pytest.Item) -> bool:
    """Whether this is the test of a gate under a registration that has none."""
    gates = config.stash[SESSION].registration.gates
    return not gates and "gate" in getattr(item, "fixturenames", ())


def _session(config: pytest.Config) -> Session:
    option = config.option
    stored = sessions.choose_stored(option.stored)
    if stored is not None:
        sessions.refuse_with_stored(
            profile=option.profile, seeds=option.seeds, plan=option.plan, data=option.data
        )
    worker = hasattr(config, "workerinput")
    return Session(
        registration=sessions.choose_registration(option.experiment, stored),
        profile=sessions.choose_profile(option.profile),
        seeds=sessions.choose_seeds(option.seeds),
        store_root=sessions.choose_store(option.store),
        stored=stored,
        chosen=option.experiment is not None,
        user_data=sessions.choose_data(option.data),
        progress=silent if worker else shown(),
    )


@contextmanager
def _building(config: pytest.Config) -> Iterator[None]:
    """Let progress bars through pytest's capture; turn our errors into one clear line.

    A warning of a library must not end a run of hours: it is shown at the end, as
    pytest does by default, and not raised as in the software's own tests.
    """
    capture = config.pluginmanager.getplugin("capturemanager")
    uncaptured = capture.global_and_fixture_disabled() if capture else nullcontext()
    try:
        with uncaptured, warnings.catch_warnings():
            warnings.simplefilter("default")
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
