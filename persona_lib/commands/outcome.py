"""The outcome of a session: the verdict table, verdict.json and the report.

Both are made from JSON data alone, because under pytest-xdist the process that
writes them has judged nothing itself.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.digests import digest
from persona_lib.errors import clean
from persona_lib.report.lines import wrapped
from persona_lib.report.terminal import verdict_table
from persona_lib.store.provenance import provenance
from persona_lib.verdict.verdict import Family, Verdict, families

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from persona_lib.commands.session import Session

FORMAT = 2
"""Version of verdict.json."""
_COSTS = ("tokens", "peak_of", "engine_starts", "batch_rows")


def table_text(session: Session, recorded: Mapping[str, Any]) -> str:
    """Return the verdict table of what the tests recorded."""
    verdicts, gates, summary = _ordered(recorded)
    table = verdict_table(verdicts, gates, summary, families=_families(session, verdicts))
    return "\n".join([table, *wrapped(_study_line(session))])


def _study_line(session: Session) -> str:
    """Return the digest of what the data were made from, where it is known."""
    sealed = session.seal.study
    if session.stored:
        return f"study {sealed[:12]} (sealed)" if sealed else "study: not sealed"
    return f"study {digest(session.study)[:12]} ({'sealed' if sealed else 'not sealed'})"


def write_outcome(
    folder: Path,
    session: Session,
    recorded: Mapping[str, Any],
    *,
    panels: bool = False,
    left_out: Mapping[str, str] | None = None,
) -> Path:
    """Write verdict.json into `folder`, atomically, and return its path.

    Args:
        folder: made where it does not exist.
        session: what was judged.
        recorded: what the tests recorded.
        panels: make the panels too.
        left_out: why a registered claim or gate was not judged, by name.
    """
    verdicts, gates, summary = _ordered(recorded)
    arms = [arm["name"] for arm in summary["arms"]]
    live = not session.stored
    if not session.arms:
        # Under pytest-xdist the process that writes has collected no test: what panels
        # need is asked of the arms that were judged, and of no others.
        session.arms = tuple(arms)
    shown = {}
    if panels:
        from persona_lib.commands.panels import panels_of  # only a report needs it

        shown = panels_of(session, arms)
    body = {
        "format": FORMAT,
        "registration": session.registration.name,
        "registration_digest": session.registration.digest,
        "study_digest": session.seal.study if session.stored else digest(session.study),
        "seal": asdict(session.seal),
        "profile": session.profile.name if live else None,
        "scale": session.scale if live else None,
        "loss": session.profile.coupling.loss if live else None,
        "engine": session.profile.sample.engine if live else None,
        "verdicts": verdicts,
        "gates": gates,
        "left_out": dict(left_out or {}),
        "families": [family.to_json() for family in _families(session, verdicts)],
        "summary": summary,
        "panels": shown,
        "stages": stages_of(session, arms) if live else [],
        "provenance": provenance(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "verdict.json"
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n")
    draft.replace(path)
    return path


def write_documents(
    folder: Path,
    session: Session,
    recorded: Mapping[str, Any],
    *,
    left_out: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write verdict.json with its panels, and the report of it; return what to open.

    The report is made from the file as it was written, never from memory: whoever has
    the file can make the same report again.

    Raises:
        DataError: as `persona_lib.report.document.write_report` raises it.
    """
    from persona_lib.report.document import HTML, MARKDOWN, write_report

    path = write_outcome(folder, session, recorded, panels=True, left_out=left_out)
    write_report(folder, json.loads(path.read_text(encoding="utf-8")))
    return [path, folder / MARKDOWN, folder / HTML]


def new_run_folder(runs: Path) -> Path:
    """Make the folder of one command, ``2026-11-30-1a2b3c4d``; ``latest`` then names it."""
    folder = runs / f"{datetime.now(UTC):%Y-%m-%d}-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    link = runs / f".{folder.name}"
    link.symlink_to(folder.name)
    link.replace(runs / "latest")
    return folder


def write_command(folder: Path, arguments: Iterable[object], text: str) -> None:
    """Write what was called, and the table that it printed."""
    command = shlex.join(["pytest", *map(str, arguments)])
    (folder / "command.txt").write_text(f"{clean(command)}\n", encoding="utf-8")
    (folder / "log.txt").write_text(f"{text}\n", encoding="utf-8")


def left_out_lines(left_out: Mapping[str, str]) -> list[str]:
    """Return a line for each reason why registered claims and gates have no verdict here."""
    reasons = dict.fromkeys(left_out.values())
    return [
        line
        for why in reasons
        for line in wrapped(f"{why}: {', '.join(n for n, w in left_out.items() if w == why)}")
    ]


def _families(session: Session, verdicts: Iterable[Mapping[str, Any]]) -> tuple[Family, ...]:
    return families(session.registration, [Verdict.from_json(body) for body in verdicts])


def _ordered(
    recorded: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Return verdicts and gates by name, and one summary of every arm that was seen."""
    verdicts = [recorded["verdicts"][name] for name in sorted(recorded["verdicts"])]
    gates = sorted(recorded["gates"].values(), key=lambda gate: gate["order"])
    return verdicts, gates, merge_summaries(recorded["summaries"])


def merge_summaries(summaries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one summary that covers the arms, priors and checks of all.

    Tests are judged on the arms that they need; what two summaries share is equal.
    """
    ordered = sorted(summaries, key=lambda item: len(item["arms"]), reverse=True)
    merged: dict[str, Any] = dict(ordered[0])
    for field in ("arms", "priors", "checks"):
        rows = {row["name"]: row for summary in ordered[::-1] for row in summary[field]}
        merged[field] = sorted(rows.values(), key=lambda row: row["order"])
    sentences = [sentence for summary in ordered for sentence in summary.get("unavailable", ())]
    merged["unavailable"] = list(dict.fromkeys(sentences))
    return merged


def stages_of(session: Session, arms: Sequence[str]) -> list[dict[str, Any]]:
    """Return the stages that these arms rest on, with what each has cost.

    Seconds, and as in `persona_lib.store.cost.Cost` tokens, peak memory (here in MiB), engine
    starts and rows of a batch that memory cut short; and SHA-256 of the stage's key, and of
    what it made. What was not recorded is None.
    """
    from persona_lib.store.stage import plan

    def mib(count: int | None) -> float | None:
        return None if count is None else round(count / 2**20, 1)

    return [
        {
            "seed": run.run_seed,
            "stage": line.stage.name,
            "label": line.stage.label,
            "stored": line.stored,
            "seconds": round(line.seconds, 3) if line.stored else None,
            "peak_mib": mib(line.cost.get("peak_bytes")),
            **{name: line.cost.get(name) for name in _COSTS},
            "key": None if line.entry is None else line.entry.key.digest,
            "content": None if line.entry is None else line.entry.content,
        }
        for run in session.runs
        for line in plan(run.targets(arms), session.store)
    ]
