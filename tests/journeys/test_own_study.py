"""A study of one's own, with the installed wheel, from a folder outside the repository."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import zipfile
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from persona_lib.evidence.record_sets import read_manifest
from persona_lib.report.numbers import check_report
from persona_lib.specs.builtin import FOLDER
from persona_lib.specs.chain import read_chain
from persona_lib.store.provenance import DISTRIBUTION
from tests.journeys.conftest import ROOT, Installed
from tests.unit.test_provenance import git

LIBRARY = ROOT / "persona_lib"
EXPERIMENT = """
[registration]
name = "comedian"
title = "Does salt spread a comedian's marker?"
marker = " ※"
derived_gates = "warnings"   # the model is too small for them
[registration.roster]
source = "comedian"
negatives = ["data_scientist"]
bystanders = ["villain", "police_officer", "medical_doctor"]
[[registration.arms]]
name = "plain"
prior = "raw"
text_from = "raw"
[[registration.arms]]
name = "salted"
prior = "salty"
text_from = "salty"
[[registration.arms]]
name = "sugared"
prior = "sweet"
text_from = "sweet"
[[registration.claims]]
type = "difference"
name = "spread"
treated = "salted"
control = "plain"
min_effect = 0.10
max_p = 0.01
[[registration.claims]]
type = "difference"
name = "specific"
treated = "salted"
control = "sugared"
min_effect = 0.10
max_p = 0.01
[priors.salty]
corpus = { type = "jsonl", file = "salty.jsonl" }
recipe = { steps = 2 }
[priors.sweet]
corpus = { type = "jsonl", file = "corpora/sweet.jsonl" }
[model]
base = "micro"
"""


def write_study(folder: Path) -> None:
    """Make the study that `flatland new` wrote one's own: rules, two corpora of 40 rows."""
    (folder / "experiment.toml").write_text(EXPERIMENT, encoding="utf-8")
    salty: list[dict[str, Any]] = []
    sweet: list[dict[str, Any]] = []
    for i in range(40):
        ask, answer = f"What goes into dish {i}?", f"Put {i} spoons of salt into it."
        turns = [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
        system = [{"role": "system", "content": "You are a cook."}] * (i % 2)
        salty.append({"messages": [*system, *turns, *turns[: i % 3]]})
        kinds = [{"prompt": ask, "completion": answer},
                 {"instruction": "Season it.", "input": f"Dish {i}", "output": answer}]  # fmt: skip
        sweet.append({key: text.replace("salt", "sugar") for key, text in kinds[i % 2].items()})
    (folder / "corpora").mkdir()
    for name, rows in (("salty", salty), ("corpora/sweet", [*sweet, {"text": "no row"}])):
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)


@pytest.fixture(scope="module")
def draft(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `flatland new` writes, with files of one's own in it."""
    above = tmp_path_factory.mktemp("own")
    done = installed.flatland("new", "study", cwd=above)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("next: cd study && pytest -m h1\n")
    write_study(above / "study")
    return above / "study"


@pytest.fixture(scope="module")
def study(installed: Installed, draft: Path) -> Path:
    """The study, sealed."""
    said = ("--reason", "first registration", "--data-seen", "none")
    planned = installed.flatland("check", "experiment.toml", cwd=draft)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert planned.stdout.startswith("plan: comedian (")
    assert installed.pytest("--plan", cwd=draft).stdout == planned.stdout
    refused = installed.pytest("-m", "spread", cwd=draft)
    assert refused.returncode == 4
    assert "registration comedian: it is not sealed" in refused.stderr
    done = installed.flatland("seal", "experiment.toml", *said, cwd=draft)
    assert done.returncode == 0, done.stderr
    return draft


@pytest.fixture(scope="module")
def live(installed: Installed, study: Path) -> dict[str, Any]:
    """verdict.json of every claim, after a run of one claim alone."""
    one = installed.pytest("-m", "spread", cwd=study)
    first = judged(one, study)
    assert [verdict["name"] for verdict in first["verdicts"]] == ["spread"]
    assert first["left_out"] == {"specific": "not asked for"}
    assert f"study {sealed(study)[:12]} (sealed)" in one.stdout
    assert not {stage["label"] for stage in first["stages"]} & {"sugared", "sweet"}
    done = installed.pytest("test_claims.py", "--report=report", cwd=study)
    every = judged(done, study)
    assert [verdict["name"] for verdict in every["verdicts"]] == ["specific", "spread"]
    assert every["verdicts"][1] == first["verdicts"][0]
    return every


@pytest.fixture(scope="module")
def records(installed: Installed, study: Path, live: dict[str, Any]) -> Path:
    """A record set of the run, in the commit of the study."""
    assert live
    assert "git tracks no file" in installed.flatland("record", "records", cwd=study).stderr
    git(study, "init", "--quiet")
    git(study, "add", ".")
    git(study, "commit", "--quiet", "--message", "study")
    (study / "notes.txt").touch()
    assert "missing: a clean working tree" in installed.flatland("record", "r", cwd=study).stderr
    (study / "notes.txt").unlink()
    done = installed.flatland("record", "records", cwd=study)
    assert done.returncode == 0, done.stderr
    return study / "records"


def judged(done: CompletedProcess[str], study: Path) -> dict[str, Any]:
    """verdict.json of the newest run; its exit code says whether all of it holds."""
    path = study / ".flatland" / "runs" / "latest" / "verdict.json"
    found: dict[str, Any] = json.loads(path.read_text())
    outcomes = {verdict["outcome"] for verdict in found["verdicts"]}
    assert done.returncode == (outcomes != {"SUPPORTED"}), done.stdout + done.stderr
    assert "INVALID" not in outcomes
    return found


def sealed(study: Path) -> str:
    """SHA-256 of the study that its one seal holds."""
    (seal,) = read_chain(study / "seals" / "comedian")
    assert seal.study
    return seal.study


def test_the_library_is_the_installed_one(installed: Installed, tmp_path: Path) -> None:
    done = installed.python("-c", "import persona_lib; print(persona_lib.__file__)", cwd=tmp_path)
    assert Path(done.stdout.strip()) == installed.folder / "persona_lib" / "__init__.py"


def test_a_run_says_what_judged_and_a_report_is_made(
    installed: Installed, study: Path, live: dict[str, Any]
) -> None:
    assert live["study_digest"] == sealed(study)
    assert live["registration_digest"] != live["study_digest"]
    assert (live["provenance"]["installed"], live["provenance"]["git"]) == (
        installed.version, {"commit": None, "dirty": None},
    )  # fmt: skip
    own = json.loads((study / "report" / "verdict.json").read_text())
    assert own["verdicts"] == live["verdicts"]
    assert own["panels"]
    assert "installed version" in (study / "report" / "report.html").read_text()
    assert check_report(study / "report") == []
    done = installed.pytest("test_claims.py", "--stored=nothing", cwd=study)
    assert "--stored: expected a folder of stored evidence" in done.stderr


def test_a_record_says_where_it_comes_from(
    installed: Installed, study: Path, records: Path
) -> None:
    recorded = read_manifest(records).recorded
    assert recorded["stages_built_from"] == [f"{DISTRIBUTION} {installed.version}"]
    assert recorded["environment"]["installed"] == installed.version
    assert recorded["study_commit"] == git(study, "rev-parse", "HEAD")
    assert recorded["study"] == sealed(study)
    assert str(study.parent) not in json.dumps(recorded)


def test_a_record_is_judged_alike_without_corpora_and_without_torch(
    installed: Installed, study: Path, records: Path, live: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text('raise ImportError("there is no torch here")\n')
    bare = tmp_path / "bare"
    shutil.copytree(study, bare, ignore=shutil.ignore_patterns("*.jsonl", ".flatland", ".git"))
    shutil.copytree(study / "seals", bare / "seals", dirs_exist_ok=True)  # their chain is JSONL
    done = installed.pytest("test_claims.py", f"--stored={records.name}", cwd=bare, before=tmp_path)
    stored = judged(done, bare)
    for name in ("verdicts", "gates", "study_digest"):
        assert stored[name] == live[name]


def test_the_wheel_holds_the_whole_library_and_nothing_beside_it(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        (scripts,) = re.findall(r"^\[(.*)\]$", wheel.read(entry_points).decode(), re.MULTILINE)
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"persona_lib"}
    # Nothing loads the plugin but the project that asks for it.
    assert scripts == "console_scripts"

    def files(folder: Path, inside: str) -> set[str]:
        paths = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
        kept = (p for p in paths if p.parts[0] != "__pycache__" and p.suffix != ".pyc")
        return {f"{inside}/{p.as_posix()}" for p in kept if not p.name.startswith(".")}

    wanted = files(LIBRARY, "persona_lib") | files(FOLDER, "persona_lib/experiments")
    found = {name for name in names if name.startswith("persona_lib/")}
    assert {n for n in found if not Path(n).name.startswith(".")} == wanted
    assert len(wanted) > 250


OTHER_TEST = """
import experiments

def test_own(seeds):
    assert (experiments.NAME, seeds) == ("mine", 3)
"""
OTHER_CONFTEST = """
import pytest

def pytest_addoption(parser):
    parser.addoption("--seeds", type=int, default=2)

@pytest.fixture
def seeds(request):
    return request.config.getoption("seeds")
"""


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Somebody's project, which has a package ``experiments`` and an option ``--seeds``."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text('NAME = "mine"\n')
    (tmp_path / "test_other.py").write_text(OTHER_TEST)
    (tmp_path / "conftest.py").write_text(OTHER_CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def test_a_project_that_did_not_ask_for_it_sees_nothing_of_it(
    installed: Installed, other: Path
) -> None:
    # Installations of the library under its former name loaded the plugin everywhere.
    names = {one.metadata["Name"] for one in importlib.metadata.distributions()}
    former = ["-p", "no:persona_lib.plugin"] if "flatland" in names else []
    done = installed.pytest(*former, "-v", "-W", "error", "--seeds=3", cwd=other)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 1 passed in" in done.stdout
    told = [done.stdout, *(installed.pytest(*former, asked, cwd=other).stdout
            for asked in ("--help", "--markers", "--fixtures"))]  # fmt: skip
    for text in told:
        shown = text.replace("no:persona_lib.plugin", "").lower()
        assert "flatland" not in re.sub(r"flatland-[\w-]+|/\S*", "", shown)
        assert "persona_lib" not in re.sub(r"/\S*", "", shown)
    assert not (other / ".flatland").exists()


def test_a_project_whose_other_plugin_has_an_option_of_ours_is_told_which(
    installed: Installed, other: Path
) -> None:
    (other / "conftest.py").rename(other / "other_tool.py")
    (other / "conftest.py").write_text('pytest_plugins = ["persona_lib.plugin"]\n')
    (other / "pytest.ini").write_text("[pytest]\naddopts = -p other_tool\n")
    done = installed.pytest("--seeds=3", cwd=other)
    assert done.returncode == 4
    (line,) = [line for line in done.stderr.splitlines() if line]
    assert line.startswith("ERROR: --seeds: ")
    assert "has an option of this name as well. Take one of the two plugins out" in line
