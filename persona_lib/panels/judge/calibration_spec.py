"""What a judge has to show before its answers are read, as data.

Errors and checks of inputs are all that this module imports, so that a registration can
hold a `CalibrationSpec`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from persona_lib.checks import LEVEL, distinct, number, whole
from persona_lib.errors import SpecError

LEAST, MOST = "least", "most"
"""Directions: the yes share is to be large, or to be small."""


@dataclass(frozen=True, kw_only=True)
class ClassSpec:
    """What one class of triples has to show.

    Attributes:
        name: of the class.
        direction: ``least`` where yes is expected, ``most`` where no is.
        threshold: bound of the yes share: of its interval's lower end under ``least``
            (only ``yes`` counts as yes), of its upper end under ``most`` (all but ``no``
            count as yes).
        n: triples that have to be asked, no fewer and no more.

    Raises:
        SpecError: an empty name, an unknown direction, or a number out of bounds.
    """

    name: str
    direction: str
    threshold: float
    n: int

    def __post_init__(self) -> None:
        if not self.name:
            raise SpecError("name", bound="text", value=self.name, remedy="Name the class.")
        if self.direction not in (LEAST, MOST):
            raise SpecError(
                f"{self.name}.direction",
                bound=f"{LEAST} or {MOST}",
                value=self.direction,
                remedy="Say whether yes is expected (least) or no (most).",
            )
        number(f"{self.name}.threshold", self.threshold, LEVEL, remedy="Give a proportion.")
        whole(f"{self.name}.n", self.n, 1, remedy="Give the number of triples.")


@dataclass(frozen=True, kw_only=True)
class CalibrationSpec:
    """What a judge has to show before it is read: part of a registration.

    Attributes:
        classes: judged one by one; all of them must hold.
        confidence: two-sided level of Wilson's interval.

    Raises:
        SpecError: no class, a class named twice, an impossible confidence, or so few
            triples that not even a clean sheet could hold.
    """

    classes: tuple[ClassSpec, ...]
    confidence: float

    def __post_init__(self) -> None:
        number("calibration.confidence", self.confidence, LEVEL, remedy="Give a proportion.")
        if not self.classes:
            raise SpecError(
                "calibration.classes", bound="at least one", value=(), remedy="Name the classes."
            )
        distinct("calibration.classes", [one.name for one in self.classes])
        for one in self.classes:
            least = clean_sheet(one, self.confidence)
            if one.n < least:
                raise SpecError(
                    f"{one.name}.n",
                    bound=f">= {least}, so that a clean sheet can hold",
                    value=one.n,
                    remedy="Ask more triples, or register a bound that so few can show.",
                )


def clean_sheet(one: ClassSpec, confidence: float) -> int:
    """Return the fewest triples of which a clean sheet keeps the bound of a class.

    Without an error in n, Wilson's interval of the error ends at z^2 / (n + z^2), so that
    n >= z^2 (1 - e) / e for an error e of 1 - threshold under ``least`` and of threshold
    under ``most``: 73 for 5 % at a confidence of 0.95.
    """
    square = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    error = 1 - one.threshold if one.direction == LEAST else one.threshold
    return math.ceil(square * (1 - error) / error)
