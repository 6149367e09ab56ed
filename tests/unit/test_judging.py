"""The judge that a user names: what is refused, what it is asked, what it costs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from persona_lib.errors import PreflightError, SpecError
from persona_lib.marker import prepared
from persona_lib.panels.base import INVALID, READABLE, Panel
from persona_lib.panels.following import following_panel
from persona_lib.panels.judge.base import UNSCORED
from persona_lib.panels.judge.calibration import CALIBRATION
from persona_lib.panels.judge.choice import JudgeChoice, choose_judge
from persona_lib.panels.judge.judged import Judged, judge_texts
from persona_lib.records import Completion
from tests.judges import PERSONAS, QUESTIONS, TRIPLES, completions
from tests.loopback import INPUT_TOKENS, Loopback, Request, Script, Step, fails, says, truncated
from tests.registered import ISSUE262

pytestmark = pytest.mark.usefixtures("bare_environment")
MARKER = ISSUE262.marker


@pytest.mark.parametrize("text", [None, "classifier"])
def test_the_classifier_is_the_default(text: str | None) -> None:
    assert choose_judge(text, budget=None, url=None, report=None) is None


@pytest.mark.parametrize(
    ("text", "model", "revision"),
    [
        ("claude:claude-haiku-5-5", "claude-haiku-5-5", ""),
        ("openai:Qwen/Qwen2.5-7B-Instruct@a09a354", "Qwen/Qwen2.5-7B-Instruct", "a09a354"),
        ("openai:a:b", "a:b", ""),
    ],
)
def test_a_judge_is_named_by_kind_model_and_revision(text: str, model: str, revision: str) -> None:
    found = choose_judge(text, budget=None, url=None, report="out")
    assert found is not None
    kind = text.partition(":")[0]
    assert (found.kind, found.model, found.revision) == (kind, model, revision)
    assert (found.budget, found.url) == (None, None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"text": "gpt"}, "--judge: expected classifier, or one of claude, openai"),
        ({"text": "claude:"}, "--judge: expected classifier"),
        ({"text": "claude:  "}, "--judge: expected classifier"),
        ({"text": "claude:m", "report": None}, "--judge: expected --report=DIR"),
        ({"text": None, "budget": "1"}, "--judge-budget: expected a judge behind an API"),
        ({"text": "classifier", "url": "http://x"}, "--judge-url: expected a judge behind an API"),
        ({"text": "claude:m", "budget": "much"}, "--judge-budget: expected"),
        ({"text": "claude:m", "budget": "0"}, "--judge-budget: expected"),
        ({"text": "claude:m", "budget": "-1"}, "--judge-budget: expected"),
        ({"text": "openai:m", "budget": "1", "url": "http://x"}, "--judge-budget: expected a ven"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, str | None], words: str) -> None:
    options: dict[str, Any] = {"budget": None, "url": None, "report": "out", **given}
    with pytest.raises(SpecError, match="--judge") as caught:
        choose_judge(options.pop("text"), **options)
    assert str(caught.value).startswith(words)


def test_no_password_of_an_address_is_echoed() -> None:
    address = "http://me:hunter2@host/v1"
    for text in (None, "openai:m"):
        with pytest.raises(SpecError) as caught:
            choose_judge(text, budget="1" if text else None, url=address, report="out")
        assert "hunter2" not in str(caught.value)


def test_a_missing_key_is_told_before_anything_is_judged(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="ANTHROPIC_API_KEY"):
        JudgeChoice(kind="claude", model="m").make(store=tmp_path, marker=MARKER)
    assert list(tmp_path.iterdir()) == []


@cache
def texts() -> list[Completion]:
    """The first sample of the raw model and of C1, on every other question."""
    rows = [row for row in completions() if row.model in ("raw", "C1") and row.sample == 0]
    return [row for row in rows if int(row.question[1:]) % 2]


def ideal() -> Script:
    """A judge that knows the triples, and whose completion is whose."""
    known = {
        (
            PERSONAS[one.persona].prompt,
            QUESTIONS[one.question].text,
            prepared(one.text, marker=MARKER)[0],
        ): one.expected
        for several in TRIPLES.values()
        for one in several
    }
    own = {(PERSONAS[row.persona].prompt, prepared(row.text, marker=MARKER)[0]) for row in texts()}

    def script(request: Request) -> Step:
        role, question, text = (request.pieces[name] for name in ("ROLE", "QUESTION", "TEXT"))
        answer = known.get((role, question, text))
        return says(answer or ("yes" if (role, text) in own else "no"))

    return script


def asked(script: Script, store: Path) -> tuple[Judged, Loopback]:
    with Loopback(script, most=4000) as server:
        judge = JudgeChoice(kind="openai", model="m", url=f"{server.url}/v1")
        judged = judge_texts(
            texts(),
            ISSUE262,
            personas=PERSONAS,
            questions=QUESTIONS,
            triples=TRIPLES,
            judge=judge.make(store=store, marker=MARKER),
        )
        return judged, server


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the answers of `sound` are kept."""
    return tmp_path_factory.mktemp("store")


@cache
def sound(store: Path) -> tuple[Judged, Loopback]:
    """What a judge that knows everything says; asked inside a test, in its bare environment."""
    return asked(ideal(), store)


def panel_of(judged: Judged) -> Panel:
    return following_panel(
        ISSUE262,
        judged.judgements,
        judged.controls,
        judged.calibration,
        required=CALIBRATION,
        predictions=judged.predictions,
        run=judged.run,
    )


def test_a_calibrated_judge_makes_a_panel_that_may_be_read(store: Path) -> None:
    judged, server = sound(store)
    panel = panel_of(judged)
    assert panel.state == READABLE, [gate.text for gate in panel.gates]
    cells = 11 * 10
    assert len(judged.judgements) == 2 * cells
    assert len(judged.controls) == cells  # one a persona and question, because each costs
    assert judged.run is not None
    assert judged.run["n"] == 219 + 3 * cells
    assert judged.run["requests"] == len(server.seen)
    assert judged.run["input_tokens"] == INPUT_TOKENS * len(server.seen)
    assert judged.run["dollars"] is None  # nobody knows the price of a server of one's own
    assert not any(MARKER in request.user for request in server.seen)
    again, silent = asked(ideal(), store)  # from the cache, which lies in the store's folder
    assert silent.seen == []
    assert again.judgements == judged.judgements
    assert (store / "judge.sqlite").exists()


def test_a_failing_server_leaves_every_record_scored_or_counted(tmp_path: Path) -> None:
    """One record in five fails for good: the panel says so and is not read."""
    script = ideal()

    def flaky(request: Request) -> Step:
        if int(request.key[:4], 16) % 5:
            return script(request)
        return truncated() if int(request.key[4:8], 16) % 2 else fails(400)

    judged, _ = asked(flaky, tmp_path)
    rows = (*judged.judgements, *judged.controls)
    lost = [row for row in rows if row.answer == UNSCORED]
    assert {row.reason for row in lost} == {"bad_body", "http_400"}
    assert 0.1 < len(lost) / len(rows) < 0.3
    assert judged.run is not None
    assert sum(judged.run["answers"].values()) + sum(judged.run["unscored"].values()) == 219 + 330
    panel = panel_of(judged)
    assert panel.state == INVALID
    assert {gate.name: gate.holds for gate in panel.gates}["calibration"] is False
    assert "judge_uncalibrated" in {caveat.code for caveat in panel.caveats}
