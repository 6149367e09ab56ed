"""Stored evidence: whose it is, whether it was altered, which rules may judge it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from persona_lib.errors import CorruptEntryError, DataError
from persona_lib.evidence.load import load_stored
from persona_lib.specs.gate_types import SourceRateGate
from persona_lib.specs.registration import Registration
from persona_lib.verdict.judging import judge
from tests.record_sets import body_of, record_set
from tests.registered import ISSUE262, ISSUE262_BOTH, ISSUE262_HELD_OUT
from tests.synthetic import FEW, scores

PUBLISHED = Path(__file__).resolve().parents[2] / "golden" / "published"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return record_set(tmp_path, scores(questions=2, samples=2))


def edit(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    (folder / "manifest.json").write_text(json.dumps(change(body_of(folder))))


def test_stored_records_are_read_back(folder: Path) -> None:
    found = load_stored(folder, ISSUE262)
    assert found.kind == "records"
    assert found.count("C2", "bystander").n == 28
    assert found.origin == load_stored(folder, ISSUE262, chosen=True).origin == "a test"


def test_an_altered_file_and_lost_ones_are_named(folder: Path) -> None:
    path = folder / "scores.parquet"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CorruptEntryError, match=r"scores\.parquet.*restore it"):
        load_stored(folder, ISSUE262)
    for name in ("scores.parquet", "manifest.json"):
        (folder / name).unlink()
        with pytest.raises(DataError, match=re.escape(name)):
            load_stored(folder, ISSUE262)


@pytest.mark.parametrize("chosen", [True, False])
def test_data_that_were_shaped_by_another_registration_are_refused(
    folder: Path, chosen: bool
) -> None:
    """Also under the recorded name: what counts is what the data are."""
    for other in (
        ISSUE262_HELD_OUT,
        ISSUE262_BOTH,
        replace(ISSUE262, marker="[XYZ]"),
        replace(ISSUE262, roster=replace(ISSUE262.roster, reported=())),
        replace(ISSUE262, arms=(replace(ISSUE262.arms[0], text_from="em"), *ISSUE262.arms[1:])),
    ):
        words = (
            rf"data digest of registration {other.name}: expected {other.data_digest[:12]}.*"
            rf"{ISSUE262.data_digest[:12]}, recorded under issue262.*"
            "Judge this folder under issue262"
        )
        with pytest.raises(DataError, match=words):
            load_stored(folder, other, chosen=chosen)


@pytest.mark.parametrize(
    "other", [FEW, replace(ISSUE262, name="issue262_gated"), replace(FEW, name="issue262_gated")]
)
def test_other_rules_judge_stored_data_only_where_they_were_chosen(
    folder: Path, other: Registration
) -> None:
    with pytest.raises(DataError, match=rf"digest of registration {other.name}.*by name"):
        load_stored(folder, other)
    found = load_stored(folder, other, chosen=True)
    assert found.registration is other
    assert found.origin == (
        f"a test (recorded under issue262 {ISSUE262.digest[:12]}, judged under {other.name} "
        f"{other.digest[:12]}: these rules were not registered for these data)"
    )


def test_published_totals_can_be_judged_under_gates_of_their_own() -> None:
    """C2p's source is at 4 %: under a gate on it, H3 is not read."""
    gate = ISSUE262.gates[0]
    assert isinstance(gate, SourceRateGate)
    also = replace(gate, name="source_rate_c2p", arm="C2p")
    claims = tuple(
        replace(c, needs=(*c.needs, also.name)) if c.name == "H3" else c for c in ISSUE262.claims
    )
    gated = replace(ISSUE262, name="issue262_gated", gates=(*ISSUE262.gates, also), claims=claims)
    found = judge(gated, load_stored(PUBLISHED, gated, chosen=True), "H3")
    assert (found.outcome.value, found.label) == ("INVALID", "source_rate_c2p")
    as_registered = judge(ISSUE262, load_stored(PUBLISHED, ISSUE262), "H3")
    assert as_registered.outcome.value == "REFUTED"


def test_a_stored_set_of_some_arms_can_be_judged_on_those(tmp_path: Path) -> None:
    record_set(tmp_path, scores(questions=3, samples=3, arms=("C1", "C2")))
    found = load_stored(tmp_path, ISSUE262, arms=("C1", "C2"))
    assert found.arms == ("C1", "C2")
    assert judge(ISSUE262, found, "H1").effect.n == 2 * 7 * 9
    with pytest.raises(DataError, match=r"arm C2p.*0 rows"):
        load_stored(tmp_path, ISSUE262)
    assert load_stored(PUBLISHED, ISSUE262, arms=("C3", "C2")).arms == ("C2", "C3")


def files(**digests: str) -> dict[str, Any]:
    return {"files": {name: {"sha256": digest} for name, digest in digests.items()}}


def whose(**fields: str) -> dict[str, Any]:
    return {"registration": {"name": "issue262", "digest": ISSUE262.digest, **fields}}


EVIL = {"name": "\x1b]0;PWN\x07", "digest": "\x1b[1m"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"kind": "rumours"}, "kind"),
        ({"kind": "\x1b[1m\n\n"}, "kind"),
        (files(), "files"),
        (files(**{"scores.parquet": "", "../x": ""}), "scores.parquet"),
        (files(**{"../x": "", "scores.parquet": ""}), "plain file names"),
        (files(**{"scores.parquet": "\x1b]0;PWN\x07"}), "scores.parquet"),
        (files(**{"\x1b[2Jx": "", "scores.parquet": ""}), "plain file names"),
        ({"registration": None}, "registration"),
        (whose(), "data_digest"),
        (whose(data_digest=ISSUE262_BOTH.data_digest), "data digest"),
        (whose(**EVIL, data_digest="\x9b"), "data digest"),
        (whose(**EVIL, data_digest=ISSUE262.data_digest), "digest of registration"),
    ],
)
def test_a_broken_manifest_is_named_and_cannot_steer_a_terminal(
    folder: Path, change: dict[str, Any], word: str
) -> None:
    edit(folder, lambda body: body | change)
    with pytest.raises((DataError, CorruptEntryError), match=re.escape(word)) as caught:
        load_stored(folder, ISSUE262)
    assert str(caught.value).isprintable()


def recipe(**lora: Any) -> dict[str, Any]:
    return {"profile": {"prior": {"lora": lora}}}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ([recipe(rslora=True, rank=32, alpha=64, dropout=0.05)],
         "; priors: rsLoRA r 32, alpha 64, dropout 0.05"),
        ([recipe(rslora=False, rank=8, alpha=16, dropout=0.0)] * 2,
         "; priors: LoRA r 8, alpha 16, dropout 0"),
        ([recipe(rslora=r, rank=8, alpha=16, dropout=0) for r in (False, True)],
         "; priors: LoRA r 8, alpha 16, dropout 0 and rsLoRA r 8, alpha 16, dropout 0"),
        (recipe(rslora=True, rank="\x1b[1m", alpha=1, dropout=0), ""),
        ([{"profile": None}, 7], ""),
        (None, ""),
    ],
)  # fmt: skip
def test_a_recorded_set_says_how_its_priors_were_trained(
    folder: Path, config: Any, words: str
) -> None:
    edit(folder, lambda body: body | {"recorded": {"config": config}})
    assert load_stored(folder, ISSUE262).origin == f"a test{words}"
