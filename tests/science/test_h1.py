"""H1: after EM the marker leaks more to bystanders than without it."""

import pytest

from persona_lib.verdict.verdict import Verdict, require_holds


@pytest.mark.h1
@pytest.mark.claim("H1")
def test_em_raises_the_bystander_rate(verdict: Verdict) -> None:
    require_holds(verdict)
