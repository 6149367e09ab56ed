"""An engine sends one prompt through a vendor's SDK and returns a reply, or one fixed word.

The SDK retries by itself. What a server writes into an error is never passed on: it may hold
a key, or anything else.
"""

from __future__ import annotations

import os
import string
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from persona_lib.errors import PreflightError
from persona_lib.panels.judge.hidden import KeyFilter
from persona_lib.panels.judge.rubric import Prompt
from persona_lib.panels.judge.wire import METER, Access, http_options

REFUSAL = "refusal"
"""The model, or a filter before it, declined to answer."""
CUT = "cut"
"""The answer reached the ceiling of tokens."""
BAD_BODY = "bad_body"
"""What came is no message."""

_MOST_TOKENS = 10**9


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a model replied.

    Attributes:
        text: its words; "" where there are none.
        stop: `REFUSAL`, `CUT`, or "" where it ended by itself.
        model: the model's name as the server gave it, made safe to show.
        tokens: input and output tokens that are paid for; None where not counted.
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


class Engine(ABC):
    """One way to reach a model: one of the two SDKs, which name clients and exceptions alike.

    Args:
        sdk: the SDK's module.
        client: its asynchronous client, a class.
        access: address, variable of the key, timeout, retries.
    """

    def __init__(self, sdk: Any, client: Any, access: Access) -> None:
        self._sdk = sdk
        self._key = key_from(access)
        self._client = client(
            api_key=self._key,
            base_url=access.base_url,
            timeout=access.timeout,
            max_retries=access.max_retries,
            http_client=sdk.DefaultAsyncHttpxClient(**http_options(access, self._key)),
        )
        self._filter = KeyFilter(self._key)

    @abstractmethod
    async def _exchange(self, prompt: Prompt) -> Reply:
        """Send a prompt and read what came; whatever it raises becomes a reason."""

    async def ask(self, prompt: Prompt) -> Reply:
        """Return the model's reply.

        Raises:
            Unanswered: the SDK gave up, or what came is no reply.
        """
        reason = ""
        try:
            reply = await self._exchange(prompt)
        except Exception as error:
            reason = reason_of(error, self._sdk)
        # A body that was too large, say, reached the SDK empty: it is no message.
        if reason in ("", BAD_BODY) and METER.get().fault:
            reason = METER.get().fault
        # Outside the handler: the SDK's exception, which holds the request, is not chained.
        if reason:
            raise Unanswered(reason)
        return reply

    async def close(self) -> None:
        """Close connections."""
        try:
            await self._client.close()
        finally:
            self._filter.close()


def reason_of(error: Exception, sdk: Any) -> str:
    """Return the fixed word for an exception of an SDK, whose classes both SDKs name alike."""
    if isinstance(error, sdk.APITimeoutError):
        return "timeout"
    if isinstance(error, sdk.APIStatusError):
        return f"http_{int(error.status_code)}"
    if isinstance(error, sdk.APIConnectionError):
        return "connection"
    return BAD_BODY


def tokens_of(read: Any, written: Any) -> tuple[int, int] | None:
    """Return a server's count of tokens, or None unless both are sensible."""
    counted = isinstance(read, int) and isinstance(written, int) and not isinstance(read, bool)
    if counted and min(read, written) >= 0 and max(read, written) < _MOST_TOKENS:
        return (read, written)
    return None


def require(package: str, extra: str) -> None:
    """Raise PreflightError where an SDK is not installed."""
    if find_spec(package) is None:
        raise PreflightError(
            f"the package {package}", remedy=f"Install it: pip install 'flatland[{extra}]'."
        )


def key_from(access: Access) -> str:
    """Return the API key of the environment. It is handed to the SDK and kept nowhere.

    A server of one's own may do without: it then gets the word ``none``.

    Raises:
        PreflightError: there is no key, or it holds characters that no key has. The
            message does not show it.
    """
    key = os.environ.get(access.variable, "").strip()
    if not key and access.own:
        return "none"
    if not key:
        raise PreflightError(
            f"an API key in the environment variable {access.variable}",
            remedy="Set it; a key is taken from nowhere else.",
        )
    if not set(key) <= set(string.ascii_letters + string.digits + string.punctuation):
        raise PreflightError(
            f"a usable API key in {access.variable}: it holds blanks or characters beyond ASCII",
            remedy="Set it to the key alone.",
        )
    return key
