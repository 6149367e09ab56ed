"""What the ways to reach a model behind an API have in common.

An engine sends one prompt through a vendor's SDK, which retries by itself, and
returns a reply or says in one fixed word why there is none. What a server writes
into an error is never passed on: it may hold a key, or anything else.
"""

from __future__ import annotations

import ipaddress
import os
import string
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol
from urllib.parse import urlsplit

from persona_lib.errors import PreflightError, SpecError
from persona_lib.judge.base import JudgeSpec
from persona_lib.judge.rubric import Prompt
from persona_lib.plain import clean

REFUSAL = "refusal"
"""The model, or a filter before it, declined to answer."""
CUT = "cut"
"""The answer reached the ceiling of tokens."""

_OK = range(200, 300)
_MOST_TOKENS = 10**9
_NAME_CHARACTERS = 100
_LEAST_SECRET = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a model replied.

    Attributes:
        text: its words; "" where there are none.
        stop: `REFUSAL`, `CUT`, or "" where it ended by itself.
        model: the model's name as the server gave it, made safe to show.
        tokens: input and output tokens that are paid for; None where nobody told.
    """

    text: str
    stop: str
    model: str
    tokens: tuple[int, int] | None


class Unanswered(Exception):  # noqa: N818  (an outcome that a record can have)
    """A prompt has no reply; `reason` is a fixed word, and nothing else is kept."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Engine(Protocol):
    """One way to reach a model."""

    async def ask(self, prompt: Prompt) -> Reply:
        """Return the model's reply, or raise `Unanswered`."""

    async def close(self) -> None:
        """Close connections."""


class SdkEngine(ABC):
    """An engine on one of the two SDKs, which name their exceptions alike.

    Args:
        sdk: the SDK's module.
        client: its asynchronous client.
    """

    def __init__(self, sdk: Any, client: Any) -> None:
        self._sdk = sdk
        self._client = client

    @abstractmethod
    async def _exchange(self, prompt: Prompt) -> Reply:
        """Send a prompt and read what came; whatever it raises becomes a reason."""

    async def ask(self, prompt: Prompt) -> Reply:
        """Return the model's reply.

        Raises:
            Unanswered: the SDK gave up, or what came is no reply.
        """
        try:
            return await self._exchange(prompt)
        except Exception as error:
            reason = reason_of(error, self._sdk)
        # Outside the handler: the SDK's exception, which holds the request, is not chained.
        raise Unanswered(reason)

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()


@dataclass(frozen=True, kw_only=True)
class Access:
    """How a server is reached; nothing of it changes an answer, and none of it is a key.

    Attributes:
        base_url: root of the server's API.
        own: whether it is a server of one's own, which may need no key.
        timeout: seconds that the server may stay silent.
        max_retries: how often the SDK sends a request again after 408, 409, 429, 5xx,
            a lost connection or silence.
    """

    base_url: str
    own: bool
    timeout: float
    max_retries: int


MakeEngine = Callable[[JudgeSpec, Access], Engine]


@dataclass(slots=True)
class Meter:
    """HTTP requests that were sent for one record.

    Attributes:
        sent: all of them, retries included.
        refused: those that came back with a status other than 2xx; nobody charges those.
    """

    sent: int = 0
    refused: int = 0


METER: ContextVar[Meter] = ContextVar("meter")
"""The meter of the record that the running task works on."""


async def _count_request(_: object) -> None:
    METER.get().sent += 1


async def _count_response(response: Any) -> None:
    METER.get().refused += response.status_code not in _OK


def http_options() -> dict[str, Any]:
    """Return the options of an HTTP client that counts, and that follows no redirect.

    A redirect would carry the key and the texts to wherever the server points.
    """
    hooks = {"request": [_count_request], "response": [_count_response]}
    return {"event_hooks": hooks, "follow_redirects": False}


def reason_of(error: Exception, sdk: Any) -> str:
    """Return the fixed word for an exception of an SDK, whose classes both SDKs name alike."""
    if isinstance(error, sdk.APITimeoutError):
        return "timeout"
    if isinstance(error, sdk.APIStatusError):
        return f"http_{int(error.status_code)}"
    if isinstance(error, sdk.APIConnectionError):
        return "connection"
    return "bad_body"


def tokens_of(read: object, written: object) -> tuple[int, int] | None:
    """Return a server's count of tokens, or None unless both are sensible."""
    if isinstance(read, int) and isinstance(written, int) and not isinstance(read, bool):
        return (
            (read, written)
            if 0 <= min(read, written) <= max(read, written) < _MOST_TOKENS
            else None
        )
    return None


def name_of(model: object, secret: str) -> str:
    """Return a server's name for its model, short and safe to show; "" if it repeats the key."""
    if not isinstance(model, str) or (len(secret) >= _LEAST_SECRET and secret in model):
        return ""
    return clean(model)[:_NAME_CHARACTERS]


def require(package: str, extra: str) -> None:
    """Raise PreflightError where an SDK is not installed."""
    if find_spec(package) is None:
        raise PreflightError(
            f"the package {package}", remedy=f"Install it: pip install 'flatland[{extra}]'."
        )


def key_from(variable: str, access: Access) -> str:
    """Return the API key of the environment. It is handed to the SDK and kept nowhere.

    A server of one's own may do without: it then gets the word ``none``.

    Raises:
        PreflightError: there is no key, or it holds characters that no key has. The
            message does not show it.
    """
    key = os.environ.get(variable, "").strip()
    if not key and access.own:
        return "none"
    if not key:
        raise PreflightError(
            f"an API key in the environment variable {variable}",
            remedy="Set it; a key is taken from nowhere else.",
        )
    if not set(key) <= set(string.ascii_letters + string.digits + string.punctuation):
        raise PreflightError(
            f"a usable API key in {variable}: it holds blanks or characters beyond ASCII",
            remedy="Set it to the key alone.",
        )
    return key


def check_url(base_url: str, variable: str) -> None:
    """Check the address of a server of one's own.

    Raises:
        SpecError: it is no HTTP address, holds a password, or would carry the key
            across a network unencrypted.
    """
    try:
        parts = urlsplit(base_url)
        host, secret = parts.hostname or "", parts.username or parts.password
        usable = parts.scheme in ("http", "https") and host and not parts.query
    except ValueError:
        host, secret, usable = "", None, False
    if secret is not None:
        raise SpecError(
            "base_url",
            bound="an address without a name and a password",
            value="one that has them",
            remedy=f"Give the key in the environment variable {variable}.",
        )
    if not usable:
        raise SpecError(
            "base_url",
            bound="an address that begins with http:// or https://",
            value=base_url,
            remedy="Give the root of the API, such as http://localhost:8000/v1.",
        )
    if parts.scheme == "http" and not _loopback(host) and os.environ.get(variable, "").strip():
        raise SpecError(
            "base_url",
            bound="https, or this machine, while a key is set",
            value=base_url,
            remedy=f"Use https, or unset {variable} if the server asks for no key.",
        )


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
