"""Gates: checks of the instrument, each judged by one registered function.

A new gate type needs a dataclass in `persona_lib.gate_rules` and one function in
`persona_lib.gate_bounds`, marked with `rule`; nothing else changes.
"""

from __future__ import annotations

from dataclasses import replace

from persona_lib import gate_bounds, gate_points
from persona_lib.evidence_base import Evidence
from persona_lib.gate_base import GateOutcome, GateResult, Reading, rule
from persona_lib.gate_rules import Gate
from persona_lib.registration import Registration

__all__ = [
    "GateOutcome",
    "GateResult",
    "Reading",
    "gate_bounds",
    "gate_points",
    "judge_gate",
    "rule",
]


_SEVERITY = (GateOutcome.HOLDS, GateOutcome.CANNOT_TELL, GateOutcome.FAILS)
"""Of several training runs the worst decides: a mean would hide one that failed."""


def judge_gate(registration: Registration, evidence: Evidence, gate_name: str) -> GateResult:
    """Judge one gate: as registered on all runs together, a bound gate on each by itself.

    Raises:
        SpecError: no such gate, or no rule for its type.
        DataError: the evidence lacks an arm that the gate names.
    """
    gate = registration.gate(gate_name)
    for arm in gate.arms or ():
        evidence.check_arm(arm)
    reading = _read(gate, evidence)
    return GateResult(
        name=gate.name,
        statement=gate.statement,
        outcome=reading.outcome,
        figure=reading.figure,
        threshold=reading.threshold,
        text=reading.text,
        low=reading.low,
        high=reading.high,
        needed_by=tuple(
            claim.name
            for claim in (*registration.claims, registration.kill)
            if gate.name in claim.needs
        ),
        kind=type(gate).__name__,
        order=registration.gates.index(gate),
    )


def _read(gate: Gate, evidence: Evidence) -> Reading:
    """Return the reading of a gate, the worst one where it is read run by run."""
    function = rule.of(gate)
    runs = (evidence,) if isinstance(gate, gate_points.POINT_GATES) else evidence.single_runs()
    if len(runs) == 1:
        found: Reading = function(gate, evidence)
        return found
    readings = [function(gate, run) for run in runs]
    worst = max(range(len(runs)), key=lambda i: (_SEVERITY.index(readings[i].outcome), -i))
    found = readings[worst]
    words = f"worst of {len(runs)} runs, seed {runs[worst].seeds[0]}: {found.text}"
    return replace(found, text=words)
