"""Canonical forms and digests of specs, seeds of draws, checksums of files.

A *spec* is a frozen, keyword-only dataclass. Its digest is the SHA-256 of its canonical
JSON: a changed number, a renamed field or another class gives another digest, the order
of fields in the source does not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from persona_lib.errors import SpecError

LATER = {"left_out_at_its_default": True}
"""Metadata of a field that is younger than stored keys: left out of the canonical form at
its default, so that those keys stay valid."""
NO_PART = {"no_part_of_digests": True}
"""Metadata of a field that changes no outcome: never in the canonical form."""

_TYPE_KEY = "__spec__"
_SEED_BITS = 63


def canonical(value: object) -> Any:
    """Return `value` as plain JSON data.

    Dataclasses become objects that carry their class name under ``__spec__``, without
    the fields that came `LATER` and have their default, and those that are `NO_PART`;
    tuples and lists become arrays; enums become their values.

    Raises:
        SpecError: for NaN or infinite floats, paths (a path says where a thing
            lies, not what it is) and any type without a canonical form.
    """
    if value is None or (isinstance(value, (bool, int, str)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SpecError(
                "spec", bound="finite numbers", value=value, remedy="Use None for an absent bound."
            )
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        body = {
            f.name: canonical(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.metadata != NO_PART
            and (f.metadata != LATER or getattr(value, f.name) != f.default)
        }
        return {_TYPE_KEY: type(value).__name__, **body}
    if isinstance(value, (tuple, list)):
        return [canonical(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: canonical(item) for key, item in value.items()}
    kind = "a path" if isinstance(value, PurePath) else type(value).__name__
    raise SpecError(
        "spec",
        bound="numbers, strings, tuples and frozen dataclasses",
        value=value,
        remedy=f"Store the digest of what {kind} holds instead.",
    )


def canonical_json(value: object) -> str:
    """Return the canonical JSON text of `value`: sorted keys, no spaces, ASCII."""
    return json.dumps(
        canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def digest(value: object) -> str:
    """Return the SHA-256 (64 hexadecimal digits) of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def derive_seed(run_seed: int, *names: str | int) -> int:
    """Return the draw_seed of one named draw, an integer in [0, 2**63).

    Every random draw has a seed of this form, so that none depends on how many others
    came before it. Names are hashed: neighbouring seeds and names give unrelated seeds,
    the same in every process.
    """
    payload = canonical_json([run_seed, *names]).encode("ascii")
    return int.from_bytes(hashlib.sha256(payload).digest()[:8], "big") >> (64 - _SEED_BITS)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5_of(path: Path) -> str:
    """Return the MD5 of a file's bytes, 32 hexadecimal digits: what publishers give.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
