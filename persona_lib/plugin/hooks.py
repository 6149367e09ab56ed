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
SELECTED = pytest.StashKey[tuple[str, ...]]()
"""Claims and gates that the run will judge; unknown to the process that xdist's workers serve."""
NOT_ASKED, NOT_FINISHED = "not asked for", "not finished"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add Flatland's options."""
    group = parser.getgroup("flatland", "Flatland: what to run and where to keep it")
    for name in options.OPTIONS:
        try:
            options.add_options(group.addoption, [name])
        except ValueError as error:
            raise pytest.UsageError(
                f"--{name}: {_owner(parser, f'--{name}')} has an option of this name as well. "
                "Run without that plugin (-p no:NAME, in addopts perhaps), or without this one."
            ) from error


def _owner(parser: pytest.Parser, option: str) -> str:
    """Return who has added an option, as pytest's help names it."""
    for group in (parser._anonymous, *parser._groups):
        if any(option in one.names() for one in group.options):
            return f"the group {group.name}" if group.name else "another plugin"
    return "another plugin"


def pytest_configure(config: pytest.Config) -> None:
    """Choose experiment, profile and evidence, and register the markers of its claims."""
    _refuse_moved_root(config)
    config.stash[RECORDER] = Recorder()
    config.pluginmanager.register(config.stash[RECORDER], "persona_lib.plugin.recorder")
    try:
        config.stash[SESSION] = _session(config)
    except FlatlandError as error:
        raise pytest.UsageError(str(error)) from error
    for name, meaning in selection.markers_of(config.stash[SESSION].registration).items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def _refuse_moved_root(config: pytest.Config) -> None:
    """Refuse a root that the value of an option has moved, where no file says what the root is.

    pytest looks for its root in every argument that is a folder, also in the value of an
    option that it does not know yet: store and runs would lie elsewhere. The root is then
    above the folder that pytest was called in, or, where both share none, that value itself.
    """
    here, root = config.invocation_params.dir, config.rootpath
    settled = (
        config.inipath or getattr(config.option, "rootdir", None) or (root / "setup.py").is_file()
    )
    values = [getattr(config.option, name, None) or "" for name in options.FOLDERS]
    named = [here / one for value in values for one in value.split(",") if one]
    moved = root in here.parents or (root != here and any(root in (p, p.parent) for p in named))
    if not settled and moved and not _is_worker(config):
        shown_options = ", ".join(f"--{name}=DIR" for name in options.FOLDERS)
        raise pytest.UsageError(
            f"pytest took {root} for its root instead of {here}. Write options that name a folder "
            f"with an equals sign: {shown_options}. Or put a pytest.ini into {here}."
        )


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """With ``--plan``, print the plan instead of running tests."""
    if not config.option.plan:
        return None
    config._do_configure()
    try:
        from persona_lib.commands.plan import plan_text

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
    """One test for each claim and gate, where a test does not say which one it judges."""
    registration = metafunc.config.stash[SESSION].registration
    if "gate" in metafunc.fixturenames:
        gates = [gate.name for gate in registration.gates]
        metafunc.parametrize("gate", gates, indirect=True)
    own = metafunc.definition.get_closest_marker("claim")
    if "verdict" in metafunc.fixturenames and own is None:
        claims = [
            pytest.param(c.name, marks=getattr(pytest.mark, selection.marker_of(c.name)))
            for c in registration.judged
        ]
        metafunc.parametrize("verdict", claims, indirect=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out science that is not asked for, and note which arms the rest will need."""
    judged, alone = selection.asks_for_science(config), selection.only_science(config)
    science = [item for item in items if selection.is_science(item)]
    out = [
        item
        for item in items
        if (item in science and (not judged or _has_no_gates(config, item)))
        or (alone and item not in science)
    ]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]
    chosen = config.stash[SESSION]
    science = [item for item in science if item not in out]
    try:
        rules = [selection.rule_of(item) for item in science]
        needed = {arm for rule in rules for arm in chosen.registration.arms_of(rule)}
    except FlatlandError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[SELECTED] = tuple(rules)
    if judged:
        _refuse_unknown(config)
    chosen.arms = tuple(a.name for a in chosen.registration.arms if a.name in needed)
    if science and not _is_worker(config):
        _check_science(config, machine=not config.option.collectonly)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
    """Refuse for the workers of pytest-xdist, whose own errors here would be internal ones."""
    if any(mark in name for name in ids for mark in ("::test_claim[", "::test_gate[")):
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
    """Print the verdict table and write verdict.json, or say how science is asked for."""
    recorded = config.stash[RECORDER].found()
    if recorded is not None:
        _report_once(config, recorded)
    elif not selection.asks_for_science(config):
        registration = config.stash[SESSION].registration
        names = [selection.marker_of(claim.name) for claim in registration.judged]
        every = " or ".join([*names, "gate"])
        _write_line(config, f'science: pytest -m {names[0]}, or pytest -m "{every}"')


@fixtures.lenient()
def _report_once(config: pytest.Config, recorded: dict[str, Any]) -> None:
    """Print the table and write verdict.json, and the report where one is asked for, once."""
    if config.stash[RECORDER].printed:
        return
    config.stash[RECORDER].printed = True
    from persona_lib.commands.outcome import (
        left_out_lines,
        new_run_folder,
        table_text,
        write_command,
        write_documents,
        write_outcome,
    )

    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        reporter.ensure_newline()
        reporter.section("Flatland", sep="=")
    session = config.stash[SESSION]
    left_out = _left_out(config, recorded)
    text = "\n".join([table_text(session, recorded), *left_out_lines(left_out)])
    _write_line(config, text)
    try:
        folder = new_run_folder(session.root / options.HIDDEN / "runs")
        written = [write_outcome(folder, session, recorded, left_out=left_out)]
        write_command(folder, config.invocation_params.args, text)
        if config.option.report:
            # Written first without them: what a panel may break loses no verdict.
            shown_in = options.choose_report(config.option.report)
            written += write_documents(shown_in, session, recorded, left_out=left_out)
    except (OSError, FlatlandError) as error:
        # The verdicts stand above all the same: what was computed is not lost.
        _write_line(config, f"not everything could be written: {error}", red=True)
    else:
        for path in written:
            _write_line(config, f"written: {path}")


def _left_out(config: pytest.Config, recorded: dict[str, Any]) -> dict[str, str]:
    """Return why each registered claim and gate that has no verdict has none."""
    registration = config.stash[SESSION].registration
    selected = config.stash.get(SELECTED, None)
    judged = {*recorded["verdicts"], *recorded["gates"]}
    rest = [rule.name for rule in registration.rules if rule.name not in judged]
    asked = {name.lower() for name in selected or ()}
    return {name: NOT_FINISHED if name.lower() in asked else NOT_ASKED for name in rest}


def _refuse_unknown(config: pytest.Config) -> None:
    """Say which claims there are, where ``-m`` names others."""
    unknown, registration = selection.unknown_names(config), config.stash[SESSION].registration
    if unknown:
        known = [f"{selection.marker_of(c.name)} ({c.name})" for c in registration.judged]
        raise pytest.UsageError(
            f"-m: {registration.name} has no claim {', '.join(unknown)}; it has "
            f"{', '.join(known)}, and gate"
        )


def _write_line(config: pytest.Config, text: str, **markup: bool) -> None:
    """Write to the terminal; to standard output where pytest was told to have none."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(text, **markup)
    else:
        print(text)  # noqa: T201  (the verdict is the output)


def _check_science(config: pytest.Config, *, machine: bool = False) -> None:
    """Refuse what could not be judged, run or written, before compute is spent.

    What the machine lacks is asked where it is known which arms will be needed.
    """
    try:
        session = config.stash[SESSION]
        session.check_seal()
        if not session.stored:
            selection.refuse_without_docstrings()
        if config.option.report:
            options.check_report(options.choose_report(config.option.report))
        options.check_report(session.root / options.HIDDEN / "runs", "the folder of runs")
        if session.text_judge is not None:
            # Made once and thrown away: it says now what would be missing then.
            session.text_judge.make(store=session.store_root, marker=session.registration.marker)
        if machine and not session.stored:
            session.check_machine()
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
        config.rootpath,
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
