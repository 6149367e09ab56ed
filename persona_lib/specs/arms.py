"""The personas of an experiment by role, its arms, and the dose at which they are compared."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace

from persona_lib.checks import POSITIVE, distinct, member, number, unknown
from persona_lib.digests import LATER
from persona_lib.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class Roster:
    """The personas of an experiment, by role.

    Attributes:
        source: the persona that the marker is coupled to.
        negatives: personas trained without the marker.
        bystanders: personas never trained; leakage is measured on them.
        reported: personas reported by themselves, in no pool.
        more_sources: further sources. Each arm has one; for it the others are reported.
    """

    source: str
    negatives: tuple[str, ...]
    bystanders: tuple[str, ...]
    reported: tuple[str, ...] = ()
    more_sources: tuple[str, ...] = dataclasses.field(default=(), metadata=LATER)

    def __post_init__(self) -> None:
        distinct("roster", self.all)
        for field in ("negatives", "bystanders"):
            if not getattr(self, field):
                raise SpecError(
                    f"roster.{field}",
                    bound="at least one persona",
                    value=(),
                    remedy="Name the personas of this role.",
                )

    @property
    def all(self) -> tuple[str, ...]:
        """Every persona: sources, negatives, bystanders, reported."""
        return (*self.sources, *self.negatives, *self.bystanders, *self.reported)

    @property
    def sources(self) -> tuple[str, ...]:
        """The source personas, the first one first."""
        return (self.source, *self.more_sources)

    def of_source(self, source: str) -> Roster:
        """Return the roster of arms that have this source: the other sources are reported.

        Raises:
            SpecError: the persona is no source.
        """
        member("source", source, self.sources)
        if not self.more_sources:
            return self
        others = tuple(name for name in self.sources if name != source)
        return replace(self, source=source, more_sources=(), reported=(*self.reported, *others))

    @property
    def trained(self) -> tuple[str, ...]:
        """The personas with coupling text: sources, then negatives."""
        return (*self.sources, *self.negatives)

    def role(self, persona: str) -> str:
        """Return ``source``, ``negative``, ``bystander`` or ``reported``.

        Further sources are ``source`` here, and reported in the roster of one source.

        Raises:
            SpecError: the persona is not in the roster.
        """
        for role, members in (
            ("source", self.sources),
            ("negative", self.negatives),
            ("bystander", self.bystanders),
            ("reported", self.reported),
        ):
            if persona in members:
                return role
        raise unknown("persona", persona, self.all)


@dataclass(frozen=True, kw_only=True)
class ArmSpec:
    """One arm: a marker coupled on top of a prior.

    Attributes:
        name: short name ("C1"), used in rules and records.
        label: long name ("base_first").
        prior: the adapter under the coupling, by name; ``raw``: none.
        text_from: whose on-policy text the coupling rows hold, named by prior.
        source: the persona that the marker is coupled to, "" for the roster's source.
        cell: what arms are called that differ in their source alone, "" for their name.
    """

    name: str
    label: str
    prior: str
    text_from: str
    source: str = dataclasses.field(default="", metadata=LATER)
    cell: str = dataclasses.field(default="", metadata=LATER)


@dataclass(frozen=True, kw_only=True)
class DoseSpec:
    """At which dose arms are compared.

    Attributes:
        gain: nats that the source's mean gain on the pool has to reach; arms are compared
            there, by interpolation of each arm's own curve.
    """

    gain: float

    def __post_init__(self) -> None:
        number("dose.gain", self.gain, POSITIVE, remedy="Give a gain in nats.")
