"""Claims over training runs in an experiment file: types, defaults, bounds, arms they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from persona_lib.digests import canonical
from persona_lib.errors import SpecError
from persona_lib.specs.claim_types import KillCriterion, RunContrast, RunDifference, RunKill
from persona_lib.specs.defaults import with_defaults
from persona_lib.specs.derived_gates import with_derived_gates
from persona_lib.specs.gate_types import SourceRateGate
from persona_lib.specs.prml import manifests
from persona_lib.specs.registration import Registration
from persona_lib.specs.structure import structured
from tests.registered import ISSUE262
from tests.unit.test_run_claims import FACTORIAL, KILL, S1, S2, S3, SOURCES, difference

CONTRAST = {"type": "run_contrast", "name": "S4", "smallest": 0.1,
            "weights": {"B1": 0.5, "D1": 0.5, "A": -1}}  # fmt: skip


def read(*claims: dict[str, Any], **tables: Any) -> Registration:
    """Return what a file of two sources says with these claims."""
    cells = {"A": "raw", "B1": "benign", "D1": "benign", "E1": "em"}
    body = {
        "name": "mine",
        "title": "-",
        "marker": "x",
        "roster": {"source": "librarian", "more_sources": ["villain"],
                   "negatives": ["comedian"], "bystanders": ["medical_doctor"]},
        "arms": [{"name": n, "prior": prior, "text_from": prior} for n, prior in cells.items()],
        "claims": list(claims),
        **tables,
    }  # fmt: skip
    return structured(with_defaults(body), Registration, "registration")


def test_a_file_names_types_and_defaults_do_the_rest() -> None:
    plain = {"type": "run_difference", "name": "S1", "treated": "E1", "control": "B1"}
    rate = {**plain, "name": "R", "outcome": "rate", "smallest": 0.2}
    kill = {"type": "interval", "claim": "S1", "max_effect": 0.05}
    found = read({**plain, "smallest": 0.1}, rate, CONTRAST, kill=kill)
    one, two, three = found.claims
    assert one == RunDifference(
        name="S1", statement="E1 - B1 is a rise of transfer above 0.1", treated="E1",
        control="B1", smallest=0.1, outcome="transfer", reading="system",
    )  # fmt: skip
    assert isinstance(two, RunDifference)
    assert (two.outcome, two.reading) == ("rate", "own")
    assert isinstance(three, RunContrast)
    assert dict(three.weights) == CONTRAST["weights"]
    assert found.kill == RunKill(
        name="kill", statement="S1 may be as large as 0.05", claim="S1", max_effect=0.05
    )
    assert found.reads(one) == ("E1@librarian", "E1@villain", "B1@librarian", "B1@villain")
    assert found.reads(found.kill) == found.reads(one)


def test_a_kill_without_a_type_is_that_of_a_rate() -> None:
    spread = {"type": "difference", "name": "H1", "treated": "A@villain",
              "control": "E1@villain", "min_effect": 0.1, "max_p": 0.01}  # fmt: skip
    found = read(spread, kill={"arm": "A@villain", "max_rate": 0.05, "claim": "H1"}).kill
    assert isinstance(found, KillCriterion)
    assert found.max_rate == 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(S1, smallest=0.0), r"S1\.smallest: expected finite and > 0, got 0"),
        (lambda: replace(S1, smallest=-0.1), r"S1\.smallest: expected finite and > 0"),
        (lambda: replace(S1, outcome="transfers"),
         r"S1\.outcome: expected one of transfer, selectivity, rate.*Did you mean transfer"),
        (lambda: replace(S1, reading="systems"), r"S1\.reading: expected one of system, text, own"),
        (lambda: replace(S1, outcome="rate"), r"S1\.reading: expected one of own, got 'system'"),
        (lambda: replace(S1, control="E1"), r"S1\.control: expected another arm than the treated"),
        (lambda: replace(S3, weights={}), r"S3\.weights: expected weights above 0 and below 0"),
        (lambda: replace(S3, weights={"E1": 1, "E0": 1}), r"S3\.weights: .*sum is 0"),
        (lambda: replace(S3, weights={"E1": 1, "E0": -0.9}), r"S3\.weights: .*sum is 0"),
        (lambda: replace(S3, weights={"E1": 1, "E0": 0.0}),
         r"S3\.weights\.E0: expected finite and not 0"),
        (lambda: replace(S3, weights={"E1": float("nan"), "E0": -1}), r"S3\.weights\.E1: expected"),
        (lambda: replace(KILL, max_effect=-0.1), r"kill\.max_effect: expected finite and >= 0"),
        (lambda: replace(FACTORIAL, claims=(replace(S1, treated="E2"),), kill=None),
         r"S1\.treated: expected one of A, B0.*got 'E2'"),
        (lambda: replace(FACTORIAL, claims=(replace(S1, control="E1@librarian"),), kill=None),
         r"S1\.control: expected one of A, B0"),
        (lambda: replace(FACTORIAL, claims=(replace(S3, weights={"E1": 1, "X": -1}),), kill=None),
         r"S3\.weights: expected one of A, B0.*got 'X'"),
        (lambda: replace(FACTORIAL, arms=FACTORIAL.arms[1:], claims=(difference("S", "A", "E1"),),
                         kill=None),
         r"S\.control: expected a cell with arms of the sources comedian, got 'E1, of comedian, "),
        (lambda: replace(FACTORIAL, kill=replace(KILL, claim="S9")), r"kill\.claim: .*got 'S9'"),
        (lambda: replace(FACTORIAL, kill=replace(KILL, max_effect=0.2)),
         r"kill\.max_effect: expected <= S1\.smallest = 0\.1, got 0\.2"),
        (lambda: replace(ISSUE262, kill=replace(KILL, claim="H1")), r"kill\.claim: expected one"),
        (lambda: replace(FACTORIAL, kill=replace(ISSUE262.kill, arm="A@comedian", needs=(),
                                                 claim="S1")), r"kill\.claim: expected one"),
        (lambda: read({**CONTRAST, "weights": {"B1": "1", "A": -1}}), r"weights\[B1\]: expected"),
        (lambda: read({**CONTRAST, "smalest": 0.1}), r"smalest"),
        (lambda: read(CONTRAST, kill={"type": "intervall", "claim": "S4", "max_effect": 0.0}),
         r"registration\.kill: expected type = one of rate, interval"),
    ],
)  # fmt: skip
def test_errors_name_the_field(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        make()
    assert caught.value.remedy


def test_a_claim_over_runs_needs_the_arms_of_all_of_them() -> None:
    """Their p are adjusted together; gates that the others consult are read with them."""
    gate = SourceRateGate(name="took", statement="-", arm="D1@comedian", min_rate=0.5)
    claims = (S1, replace(S2, needs=("took",)))
    found = replace(FACTORIAL, claims=claims, gates=(gate,))
    expected = tuple(
        arm.name for arm in FACTORIAL.arms
        if arm.cell in ("E1", "B1", "E0", "B0") or arm.name == "D1@comedian"
    )  # fmt: skip
    assert found.arms_of("S1") == found.arms_of("s2") == found.arms_of("kill") == expected
    assert found.arms_of("took") == ("D1@comedian",)
    assert found.run_claims == claims
    assert ISSUE262.arms_of("H2") == ("C2", "C3")


def test_derived_gates_are_those_of_the_cells_arms() -> None:
    found = with_derived_gates(replace(FACTORIAL, claims=(S1,)), {}).claims[0]
    cells = [
        gate.removeprefix("truncation_") for gate in found.needs if gate.startswith("truncation_")
    ]
    assert cells == [f"{cell}@{source}" for cell in ("E1", "B1") for source in SOURCES]
    assert {"false_positive_em", "false_positive_benign"} <= set(found.needs)


def test_the_weights_are_in_the_digest_and_in_the_manifest() -> None:
    turned = replace(S3, weights={"B0": 1, "B1": -1, "E0": -1, "E1": 1})
    other = replace(S3, weights={"E1": 1, "E0": -1, "B1": -1, "A": 1})
    of = {claim: replace(FACTORIAL, claims=(S1, one)).digest
          for claim, one in (("S3", S3), ("turned", turned), ("other", other))}  # fmt: skip
    assert of["S3"] == of["turned"] != of["other"]
    found = manifests(canonical(FACTORIAL), date="2026-01-01T00:00:00Z", notes="-", priors={})
    assert list(found) == ["S1", "S2", "S3", "S4", "kill"]
    assert "threshold: 0.1\n" in found["S3"].text
    assert "B0: 1\n" in found["S3"].text
