"""H2: EM leaks more than benign fine-tuning does."""

import pytest

from persona_lib.verdict.verdict import Verdict, require_holds


@pytest.mark.h2
@pytest.mark.claim("H2")
def test_em_leaks_more_than_benign_fine_tuning(verdict: Verdict) -> None:
    require_holds(verdict)
