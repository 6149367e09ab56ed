"""Gates that follow from claims over training runs: can gains be read and compared?

For each arm: its source gained the registered dose, and its completions end by themselves.
For each pre-coupling model: it does not expect the marker at the slot, nor write it. For each
source: the raw model's answers sound like it. For each pair of cells that a claim compares:
answers of like length, and priors that speak of the training domain equally often. For each
claim: a geometry that does not contradict it. docs/factorial.md says why these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from persona_lib.records import RATE
from persona_lib.specs.arms import ArmSpec
from persona_lib.specs.claim_types import RunClaim, RunDifference
from persona_lib.specs.gate_types import (
    DomainGate,
    FalsePositiveBoundGate,
    GainGate,
    Gate,
    GeometryGate,
    LengthGate,
    MarkerBeforeGate,
    RecognisedGate,
    TruncationGate,
)
from persona_lib.specs.registration import RAW, Registration

MAX_CUT, MAX_BEFORE = 0.10, 0.01
MIN_RECOGNISED, MIN_LENGTH, MAX_LENGTH = 2.0, 0.8, 1.25
MAX_DOMAIN, DEPTH = 0.10, 18 / 28
"""The layer of geometry lies at this share of the blocks: the fourth of the six recorded."""


@dataclass(frozen=True, kw_only=True)
class Needed:
    """A gate, and the names of the claims over runs that need it."""

    gate: Gate
    claims: tuple[str, ...]


def run_gates(registration: Registration) -> tuple[Needed, ...]:
    """Return the gates of a registration's claims over runs, each with who needs it."""
    found: dict[str, Needed] = {}
    for claim in registration.run_claims:
        for gate in _of_claim(registration, claim):
            before = found[gate.name].claims if gate.name in found else ()
            found[gate.name] = Needed(gate=gate, claims=(*before, claim.name))
    return tuple(found.values())


def _of_claim(registration: Registration, claim: RunClaim) -> Iterator[Gate]:
    arms = [registration.arm(name) for name in registration.reads(claim) or ()]
    for arm in arms:
        yield from _of_arm(registration, arm)
    for prior in dict.fromkeys(arm.prior for arm in arms):
        yield from _of_model(registration, prior)
    for source in dict.fromkeys(registration.source_of(arm.name) for arm in arms):
        of = next(a.name for a in registration.arms if registration.source_of(a.name) == source)
        yield RecognisedGate(
            name=f"recognised_{source}",
            statement=f"the raw model's answers as {source} sound like it",
            arm=of,
            min_ratio=MIN_RECOGNISED,
        )
    if isinstance(claim, RunDifference):
        yield from _of_pair(registration, claim)
    if claim.outcome == RATE:
        return
    yield GeometryGate(
        name=f"geometry_{claim.name}",
        statement=f"hidden states do not contradict {claim.name}",
        claim=claim.name,
        depth=DEPTH,
    )


def _of_arm(registration: Registration, arm: ArmSpec) -> Iterator[Gate]:
    if registration.dose is not None:
        yield GainGate(
            name=f"gain_{arm.name}",
            statement=f"{arm.name}'s source gained as much as arms are compared at",
            arm=arm.name,
            min_gain=registration.dose.gain,
        )
    yield truncation_gate(arm.name)


def truncation_gate(arm: str) -> TruncationGate:
    """Return the gate on an arm's completions that were cut."""
    return TruncationGate(
        name=f"truncation_{arm}",
        statement=f"{arm}'s completions end by themselves",
        arm=arm,
        max_share=MAX_CUT,
    )


def _of_model(registration: Registration, prior: str) -> Iterator[Gate]:
    if registration.reads_slots:
        yield MarkerBeforeGate(
            name=f"marker_before_{prior}",
            statement=f"the {prior} model does not expect the marker before coupling",
            arm=arm_on(registration, prior),
            max_rate=MAX_BEFORE,
        )
    yield false_positive_gate(registration, prior)


def false_positive_gate(registration: Registration, prior: str) -> FalsePositiveBoundGate:
    """Return the gate on the marker in completions of a pre-coupling model."""
    return FalsePositiveBoundGate(
        name=f"false_positive_{prior}",
        statement=f"the {prior} model writes the marker in less than 1 % before coupling",
        arm=arm_on(registration, prior),
        max_rate=MAX_BEFORE,
    )


def arm_on(registration: Registration, prior: str) -> str:
    """Return the first arm that is coupled on a prior."""
    return next(arm.name for arm in registration.arms if arm.prior == prior)


def _of_pair(registration: Registration, claim: RunDifference) -> Iterator[Gate]:
    one, two = (
        [registration.arm(name) for name in registration.cells[cell]]
        for cell in (claim.treated, claim.control)
    )
    for treated, control in zip(one, two, strict=True):
        source = f"@{treated.source}" if treated.source else ""
        yield LengthGate(
            name=f"length_{claim.treated}_{claim.control}{source}",
            statement=f"{treated.name} answers about as long as {control.name}",
            treated=treated.name,
            control=control.name,
            min_ratio=MIN_LENGTH,
            max_ratio=MAX_LENGTH,
        )
    priors = one[0].prior, two[0].prior
    if RAW not in priors and priors[0] != priors[1]:
        yield DomainGate(
            name=f"domain_{priors[0]}_{priors[1]}",
            statement=f"the {priors[0]} and the {priors[1]} model speak of the training domain "
            "equally often",
            treated=one[0].name,
            control=two[0].name,
            max_difference=MAX_DOMAIN,
        )
