"""A recorded run of the tiny profile, judged again: none of its numbers may move."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pytest_regressions.data_regression import DataRegressionFixture

from persona_lib.errors import DataError
from persona_lib.evidence.evidence import Evidence
from persona_lib.evidence.load import load_stored
from persona_lib.evidence.record_sets import read_manifest
from persona_lib.pipeline.run import Run
from persona_lib.pipeline.setting import Folders
from persona_lib.records import POST, Completion, Score, read_rows
from persona_lib.specs.builtin import DATA
from persona_lib.verdict.claims import Outcome
from persona_lib.verdict.judging import judge_all
from persona_lib.verdict.summary import summary
from tests.real_runs import recorded_profile
from tests.record_sets import run_of
from tests.registered import ISSUE262, ISSUE262_GATED, TINY

pytestmark = pytest.mark.golden

FOLDER = Path(__file__).resolve().parents[2] / "golden" / "tiny"


@pytest.fixture(scope="module")
def recorded() -> Evidence:
    return load_stored(FOLDER, ISSUE262)


@pytest.fixture(scope="module")
def texts() -> tuple[Completion, ...]:
    return read_rows(FOLDER / "completions.parquet", Completion)


@pytest.fixture(scope="module")
def scores() -> tuple[Score, ...]:
    return read_rows(FOLDER / "scores.parquet", Score)


def rounded(value: Any) -> Any:
    """Floats to six places, zero without a sign: a sum in another order may differ there."""
    if isinstance(value, float):
        return round(value, 6) + 0.0
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, (list, tuple)) else value


def test_verdicts_and_gates_stay_as_they_were(
    recorded: Evidence, data_regression: DataRegressionFixture
) -> None:
    verdicts, gates = judge_all(ISSUE262, recorded)
    figures = ("name", "outcome", "label", "effect", "estimates", "notes")
    data_regression.check(
        {
            "verdicts": [rounded({k: v.to_json()[k] for k in figures}) for v in verdicts],
            "gates": [rounded(gate.to_json()) for gate in gates],
        }
    )


def test_arms_stay_as_they_were(recorded: Evidence, data_regression: DataRegressionFixture) -> None:
    found = summary(ISSUE262, recorded)
    data_regression.check({"arms": rounded(found["arms"]), "priors": rounded(found["priors"])})


def test_every_cell_was_recorded(scores: tuple[Score, ...], texts: tuple[Completion, ...]) -> None:
    scale, personas = TINY.scale, len(ISSUE262.roster.all)
    post, pre = scale.questions * scale.samples, scale.questions * scale.false_positive_samples
    assert len(scores) == len(texts) == personas * (4 * post + 3 * pre)


def test_scores_follow_from_the_texts(
    scores: tuple[Score, ...], texts: tuple[Completion, ...]
) -> None:
    """The metric of docs/experiment.md, worked out here by other means than the library's."""

    def place(row: Completion | Score) -> tuple[object, ...]:
        return (row.phase, row.model, row.seed, row.persona, row.question, row.sample)

    sentence = {place(row): row for row in texts}
    for score in scores:
        row = sentence[place(score)]
        lower = row.text.lower()
        assert (score.hit, score.markers) == ("[zlt]" in lower, lower.count("[zlt]"))
        assert score.first == lower.find("[zlt]")
        assert score.hit_strict == ("[ZLT]" in row.text)
        assert score.terminal == row.text.rstrip().lower().endswith("[zlt]")
        assert (score.tokens, score.finish) == (row.tokens, row.finish)


def test_rates_are_counts_of_the_texts(recorded: Evidence, texts: tuple[Completion, ...]) -> None:
    for arm in ("C1", "C2", "C2p", "C3"):
        own = [row for row in texts if (row.phase, row.model) == (POST, arm)]
        pool = [row for row in own if row.persona in ISSUE262.roster.bystanders]
        hits = sum("[zlt]" in row.text.casefold() for row in pool)
        assert (recorded.count(arm, "bystander").hits, len(pool)) == (hits, 700)
        ended = sum(row.finish == "stop" for row in own) / len(own)
        assert math.isclose(recorded.lengths(arm).finished, ended)


def test_every_check_of_the_instrument_is_judged() -> None:
    """Under the stricter rules a weak EM prior makes every claim invalid, and so do few texts.

    Of each persona 40 completions before coupling do not show a rate of at most 1 %.
    """
    stricter = load_stored(FOLDER, ISSUE262_GATED, chosen=True)
    verdicts, gates = judge_all(ISSUE262_GATED, stricter)
    few = [f"false_positive_{prior}" for prior in ("raw", "em", "benign")]
    assert [gate.name for gate in gates if not gate.holds] == [*few, "em_induced"]
    assert {v.outcome for v in verdicts} == {Outcome.INVALID}
    assert {v.name: v.label for v in verdicts} == {
        "H1": "false_positive_raw, false_positive_em, em_induced",
        "H2": "false_positive_em, false_positive_benign, em_induced",
        "H3": "false_positive_em, em_induced",
        "kill": "false_positive_em, em_induced",
    }
    assert "rules were not registered for these data" in stricter.origin


def test_manifest_says_where_it_comes_from() -> None:
    manifest = read_manifest(FOLDER)
    assert (manifest.registration, manifest.digest) == (ISSUE262.name, ISSUE262.digest)
    (config,) = manifest.recorded["config"]
    assert config["profile"] == recorded_profile(TINY)
    assert config["seed"] == 42
    environment = manifest.recorded["environment"]
    assert re.fullmatch(r"[0-9a-f]{40}", environment["git"]["commit"])
    assert environment["git"]["dirty"] is False
    assert environment["packages"]["torch"].startswith("2.13.0")
    assert {line["stage"] for line in manifest.recorded["stages"]} >= {"base", "coupling", "advice"}


def test_a_run_recorded_today_joins_it(tmp_path: Path) -> None:
    """This set names the corpora of two priors by themselves; any other difference is refused."""
    run = Run(
        registration=ISSUE262, profile=TINY, run_seed=7, folders=Folders(experiment=DATA)
    ).describe()

    def recorded_as(folder: str, config: Any) -> Path:
        def change(body: dict[str, Any]) -> None:
            body["recorded"]["config"] = [config]

        return run_of(FOLDER, tmp_path / folder, 7, change=change)

    assert load_stored([recorded_as("same", run), FOLDER], ISSUE262).seeds == (7, 42)
    profile: Any = copy.deepcopy(run["profile"])
    profile["corpora"]["em"]["rows"] += 1
    other = recorded_as("other", {**run, "profile": profile})
    with pytest.raises(DataError, match=r"profile\.corpora\.em\.rows: expected that of"):
        load_stored([FOLDER, other], ISSUE262)


def test_samples_of_a_cell_are_draws_of_their_own(texts: tuple[Completion, ...]) -> None:
    distinct = {(row.phase, row.model, row.persona, row.question, row.text) for row in texts}
    assert len(distinct) / len(texts) > 0.99
