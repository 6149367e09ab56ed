"""Panels of the judge: each fault of the instrument fires its gate or caveat."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from experiments.issue262 import ISSUE262
from experiments.profiles import TINY
from persona_lib.commands.judging import CALIBRATION, Judged, judge_texts
from persona_lib.commands.panels import texts_of
from persona_lib.commands.session import ROOT, Session
from persona_lib.panels.base import Panel
from persona_lib.panels.following import discriminability_panel, following_panel
from persona_lib.panels.judge.base import UNSCORED
from persona_lib.panels.judge.calibration import judge_calibration
from persona_lib.panels.judge.classifier import Prediction
from persona_lib.panels.judge.coverage import UnscoredCeiling
from persona_lib.verdict.gate_result import GateOutcome

HOLDS, FAILS, CANNOT_TELL = GateOutcome
ARMS = ("C1", "C2", "C2p", "C3")
DIGEST = "0" * 64
PERFECT = {"positive": ["yes"] * 73, "red_team": ["no"] * 73, "negative": ["no"] * 73}


@cache
def judged() -> Judged:
    session = Session(registration=ISSUE262, profile=TINY, stored=(ROOT / "golden" / "tiny",))
    texts = texts_of(session, ARMS)
    assert texts is not None
    return judge_texts(session, texts)


def calibration(answers: dict[str, list[str]] = PERFECT):  # noqa: ANN201
    judge = judged().judgements[0].judge  # another judge's calibration would not count
    return judge_calibration(CALIBRATION, answers, judge=judge, rubric=DIGEST, triples=DIGEST)


def discriminability(
    change: Callable[[Prediction], Prediction] = lambda p: p,
) -> Panel:
    predictions = [change(p) for p in judged().predictions]
    return discriminability_panel(ISSUE262, predictions, judged().seen)


def following(answers: Sequence[object] | None = None, **given: object) -> Panel:
    own = judged().judgements
    parts = {
        "controls": judged().controls,
        "calibration": calibration(),
        "ceiling": UnscoredCeiling(),
        **given,
    }
    return following_panel(ISSUE262, own if answers is None else answers, **parts)  # type: ignore[arg-type]


def outcome(panel: Panel, gate: str) -> GateOutcome:
    return {g.name: g.outcome for g in panel.gates}[gate]


def of(panel: Panel, model: tuple[str, str]) -> dict:
    return next(m for m in panel.data["models"] if (m["phase"], m["model"]) == model)


def test_accuracy_is_a_count_of_the_predictions() -> None:
    panel = discriminability()
    predictions = judged().predictions
    for model in (("pre", "em"), ("post", "C2")):
        rows = [p for p in predictions if (p.phase, p.model) == model and not p.reason]
        right = [p.rank == 0 for p in rows]
        found = of(panel, model)["accuracy"]
        assert found["value"] == pytest.approx(np.mean(right))
        assert found["n"] == len(rows)
        # Never narrower than if completions were independent.
        low, high = proportion_confint(sum(right), len(rows), method="wilson")
        assert found["low"] <= low
        assert found["high"] >= high
    raw, em = (
        {q: np.mean([p.rank == 0 for p in predictions
                     if (p.phase, p.model) == m and p.question == q and not p.reason])
         for q in {p.question for p in predictions}}
        for m in (("pre", "raw"), ("pre", "em"))
    )  # fmt: skip
    change = of(panel, ("pre", "em"))["from_raw"]
    assert change["value"] == pytest.approx(np.mean([em[q] - raw[q] for q in raw]))
    assert change["low"] < change["value"] < change["high"] < 0
    assert of(panel, ("pre", "raw"))["from_raw"] is None
    json.dumps(panel.to_json(), allow_nan=False)


def test_personas_that_change_places_bring_accuracy_to_nothing() -> None:
    """Every completion carries the next persona's name: ranks are those of the wrong one."""

    def relabelled(p: Prediction) -> Prediction:
        return p if p.reason else replace(p, rank=(p.rank + 1) % 11)

    healthy, broken = discriminability(), discriminability(relabelled)
    assert outcome(healthy, "probe_sees") is HOLDS
    assert outcome(broken, "probe_sees") is FAILS
    assert [c.code for c in broken.caveats] == ["probe_blind"]
    assert broken.state == "INVALID"
    assert healthy.caveats == ()


def test_guesses_leave_the_probe_blind() -> None:
    rng = np.random.default_rng(4)
    panel = discriminability(lambda p: p if p.reason else replace(p, rank=int(rng.integers(0, 11))))
    assert outcome(panel, "probe_sees") is not HOLDS


def test_a_fold_that_saw_a_question_fails_the_cross_fit() -> None:
    seen = judged().seen
    panel = discriminability(lambda p: replace(p, fold=(p.fold + 1) % len(seen)))
    assert outcome(discriminability(), "crossfit") is HOLDS
    assert outcome(panel, "crossfit") is FAILS
    assert panel.state == "INVALID"


def test_a_flattened_model_gives_its_bystanders_to_the_source() -> None:
    def flat(p: Prediction) -> Prediction:
        if (p.phase, p.model) != ("post", "C2") or p.reason:
            return p
        return replace(p, top="librarian", rank=0 if p.persona == "librarian" else 1)

    found = of(discriminability(flat), ("post", "C2"))
    assert found["to_source"]["value"] == 1
    assert found["accuracy"]["value"] == pytest.approx(1 / 11, abs=0.02)
    assert found["from_own"]["high"] < 0


def test_a_calibrated_judge_is_read_and_counts_are_kept() -> None:
    own = [r for r in judged().judgements if r.answer != UNSCORED]
    panel = following(own)
    assert panel.state == "readable", panel.reason
    rows = [r for r in own if (r.phase, r.model, r.persona) == ("post", "C2", "villain")]
    cell = of(panel, ("post", "C2"))["personas"]["villain"]
    assert cell["n"] == len(rows)
    assert cell["yes"] == sum(r.answer == "yes" for r in rows)
    assert sum(cell[a] for a in ("yes", "partial", "no")) == cell["n"]
    json.dumps(panel.to_json(), allow_nan=False)


def test_the_embedded_judge_is_not_calibrated_on_toy_text_and_says_so() -> None:
    panel = following(calibration=judged().calibration)
    assert outcome(panel, "calibration") is FAILS
    assert "judge_uncalibrated" in [c.code for c in panel.caveats]
    assert panel.state == "INVALID"


@pytest.mark.parametrize("name", ["positive", "red_team", "negative"])
def test_an_inverted_sign_fails_a_perfect_judge(name: str) -> None:
    turned = {"yes": "no", "no": "yes"}
    answers = {**PERFECT, name: [turned[a] for a in PERFECT[name]]}
    panel = following(calibration=calibration(answers))
    assert outcome(panel, "calibration") is FAILS


def test_shuffled_answers_tell_nobody_apart() -> None:
    own, controls = judged().judgements, judged().controls
    assert outcome(following(), "tells_personas_apart") is HOLDS
    rng = np.random.default_rng(9)
    raw = [r for r in own if (r.phase, r.model) == ("pre", "raw")]
    pool = [r.answer for r in (*raw, *controls)]
    mixed = [pool[i] for i in rng.permutation(len(pool))]
    answers = [replace(r, answer=a) for r, a in zip(raw, mixed, strict=False)]
    others = [replace(r, answer=a) for r, a in zip(controls, mixed[len(raw) :], strict=True)]
    panel = following(answers, controls=others)
    assert outcome(panel, "tells_personas_apart") is not HOLDS


def test_too_many_unscored_make_the_panel_invalid() -> None:
    scored = [r for r in judged().judgements if r.answer != UNSCORED]
    assert outcome(following(scored), "unscored") is HOLDS
    lost = [
        replace(r, answer=UNSCORED, reason="timeout")
        if (r.phase, r.model) == ("post", "C3") and r.sample == 0
        else r
        for r in scored
    ]
    panel = following(lost)
    assert outcome(panel, "unscored") is FAILS
    cell = of(panel, ("post", "C3"))["personas"]["villain"]
    asked = [r for r in lost if (r.model, r.persona, r.sample) == ("C3", "villain", 0)]
    assert cell["unscored"] == {"timeout": len(asked)}
