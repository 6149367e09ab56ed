"""Where a judge's key and texts go, what of a reply is read, and what of it is kept."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import socket
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from persona_lib.errors import PreflightError
from persona_lib.panels.judge import make
from persona_lib.panels.judge.base import Item
from persona_lib.panels.judge.cache import Bought, JudgementCache
from persona_lib.panels.judge.hidden import hides, name_of
from persona_lib.panels.judge.remote import RemoteJudge
from persona_lib.panels.judge.wire import MOST_BYTES, MOST_DEPTH, depth_of
from tests.judges import judge_at, numbered, rooted
from tests.loopback import (
    CHAT,
    KEYS,
    KINDS,
    MESSAGES,
    MODEL,
    PROXIES,
    Loopback,
    Script,
    Serve,
    Step,
    Tap,
    fails,
    number_of,
    reply_of,
    says,
)

pytestmark = pytest.mark.usefixtures("bare_environment")
PLANTED = "sk-Planted-0123456789-Never-Shown"
TEXT = "A text that nobody else may read."
YES = says("yes")

Judge = Callable[..., RemoteJudge]


@pytest.fixture
def keys(bare_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    for name in KEYS.values():
        monkeypatch.setenv(name, f" {PLANTED}\n")


@pytest.fixture
def tap() -> Iterator[Tap]:
    with Tap() as listening:
        yield listening


@pytest.fixture
def proxied(tap: Tap, monkeypatch: pytest.MonkeyPatch) -> Tap:
    """A proxy that every variable names."""
    for name in PROXIES[:3]:
        monkeypatch.setenv(name, f"http://127.0.0.1:{tap.port}")
        monkeypatch.setenv(name.upper(), f"http://127.0.0.1:{tap.port}")
    return tap


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    def of(kind: str, url: str, **more: Any) -> RemoteJudge:
        return judge_at(kind, url, tmp_path / "judge.sqlite", **more)

    return of


def item(i: int = 0) -> Item:
    return numbered(i, TEXT)


# ---- where requests go ------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "node7"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_without_tls_is_asked_without_a_proxy(
    kind: str, host: str, serve: Serve, judge: Judge, proxied: Tap, *,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A proxy for http:// reads what it passes on; another host than this gets no key."""
    if host != "node7":
        monkeypatch.setenv(KEYS[kind], PLANTED)
    server = serve(lambda _: YES)
    ask = socket.getaddrinfo
    here = {"node7": "127.0.0.1", b"node7": "127.0.0.1"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda h, *a, **k: ask(here.get(h, h), *a, **k))
    rows, _ = judge(kind, server.url.replace("127.0.0.1", host)).judge([item()])
    assert (rows[0].answer, len(server.seen)) == ("yes", 1)
    assert proxied.heard == b""


@pytest.mark.parametrize("url", ["http://[::1]:{}", "https://localhost:{}", "https://127.0.0.1:{}"])
@pytest.mark.usefixtures("keys")
def test_no_other_spelling_of_this_machine_goes_to_a_proxy(
    url: str, judge: Judge, proxied: Tap
) -> None:
    """Nobody speaks there: what counts is that nobody else is asked."""
    with Tap() as server:
        rows, _ = judge("openai", url.format(server.port), max_retries=0).judge([item()])
        assert rows[0].reason == "connection"
        assert PLANTED.encode() not in server.heard
    assert proxied.heard == b""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("keys")
def test_a_proxy_for_https_is_told_the_host_and_no_more(
    kind: str, judge: Judge, proxied: Tap
) -> None:
    rows, _ = judge(kind, "https://judge.invalid", max_retries=0).judge([item()])
    assert rows[0].reason == "connection"
    assert proxied.heard.startswith(b"CONNECT judge.invalid:443 HTTP/1.1\r\n")
    assert PLANTED.encode() not in proxied.heard
    assert TEXT.encode() not in proxied.heard
    assert b"uthorization" not in proxied.heard


@pytest.mark.parametrize("proxy", ["gopher://me:hidden@h:1", "http://me:hidden@h:notaport"])
@pytest.mark.usefixtures("keys")
def test_a_proxy_that_cannot_be_used_is_told_before_anything_is_sent(
    proxy: str, judge: Judge, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(PreflightError, match="a usable proxy: HTTPS_PROXY or ALL_PROXY") as caught:
        judge("openai", "https://judge.invalid")
    assert "hidden" not in str(caught.value)
    server = serve(lambda _: YES)
    assert judge("openai", server.url).judge([item()])[0][0].answer == "yes"


@pytest.fixture
def misled(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loopback:
    """Whom the SDKs' environment and a .netrc would send the key to, and theirs with it."""
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "other-secret")
    thief = serve(lambda _: YES)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password other-secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    more = "\n".join(f"{n}: other-secret" for n in ("Authorization", "X-Api-Key", "X-Gateway"))
    for name in ("ANTHROPIC", "OPENAI"):
        monkeypatch.setenv(f"{name}_BASE_URL", thief.url)
        monkeypatch.setenv(f"{name}_AUTH_TOKEN", "other-secret")
        monkeypatch.setenv(f"{name}_CUSTOM_HEADERS", more)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-mine")
    return thief


@pytest.mark.parametrize("vendor", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("keys")
def test_the_environment_of_the_sdks_moves_nothing_and_tells_openai_alone_whom_it_bills(
    kind: str, serve: Serve, judge: Judge, misled: Loopback, *, vendor: bool,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    """The vendor's own address, which a test may not ask, is this machine here."""
    server = serve(lambda _: YES)
    if vendor:
        here = replace(make._VENDORS[kind], url=rooted(kind, server.url))
        monkeypatch.setitem(make._VENDORS, kind, here)
        asked = make.make_judge(kind, "m", cache=tmp_path / "c", max_retries=0)
    else:
        asked = judge(kind, server.url)
    rows, _ = asked.judge([item()])
    assert (rows[0].answer, len(server.seen), misled.seen) == ("yes", 1, [])
    sent = server.seen[0].headers
    mine = {"openai-organization": "org-mine", "openai-project": "proj-mine"}
    billed = {name: value for name, value in sent.items() if name in mine}
    assert billed == (mine if vendor and kind == "openai" else {})
    assert "other-secret" not in str(sent)
    if not vendor:
        assert sent["authorization"] == f"Bearer {PLANTED}"
        assert not {"x-gateway", "x-api-key"} & set(sent)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("keys")
def test_no_redirect_is_followed(kind: str, status: int, serve: Serve, judge: Judge) -> None:
    with Tap() as other:
        to = {"location": f"http://127.0.0.1:{other.port}/v1/messages"}
        server = serve(lambda _: Step(status=status, headers=to, body=b"{}"))
        rows, _ = judge(kind, server.url).judge([item()])
        assert (rows[0].reason, other.heard) == (f"http_{status}", b"")


# ---- what of a reply is read ------------------------------------------------------------


def bomb(wbits: int, size: int = 16) -> bytes:
    """So many MiB of blanks, compressed to kilobytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    return b"".join(packer.compress(b" " * 2**20) for _ in range(size)) + packer.flush()


def coded(name: str, body: bytes) -> Script:
    return lambda _: Step(body=body, headers={"content-encoding": name})


def padded(kind: str, size: int, **more: Any) -> Step:
    """A good reply, and blanks up to so many bytes."""
    body = json.loads(reply_of(MESSAGES if kind == "claude" else CHAT, YES)) | more
    return Step(body=json.dumps(body).encode().ljust(size))


def nested(levels: int) -> Any:
    """Lists in lists."""
    return [nested(levels - 1)] if levels > 1 else []


@pytest.mark.parametrize("kind", KINDS)
def test_bodies_have_bounds(kind: str, serve: Serve, judge: Judge) -> None:
    small = gzip.compress(padded(kind, 0).body or b"")
    fates: list[tuple[str, Script, str]] = [
        ("a gzip bomb", coded("gzip", bomb(31)), "body_compressed"),
        ("a deflate bomb", coded("deflate", bomb(15)), "body_compressed"),
        ("brotli", coded("br", b"\x0b\x02\x80\x03"), "body_compressed"),
        ("zstandard", coded("zstd", b"\x28\xb5\x2f\xfd"), "body_compressed"),
        ("gzip in gzip", coded("gzip, gzip", gzip.compress(bomb(31))), "body_compressed"),
        ("a coding that nobody knows", coded("identity, zip", b"PK"), "body_compressed"),
        ("a good reply, compressed", coded("gzip", small), "body_compressed"),
        ("not compressed", lambda _: replace(YES, headers={"content-encoding": "identity"}), ""),
        ("at the bound", lambda _: padded(kind, MOST_BYTES), ""),
        ("over the bound", lambda _: padded(kind, MOST_BYTES + 1), "body_over_1_MiB"),
        ("without an end", lambda _: Step(body=b" " * 2**16, endless=True), "body_over_1_MiB"),
        ("at the depth", lambda _: padded(kind, 0, more=nested(MOST_DEPTH - 1)), ""),
        ("too deep", lambda _: padded(kind, 0, more=nested(MOST_DEPTH)), "json_over_64_deep"),
        ("far too deep", lambda _: Step(body=b"[" * 100_000 + b"]" * 100_000), "json_over_64_deep"),
        ("an error, compressed", lambda _: replace(fails(400), headers={"content-encoding": "gzip"},
                                                   body=bomb(31)), "http_400"),
        ("an error over the bound", lambda _: replace(fails(401), body=b" " * 2**21), "http_401"),
        ("an error over the bound, then a reply",
         lambda r: YES if r.nth else replace(fails(500), body=b" " * 2**21), ""),
    ]  # fmt: skip
    server = serve(lambda request: fates[number_of(request)][1](request))
    made = judge(kind, server.url, timeout=20.0)
    rows, report = made.judge([item(i) for i in range(len(fates))])
    for i, (name, _, reason) in enumerate(fates):
        assert (rows[i].answer, rows[i].reason) == ("unscored" if reason else "yes", reason), name
    # Nothing of this is asked again, as it may have been paid for; the last one was an error.
    assert report.requests == len(server.seen) == len(fates) + 1
    assert {request.headers["accept-encoding"] for request in server.seen} == {"identity"}


@pytest.mark.parametrize(
    ("body", "depth"),
    [
        (b"", 0), (b"1", 0), (b"{}", 1), (b'{"a": [1, [2]], "b": [3]}', 3),
        (rb'["[[[[", "\"[[", "\\", ["]"]]', 2), (b'["[[[[', 1), (b"[[[", 3), (b"]]][[", 0),
    ],
)  # fmt: skip
def test_depth_counts_brackets_outside_strings(body: bytes, depth: int) -> None:
    assert depth_of(body) == depth


# ---- what of a reply is kept ------------------------------------------------------------

PLAIN = base64.b64encode(PLANTED.encode()).decode()
WRITTEN = {
    "as it is": PLANTED,
    "inside a name": f"model-{PLANTED}-v2",
    "zero width": "\u200b".join(PLANTED),
    "soft hyphens": "\u00ad".join(PLANTED),
    "joiners": "\u200d".join(PLANTED),
    "struck out": "\u0336".join(PLANTED),
    "accents": PLANTED.replace("a", "\u00e1").replace("e", "e\u0301"),
    "direction": f"\u202e{PLANTED}\u202c",
    "blanks": " ".join(PLANTED),
    "lines": "\n".join(PLANTED),
    "dots": ".".join(PLANTED),
    "case": PLANTED.swapcase(),
    "full width": "".join(chr(ord(c) + 0xFEE0) for c in PLANTED),
    "backwards": PLANTED[::-1],
    "half": PLANTED[: len(PLANTED) // 2],
    "twelve": PLANTED[11:25],
    "hexadecimal": PLANTED.encode().hex(),
    "base64": PLAIN,
    "base64, urlsafe, no padding": base64.urlsafe_b64encode(PLANTED.encode()).decode().strip("="),
    "base64 behind one byte": base64.b64encode(b"x" + PLANTED.encode()).decode(),
    "base64 behind two bytes": base64.b64encode(b"xy" + PLANTED.encode()).decode(),
    "URL escapes": "".join(f"%{ord(c):02x}" for c in PLANTED),
    "URL escapes of the rest": PLANTED.replace("-", "%2D").replace("3", "%33"),
    "JSON escapes": "".join(f"\\u{ord(c):04x}" for c in PLANTED),
    "HTML escapes": "".join(f"&#{ord(c)};" for c in PLANTED),
}  # fmt: skip
"""Ways in which a server can write a key that somebody could read again."""

NAMES = (
    "claude-haiku-5-5-20260101", "gpt-4o-2024-08-06", "Qwen/Qwen2.5-7B-Instruct",
    "ft:gpt-4o-mini:org::9abc", "/models/my model (q4_k_m).gguf", "m",
)  # fmt: skip


@pytest.mark.parametrize("way", WRITTEN)
def test_a_key_is_found_however_it_is_written(way: str) -> None:
    assert hides(WRITTEN[way], PLANTED)
    assert hides(f"before {WRITTEN[way]} behind", PLANTED)
    assert name_of(WRITTEN[way], PLANTED) == ""


def test_other_text_is_not_taken_for_a_key() -> None:
    assert [name_of(name, PLANTED) for name in NAMES] == list(NAMES)
    assert not hides(TEXT + PLANTED[:11] + "." + PLANTED[-11:], PLANTED)
    assert not hides("none of it", "none")  # what a server without a key is sent
    assert name_of("x" * 101, PLANTED) == "x" * 100
    strange = ("", 7, None, "na\u00efve", "a\x1b[31mb", "<b>", "a\nb", "\u0430bc")
    assert [name_of(name, PLANTED) for name in strange] == [""] * len(strange)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("keys")
def test_no_name_brings_the_key_into_report_or_cache(
    kind: str, serve: Serve, judge: Judge, tmp_path: Path
) -> None:
    ways = list(WRITTEN.values())
    server = serve(
        lambda r: replace(YES, model=ways[number_of(r)]) if number_of(r) < len(ways) else YES
    )
    items = [item(i) for i in range(len(ways) + 1)]
    rows, report = judge(kind, server.url).judge(items)
    assert {row.answer for row in rows} == {"yes"}
    assert report.models == (MODEL,)
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert MODEL.encode() in stored
    assert not [way for way in ways if way.encode() in stored]


def test_a_name_from_an_older_cache_is_looked_at_again(
    serve: Serve, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda _: YES)
    keep = JudgementCache.put

    def as_before(cache: JudgementCache, bought: Bought) -> None:
        keep(cache, replace(bought, model="\u200b".join(PLANTED)))

    monkeypatch.setattr(JudgementCache, "put", as_before)
    judge("openai", server.url).judge([item()])
    _, report = judge("openai", server.url).judge([item()])
    assert (report.cached, report.models) == (1, ())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("keys")
def test_a_key_that_a_server_repeats_stands_nowhere(
    kind: str, serve: Serve, judge: Judge, tmp_path: Path, *, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Not in rows, report, cache, the judge itself, its output or the SDKs' logs."""
    caplog.set_level(logging.DEBUG)
    split = " ".join(PLANTED)
    steps = [
        Step(status=401, phrase=PLANTED, headers={"x-key": split}, body=b"{}"),
        replace(fails(400, message=split), headers={"request-id": PLANTED}),
        replace(YES, headers={"x-request-id": PLANTED.upper()}, model=f"m-{PLANTED}"),
        fails(401, message=f"bad key {PLANTED}"),
        Step(text=PLANTED),
        fails(500, message=PLANTED),
    ]
    server = serve(lambda request: steps[number_of(request)])
    asked = judge(kind, server.url)
    rows, report = asked.judge([item(i) for i in range(len(steps))])
    reasons = ["http_401", "http_400", "", "http_401", "no_json", "http_500"]
    assert [row.reason for row in rows] == reasons
    assert {r.headers["authorization"] for r in server.seen} == {f"Bearer {PLANTED}"}
    assert "a line that repeats the judge's key was left out" in caplog.text
    assert "HTTP Request: POST" in caplog.text  # other lines stay
    assert not hides(caplog.text, PLANTED)
    shown = "".join([str(rows), str(report), repr(asked), str(vars(asked)), *capfd.readouterr()])
    assert PLANTED not in shown
    assert PLANTED.encode() not in b"".join(p.read_bytes() for p in tmp_path.iterdir())
    logging.getLogger("httpx2").info("key %s", PLANTED)
    assert PLANTED in caplog.text  # the filter has gone with the run
