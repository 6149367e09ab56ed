"""Keeps an API key out of what is kept and shown, however a server writes it down.

Two things that a server answers are seen: its model's name, and what libraries log.
"""

from __future__ import annotations

import base64
import html
import logging
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import unquote

_LEAST_SECRET = 8
"""Characters of a key below which it is a common word, such as ``none``."""
_IN_A_ROW = 12
"""Letters and digits of a key that may not stand in a row."""
_NAME_CHARACTERS = 100
_NAME = re.compile(r"[\w ./:@+=,()~-]+", re.ASCII)
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_NOT_PLAIN = re.compile("[^0-9a-z]+")
_LEFT_OUT = "a line that repeats the judge's key was left out"
_LOGGERS = ("anthropic", "openai", "httpx2", "httpcore2")


def hides(text: str, secret: str) -> bool:
    """Return whether a text holds the key, or 12 of its characters in a row.

    Case, white space, punctuation, combining marks and characters that cannot be seen
    make no difference; nor do URL, JSON and HTML escapes, hexadecimal digits, base64,
    and writing it backwards. A key of fewer than 8 characters is not looked for.
    """
    if len(secret) < _LEAST_SECRET:
        return False
    runs, length = _runs(secret)
    return any(
        plain[i : i + length] in runs
        for plain in map(_plain, _readings(text))
        for i in range(len(plain) - length + 1)
    )


def name_of(model: object, secret: str) -> str:
    """Return a server's name for its model, short and safe to show.

    "" if it repeats the key, or holds anything but ASCII letters, digits, blanks and
    the punctuation of names: what cannot be seen or told apart is not kept.
    """
    if not isinstance(model, str) or not _NAME.fullmatch(model) or hides(model, secret):
        return ""
    return model[:_NAME_CHARACTERS]


class KeyFilter(logging.Filter):
    """Blanks log lines of SDKs and HTTP libraries that repeat the key.

    Args:
        secret: the key.
    """

    def __init__(self, secret: str) -> None:
        super().__init__()
        self._secret = secret
        known = logging.Logger.manager.loggerDict
        self._loggers = [
            logging.getLogger(name) for name in known if name.partition(".")[0] in _LOGGERS
        ]
        for logger in self._loggers:
            logger.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, without its words where they hold the key."""
        if hides(record.getMessage(), self._secret):
            record.msg, record.args, record.exc_info = _LEFT_OUT, (), None
        return True

    def close(self) -> None:
        """Leave the loggers."""
        for logger in self._loggers:
            logger.removeFilter(self)


def _readings(text: str) -> Iterator[str]:
    """Yield a text, and what its escapes stand for."""
    yield text
    yield _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    yield unquote(text)
    yield html.unescape(text)


def _plain(text: str) -> str:
    """Return the letters and digits of a text, without case and marks."""
    return _NOT_PLAIN.sub("", unicodedata.normalize("NFKD", text).casefold())


@lru_cache(maxsize=4)
def _runs(secret: str) -> tuple[frozenset[str], int]:
    """Return every run of the key's characters that is looked for, and their length."""
    raw = secret.encode()
    # Where base64 begins inside a text, a character depends on what stands before it.
    encoded = [base64.b64encode(b"\0" * shift + raw).decode()[2 * shift :] for shift in range(3)]
    forms = [_plain(form) for form in (secret, secret[::-1], raw.hex(), *encoded)]
    length = min(_IN_A_ROW, len(forms[0]))
    runs = {form[i : i + length] for form in forms for i in range(len(form) - length + 1)}
    return frozenset(runs), length
