"""Caveats: each rule on a body that raises it and on one that does not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from persona_lib.report.caveats import caveats
from persona_lib.report.numbers import resolve
from persona_lib.report.pieces import plain

Body = dict[str, Any]


def arm(name: str) -> Body:
    return {"name": name, "tokens": 30.0, "finished": 1.0, "baseline_tokens": 40.0}


def gate(name: str, kind: str, outcome: str = "HOLDS") -> Body:
    return {"name": name, "kind": kind, "outcome": outcome, "text": f"{name} 0.91, needs >= 0.50"}


def panel(name: str, **parts: Any) -> Body:
    return {"name": name, "state": "readable", "reason": "", "caveats": [], "data": {}, **parts}


def clean() -> Body:
    """A body about which there is nothing to say."""
    return {
        "profile": "smollm2",
        "verdicts": [{"name": "H1", "label": "rule met", "notes": ["a note"]}],
        "gates": [gate("source_rate", "SourceRateGate"), gate("fp", "FalsePositiveGate")],
        "summary": {
            "origin": "a live run of profile smollm2: a model",
            "runs": 3,
            "arms": [arm("C1"), arm("C2")],
            "checks": [
                gate("source_C1", "SourceBoundGate"),
                gate("collapse_C1", "CollapseGate"),
                gate("truncation_C1", "TruncationGate"),
                gate("repetition_C1", "RepetitionGate"),
                gate("false_positive_raw", "FalsePositiveBoundGate"),
                gate("em_induced", "HarmRaisedGate", "FAILS"),
            ],
        },
        "panels": {
            "lengths": panel("lengths"),
            "geometry": panel("geometry"),
            "discriminability": panel("discriminability"),
            "following": panel("following"),
        },
        "provenance": {"git": {"dirty": False}},
    }


def outcome(at: int, value: str) -> Callable[[Body], None]:
    return put("summary", "checks", at, "outcome", value)


def own(name: str, code: str) -> Callable[[Body], None]:
    return put("panels", name, "caveats", [{"code": code, "words": "it says 0.978"}])


def put(*path: Any) -> Callable[[Body], None]:
    *keys, last, value = path

    def change(body: Body) -> None:
        inside: Any = body
        for key in keys:
            inside = inside[key]
        inside[last] = value

    return change


RAISES: list[tuple[str, Callable[[Body], None], str]] = [
    ("not_registered_for_these_data",
     put("summary", "origin", "x (these rules were not registered for these data)"),
     "/summary/origin"),
    ("toy_model", put("profile", "tiny"), "/profile"),
    ("toy_model", put("profile", "micro"), "/profile"),
    ("toy_model", put("summary", "origin", "a run of profile tiny, seeds 42"), "/summary/origin"),
    ("toy_model", put("summary", "origin", "a run of profile tiny: a toy"), "/summary/origin"),
    ("toy_model", put("summary", "origin", "a run of profile tiny, loss decision: a toy"),
     "/summary/origin"),
    ("single_seed", put("summary", "runs", 1), "/summary/runs"),
    ("sealed_after_data", put("seal", {"seen": [{"amendment": 0, "date": "2026-11-25",
                                                 "data_seen": "all of it"}]}), "/seal/seen/0"),
    ("not_borne_out_over_runs",
     put("verdicts", 0, "over_runs", {"status": "not borne out", "text": "over 5 training runs"}),
     "/verdicts/0/over_runs"),
    ("source_not_established", put("gates", 0, "outcome", "FAILS"), "/gates/0"),
    ("source_not_established", outcome(0, "CANNOT_TELL"), "/summary/checks/0"),
    ("collapsed", outcome(1, "FAILS"), "/summary/checks/1"),
    ("truncated", outcome(2, "CANNOT_TELL"), "/summary/checks/2"),
    ("repeated_marker", outcome(3, "FAILS"), "/summary/checks/3"),
    ("false_positives_open", outcome(4, "CANNOT_TELL"), "/summary/checks/4"),
    ("false_positives_open", put("gates", 1, "outcome", "FAILS"), "/gates/1"),
    ("kill_ambiguous_zone", put("verdicts", 0, "label", "ambiguous zone"), "/verdicts/0/label"),
    ("population_claim_refused",
     put("verdicts", 0, "notes", ["x", "no claim on personas at large: p < 0.001"]),
     "/verdicts/0/notes/1"),
    ("no_common_support", own("lengths", "no_common_support"), "/panels/lengths/caveats/0"),
    ("missing_columns", put("summary", "arms", 1, "tokens", None), "/summary/arms/1"),
    ("missing_columns", put("summary", "arms", 0, "finished", None), "/summary/arms/0"),
    ("missing_columns", put("panels", "geometry", "data", {"missing": {"rank": "no states"}}),
     "/panels/geometry/data/missing/rank"),
    ("panel_not_readable", put("panels", "geometry", "state", "INVALID"), "/panels/geometry"),
    ("panel_not_readable", put("panels", "following", "state", "unavailable"),
     "/panels/following"),
    ("saturated_probe", own("geometry", "saturated_probe"), "/panels/geometry/caveats/0"),
    ("probe_blind", own("discriminability", "probe_blind"),
     "/panels/discriminability/caveats/0"),
    ("judge_uncalibrated", own("following", "judge_uncalibrated"), "/panels/following/caveats/0"),
    ("dirty_tree", put("provenance", "git", "dirty", True), "/provenance/git/dirty"),
]  # fmt: skip


def test_a_clean_body_raises_nothing() -> None:
    assert caveats(clean()) == []


@pytest.mark.parametrize(("code", "change", "where"), RAISES)
def test_each_rule_raises_its_caveat_and_no_other(
    code: str, change: Callable[[Body], None], where: str
) -> None:
    body = clean()
    change(body)
    found = caveats(body)
    assert [(one.code, one.where) for one in found] == [(code, where)]
    assert len(plain(found[0].words)) > 20
    resolve(body, found[0].where)


def test_every_arm_whose_source_is_open_is_named() -> None:
    body = clean()
    body["summary"]["checks"] += [gate("source_C2p", "SourceBoundGate", "FAILS")]
    outcome(0, "FAILS")(body)
    words = [plain(one.words) for one in caveats(body)]
    assert len(words) == 2
    assert "source_C1 FAILS" in words[0]
    assert "source_C2p FAILS" in words[1]


def test_a_gate_that_is_judged_and_checked_is_said_once() -> None:
    body = clean()
    failing = gate("source_C2", "SourceBoundGate", "FAILS")
    body["gates"].append(failing)
    body["summary"]["checks"].append(copy.deepcopy(failing))
    assert [one.where for one in caveats(body)] == ["/gates/2"]


def test_figures_in_the_words_are_pieces_of_the_body() -> None:
    body = clean()
    put("gates", 0, "outcome", "FAILS")(body)
    (found,) = caveats(body)
    quoted = [piece for piece in found.words if not isinstance(piece, str)]
    assert [piece.text for piece in quoted] == [
        "source_rate", "FAILS", "source_rate 0.91, needs >= 0.50",
    ]  # fmt: skip
    assert all(resolve(body, piece.at) == piece.text for piece in quoted)


@pytest.mark.parametrize("body", [{}, {"summary": {}}, {"panels": {"lengths": {}}}])
def test_what_is_not_there_raises_nothing(body: Body) -> None:
    assert caveats(json.loads(json.dumps(body))) == []
