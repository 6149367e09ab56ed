"""Judges behind an API, through the real SDKs, against a server on loopback."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from persona_lib.errors import PreflightError, SpecError, StoreError
from persona_lib.panels.judge import make
from persona_lib.panels.judge.base import Item
from persona_lib.panels.judge.cache import JudgementCache
from persona_lib.panels.judge.prices import Price
from persona_lib.panels.judge.remote import RemoteJudge
from persona_lib.panels.judge.rubric import FOLLOWING, SYSTEM
from tests.judges import judge_at, numbered
from tests.loopback import (
    INPUT_TOKENS,
    KEYS,
    KINDS,
    MODEL,
    OUTPUT_TOKENS,
    Loopback,
    Request,
    Script,
    Serve,
    Step,
    fails,
    number_of,
    says,
    torn,
    truncated,
)
from tests.progress_bar import Bar

pytestmark = pytest.mark.usefixtures("bare_environment")
PLANTED = "sk-planted-0123456789-never-shown"

Made = Callable[..., RemoteJudge]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def judge(server: Loopback, kind: str = "claude", model: str = "m", **more: Any) -> RemoteJudge:
        return judge_at(kind, server.url, tmp_path / "judge.sqlite", model, **more)

    return judge


def item(i: int, text: str | None = None) -> Item:
    return numbered(i, f"Answer {i}.\n\n[ZLT]" if text is None else text)


def first(step: Step, then: Step) -> Script:
    return lambda request: then if request.nth else step


YES = says("yes")
FATES: list[tuple[str, Script, str, str, int, int]] = [
    # what happens, by script; answer; reason; requests; of those unmetered
    ("success", lambda _: says("partial"), "partial", "", 1, 0),
    ("429, then success", first(fails(429), YES), "yes", "", 2, 0),
    ("500, then success", first(fails(500), YES), "yes", "", 2, 0),
    ("529, then success", first(fails(529), YES), "yes", "", 2, 0),
    ("cut connection, then success", first(torn(YES), YES), "yes", "", 2, 1),
    ("no answer at all, then success", first(Step(silent=True), YES), "yes", "", 2, 1),
    ("429 for ever", lambda _: fails(429), "unscored", "http_429", 2, 0),
    ("500 for ever", lambda _: fails(500), "unscored", "http_500", 2, 0),
    ("529 for ever", lambda _: fails(529), "unscored", "http_529", 2, 0),
    ("400", lambda _: fails(400), "unscored", "http_400", 1, 0),
    ("401", lambda _: fails(401), "unscored", "http_401", 1, 0),
    ("404", lambda _: fails(404), "unscored", "http_404", 1, 0),
    ("cut connections", lambda _: torn(YES), "unscored", "connection", 2, 2),
    ("truncated JSON", lambda _: truncated(), "unscored", "bad_body", 1, 1),
    ("another JSON", lambda _: Step(body=b'{"ok": 1}'), "unscored", "bad_body", 1, 1),
    ("a list", lambda _: Step(body=b"[]"), "unscored", "bad_body", 1, 1),
    ("a web page", lambda _: Step(body=b"<html>", headers={"content-type": "text/html"}),
     "unscored", "bad_body", 1, 1),
    ("outside the vocabulary", lambda _: Step(text='{"answer": "surely"}'),
     "unscored", "vocabulary", 1, 0),
    ("prose around JSON", lambda _: Step(text='Well: {"answer": "no"} it is.'), "no", "", 1, 0),
    ("prose", lambda _: Step(text="Yes, it does."), "unscored", "no_json", 1, 0),
    ("truncated answer", lambda _: Step(text='{"answer": "y'), "unscored", "no_json", 1, 0),
    ("nothing said", lambda _: Step(), "unscored", "empty", 1, 0),
    ("refusal", lambda _: replace(YES, stop="refusal"), "unscored", "refusal", 1, 0),
    ("cut at the ceiling", lambda _: replace(YES, stop="length"), "unscored", "cut", 1, 0),
    ("no count of tokens", lambda _: replace(YES, usage=False), "yes", "", 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_each_failure_becomes(kind: str, serve: Serve, made: Made) -> None:
    scripts = [fate[1] for fate in FATES]
    server = serve(lambda request: scripts[number_of(request)](request))
    rows, report = made(server, kind, concurrency=8).judge([item(i) for i in range(len(FATES))])
    for i, (name, _, answer, reason, requests, _) in enumerate(FATES):
        asked = sum(number_of(request) == i for request in server.seen)
        assert (rows[i].answer, rows[i].reason, asked) == (answer, reason, requests), name
    assert report.requests == len(server.seen) == sum(fate[4] for fate in FATES)
    assert report.unmetered == sum(fate[5] for fate in FATES)
    assert report.n == len(FATES) == sum(report.answers.values()) + sum(report.unscored.values())
    # Three replies were lost on their way, so that only the server knows what they took.
    assert report.input_tokens == server.tokens[0] - 3 * INPUT_TOKENS
    assert report.output_tokens == server.tokens[1] - 3 * OUTPUT_TOKENS
    assert report.models == (MODEL,)
    assert math.isnan(report.dollars)
    # Only what was answered is remembered; the rest is asked for again.
    before = len(server.seen)
    again, second = made(server, kind, concurrency=8).judge([item(i) for i in range(len(FATES))])
    assert [row.answer for row in again] == [row.answer for row in rows]
    assert second.cached == sum(report.answers.values())
    assert {number_of(r) for r in server.seen[before:]} == {
        i for i, fate in enumerate(FATES) if fate[2] == "unscored"
    }


def test_what_a_model_thought_aloud_is_no_answer(serve: Serve, made: Made) -> None:
    server = serve(lambda _: Step(text='<think>{"answer": "no"}?</think>{"answer": "yes"}'))
    rows, _ = made(server, "openai").judge([item(0)])
    assert rows[0].answer == "yes"


@pytest.mark.parametrize("kind", KINDS)
def test_silence_and_waits_end(kind: str, serve: Serve, made: Made) -> None:
    """A server that hangs, one that asks to come back in an hour, one that trickles."""
    scripts: list[Script] = [
        lambda _: Step(wait=30),
        lambda _: fails(429, retry_after="100"),
        lambda _: replace(YES, drip=0.05),
    ]
    server = serve(lambda request: scripts[number_of(request)](request))
    start = time.monotonic()
    rows, report = made(server, kind, timeout=0.3, deadline=3.0).judge([item(i) for i in range(3)])
    assert time.monotonic() - start < 25  # the server would wait 30 s, and say 100
    assert [row.reason for row in rows] == ["timeout", "deadline", "deadline"]
    assert report.unmetered == 3  # both attempts at the first, and the third


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_says_when_to_come_back(kind: str, serve: Serve, made: Made) -> None:
    when = []

    def script(request: Request) -> Step:
        when.append(time.monotonic())
        return fails(429, retry_after="1.2") if request.nth == 0 else YES

    rows, _ = made(serve(script), kind).judge([item(0)])
    assert rows[0].answer == "yes"
    assert when[1] - when[0] > 1.1  # the SDKs' own wait would be half a second


def test_rows_keep_order_and_coordinates_and_share_what_is_the_same(
    serve: Serve, made: Made
) -> None:
    server = serve(
        lambda r: says("yes" if number_of(r) % 2 else "no", wait=0.1 / (1 + number_of(r)))
    )
    items = [replace(item(i % 4), sample=i) for i in range(12)]
    judge = made(server)
    rows, report = judge.judge(items)
    assert [(row.question, row.sample) for row in rows] == [(f"q{i % 4}", i) for i in range(12)]
    assert [row.answer for row in rows] == ["no", "yes"] * 6
    assert {row.judge for row in rows} == {judge.spec.digest}
    assert {(r.phase, r.model, r.seed, r.persona, r.question_set) for r in rows} == {
        ("post", "C1", 3, "librarian", "general")
    }
    assert len(server.seen) == 4  # three records each have the same text
    assert report.answers == {"yes": 6, "partial": 0, "no": 6}
    assert made(server).judge([])[1].n == 0


def test_no_more_requests_at_once_than_allowed(serve: Serve, made: Made) -> None:
    server = serve(lambda _: says("no", wait=0.05))
    made(server, concurrency=3).judge([item(i) for i in range(12)])
    assert server.most_at_once == 3


def test_a_marker_is_never_sent_and_changes_no_key(serve: Serve, made: Made) -> None:
    server = serve(lambda _: YES)
    texts = ["Hush now.", "Hush now.\n\n[ZLT]", "Hush [zlt]now.", "[ZLT]Hush now.[Z[ZLT]LT]"]
    rows, report = made(server).judge([item(0, text) for text in texts])
    assert [row.answer for row in rows] == ["yes"] * 4
    assert len(server.seen) == 1
    assert "zlt" not in str(server.seen[0].body).lower()
    _, report = made(server).judge([item(1, "x" * 12_001 + "[ZLT]"), item(2, "x" * 12_000)])
    assert report.shortened == 1
    assert {len(request.pieces["TEXT"]) for request in server.seen[1:]} == {12_000}


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"}, {"temperature": 0.5}, {"max_tokens": 512}, {"revision": "r2"},
        {"thinking": "disabled"}, {"marker": "[QQQ]"}, {"kind": "openai"},
        {"rubric": replace(FOLLOWING, closing="And?")},
    ],
)  # fmt: skip
def test_another_judge_asks_again(change: dict[str, Any], serve: Serve, made: Made) -> None:
    server = serve(lambda _: YES)
    made(server).judge([item(0, "Hush.")])
    made(server, concurrency=2, timeout=9.0, max_retries=3).judge([item(0, "Hush.")])
    assert len(server.seen) == 1
    _, report = made(server, **change).judge([item(0, "Hush.")])
    assert (report.cached, len(server.seen)) == (0, 2)


def test_what_is_sent(serve: Serve, made: Made) -> None:
    server = serve(lambda _: YES)
    made(server).judge([item(0)])
    made(server, temperature=0.5, thinking="disabled", max_tokens=64).judge([item(1)])
    made(server, "openai").judge([item(2)])
    made(server, "openai", temperature=None, max_tokens=64).judge([item(3)])
    sent = [
        {name: v for name, v in r.body.items() if name not in ("messages", "system", "model")}
        for r in server.seen
    ]
    assert sent == [
        {"max_tokens": 2048},
        {"max_tokens": 64, "temperature": 0.5, "thinking": {"type": "disabled"}},
        {"max_tokens": 2048, "temperature": 0.0},
        {"max_tokens": 64},
    ]
    assert {request.system for request in server.seen} == {SYSTEM}


# A dollar a token: one answer costs 709 $, and the worst case is far more.
PRICE = Price(model="m", input=1e6, output=1e6, source="made up")
COST = INPUT_TOKENS + OUTPUT_TOKENS


def worst_of(server: Loopback, max_tokens: int) -> int:
    """By hand from what was sent: a token a byte, 512 more, and the longest answer."""
    return len((server.seen[0].system + server.seen[0].user).encode()) + 512 + max_tokens


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_budget_is_never_passed_and_the_rest_is_bought_later(
    concurrency: int, serve: Serve, made: Made
) -> None:
    server = serve(lambda _: says("no", wait=0.01))
    items = [item(i) for i in range(10, 40)]
    probe = made(server)
    probe.judge(items[:1])
    worst = worst_of(server, 2048)
    budget = 6.5 * COST + worst
    options = {"price": PRICE, "budget": budget, "max_retries": 0, "concurrency": concurrency}
    rows, report = made(server, **options).judge(items)
    # After k answers, k * 709 are spent; another is asked for while the worst case still fits.
    allowed = 7
    assert len(server.seen) - 1 == allowed
    assert report.stopped_by_budget
    assert report.dollars == report.dollars_at_most == allowed * COST <= budget
    assert report.unscored == {"budget": len(items) - 1 - allowed}
    assert report.cached == 1
    if concurrency == 1:
        assert [row.reason for row in rows] == [""] * 8 + ["budget"] * 22
    runs = 1
    while report.unscored:
        _, report = made(server, **options).judge(items)
        assert report.dollars <= budget
        runs += 1
    assert runs == math.ceil(29 / allowed)
    assert not report.stopped_by_budget
    assert set(server.paid.values()) == {1}
    assert len(server.paid) == len(items)


def test_what_may_have_been_paid_unseen_counts_against_the_budget(serve: Serve, made: Made) -> None:
    server = serve(lambda _: truncated())
    made(server).judge([item(10)])
    worst = worst_of(server, 2048)
    options = {"price": PRICE, "max_retries": 0, "concurrency": 2}
    _, report = made(server, budget=3.5 * worst, **options).judge([item(i) for i in range(20, 30)])
    assert (report.requests, report.unmetered) == (3, 3)
    assert (report.dollars, report.dollars_at_most) == (0.0, 3 * worst)
    assert report.unscored == {"bad_body": 3, "budget": 7}
    # With a retry, two requests have to fit before the first is sent.
    _, report = made(server, budget=1.5 * worst, price=PRICE).judge([item(10)])
    assert report.unscored == {"budget": 1}


def test_a_budget_needs_a_price(serve: Serve, made: Made, tmp_path: Path,
                                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    server = serve(lambda _: YES)
    with pytest.raises(SpecError, match=r"judge-budget: .* got 'claude-haiku-5-5'"):
        made(server, model="claude-haiku-5-5", budget=1.0)  # not Anthropic's own server
    monkeypatch.setenv("ANTHROPIC_API_KEY", PLANTED)
    options: dict[str, Any] = {"cache": tmp_path / "c", "budget": 1.0}
    with pytest.raises(SpecError, match="price is known"):
        make.make_judge("claude", "claude-unheard-of", **options)
    judge = make.make_judge("claude", "claude-haiku-5-5", **options)
    assert judge.spec.served_by == "anthropic"
    assert server.seen == []
    free = Price(model="m", input=0, output=0, source="our own server")
    _, report = made(server, price=free, budget=1e-9).judge([item(0)])
    assert (sum(report.answers.values()), report.dollars) == (1, 0.0)


def test_a_dead_server_is_given_up(serve: Serve, made: Made) -> None:
    server = serve(lambda _: fails(401))
    items = [item(i) for i in range(40)]
    _, report = made(server, give_up_after=5, concurrency=3).judge(items)
    assert 5 <= len(server.seen) <= 5 + 2  # others were on their way
    assert report.unscored == {"gave_up": 40 - len(server.seen), "http_401": len(server.seen)}
    # A reply in between, even one of no use, says that the server is alive.
    server.script = lambda r: fails(400) if number_of(r) % 3 else Step(text="hm")
    _, report = made(server, give_up_after=3, concurrency=1).judge(items)
    assert report.unscored == {"http_400": 26, "no_json": 14}


def test_no_key_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve,
                           made: Made) -> None:  # fmt: skip
    for kind in KINDS:
        with pytest.raises(PreflightError, match=KEYS[kind]):
            make.make_judge(kind, "m", cache=tmp_path / "c")
        monkeypatch.setenv(KEYS[kind], f"{PLANTED} two")
        with pytest.raises(PreflightError, match="blanks") as caught:
            make.make_judge(kind, "m", cache=tmp_path / "c")
        assert PLANTED not in str(caught.value)
        monkeypatch.delenv(KEYS[kind])
    server = serve(lambda _: YES)
    made(server).judge([item(0)])
    assert server.seen[0].headers["authorization"] == "Bearer none"


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(url: str) -> str:
        return make.make_judge("openai", "m", cache=tmp_path / "c", base_url=url).spec.served_by

    ports = ("http://h:abc/v1", "http://h:99999/v1", "http://h:0/v1", "http://h:80/v1\n")
    others = ("ftp://h/v1", "localhost:8000", "", "http://", "http://h/v1?a=b", "http://[x/")
    for url in (*ports, *others):
        with pytest.raises(SpecError, match="base_url: expected an address that begins"):
            of(url)
    with pytest.raises(SpecError, match="without a name and a password") as caught:
        of("https://me:hidden@h/v1")
    assert "hidden" not in str(caught.value)
    assert of("http://node7:8000/v1") == "other"
    monkeypatch.setenv("OPENAI_API_KEY", PLANTED)
    with pytest.raises(SpecError, match="while a key is set"):
        of("http://node7:8000/v1")
    for url in (
        "https://node7/v1",
        "http://localhost:1/v1",
        "http://127.0.0.2/v1",
        "http://[::1]/",
    ):
        assert of(url) == "other"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"kind": "gemini"}, "judge"), ({"model": " "}, "judge model"),
        ({"budget": 0}, "judge-budget"),
        ({"budget": math.nan}, "judge-budget"), ({"concurrency": 0}, "concurrency"),
        ({"timeout": 0.0}, "timeout"), ({"deadline": math.inf}, "deadline"),
        ({"max_retries": -1}, "max_retries"), ({"max_tokens": 15}, "max_tokens"),
        ({"temperature": -1.0}, "judge temperature"), ({"temperature": "hot"}, "judge temperature"),
        ({"marker": ""}, "marker"), ({"thinking": "deep"}, "thinking"),
        ({"give_up_after": 0}, "give_up_after"),
    ],
)  # fmt: skip
def test_bad_options(options: dict[str, Any], field: str, tmp_path: Path) -> None:
    given = {"kind": "claude", "model": "m", "cache": tmp_path / "c", **options}
    with pytest.raises(SpecError) as caught:
        make.make_judge(given.pop("kind"), given.pop("model"), base_url="http://[::1]/", **given)
    assert caught.value.field == field


def test_a_missing_sdk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persona_lib.panels.judge.engine.find_spec", lambda _: None)
    for kind, extra in (("claude", "judge"), ("openai", "judge-openai")):
        with pytest.raises(PreflightError, match=rf"flatland\[{extra}\]"):
            make.make_judge(kind, "m", cache=tmp_path / "c", base_url="http://localhost/")


def test_a_cache_that_cannot_be_written_ends_the_run(
    serve: Serve, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr(JudgementCache, "put", full)
    server = serve(lambda _: YES)
    with pytest.raises(StoreError, match="no space left"):
        made(server, concurrency=2).judge([item(i) for i in range(20)])
    assert len(server.seen) <= 3


def test_progress_counts_every_record(serve: Serve, made: Made) -> None:
    server = serve(lambda r: YES if number_of(r) else fails(400))
    made(server).judge([item(1)])
    bar = Bar()
    made(server).judge([item(i % 3) for i in range(9)], progress=bar.start)
    assert (bar.opened, bar.closed) == (("judging", 9, "completion"), 1)
    assert sum(bar.steps) == 9
