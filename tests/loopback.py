"""A scripted server on loopback that speaks as much of two APIs as their real SDKs need.

It answers Anthropic's Messages API and OpenAI's chat completions on 127.0.0.1 for a bounded
number of requests and a bounded time, and counts what it was asked and what it answered.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

MESSAGES = "/v1/messages"
CHAT = "/v1/chat/completions"
PATHS = {MESSAGES, CHAT}
KINDS = ("claude", "openai")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
KEYS = {"claude": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}

INPUT_TOKENS = 700
OUTPUT_TOKENS = 9
MODEL = "loopback-1"
"""What every reply is counted as, and who is said to have answered."""

_NONCE = re.compile(r"The code of the fences is ([0-9a-f]+)\.")
_JSON = {"content-type": "application/json"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it came.

    Attributes:
        path: path of the address.
        key: nonce of the fences, the same for every attempt at one record.
        nth: attempts at this record before this one.
        pieces: what stands between the fences, by name.
        system, user: the two messages.
        headers: with names in lower case.
        body: the JSON body.
    """

    path: str
    key: str
    nth: int
    pieces: Mapping[str, str]
    system: str
    user: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What becomes of one request.

    Attributes:
        text: what the model says.
        model: name under which it answers.
        stop: None, ``refusal`` or ``length``.
        status: HTTP status; other than 200, the body is an error.
        phrase: words beside the status, None for the usual ones.
        headers: further headers.
        wait: seconds before anything is sent.
        silent: nothing is sent at all, and the connection is closed.
        body: sent in place of the body that would be right.
        promised: bytes that content-length promises beyond what is sent.
        drip: seconds between single bytes of the body.
        endless: the body is sent again and again until the client has gone.
        usage: whether tokens are counted in the reply.
        paid: whether this is an answer that its asker can use.
    """

    text: str = ""
    model: str = MODEL
    stop: str | None = None
    status: int = 200
    phrase: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: float = 0.0
    silent: bool = False
    body: bytes | None = None
    promised: int = 0
    drip: float = 0.0
    endless: bool = False
    usage: bool = True
    paid: bool = False


Script = Callable[[Request], Step]


def says(word: str, **more: Any) -> Step:
    """Answer inside the vocabulary."""
    return Step(text=json.dumps({"answer": word}), paid=True, **more)


def fails(status: int, *, retry_after: str = "0.01", message: str = "no") -> Step:
    """Refuse with an HTTP status."""
    body = json.dumps({"type": "error", "error": {"type": "api_error", "message": message}})
    headers = {"retry-after": retry_after}
    return Step(status=status, headers=headers, body=body.encode())


def truncated() -> Step:
    """Send a body whose JSON stops in the middle, with a length that says it is whole."""
    return Step(body=b'{"id": "x", "type": "message", "content": [{"type": "te')


def torn(step: Step) -> Step:
    """Promise more bytes than come."""
    return Step(text=step.text, promised=100)


class Loopback(AbstractContextManager):
    """The server; use it as a context manager.

    Args:
        script: says what becomes of each request.
        most: requests that are served; later ones get status 503.
        seconds: after which the server stops by itself.

    Attributes:
        seen: every request, in order.
        asked: requests by record.
        paid: usable answers by record, counted when the answer is made: a client that
            dies before it reads one has paid for it.
        tokens: input and output tokens of every reply with a count.
    """

    def __init__(self, script: Script, *, most: int = 2000, seconds: float = 900.0) -> None:
        self.script = script
        self.most = most
        self.seen: list[Request] = []
        self.asked: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.tokens = [0, 0]
        self.at_once = 0
        self.most_at_once = 0
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        handler = type("Bound", (_Handler,), {"loopback": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._timer = threading.Timer(seconds, self._stop)
        self._timer.daemon = True

    @property
    def url(self) -> str:
        """Root of the server, as Anthropic's SDK wants it; OpenAI's wants ``/v1`` added."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._stop()
        self._thread.join(timeout=5)

    def _stop(self) -> None:
        self.stopped.set()
        self._server.shutdown()
        # Or the system would go on taking connections that nobody answers.
        self._server.server_close()


class Tap(AbstractContextManager):
    """A port of 127.0.0.1 that keeps every byte it is sent, and answers 502; a context manager.

    Attributes:
        heard: what came, over all connections.
    """

    def __init__(self) -> None:
        self.heard = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._listen, daemon=True)

    @property
    def port(self) -> int:
        """Number of the port."""
        return int(self._socket.getsockname()[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(timeout=5)

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(5)
                self.heard += connection.recv(2**16)
                connection.sendall(b"HTTP/1.1 502 No\r\ncontent-length: 0\r\n\r\n")


Serve = Callable[[Script], Loopback]
"""Type of the fixture ``serve``."""


def number_of(request: Request) -> int:
    """Return the number that a test put in place of the question."""
    return int(request.pieces["QUESTION"])


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up; anything else is a fault of this file."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    loopback: Loopback
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.loopback
        with server.lock:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            self._send(self._request(body))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with server.lock:
                server.at_once -= 1

    def _request(self, body: dict[str, Any]) -> Request:
        system, user = _messages(body)
        found = _NONCE.search(user)
        key = found[1] if found else ""
        pieces = {
            name: user.partition(f"BEGIN {name} {key}\n")[2].partition(f"\nEND {name} {key}")[0]
            for name in ("ROLE", "QUESTION", "TEXT")
        }
        with self.loopback.lock:
            request = Request(
                path=self.path,
                key=key,
                nth=self.loopback.asked[key],
                pieces=pieces,
                system=system,
                user=user,
                headers={name.lower(): value for name, value in self.headers.items()},
                body=body,
            )
            self.loopback.asked[key] += 1
            self.loopback.seen.append(request)
        return request

    def _send(self, request: Request) -> None:
        server = self.loopback
        over = len(server.seen) > server.most or request.path not in PATHS
        step = fails(503) if over else server.script(request)
        server.stopped.wait(step.wait)
        if step.silent or server.stopped.is_set():
            self.close_connection = True
            return
        with server.lock:
            server.paid[request.key] += step.paid
            if step.status == 200 and step.body is None and step.usage:
                server.tokens[0] += INPUT_TOKENS
                server.tokens[1] += OUTPUT_TOKENS
        body = step.body if step.body is not None else reply_of(request.path, step)
        self.send_response(step.status, step.phrase)
        length = {} if step.endless else {"content-length": str(len(body) + step.promised)}
        for name, value in {**_JSON, **length, **step.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        for start in range(0, len(body), 1) if step.drip else ():
            self.wfile.write(body[start : start + 1])
            if server.stopped.wait(step.drip):
                return
        while step.endless and not server.stopped.is_set():
            self.wfile.write(body)
        if not step.drip:
            self.wfile.write(body)
        self.close_connection = self.close_connection or bool(step.promised)


def _messages(body: dict[str, Any]) -> tuple[str, str]:
    """Return the system message and the user message of either API."""
    sentence = {message["role"]: message["content"] for message in body["messages"]}
    return sentence.get("system", body.get("system", "")), sentence["user"]


def reply_of(path: str, step: Step) -> bytes:
    """Return the body of a reply as the API at this path writes it."""
    usage: dict[str, int] | None
    if path == MESSAGES:
        usage = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
        stops = {None: "end_turn", "refusal": "refusal", "length": "max_tokens"}
        thought = {"type": "thinking", "thinking": '{"answer": "no"}', "signature": "x"}
        content = [thought] + ([{"type": "text", "text": step.text}] if step.text else [])
        body: dict[str, Any] = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": step.model,
            "content": content,
            "stop_reason": stops[step.stop],
            "stop_sequence": None,
        }
    else:
        usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS}
        usage["total_tokens"] = INPUT_TOKENS + OUTPUT_TOKENS
        refusal = "I would rather not." if step.stop == "refusal" else None
        message = {"role": "assistant", "content": step.text or None, "refusal": refusal}
        stop = "length" if step.stop == "length" else "stop"
        body = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": step.model,
            "choices": [{"index": 0, "message": message, "finish_reason": stop}],
        }
    if step.usage:
        body["usage"] = usage
    return json.dumps(body).encode()
