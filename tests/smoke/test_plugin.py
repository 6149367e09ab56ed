"""The command line as a user has it: exit codes, tables, files, workers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest

from persona_lib.commands import record as record_command
from persona_lib.commands.panels import panels_of
from persona_lib.commands.session import Session
from persona_lib.errors import PreflightError, SpecError
from persona_lib.evidence.load import Stored, load_stored
from persona_lib.evidence.record_sets import read_manifest
from persona_lib.report.numbers import check_report
from persona_lib.store.stage import Stage
from tests import own_runs
from tests.own_runs import newest
from tests.record_sets import record_set
from tests.registered import ISSUE262, MICRO, session_under
from tests.smoke.conftest import ROOT, environment, judge, python
from tests.synthetic import BYSTANDERS, scores
from tests.unit.test_full_disk import at_most

pytestmark = pytest.mark.smoke
SCIENCE = "h1 or h2 or h3 or kill or gate"


def run(
    *arguments: str, report: Path | None = None, verdict: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A run in which a warning is an error: nothing of ours must warn.

    Every document lies in `report`, the folder of the run below `verdict`.
    """
    extra = [f"--report={report}"] if report else []
    return judge("-W", "error", "-p", "no:cacheprovider", *arguments, *extra, verdict=verdict)


def written(folder: Path) -> dict[str, Any]:
    """Return verdict.json of a report, or of the newest run below a folder."""
    report = folder / "verdict.json"
    path = report if report.exists() else newest(folder) / report.name
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def outcome(folder: Path) -> dict[str, Any]:
    found = written(folder)
    return {name: found[name] for name in ("verdicts", "gates", "summary", "registration_digest")}


def properties(junit: Path) -> dict[str, dict[str, str]]:
    """Properties of each test of a JUnit file."""
    found = {}
    for case in ElementTree.parse(junit).iter("testcase"):  # noqa: S314  (our own file)
        own = {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}
        found[case.attrib["name"]] = own
    return found


def test_published_table_passes_h1_and_fails_h2_and_h3(tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    done = run("-m", SCIENCE, "--stored=golden/published", f"--junitxml={junit}",
               report=tmp_path, verdict=tmp_path / "runs")  # fmt: skip
    assert done.returncode == 1
    assert "2 failed, 5 passed" in done.stdout
    kept = newest(tmp_path / "runs")
    assert {path.name for path in kept.iterdir()} == {"verdict.json", "command.txt", "log.txt"}
    assert (kept / "log.txt").read_text() in done.stdout
    assert "--stored=golden/published" in (kept / "command.txt").read_text()
    assert json.loads((kept / "verdict.json").read_text())["panels"] == {}
    assert outcome(tmp_path / "runs") == outcome(tmp_path)
    assert "study: not sealed" in done.stdout
    assert written(tmp_path)["left_out"] == {}
    found = {v["name"]: v["outcome"] for v in outcome(tmp_path)["verdicts"]}
    assert found == {"H1": "SUPPORTED", "H2": "REFUTED", "H3": "REFUTED", "kill": "SUPPORTED"}
    carried = properties(junit)
    assert len(carried) == 7
    for verdict in outcome(tmp_path)["verdicts"]:
        (own,) = [p for p in carried.values() if f"{verdict['name']}.outcome" in p]
        assert own[f"{verdict['name']}.outcome"] == verdict["outcome"]
        assert json.loads(own["flatland_verdict"]) == verdict
    for gate in outcome(tmp_path)["gates"]:
        own = carried[f"test_gate[{gate['name']}]"]
        assert json.loads(own["flatland_gate"]) == gate


@pytest.mark.parametrize("worlds", ["clear", "mixed"])
def test_two_workers_give_the_same_verdicts_as_none(worlds: str, tmp_path: Path) -> None:
    table = scores(seen=3) if worlds == "clear" else scores({**BYSTANDERS, "C2": 0.3, "C3": 0.4})
    stored = record_set(tmp_path / "set", table)
    codes, carried = [], []
    for name, extra in (("one", []), ("two", ["-n", "2"])):
        junit = tmp_path / f"{name}.xml"
        done = run("-m", SCIENCE, f"--stored={stored}", f"--junitxml={junit}", *extra,
                   verdict=tmp_path / name)  # fmt: skip
        codes.append(done.returncode)
        carried.append(properties(junit))
    assert codes == ([0, 0] if worlds == "clear" else [1, 1])
    assert outcome(tmp_path / "one") == outcome(tmp_path / "two")
    assert carried[0] == carried[1]
    if worlds == "mixed":
        outcomes = {v["outcome"] for v in outcome(tmp_path / "two")["verdicts"]}
        assert len(outcomes) > 1


def test_bad_record_sets_are_errors_that_name_the_place(tmp_path: Path) -> None:
    table = scores()
    stored = {
        "missing": record_set(tmp_path / "missing", table.slice(1)),
        "altered": record_set(tmp_path / "altered", table),
    }
    path = stored["altered"] / "scores.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    found = answers([f"--stored={folder}" for folder in stored.values()], tmp_path,
                    "-W", "error", "-q", "-m", "h1", f"--report={tmp_path}")  # fmt: skip
    for name, error, place in (
        ("missing", "DataError", "cell"),
        ("altered", "CorruptEntryError", "scores.parquet"),
    ):
        code, shown, _ = found[f"--stored={stored[name]}"]
        assert code == 1, name
        assert error in shown, name
        assert place in shown.lower(), shown[-1500:]


WRONG = {
    "--profile|huge": "--profile: expected one of tiny",
    "--scale|full": "--scale: expected it to be left out, as profile tiny",
    "--stored=golden/published|--loss=decision": "--loss: expected it to be left out",
    "--experiment|x": "--experiment: expected one of issue262",
    "--seeds|a": "--seeds: expected distinct integers",
    "--stored=golden/tini": "near it: golden/tiny.",
    "--stored=golden/tiny,golden/published": "kind: expected records",
    "--stored=golden/published|--seeds=1": "--seeds: expected it to be left out beside",
    "--stored=golden/published|--plan": "--plan: expected it to be left out beside",
    "--report=/proc/flatland": "--report: expected a folder that can be written",
    "--judge=oracle": "--judge: expected classifier, or one of claude, openai",
    "--judge=claude:m": "--judge: expected --report=DIR beside it",
    "--judge=claude:m|--report=OUT": "ANTHROPIC_API_KEY",
    "--judge-budget=2": "--judge-budget: expected a judge behind an API beside it",
}
"""What pytest answers, by arguments; OUT is a folder of the tests."""
Answers = Mapping[str, tuple[int, str, str]]
"""Exit code, output and errors, by arguments."""

MANY = """
import contextlib, gc, io, json, os, sys
import pytest
os.environ.pop("ANTHROPIC_API_KEY", None)
sys.modules["vllm"] = None  # an installed one must not change what is collected
for arguments in json.loads(sys.argv[1]):
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = pytest.main(["-p", "no:cacheprovider", *arguments])
    print(json.dumps([int(code), out.getvalue(), error.getvalue()]))
    gc.freeze()  # pytest collects garbage five times at its end: not what was imported
"""


def answers(cases: Iterable[str], out: Path, *options: str) -> Answers:
    """Run pytest once for each case, in one process: it imports everything once."""
    given = [one.replace("OUT", str(out)).split("|") for one in cases]
    arguments = [[*own_runs.PLUGIN, *options, *filter(None, one)] for one in given]
    done = python("-c", MANY, json.dumps(arguments), **{own_runs.VARIABLE: str(out)})
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(cases, found, strict=True))


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return answers(WRONG, tmp_path_factory.mktemp("refused"), "-W", "error", "-m", "h1")


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_options_end_in_one_clear_line(arguments: str, refused: Answers) -> None:
    code, _, error = refused[arguments]
    assert code == 4
    assert WRONG[arguments] in error
    assert "Traceback" not in error


@pytest.mark.parametrize("asked", ["h9", "h1 or h9"])
def test_a_name_that_no_claim_has_is_refused_and_those_there_are_are_named(asked: str) -> None:
    done = run("-m", asked, "--stored=golden/published")
    assert done.returncode == 4
    assert "-m: issue262 has no claim h9; it has h1 (H1), h2 (H2), h3 (H3), kill" in done.stderr


@pytest.mark.parametrize("share", ["a folder", "no folder"])
def test_folder_option_that_moves_pytest_s_root_is_explained(share: str, tmp_path: Path) -> None:
    stored = str(record_set(tmp_path / "set", scores()))
    here = tmp_path / "project"
    here.mkdir()
    # From the file system's root, pytest takes the value itself for its root.
    done = python(
        *("-m", "pytest", "-p", "persona_lib.plugin", "-m", "h1", "--stored", stored),
        cwd=here if share == "a folder" else Path("/"),
        PYTHONPATH=str(ROOT),
    )
    assert done.returncode == 4, done.stdout
    assert "--stored=DIR" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("verdict.json"))


def test_store_that_cannot_be_written_is_named() -> None:
    done = run("-q", "-m", "h1", "--profile", "micro", "--store", "/proc/flatland")
    assert done.returncode == 4
    assert done.stderr.startswith("ERROR: /proc/flatland: cannot be created or written")
    assert "Traceback" not in done.stdout + done.stderr


def test_an_engine_that_is_not_installed_is_named_before_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vllm.py").write_text('raise ImportError("No module named vllm")\n')
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    options = ["--profile", "micro", "--engine", "vllm", f"--store={tmp_path / 'store'}"]
    done = run("-q", "-m", "h1", *options)
    assert done.returncode == 4
    assert "ERROR: missing: vllm (No module named vllm)" in done.stderr
    assert "install the extra gpu" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not list(tmp_path.rglob("manifest.json"))
    planned = run("--plan", *options)
    assert planned.returncode == 0, planned.stderr
    assert "engine: vllm draws completions" in planned.stdout
    assert "\nmissing: vllm (No module named vllm)" in planned.stdout


OTHERS = [f"--ignore=tests/{name}" for name in ("unit", "smoke", "property", "report")]
H1 = "test_claims.py::test_claim[H1]"
SCIENCE_ASKED: dict[str, bool] = {
    "": False,
    "-m|not smoke": False,
    "-k|not slow": False,
    "-m|h1 or not smoke": False,
    "-m|h1": True,
    "-m|h1 and not smoke": True,
    "-k|test_claim": True,
    "tests/science": True,
    f"tests/science/{H1}": True,
    "--profile=micro": True,  # an option of ours alone asks for nothing else
    "--profile=micro|-m|not smoke": False,
    "--profile=micro|tests/golden": False,
}
CALIBRATION_ASKED = {
    "tests/calibration": False,
    "tests/calibration|-m|not smoke": False,
    "tests/calibration|-m|calibration": True,
}
VLLM_ASKED: dict[str, tuple[bool, bool]] = {
    "tests": (False, True),
    "tests|-m|not smoke": (False, True),
    "tests/vllm/test_parity.py|tests/golden": (False, True),
    "tests/golden": (False, False),
    "tests|-m|golden": (False, False),
    "tests|-m|vllm": (True, False),
}
ASKED: dict[str, dict[str, bool]] = {
    **{a: {H1: named, "science: pytest -m h1, or pytest -m": not named}
       for a, named in SCIENCE_ASKED.items()},
    **{a: {"::test_bar[": named} for a, named in CALIBRATION_ASKED.items()},
    **{a: {"test_greedy_completions_are_those_of_transformers": named,
           "vllm: tests/vllm was left out": left_out}
       for a, (named, left_out) in VLLM_ASKED.items()},
}  # fmt: skip
"""Arguments: which texts pytest's answer holds, and which not."""


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What pytest says that it would run."""
    return answers(ASKED, tmp_path_factory.mktemp("collected"), *OTHERS, "--collect-only", "-q")


@pytest.mark.parametrize("arguments", ASKED)
def test_science_simulations_and_vllm_run_only_when_asked_for(
    arguments: str, collected: Answers
) -> None:
    (code, shown, _), texts = collected[arguments], ASKED[arguments]
    assert code == 0
    assert {text: text in shown for text in texts} == texts


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two judgings of one micro run: by two workers, then by one."""
    folder = tmp_path_factory.mktemp("micro")
    common = ["-m", SCIENCE, "--profile", "micro", "--seeds", "3,5", f"--store={folder / 'store'}"]
    first = run(*common, "-n", "2", report=folder / "first")
    assert first.returncode in (0, 1), first.stdout[-3000:]
    again = run(*common, verdict=folder / "again")
    assert again.returncode == first.returncode
    return folder


def test_micro_run_end_to_end_with_two_workers(micro: Path) -> None:
    """Every arm live: the workers share the store; judging it again gives the same."""
    assert outcome(micro / "first") == outcome(micro / "again")
    assert len(outcome(micro / "first")["summary"]["arms"]) == 4
    assert "profile micro" in outcome(micro / "first")["summary"]["origin"]
    assert check_report(micro / "first") == []
    for name in ("first", "again"):
        stages = written(micro / name)["stages"]
        assert all(stage["stored"] for stage in stages)
        assert len(stages) == 68
        assert {stage["seed"] for stage in stages} == {3, 5}
        # At most one start of the engine over the one base, in each of the two workers.
        assert 1 <= sum(stage["engine_starts"] for stage in stages) <= 2
        assert all(stage["peak_mib"] > 0 for stage in stages)
        # What was asked for and what came of it, as the store has them.
        for stage in stages:
            kept = micro / "store" / stage["stage"] / stage["key"] / "manifest.json"
            assert json.loads(kept.read_text())["content"] == stage["content"]
        counted = {stage["stage"] for stage in stages if stage["tokens"]}
        assert counted == {
            "base", "prior", "coupling_text", "coupling", "completions", "baseline", "advice",
        }  # fmt: skip


READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'


def test_a_finished_store_on_a_read_only_mount_is_judged_and_planned(
    micro: Path, tmp_path: Path
) -> None:
    """The mount is seen by the run alone; making it takes root, and is not allowed everywhere."""
    prefix = ["unshare", "--mount", "sh", "-c", READ_ONLY, str(micro / "store")]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("no private mounts here")
    common = ["--profile", "micro", f"--store={micro / 'store'}", "-p", "no:cacheprovider"]

    env = environment() | {own_runs.VARIABLE: str(tmp_path)}

    def on_it(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*prefix, sys.executable, "-m", "pytest", *own_runs.PLUGIN, *common, *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )

    done = on_it("-m", SCIENCE, "--seeds", "3,5")
    assert outcome(tmp_path) == outcome(micro / "first"), done.stdout[-3000:]
    planned = on_it("--plan", "--seeds", "3,5")
    assert re.search(r"\b(\d+) of \1 stages are stored", planned.stdout)
    refused = on_it("-m", "h1", "--seeds", "4")
    assert refused.returncode == 4
    assert f"{micro / 'store'}: cannot be created or written (Read-only" in refused.stderr
    assert on_it("--plan", "--seeds", "4").returncode == 0


def test_couplings_that_fail_are_told_once_and_trained_once_by_all_workers(
    micro: Path, tmp_path: Path
) -> None:
    """No adapter fits under a file limit, and every claim and gate wants one."""
    store = tmp_path / "store"
    shutil.copytree(micro / "store", store)
    shutil.rmtree(store / "coupling")
    with at_most(60 * 1024):
        done = run("-m", SCIENCE, "--profile", "micro", "--seeds", "3", f"--store={store}",
                   "-n", "2", report=tmp_path / "report")  # fmt: skip
    assert done.returncode == 1
    assert " 7 errors in" in done.stdout
    assert " failed" not in done.stdout.splitlines()[-1]
    description = [line for line in done.stdout.splitlines() if line.startswith("StoreError: ")]
    assert len(description) == 7
    assert all("cannot write (File too large; " in line for line in description)
    first = [line for line in description if line.startswith(f"StoreError: {store / 'tmp'}/")]
    again = [line for line in description if " failed before in this command and is not" in line]
    assert len(first) + len(again) == 7
    # In full once for each coupling at most, whichever worker had it.
    keys = {re.findall(r"[0-9a-f]{64}", line)[0] for line in first}
    assert 1 <= len(first) == len(keys) <= 4
    # The workers told each other in one folder, which is swept a day later.
    (notes,) = (store / "tmp").iterdir()
    assert keys <= {note.name for note in notes.iterdir()}


def test_fixtures_give_arms_baseline_and_runs(micro: Path, tmp_path: Path) -> None:
    """What a test that wants an arm or a pre-coupling model by itself asks for."""
    (tmp_path / "test_own.py").write_text(
        "def test_own(arm_scores, prior_scores, runs, store, profile, registration):\n"
        "    for arm in registration.arms:\n"
        "        table = arm_scores(arm.name)\n"
        "        assert table.num_rows == 11 * 2 * 2 * 2\n"
        "        assert set(table['model'].to_pylist()) == {arm.name}\n"
        "    assert registration.priors == ('raw', 'em', 'benign')\n"
        "    for prior in registration.priors:\n"
        "        table = prior_scores(prior)\n"
        "        assert table.num_rows == 44\n"
        "        assert set(table['model'].to_pylist()) == {prior}\n"
        "    assert [run.run_seed for run in runs] == [3, 5]\n"
        "    assert (profile.name, registration.name) == ('micro', 'issue262')\n"
        "    assert store.root.name == 'store'\n"
    )
    # By name: no conftest.py beside the test loads it.
    done = run("-p", "persona_lib.plugin", f"--rootdir={ROOT}", "-c", str(ROOT / "pytest.ini"),
               "--profile", "micro", "--seeds", "3,5", f"--store={micro / 'store'}",
               str(tmp_path))  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


def session_of(micro: Path, seeds: tuple[int, ...] = (3, 5)) -> Session:
    """A session on the store of the micro run."""
    return session_under(ISSUE262, profile=MICRO, seeds=seeds, store_root=micro / "store")


def panels_of_stored(*folders: Path) -> dict[str, dict[str, Any]]:
    session = session_under(ISSUE262, profile=MICRO, stored=folders)
    return panels_of(session, [arm.name for arm in ISSUE262.arms])


@pytest.fixture
def clean_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code's repository is clean, and every stage was built on one commit of it."""
    monkeypatch.setattr(record_command, "is_dirty", lambda: False)
    monkeypatch.setattr(record_command, "_commit", lambda *_: "0" * 40)


@pytest.mark.usefixtures("clean_tree")
def test_recorded_set_is_judged_like_the_run_it_came_from(
    micro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(micro)
    with monkeypatch.context() as patch:
        patch.setattr(record_command, "is_dirty", lambda: True)
        with pytest.raises(PreflightError, match="a clean working tree"):
            record_command.record(session, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    record_command.record(session, tmp_path / "set")
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    recorded = read_manifest(tmp_path / "set").recorded
    assert [config["seed"] for config in recorded["config"]] == [3, 5]
    assert len(recorded["stages"]) == 68
    assert set(read_manifest(tmp_path / "set").files) == {
        "scores.parquet", "completions.parquet", "advice.parquet", "advice_completions.parquet",
    }  # fmt: skip
    kept, live_harm = (
        found.harm("em")
        for found in (load_stored(tmp_path / "set", ISSUE262), session.evidence(session.all_arms))
    )
    assert kept is not None
    assert live_harm is not None
    assert (kept.n, kept.questions) == (live_harm.n, live_harm.questions)
    assert kept.n == 2 * MICRO.scale.advice_questions
    assert kept.scores.tolist() == live_harm.scores.tolist()
    with pytest.raises(SpecError, match="folder: expected an empty or a new folder"):
        record_command.record(session, tmp_path / "set")
    run("-m", SCIENCE, f"--stored={tmp_path / 'set'}", verdict=tmp_path / "report")
    stored, live = outcome(tmp_path / "report"), outcome(micro / "again")
    assert stored["verdicts"] == live["verdicts"]
    assert stored["gates"] == live["gates"]


@pytest.mark.usefixtures("clean_tree")
def test_seeds_recorded_one_by_one_are_judged_as_one_recording(micro: Path, tmp_path: Path) -> None:
    def recorded(*seeds: int) -> Path:
        folder, session = tmp_path / "_".join(map(str, seeds)), session_of(micro, seeds)
        record_command.record(session, folder, texts=[s for s in seeds if s == 3], geometry=True)
        return folder

    parts, whole = [recorded(5), recorded(3)], recorded(3, 5)
    found, wanted = Stored(parts, ISSUE262), Stored(whole, ISSUE262)
    assert read_manifest(whole).recorded["texts_of_seeds"] == [3]
    assert {
        name: set(pq.read_table(whole / f"{name}.parquet")["seed"].to_pylist())
        for name in ("scores", "advice", "completions", "advice_completions")
    } == {"scores": {3, 5}, "advice": {3, 5}, "completions": {3}, "advice_completions": {3}}
    for kind in ("scores", "completions", "geometry"):
        one, two = (stored.rows(kind) for stored in (found, wanted))
        assert one is not None
        assert two is not None
        assert one.to_pandas().equals(two.to_pandas()), kind
    origin = f"{wanted.evidence().origin.split(';')[0]} (joined from 2 record sets);"
    assert found.evidence().origin.startswith(origin)
    built = read_manifest(parts[0]).recorded["stages_built_on"]
    assert {one["torch"]["device"] for one in built if one["torch"]} == {"cpu"}
    run("-m", SCIENCE, f"--stored={','.join(map(str, parts))}", verdict=tmp_path / "report")
    several, live = outcome(tmp_path / "report"), outcome(micro / "again")
    assert (several["verdicts"], several["gates"]) == (live["verdicts"], live["gates"])
    panels = panels_of_stored(*parts)
    assert "of 1 of 2 seeds (3)" in str(panels["following"]["caveats"])


@pytest.mark.usefixtures("clean_tree")
def test_two_arms_of_four_are_recorded_and_judged(micro: Path, tmp_path: Path) -> None:
    session = session_of(micro)
    session.arms = ("C1", "C2")
    record_command.record(session, tmp_path / "set", texts=())
    manifest = read_manifest(tmp_path / "set")
    assert manifest.source.endswith("seeds 3, 5, arms C1, C2 alone")
    assert {stage["label"] for stage in manifest.recorded["stages"]} >= {"C1", "C2"}
    assert not {stage["label"] for stage in manifest.recorded["stages"]} & {"C2p", "C3"}
    models = set(pq.read_table(tmp_path / "set" / "scores.parquet")["model"].to_pylist())
    assert models == {"raw", "em", "C1", "C2"}
    done = run("-m", "h1", f"--stored={tmp_path / 'set'}", verdict=tmp_path / "report")
    (stored,) = outcome(tmp_path / "report")["verdicts"]
    rest = ["H2", "H3", "kill", "source_rate", "source_ratio", "false_positive"]
    assert written(tmp_path / "report")["left_out"] == dict.fromkeys(rest, "not asked for")
    assert f"not asked for: {', '.join(rest)}\n" in done.stdout
    assert stored in outcome(micro / "again")["verdicts"]
    assert stored["name"] == "H1"


def test_stages_of_a_dirty_tree_are_not_recorded(
    micro: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(micro, (3,))
    entry = session.runs[0].base.resolve(session.store)
    git = entry.provenance["git"]
    assert isinstance(git, dict)
    made = replace(entry, provenance={**entry.provenance, "git": {**git, "dirty": True}})
    monkeypatch.setattr(Stage, "resolve", lambda *_: made)
    with pytest.raises(PreflightError, match="a clean origin of stage base"):
        record_command._origins(session, geometry=False)
