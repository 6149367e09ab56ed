"""All pytest glue of Flatland: options, hooks, and the verdict table.

Fixtures stand in `persona_lib.plugin.fixtures`, the choice of tests in
`persona_lib.plugin.selection`.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

from persona_lib.commands import options
from persona_lib.commands.session import Session
from persona_lib.errors import FlatlandError, clean
from persona_lib.panels.judge.choice import choose_judge
from persona_lib.plugin import fixtures, selection
from persona_lib.plugin.fixtures import SESSION, Recorder
from persona_lib.progress import shown, silent

RECORDER = pytest.StashKey[Recorder]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add Flatland's options."""
    group = parser.getgroup("flatland", "Flatland: what to run and where to keep it")
    options.add_options(group.addoption)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and choose registration, profile and evidence."""
    if config.rootpath != options.ROOT and not _given(config):
        # Installed beside another project's tests: nothing of ours is asked for.
        config.pluginmanager.unregister(name="persona_lib.plugin.hooks")
        return
    # Only now: pytest shows fixtures to every project, once they are registered.
    config.pluginmanager.register(fixtures, "persona_lib.plugin.fixtures")
    config.stash[RECORDER] = Recorder()
    config.pluginmanager.register(config.stash[RECORDER], "persona_lib.plugin.recorder")
    for name, meaning in selection.MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    if config.rootpath != options.ROOT:
        # pytest looks for its root in every argument that is a folder, also in the
        # value of an option that it does not know yet.
        raise pytest.UsageError(
            f"pytest took {config.rootpath} for its root instead of {options.ROOT}. Write "
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
        from persona_lib.commands.plan import plan_text

        config.stash[SESSION].check_seal()
        print(plan_text(config.stash[SESSION]))  # noqa: T201  (the plan is the output)
        return int(pytest.ExitCode.OK)
    except FlatlandError as error:
        raise pytest.UsageError(str(error)) from error
    finally:
        config._ensure_unconfigure()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what would be judged, and from what."""
    chosen = config.stash[SESSION]
    if chosen.stored:
        origin = f"stored records {clean(', '.join(map(str, chosen.stored)))}"
    else:
        seeds = ", ".join(map(str, chosen.seeds))
        origin = f"profile {chosen.profile_description}, seeds {seeds}, store {chosen.store_root}"
    digest = chosen.registration.digest[:12]
    return [f"flatland: {chosen.registration.name} ({digest}), {origin}"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One gate test for each gate of the registration."""
    if "gate" in metafunc.fixturenames:
        gates = metafunc.config.stash[SESSION].registration.gates
        metafunc.parametrize("gate", [gate.name for gate in gates], indirect=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out science that is not asked for, and note which arms the rest will need."""
    judged = selection.asks_for_science(config)
    science = [item for item in items if selection.is_marked(item, *selection.SCIENCE)]
    out = [item for item in science if not judged or _has_no_gates(config, item)]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]
    chosen = config.stash[SESSION]
    science = [item for item in science if item not in out]
    try:
        needed = {arm for item in science for arm in selection.arms_of(chosen, item)}
    except FlatlandError as error:
        raise pytest.UsageError(str(error)) from error
    if science and not _is_worker(config):
        _check_science(config)
    chosen.arms = tuple(a.name for a in chosen.registration.arms if a.name in needed)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
    """Refuse for the workers of pytest-xdist, whose own errors here would be internal ones."""
    if any(name.startswith("tests/science/") for name in ids):
        _check_science(node.config)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Lose no verdict at the end, and let none that does not hold pass.

    pytest makes no summary without a terminal and after an internal error, and calls no
    test under ``--setup-only``.
    """
    config = session.config
    try:
        return (yield)
    finally:
        recorded = None if _is_worker(config) else config.stash[RECORDER].found()
        if recorded is not None:
            _report_once(config, recorded)
            if session.exitstatus == pytest.ExitCode.OK and not _all_hold(recorded):
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
                _write_line(config, "exit code 1: not every claim and gate holds")


def pytest_terminal_summary(config: pytest.Config) -> None:
    """Print the verdict table and write verdict.json."""
    recorded = config.stash[RECORDER].found()
    if recorded is not None:
        _report_once(config, recorded)


@fixtures.lenient()
def _report_once(config: pytest.Config, recorded: dict[str, Any]) -> None:
    """Print the table and write verdict.json, and the report where one is asked for, once."""
    if config.stash[RECORDER].printed:
        return
    config.stash[RECORDER].printed = True
    from persona_lib.commands.outcome import table_text, write_documents, write_outcome

    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        reporter.ensure_newline()
        reporter.section("Flatland", sep="=")
    _write_line(config, table_text(config.stash[SESSION], recorded))
    try:
        folder, session = options.choose_report(config.option.report), config.stash[SESSION]
        written = [write_outcome(folder, session, recorded)]
        if config.option.report:
            # Written first without them: what a panel may break loses no verdict.
            written = write_documents(folder, session, recorded)
    except (OSError, FlatlandError) as error:
        # The verdicts stand above all the same: what was computed is not lost.
        _write_line(config, f"not everything could be written: {error}", red=True)
    else:
        for path in written:
            _write_line(config, f"written: {path}")


def _write_line(config: pytest.Config, text: str, **markup: bool) -> None:
    """Write to the terminal; to standard output where pytest was told to have none."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(text, **markup)
    else:
        print(text)  # noqa: T201  (the verdict is the output)


def _given(config: pytest.Config) -> bool:
    """Whether any of our options is on the command line."""
    names = (name.replace("-", "_") for name in options.OPTIONS)
    return any(getattr(config.option, name, None) for name in names)


def _check_science(config: pytest.Config) -> None:
    """Refuse what could not be judged, or not written, before compute is spent."""
    try:
        session = config.stash[SESSION]
        session.check_seal()
        if not session.stored:
            selection.refuse_without_docstrings()
        options.check_report(options.choose_report(config.option.report))
        if session.text_judge is not None:
            # Made once and thrown away: it says now what would be missing then.
            session.text_judge.make(store=session.store_root, marker=session.registration.marker)
    except FlatlandError as error:
        raise pytest.UsageError(str(error)) from error


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _has_no_gates(config: pytest.Config, item: pytest.Item) -> bool:
    """Whether this is the test of a gate under a registration that has none."""
    gates = config.stash[SESSION].registration.gates
    return not gates and "gate" in getattr(item, "fixturenames", ())


def _session(config: pytest.Config) -> Session:
    option, shared = config.option, getattr(config, "workerinput", None)
    stored = options.choose_stored(option.stored)
    if stored:
        ours = ("profile", "scale", "loss", "engine", "seeds", "plan", "data")
        options.refuse_with_stored(**{name: getattr(option, name) for name in ours})
    return Session.of(
        option,
        stored=stored,
        chosen=option.experiment is not None,
        text_judge=choose_judge(
            option.judge, budget=option.judge_budget, url=option.judge_url, report=option.report
        ),
        progress=silent if shared else shown,
        # The parent's number as well: somebody may reuse ``--testrunuid``.
        command=f"{shared['testrunuid']} of process {os.getppid()}" if shared else None,
    )


def _all_hold(recorded: dict[str, Any]) -> bool:
    from persona_lib.verdict.claims import Outcome
    from persona_lib.verdict.gate_result import GateOutcome

    good = (Outcome.SUPPORTED.value, GateOutcome.HOLDS.value)
    judged = (*recorded["verdicts"].values(), *recorded["gates"].values())
    return all(body["outcome"] in good for body in judged)
