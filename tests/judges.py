"""What tests of judges ask about: this repository's personas, questions, triples, completions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from persona_lib.panels.judge.base import Item, item_of
from persona_lib.panels.judge.make import make_judge
from persona_lib.panels.judge.remote import RemoteJudge
from persona_lib.panels.judge.triples import load_triples
from persona_lib.records import Completion, read_rows
from persona_lib.specs.builtin import DATA
from persona_lib.specs.personas import load_personas, load_questions
from tests.registered import ISSUE262, ROOT

PERSONAS = {p.id: p for p in load_personas(DATA / "personas.json")}
QUESTIONS = {q.id: q for qs in load_questions(DATA / "questions.json").values() for q in qs}
PROMPTS = {name: PERSONAS[name].prompt for name in ISSUE262.roster.all}
TRIPLES = load_triples(DATA / "judge", PERSONAS, QUESTIONS)


@cache
def completions() -> tuple[Completion, ...]:
    """Two samples of every cell of every model of golden/tiny."""
    rows = read_rows(ROOT / "golden" / "tiny" / "completions.parquet", Completion)
    return tuple(row for row in rows if row.sample < 2)


def items(rows: Sequence[Completion]) -> list[Item]:
    """Return these completions as a judge is asked about them."""
    return [item_of(r, persona=PERSONAS[r.persona], question=QUESTIONS[r.question]) for r in rows]


def judge_at(kind: str, url: str, cache: Path, model: str = "m", **more: Any) -> RemoteJudge:
    """Return a judge behind a server of one's own, soon out of patience."""
    options = {"timeout": 5.0, "max_retries": 1, **more}
    return make_judge(kind, model, cache=cache, base_url=rooted(kind, url), **options)


def rooted(kind: str, url: str) -> str:
    """Return where a server's API begins."""
    return url + ("/v1" if kind == "openai" else "")


def numbered(i: int, text: str) -> Item:
    """Return an item whose question is its number."""
    return Item(
        phase="post", model="C1", seed=3, persona="librarian", question=f"q{i}",
        question_set="general", sample=0, persona_prompt="You are a librarian.",
        question_text=f"{i}", text=text,
    )  # fmt: skip
