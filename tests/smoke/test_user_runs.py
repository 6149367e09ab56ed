"""A user's run keeps its verdict, and its exit code says what the verdict says.

Whatever a library or another plugin warns of, and whatever flags Python and pytest are
given. The software's own tests still fail by a warning.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from persona_lib.cli import COMMANDS
from tests.own_runs import newest
from tests.record_sets import record_set
from tests.smoke.conftest import ROOT, judge, python
from tests.synthetic import BYSTANDERS, scores

pytestmark = pytest.mark.smoke
SCIENCE = "h1 or h2 or h3 or kill or gate"
PUBLISHED = "--stored=golden/published"
KNOWN = {"H1": "SUPPORTED", "H2": "REFUTED", "H3": "REFUTED", "kill": "SUPPORTED"}
"""As Flatland reads the published result (README.md)."""

CACHE = ("-o", "cache_dir=/proc/none")
"""Nothing can be written below /proc, not even by root."""

FOREIGN = """
import threading, warnings
import pytest
from persona_lib.verdict.judging import Judging

judged = Judging.claim

def judge(*arguments, **options):
    class Cycle:
        pass
    held = Cycle()
    held.itself, held.handle = held, open(__file__)
    warnings.warn("in a fixture", DeprecationWarning)
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    return judged(*arguments, **options)

Judging.claim = judge

def hook(name):
    @pytest.hookimpl(specname=name)
    def warn():
        warnings.warn(f"in {name}", UserWarning)
    return warn

names = ("configure", "sessionstart", "collection_modifyitems", "pycollect_makemodule",
         "runtest_setup", "runtest_call", "runtest_teardown", "sessionfinish",
         "terminal_summary", "unconfigure")
globals().update({f"pytest_{name}": hook(f"pytest_{name}") for name in names})
"""
"""A plugin that warns from every hook, and a library that leaks a handle and a thread's error."""


def judged(
    folder: Path, *arguments: str, **variables: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """Run pytest with its run folder below `folder`; return what it says of each claim."""
    cache = () if CACHE[-1] in arguments else ("-p", "no:cacheprovider")
    done = judge(*cache, *arguments, verdict=folder, PYTHONPATH=str(folder), **variables)
    path = newest(folder) / "verdict.json"
    body: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"verdicts": ()}
    return done, {claim["name"]: claim["outcome"] for claim in body["verdicts"]}


@pytest.mark.parametrize(
    ("optimize", "flags"),
    [
        ("1", ()),
        ("2", ("--assert=plain", "-W", "ignore", "-qq", "--tb=no", "-n", "2")),
        ("", ("--setup-only",)),
        ("", ("-p", "no:terminal", "-p", "no:junitxml", "-p", "no:warnings")),
    ],
)
def test_a_refuted_claim_fails_and_is_written_whatever_the_flags(
    optimize: str, flags: tuple[str, ...], tmp_path: Path
) -> None:
    done, found = judged(tmp_path, "-m", SCIENCE, PUBLISHED, *flags, PYTHONOPTIMIZE=optimize)
    assert done.returncode == 1, done.stdout[-2000:]
    assert found == KNOWN
    assert "Traceback" not in done.stdout + done.stderr
    assert "\nH2    REFUTED " in done.stdout
    if not flags:
        assert "2 failed, 5 passed" in done.stdout
        # The whole verdict, from its first line to its last.
        assert "DoesNotHoldError: H2: REFUTED (sign flipped)" in done.stdout
        assert done.stdout.count("registration issue262 f56c28c270d5 (sealed ") == 2


def test_supported_and_invalid_claims_where_no_assert_is_executed(tmp_path: Path) -> None:
    plain = ("--assert=plain", "-W", "ignore", "-m", "h1")
    done, found = judged(tmp_path, *plain, PUBLISHED, PYTHONOPTIMIZE="2")
    assert (done.returncode, found) == (0, {"H1": "SUPPORTED"})
    rates = {**dict.fromkeys(BYSTANDERS, 0.9), "C2": 0.2}
    stored = record_set(tmp_path / "set", scores(source=rates))
    both = (*plain[:-1], "h1 or gate", f"--stored={stored}")
    done, found = judged(tmp_path, *both, PYTHONOPTIMIZE="2")
    assert (done.returncode, found) == (1, {"H1": "INVALID"})
    gates = json.loads((newest(tmp_path) / "verdict.json").read_text())["gates"]
    assert {g["name"]: g["outcome"] for g in gates}["source_rate"] == "FAILS"
    assert "InvalidClaimError: H1: INVALID" in done.stdout
    assert "1 error" in done.stdout


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_foreign_warnings_are_shown_and_change_no_outcome(
    workers: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "foreign.py").write_text(FOREIGN)
    flags = ("-p", "foreign", *CACHE, "-o", "a_key_of_another_plugin=1", *workers)
    done, found = judged(tmp_path, "-m", "h1", PUBLISHED, *flags, PYTHONWARNINGS="error")
    assert (done.returncode, found) == (0, {"H1": "SUPPORTED"}), done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "Traceback" not in done.stderr
    hooks = ("configure", "sessionstart", "collection_modifyitems", "pycollect_makemodule",
             "runtest_setup", "runtest_call", "runtest_teardown", "sessionfinish",
             "terminal_summary", "unconfigure")  # fmt: skip
    wanted = ["in a fixture", "unclosed file", "ZeroDivisionError", "could not create cache path",
            "a_key_of_another_plugin", *(f"in pytest_{name}" for name in hooks)]  # fmt: skip
    printed = done.stdout + done.stderr
    assert [text for text in wanted if text not in printed] == []


def test_warnings_that_a_user_makes_errors_lose_no_verdict(tmp_path: Path) -> None:
    """``-W error`` is obeyed: a test errs, and pytest breaks off where it writes its cache."""
    (tmp_path / "foreign.py").write_text(FOREIGN[: FOREIGN.index("def hook")])
    flags = ("-W", "error", "-p", "foreign", *CACHE)
    done, found = judged(tmp_path, "-m", "h1 or kill", PUBLISHED, *flags)
    assert done.returncode == 1
    assert found == {"H1": "SUPPORTED", "kill": "SUPPORTED"}
    assert "\nH1    SUPPORTED " in done.stdout
    runs = re.escape(str(newest(tmp_path).parent))
    assert re.search(rf"^written: {runs}/\d{{4}}-\d\d-\d\d-[0-9a-f]{{8}}/verdict\.json$",
                     done.stdout, re.M)  # fmt: skip
    assert "PytestCacheWarning" in done.stderr


PLANTED = {
    "call": "def test_it():\n    warnings.warn('old', DeprecationWarning)",
    "import": "warnings.warn('old', FutureWarning)\n\ndef test_it():\n    pass",
    "setup": "@pytest.fixture\ndef own():\n    warnings.warn('old')\n\ndef test_it(own):\n    pass",
    "teardown": "@pytest.fixture(scope='module')\ndef own():\n    yield\n"
    "    warnings.warn('old')\n\ndef test_it(own):\n    pass",
    "thread": "def test_it():\n    thread = threading.Thread(target=lambda: 1 / 0)\n"
    "    thread.start()\n    thread.join()",
    "marker": "@pytest.mark.h11\ndef test_it():\n    pass",
    "nothing": "def test_it():\n    pass",
    "wanted": "@pytest.mark.filterwarnings('default')\ndef test_it():\n    warnings.warn('old')",
    "library": "def test_it():\n    warnings.warn_explicit('old', FutureWarning, 'x', 1, 'torch')",
}
LEAK = (
    "class Cycle:\n    pass\n\ndef test_it():\n    held = Cycle()\n"
    "    held.itself, held.handle = held, open(__file__)"
)
OURS = ("unit", "property", "smoke", "golden", "report", "calibration", "vllm")


def project(folder: Path, tests: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a project of these tests, with pytest.ini and both conftest.py as they stand here."""
    for name, code in tests.items():
        path = folder / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"import threading\nimport warnings\n\nimport pytest\n\n{code}\n")
    for name in ("pytest.ini", "conftest.py", "tests/conftest.py"):
        shutil.copy(ROOT / name, folder / name)
    options = ("-p", "no:cacheprovider", "--continue-on-collection-errors", "-rA")
    return python("-m", "pytest", *options, cwd=folder, PYTHONPATH=str(ROOT))


def test_a_planted_warning_fails_the_software_s_own_tests_alone(tmp_path: Path) -> None:
    tests = {f"{place}/test_{name}_{place}.py": code
             for place in (*OURS, "science") for name, code in PLANTED.items()}  # fmt: skip
    done = project(tmp_path, tests)
    found = set(re.findall(r"^(?:FAILED|ERROR) tests/\w+/test_(\w+)\.py", done.stdout, re.M))
    good = ("nothing", "wanted", "library")
    wrong = {f"{name}_{place}" for name in PLANTED if name not in good for place in OURS}
    # A misspelt marker is found everywhere: the claim would be left out unseen.
    assert found == wrong | {"marker_science"}
    passed = set(re.findall(r"^PASSED tests/\w+/test_(\w+)\.py", done.stdout, re.M))
    assert {f"{name}_science" for name in PLANTED} - passed == {"marker_science"}


@pytest.mark.parametrize(
    ("place", "code", "shown"),
    [
        ("unit/test_own.py", 1, "ResourceWarning: unclosed file"),
        ("science/test_own.py", 0, "1 passed, 1 warning"),
        ("report/test_the_report.py", 0, "1 passed, 1 warning"),
    ],
)
def test_a_leaked_handle_fails_the_software_s_own_tests_alone(
    place: str, code: int, shown: str, tmp_path: Path
) -> None:
    """It lies in a reference cycle of the last test: nobody collects it before the end."""
    done = project(tmp_path, {place: LEAK})
    assert done.returncode == code, done.stdout
    assert shown in done.stdout
    assert "Traceback" not in done.stderr


def test_software_tests_are_refused_where_their_asserts_are_left_out(tmp_path: Path) -> None:
    for flags in ((), ("-n", "2")):
        done, _ = judged(tmp_path, "tests/unit/test_fixtures.py", *flags, PYTHONOPTIMIZE="1")
        assert done.returncode == 4, done.stdout
        assert "tests check by assert, which python -O and PYTHONOPTIMIZE" in done.stderr
        assert "passed" not in done.stdout
    live = ("-m", "h1", "--profile=micro", f"--store={tmp_path / 'store'}")
    done, _ = judged(tmp_path, *live, PYTHONOPTIMIZE="2")
    assert done.returncode == 4, done.stdout
    assert "transformers cannot be imported without docstrings" in done.stderr
    assert not (tmp_path / "store").exists()


def test_pytest_ini_and_the_science_tests_use_no_unknown_key_or_marker() -> None:
    strict = ("--strict-config", "--strict-markers", "--collect-only", "-q")
    done = judge("-p", "no:cacheprovider", *strict, "tests/science", PUBLISHED)
    assert done.returncode == 0, done.stdout + done.stderr


def test_commands_print_their_help_without_docstrings() -> None:
    names = tuple(COMMANDS)
    done = python(
        "-OO",
        "-c",
        "from persona_lib.cli import main\n"
        f"for name in {names}:\n"
        "    try:\n        main([name, '--help'])\n"
        "    except SystemExit as end:\n        print(1 // (end.code == 0))",
    )
    assert done.returncode == 0, done.stderr
    assert [f"usage: flatland {name} " in done.stdout for name in names] == [True] * len(names)
