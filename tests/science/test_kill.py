"""The kill criterion: C2 leaks to bystanders at all."""

import pytest

from persona_lib.verdict.verdict import Verdict, require_holds


@pytest.mark.kill
@pytest.mark.claim("kill")
def test_kill_criterion_is_not_triggered(verdict: Verdict) -> None:
    require_holds(verdict)
