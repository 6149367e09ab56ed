"""What goes over the wire: to which address, which headers, how large a reply may be.

The key and the texts go to the judge's address and nowhere else. Requests to this machine,
and to any ``http://`` address, use no proxy; for ``https://`` a proxy of the environment is a
tunnel that sees the host alone.
"""

from __future__ import annotations

import ipaddress
import os
import re
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from persona_lib.errors import PreflightError, SpecError

MOST_BYTES = 2**20
"""Bytes of a reply's body that are read; 100,000 tokens of English are half of it."""
MOST_DEPTH = 64
"""Brackets that may be open at once in a reply's JSON; the APIs need fewer than ten."""
TOO_LARGE = f"body_over_{MOST_BYTES // 2**20}_MiB"
TOO_DEEP = f"json_over_{MOST_DEPTH}_deep"
ENCODED = "body_compressed"
"""Why a body is not parsed; nobody asks for a compressed one, which may be a bomb."""

_OK = range(200, 300)
_SENT = {
    "accept", "accept-encoding", "anthropic-version", "connection", "content-length",
    "content-type", "host", "transfer-encoding", "user-agent",
}  # fmt: skip
"""Headers that a request keeps, beside the key and what the SDK says of itself."""
_OF_THE_SDK = "x-stainless-"
_OF_THE_VENDOR = {"openai-organization", "openai-project"}
_OF_THE_KEY = ("authorization", "x-api-key")
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


@dataclass(frozen=True, kw_only=True)
class Access:
    """How a server is reached; nothing of it changes an answer, and none of it is a key.

    Attributes:
        base_url: root of the server's API.
        own: whether it is a server of one's own, which may need no key.
        variable: environment variable of the API key.
        timeout: seconds that the server may stay silent.
        max_retries: how often the SDK sends a request again after 408, 409, 429, 5xx,
            a lost connection or silence.
    """

    base_url: str
    own: bool
    variable: str
    timeout: float
    max_retries: int


@dataclass(slots=True)
class Meter:
    """HTTP requests that were sent for one record.

    Attributes:
        sent: all of them, retries included.
        refused: those that came back with a status other than 2xx; nobody charges those.
        fault: why the body of the last reply was not read, "" where it was.
    """

    sent: int = 0
    refused: int = 0
    fault: str = ""


METER: ContextVar[Meter] = ContextVar("meter")
"""The meter of the record that the running task works on."""


def http_options(access: Access, key: str) -> dict[str, Any]:
    """Return the options of an HTTP client that goes to one address and reads with bounds.

    It follows no redirect, which would carry the key and the texts elsewhere, and asks for
    bodies without compression.
    """
    import httpx2

    async def leaves(request: Any) -> None:
        METER.get().sent += 1
        _strip(request.headers, key, own=access.own)

    options: dict[str, Any] = {
        "event_hooks": {"request": [leaves], "response": [_arrives]},
        "follow_redirects": False,
        "headers": {"accept-encoding": "identity"},
    }
    if is_direct(access.base_url):
        # A client with a transport of its own asks the environment for no proxy.
        options["transport"] = httpx2.AsyncHTTPTransport(
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=100)
        )
    return options


def is_direct(base_url: str) -> bool:
    """Return whether an address is asked without any proxy: http, or this machine."""
    parts = urlsplit(base_url)
    return parts.scheme == "http" or _loopback(parts.hostname or "")


def check_proxy(access: Access) -> None:
    """Raise PreflightError where the environment names a proxy that cannot be used."""
    import httpx2

    try:
        httpx2.AsyncClient(**http_options(access, ""))
    except (ImportError, ValueError, httpx2.InvalidURL):
        raise PreflightError(
            "a usable proxy: HTTPS_PROXY or ALL_PROXY names one that is not",
            remedy="Name an http:// or https:// proxy; for socks5:// pip install 'httpx2[socks]'; "
            "or put the judge's host into NO_PROXY.",
        ) from None


def check_url(base_url: str, variable: str) -> None:
    """Check the address of a server of one's own.

    Raises:
        SpecError: it is no HTTP address, holds a password, or would carry the key
            across a network unencrypted.
    """
    try:
        parts = urlsplit(base_url)
        host, secret = parts.hostname or "", parts.username or parts.password
        plain = base_url.isascii() and base_url.isprintable() and not parts.query
        # A port that is none raises here, and not in a client.
        usable = parts.scheme in ("http", "https") and host and parts.port != 0 and plain
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
            bound="an address that begins with http:// or https://, no query, its port in range",
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


def depth_of(body: bytes | bytearray) -> int:
    """Return how many brackets of a JSON text are open at once, strings left out."""
    depth = deepest = 0
    for found in _BRACKETS.finditer(_STRINGS.sub(b"", body)):
        depth += 1 if found[0] in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _strip(headers: Any, key: str, *, own: bool) -> None:
    """Leave what a judge needs; the SDKs add headers that their environment names."""
    for name in [name.lower() for name in headers]:
        if name in _OF_THE_KEY:
            kept = headers[name] in (key, f"Bearer {key}")
        else:
            kept = name in _SENT or name.startswith(_OF_THE_SDK)
            kept = kept or (name in _OF_THE_VENDOR and not own)
        if not kept:
            del headers[name]
    if not any(name in headers for name in _OF_THE_KEY):
        headers["authorization"] = f"Bearer {key}"


async def _arrives(response: Any) -> None:
    """Count a reply, and put in place of its body what may be parsed of it."""
    import httpx2

    meter = METER.get()
    meter.refused += response.status_code not in _OK
    try:
        body, meter.fault = await _read(response)
    finally:
        await response.stream.aclose()
    response.headers.pop("content-encoding", None)
    response.stream = httpx2.ByteStream(body)


async def _read(response: Any) -> tuple[bytes, str]:
    """Return a body and "", or nothing and why: `TOO_LARGE`, `TOO_DEEP` or `ENCODED`."""
    codings = response.headers.get_list("content-encoding", split_commas=True)
    if any(coding.strip().lower() not in ("", "identity") for coding in codings):
        return b"", ENCODED
    body = bytearray()
    async for part in response.stream:
        body += part
        if len(body) > MOST_BYTES:
            return b"", TOO_LARGE
    return (b"", TOO_DEEP) if depth_of(body) > MOST_DEPTH else (bytes(body), "")


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
