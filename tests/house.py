"""The made parts of README and docs: map of modules, excerpts of verdict tables, table of power.

``python -m tests.house`` writes each between its two marker comments; tests hold them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

from persona_lib.commands.plan import power_of
from persona_lib.report.power import power_text
from tests.real_runs import (
    ARMS,
    DECISION,
    FIRST,
    FULL,
    GOLDEN,
    ROOT,
    RSLORA,
    SEEDS,
    rates,
    table,
)
from tests.registered import ISSUE262, QWEN7B, session_under
from tests.unit.test_layers import ROOMS, modules

COMMAND = "python -m tests.house"
GROUND = "persona_lib"
CLAIMS = r"claim |H\d  |kill  |      \* "
RUNS = r"|      training runs, (Welch|paired)"
PERSONAS = r"|      personas at large  "
ARM_TABLE = r"|arm   |C\dp? "


def module_map() -> str:
    """Return the first line of each module's docstring, by room."""
    rooms: dict[str, list[str]] = {room: [] for room in (GROUND, *ROOMS)}
    heads = {GROUND: "persona_lib/"}
    for name, path in sorted(modules().items(), key=lambda item: (item[0].count("."), item[0])):
        room, *inner = name.split(".")[1:]
        package = path.stem == "__init__"
        if package and not inner:
            heads[room] = _line(f"{room}/", path)
        elif not inner:
            rooms[GROUND].append(_line(f"  {room}.py", path))
        else:
            rooms[room].append(_line("  " + "/".join(inner) + ("/" if package else ".py"), path))
    return _fenced(
        "\n\n".join("\n".join([heads[room], *lines]) for room, lines in rooms.items() if lines)
    )


def _line(name: str, path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return f"{name:<26} {text.partition(chr(10))[0].rstrip('.').replace('``', '')}"


def _fenced(text: str) -> str:
    return f"```text\n{text}\n```"


def excerpt(folder: Path, kept: str) -> str:
    """Return the lines of a set's verdict table whose beginning `kept` matches."""
    lines = table(folder)
    shown = [re.match(kept, line) is not None for line in lines]
    found: list[str] = []
    for at, line in enumerate(lines):
        under = line.startswith("-" * 20) and shown[at - 1]
        if shown[at] or under:
            found += ["", line] if line.startswith("arm ") else [line]
    return _fenced("\n".join(found).strip())


def training_runs() -> str:
    """Return the table of training runs: bystander rates, and what each claim reads."""
    runs: dict[tuple[int, str], dict[str, float]] = {}
    for folder, word in ((SEEDS, ", earlier"), (FIRST, ", earlier"), (FULL, "")):
        for (seed, arm), rate in rates(folder).items():
            runs.setdefault((seed, word), {})[arm] = rate
    lines = [
        "| run | C1 | C2 (kill) | C2p | C3 | H1: C2 - C1 | H2: C2 - C3 | H3: C2 - C2p |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (seed, word), found in sorted(runs.items(), key=lambda item: (item[0][1], item[0][0])):
        lines.append(_run(f"seed {seed}{word}", found))
    lines.append(_run("seed 42, published priors", {arm: rates(RSLORA)[42, arm] for arm in ARMS}))
    return "\n".join(lines)


def _run(name: str, found: dict[str, float]) -> str:
    cells = [f" {100 * found[arm]:.1f} %" if arm in found else "" for arm in ARMS]
    pairs = [(found["C2"], found.get(control)) for control in ("C1", "C3", "C2p")]
    cells += ["" if other is None else f" {own - other:+.3f}" for own, other in pairs]
    return f"| {name} |" + " |".join(cells) + " |"


def power_table() -> str:
    """Return the power before data at the published size, as ``pytest --plan`` prints it."""
    return _fenced(power_text(power_of(session_under(ISSUE262, profile=QWEN7B))))


EXCERPTS = ("smollm2", "smollm2_runs", "smollm2_decision", "tiny", "published")
"""The parts that are made from recorded runs."""
PARTS: dict[str, tuple[str, Callable[[], str]]] = {
    "map": ("docs/architecture.md", module_map),
    "power": ("docs/statistics.md", power_table),
    "smollm2": ("README.md", lambda: excerpt(FULL, CLAIMS + RUNS + ARM_TABLE)),
    "smollm2_runs": ("docs/results.md", training_runs),
    "smollm2_decision": ("docs/results.md", lambda: excerpt(DECISION, CLAIMS + ARM_TABLE)),
    "tiny": ("docs/results.md", lambda: excerpt(GOLDEN / "tiny", CLAIMS + PERSONAS + ARM_TABLE)),
    "published": ("docs/results.md", lambda: excerpt(GOLDEN / "published", CLAIMS + PERSONAS)),
}
"""Each made part: the page that holds it, and what makes it."""


def write_page(name: str, text: str) -> None:
    """Write a made page into ``.flatland/pages``, which no commit holds."""
    path = ROOT / ".flatland" / "pages" / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"written: {path.relative_to(ROOT)}")  # noqa: T201  (the path is the output)


def held(name: str) -> str:
    """Return what a part's page holds now; raises ValueError where a comment is missing."""
    text = (ROOT / PARTS[name][0]).read_text(encoding="utf-8")
    start = text.index(f"<!-- made: {name} -->\n") + len(f"<!-- made: {name} -->\n")
    return text[start : text.index(f"<!-- end: {name} -->", start)].rstrip("\n")


def main() -> None:
    """Write every part into its page."""
    for name, (page, make) in PARTS.items():
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        before, mark, rest = text.partition(f"<!-- made: {name} -->\n")
        end = f"<!-- end: {name} -->"
        path.write_text(f"{before}{mark}{make()}\n{rest[rest.index(end) :]}", encoding="utf-8")


if __name__ == "__main__":
    main()
