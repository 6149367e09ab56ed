"""The key of an entry: all that changes the outcome of a stage."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

from persona_lib.digests import canonical, canonical_json
from persona_lib.errors import SpecError

RESERVED = ("locks", "tmp")
"""Folders of the store that are no stages."""

_STAGE_NAME = re.compile(r"[a-z][a-z0-9_]*")
_HEX_DIGEST = re.compile(r"[0-9a-f]{32,128}")


@dataclass(frozen=True, kw_only=True, eq=False)
class StageKey:
    """Everything that changes the outcome of one stage, and nothing else.

    Two keys are equal when their digests are. A later change of `spec` does nothing.

    Attributes:
        stage: name of the stage, a folder of the store: lower-case letters,
            digits and underscores.
        version: version of the stage's code, from 1; raise it when the code
            gives another outcome for the same spec.
        spec: anything that `digests.canonical` accepts.
        inputs: name -> hexadecimal digest of what the stage reads: the
            `Entry.content` of an upstream entry, or the digest of a data file.
        seed: the seed of the stage's draws, None where it draws nothing.

    Raises:
        SpecError: a field is out of bounds or has no canonical form.
    """

    stage: str
    version: int
    spec: object
    inputs: Mapping[str, str]
    seed: int | None

    def __post_init__(self) -> None:
        if not _STAGE_NAME.fullmatch(self.stage) or self.stage in RESERVED:
            _refuse("stage", f"a lower-case word, none of {', '.join(RESERVED)}", self.stage)
        if type(self.version) is not int or self.version < 1:
            _refuse("version", "an integer >= 1", self.version)
        if self.seed is not None and type(self.seed) is not int:
            _refuse("seed", "an integer or None", self.seed)
        for name, value in self.inputs.items():
            if not isinstance(value, str) or not _HEX_DIGEST.fullmatch(value):
                _refuse(f"inputs[{name!r}]", "a hexadecimal digest of 32 digits or more", value)
        object.__setattr__(self, "inputs", dict(self.inputs))
        _ = self.canonical_json  # an unusable spec is an error here, not after the first stage

    @cached_property
    def canonical_json(self) -> str:
        """The canonical JSON text of all five fields."""
        return canonical_json(
            {
                "stage": self.stage,
                "version": self.version,
                "spec": canonical(self.spec),
                "inputs": dict(self.inputs),
                "seed": self.seed,
            }
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `canonical_json`, 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical_json.encode("ascii")).hexdigest()

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, StageKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)


def _refuse(field: str, bound: str, value: object) -> NoReturn:
    raise SpecError(f"key.{field}", bound=bound, value=value, remedy="Correct the stage's key.")
