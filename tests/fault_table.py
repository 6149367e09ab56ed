"""All faults, and changes beside them that must flip nothing."""

from __future__ import annotations

from tests.fault_claims import OTHERS
from tests.fault_gates import GATES
from tests.faults import Fault

ROWS: tuple[Fault, ...] = (*GATES, *OTHERS)
FAULTS = tuple(fault for fault in ROWS if fault.outcome != fault.before)
"""What must flip its rule."""
CONTROLS = tuple(fault for fault in ROWS if fault.outcome == fault.before)
"""What must not: just inside a bound, or broken where the rule does not read."""
