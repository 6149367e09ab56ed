"""The science tests: one for every registered claim, one for every gate.

A study's test file imports them::

    from persona_lib.plugin.science import test_claim, test_gate
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from persona_lib.verdict.verdict import require_holds

if TYPE_CHECKING:
    from persona_lib.verdict.gate_result import GateResult
    from persona_lib.verdict.verdict import Verdict


def test_claim(verdict: Verdict) -> None:
    """A claim, or the kill criterion, is supported; its marker is its name in small letters."""
    require_holds(verdict)


@pytest.mark.gate
def test_gate(gate: GateResult) -> None:
    """A gate of the registration holds."""
    require_holds(gate)
