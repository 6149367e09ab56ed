"""The gates: does the instrument work? One test for each registered gate."""

import pytest

from persona_lib.verdict.gate_result import GateResult
from persona_lib.verdict.verdict import require_holds


@pytest.mark.gate
def test_gate_holds(gate: GateResult) -> None:
    require_holds(gate)
