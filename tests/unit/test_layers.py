"""The house: imports go one way, and judging stored records loads no torch."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pace import allowed

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "persona_lib"
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "trl",
    "vllm",
    "datasets",
    "sklearn",
    "statsmodels",
    "anthropic",
    "openai",
    "matplotlib",
    "pandas",
}

LAYERS: tuple[tuple[str, ...], ...] = (
    ("plain", "errors"),
    ("inputs", "columns", "cost", "files", "spec", "progress", "runtime", "templates"),
    ("records", "personas", "provenance", "sources", "profile", "gate_rules", "rules",
     "registration"),
    ("prml", "chain", "seal"),
    ("keys", "entries", "store", "stored", "grammar_data", "composer", "grammar", "hub_corpus",
     "datasets", "dialogue_data", "dialogues", "score", "stats", "score_columns", "grid",
     "advice", "harm", "planning"),
    ("models", "graph", "evidence_base", "draws", "cache_room"),
    ("train", "static_decode", "generate", "vllm_setup", "vllm_model", "vllm_engine",
     "vllm_shared", "geometry", "evidence_records", "evidence_aggregates", "foreign_cells",
     "foreign", "evidence"),
    ("stages", "gate_base", "gate_points", "gate_bounds", "gates", "length_looks", "sensitivity",
     "claims", "verdict", "family", "summary", "power", "judge", "panels"),
    ("advice_run", "run", "pipeline", "report"),
)  # fmt: skip
"""Modules and packages of persona_lib, lowest first; a layer may import itself and lower ones."""


def layer_of(module: str) -> int:
    name = module.split(".")[1] if "." in module else ""
    for level, names in enumerate(LAYERS):
        if name in names:
            return level
    raise AssertionError(f"{module} stands in no layer: add it to LAYERS and to docs/design.md")


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(LIBRARY.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name != "persona_lib":
            found[name] = path
    return found


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Modules that a file imports; with `top_level`, those imported when it is loaded."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        if top_level and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        if top_level and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


@pytest.mark.parametrize("name", list(modules()))
def test_imports_go_one_way(name: str) -> None:
    level = layer_of(name)
    known = modules()
    for target in imports(modules()[name]):
        assert not target.startswith(("pytest", "experiments", "tests", "_pytest")), target
        if target in known:
            assert layer_of(target) <= level, f"{name} imports {target} of a higher layer"


def test_there_are_no_import_cycles() -> None:
    known = modules()
    graph = {
        name: {t for t in imports(path, top_level=True) if t in known and t != name}
        for name, path in known.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for target in graph[name]:
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", list(modules()))
def test_heavy_libraries_are_imported_where_they_are_needed(name: str) -> None:
    loaded = {target.split(".")[0] for target in imports(modules()[name], top_level=True)}
    assert not loaded & HEAVY


PROBE = """
import json, sys, time
import pytest

class Clock:
    def pytest_sessionfinish(self):
        self.seconds = time.process_time()

clock = Clock()
code = pytest.main(sys.argv[1:], plugins=[clock])
heavy = sorted(set(sys.modules) & {"torch", "transformers", "peft", "trl", "vllm"})
print(json.dumps({"code": int(code), "heavy": heavy, "seconds": clock.seconds}))
"""


@pytest.mark.parametrize("folder", ["golden/published", "golden/tiny"])
def test_judging_stored_records_loads_no_torch_and_is_quick(folder: str, tmp_path: Path) -> None:
    arguments = ["-q", "-m", "h1", f"--stored={folder}", f"--report={tmp_path}"]
    arguments += ["-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["heavy"] == []
    assert found["code"] in (0, 1)
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert [v["name"] for v in verdict["verdicts"]] == ["H1"]
    # Until all is judged, before panels are made; neither loads torch. Processor time,
    # because other tests share the machine: the promise is 3 s.
    assert found["seconds"] < allowed(3)
