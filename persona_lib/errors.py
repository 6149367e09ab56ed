"""Every error that Flatland raises on purpose, and the cleaning of their text.

The tree::

    FlatlandError
    ├── InputError (also ValueError)     a value that somebody gave us is wrong
    │   ├── SpecError                    registration, profile, recipe or option
    │   ├── DataError                    corpora, rows, stored record sets
    │   └── MarkerError                  the marker does not survive the tokenizer
    ├── PreflightError                   this machine lacks something; says how to get it
    ├── StoreError
    │   ├── CorruptEntryError            a file in the store is not what was written
    │   └── UnwritableStoreError         the store directory cannot be written
    ├── FailedStageError                 a stage failed before in this command
    ├── SealError                        a registration is not sealed, or its seal is broken
    ├── MaskProofError                   the supervised tokens are not the registered ones
    ├── DrawCeilingError                 too few finished completions within the ceiling
    └── DoesNotHoldError                 a claim is not supported, or a gate does not hold
        └── InvalidClaimError            a gate that the claim needs did not hold

`InputError` and its children name the field, what was expected of it, the value that
came, and what to do. A message may quote what others wrote (a file's name, a
manifest): every message is cleaned here.
"""

from __future__ import annotations

import re

_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC: window titles, links
    r"|\x1b[PX^_].*?(?:\x1b\\|$)"  # DCS, SOS, PM, APC
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI: colours, cursor
    r"|\x1b[ -/]*[0-~]?",  # other escapes
    re.DOTALL,
)
_SPACES = re.compile(r"[\t\n\v\f\r\x85\u2028\u2029]+")
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional controls
    "\u200b\u2060\ufeff\U000e0000-\U000e007f]"  # zero width, tags
)
_SURROGATES = re.compile("[\ud800-\udfff]")
_SHOWN_CHARACTERS = 200


def clean(text: str) -> str:
    """Return text that a terminal can show as one line, whatever a model wrote.

    Escape sequences, controls, bidirectional controls, zero-width characters and tags
    are dropped; line breaks and tabs become one space; a lone surrogate becomes U+FFFD.
    """
    text = _SPACES.sub(" ", _ESCAPES.sub("", text))
    return _SURROGATES.sub("\ufffd", _HIDDEN.sub("", text))


class FlatlandError(Exception):
    """Root of the tree; its message is cleaned to one line (`clean`)."""

    def __init__(self, message: str = "") -> None:
        super().__init__(clean(message))


class InputError(FlatlandError, ValueError):
    """A given value is out of bounds.

    Args:
        field: name of the field, option or column, as its author would write it.
        bound: what was expected, in words ("one of tiny, smollm2", "> 0").
        value: the value that came.
        remedy: what to do about it, a full sentence.
    """

    def __init__(self, field: str, *, bound: str, value: object, remedy: str) -> None:
        shown = repr(value)
        if len(shown) > _SHOWN_CHARACTERS:
            shown = shown[:_SHOWN_CHARACTERS] + "..."
        super().__init__(f"{field}: expected {bound}, got {shown}. {remedy}")
        self.field = field
        self.bound = bound
        self.value = value
        self.remedy = remedy


class SpecError(InputError):
    """A registration, profile, recipe or command-line option is wrong.

    `others` are errors of the same file that were found with it.
    """

    others: tuple[InputError, ...] = ()


class DataError(InputError):
    """A corpus, a row or a stored record set is wrong."""


class MarkerError(InputError):
    """The tokenizer cannot reproduce the marker after a completion."""


class PreflightError(FlatlandError):
    """Something that the run needs is not on this machine; `remedy` says how to get it."""

    def __init__(self, missing: str, *, remedy: str) -> None:
        super().__init__(f"missing: {missing}. {remedy}")
        self.remedy = remedy


class StoreError(FlatlandError):
    """Something is wrong with the store on disk."""


class CorruptEntryError(StoreError):
    """A stored file differs from what was written; the message names it."""


class UnwritableStoreError(StoreError):
    """The store directory cannot be created or written; the message names it."""


class FailedStageError(FlatlandError):
    """A stage failed before in this command, with an error that is none of these."""


class SealError(FlatlandError):
    """A registration may not be judged: it is not sealed as it stands.

    `where` is the folder, file or registration; `remedy` a full sentence.
    """

    def __init__(self, where: str, problem: str, *, remedy: str) -> None:
        super().__init__(f"{where}: {problem}. {remedy}")


class MaskProofError(FlatlandError):
    """A training row does not supervise exactly the registered tokens."""


class DrawCeilingError(FlatlandError):
    """Too few completions finished before the ceiling of draws was reached."""


class DoesNotHoldError(FlatlandError):
    """A claim is not supported, or a gate does not hold. The message keeps its lines."""

    def __init__(self, message: str = "") -> None:
        super().__init__()
        self.args = ("\n".join(clean(line) for line in message.split("\n")),)


class InvalidClaimError(DoesNotHoldError):
    """A claim cannot be read because a gate that it needs did not hold."""
