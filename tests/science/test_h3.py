"""H3: the leak does not come from who wrote the coupling text."""

import pytest

from persona_lib.verdict.verdict import Verdict, require_holds


@pytest.mark.h3
@pytest.mark.claim("H3")
def test_leak_is_not_an_artefact_of_the_coupling_text(verdict: Verdict) -> None:
    require_holds(verdict)
