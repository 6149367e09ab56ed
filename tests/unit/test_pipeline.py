"""Keys: what changes an outcome is in them, and what does not is not."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.issue262 import ISSUE262, ISSUE262_BOTH, ISSUE262_HELD_OUT
from experiments.profiles import MICRO, QWEN7B, SMOLLM2, TINY
from experiments.session import DATA
from persona_lib.errors import DataError, PreflightError, SpecError
from persona_lib.graph import Stage, check_machine, plan, walk
from persona_lib.pipeline import Folders, Run, targets
from persona_lib.profile import Profile
from persona_lib.registration import Registration
from persona_lib.store import Entry, Store

ARMS = ("C1", "C2", "C2p", "C3")
DRAWS = {"prior", "coupling_text", "coupling", "completions", "baseline"}


def run(registration: Registration = ISSUE262, profile: Profile = TINY, seed: int = 42) -> Run:
    return Run(
        registration=registration, profile=profile, seed=seed, folders=Folders(experiment=DATA)
    )


def keys(some: Run, arms: tuple[str, ...] = ARMS) -> dict[tuple[str, str], str]:
    """Digest of every stage's key, as if each stage's content were its key's digest."""
    entries: dict[int, Entry] = {}
    found = {}
    for stage in walk(targets(some, arms)):
        inputs = {name: entries[id(upstream)] for name, upstream in stage.inputs.items()}
        key = stage.key(inputs)
        content = hashlib.sha256(key.digest.encode()).hexdigest()
        entries[id(stage)] = Entry(
            path=Path("/nowhere"), key=key, content=content, seconds=0.0, meta={}, built=False
        )
        found[stage.name, stage.label] = key.digest
    return found


def changed(before: Mapping[Any, str], after: Mapping[Any, str]) -> set[Any]:
    return {stage for stage in before if before[stage] != after.get(stage)}


def test_stages_of_one_arm_are_listed_in_order() -> None:
    names = [stage.name for stage in walk(targets(run(), ("C2",)))]
    order = ["base", "marker", "corpus", "prior", "baseline", "scores", "coupling_text",
             "coupling", "completions", "scores"]  # fmt: skip
    assert names == order


def test_arms_share_what_they_share() -> None:
    stages = list(walk(targets(run(), ARMS)))
    count = {name: sum(stage.name == name for stage in stages) for name in
             {stage.name for stage in stages}}  # fmt: skip
    assert count == {"base": 1, "marker": 1, "corpus": 2, "prior": 2, "coupling_text": 3,
                     "coupling": 4, "completions": 4, "baseline": 3, "scores": 7}  # fmt: skip


def test_c2p_couples_the_em_model_on_the_raw_models_text() -> None:
    stage = run().coupling("C2p")
    assert stage.inputs["prior"].label == "em"
    assert stage.inputs["text"].label == "raw"
    assert "prior" not in run().coupling("C1").inputs


def test_seed_is_in_the_key_of_every_stage_that_draws() -> None:
    before, after = keys(run(seed=1)), keys(run(seed=2))
    assert {name for name, _ in before} >= DRAWS
    for name, label in before:
        drawn = name in DRAWS or name == "scores"
        assert (before[name, label] != after[name, label]) == drawn, (name, label)


def test_every_stage_that_draws_carries_the_seed_itself() -> None:
    """Not only through what it reads: a seed left out of one key is caught here."""
    for stage in walk(targets(run(seed=7), ARMS)):
        expected = 7 if stage.name in DRAWS else TINY.base.seed if stage.name == "base" else None
        assert stage.seed == expected, stage.name


def variants(value: Any) -> list[Any]:
    """Specs that differ from `value` in exactly one number or text."""
    found = []
    for field in dataclasses.fields(value):
        old = getattr(value, field.name)
        if dataclasses.is_dataclass(old):
            new: list[Any] = variants(old)
        elif isinstance(old, bool):
            new = [not old]
        elif isinstance(old, (int, float)):
            new = [old * 2 if isinstance(old, int) else old / 2] if old else [1]
        else:
            new = []
        for item in new:
            try:
                found.append(replace(value, **{field.name: item}))
            except SpecError:
                continue
    return found


def test_every_number_of_a_profile_but_its_speeds_changes_some_key() -> None:
    before = keys(run())
    others = [p for p in variants(TINY) if p.rates == TINY.rates]
    assert len(others) > 40
    for profile in others:
        # The tiny grammar corpora hold more rows than any variant asks for; questions do not.
        if profile.scale.questions != TINY.scale.questions:
            continue
        assert changed(before, keys(run(profile=profile))), profile
    for profile in variants(TINY):
        if profile.rates != TINY.rates:
            assert not changed(before, keys(run(profile=profile)))


def test_rules_change_no_key_and_what_is_drawn_does() -> None:
    before = keys(run())
    kill = replace(ISSUE262.kill, max_rate=0.04)
    assert not changed(before, keys(run(replace(ISSUE262, kill=kill))))
    other = keys(run(replace(ISSUE262, marker="[QQQ]")))
    assert {name for name, _ in changed(before, other)} >= {"coupling", "scores", "coupling_text"}
    held_out = changed(before, keys(run(ISSUE262_HELD_OUT)))
    assert ("coupling_text", "raw") in held_out
    assert ("baseline", "raw") not in held_out
    assert ("prior", "em") not in held_out


def test_recipes_reach_only_what_they_train() -> None:
    recipe = replace(TINY.coupling, beta=9.0)
    found = changed(keys(run()), keys(run(profile=replace(TINY, coupling=recipe))))
    assert {name for name, _ in found} == {"coupling", "completions", "scores"}


def test_any_number_of_a_registration_changes_its_digest() -> None:
    digests = {ISSUE262.digest, ISSUE262_HELD_OUT.digest, ISSUE262_BOTH.digest}
    for field in ("claims", "gates"):
        for index, rule in enumerate(getattr(ISSUE262, field)):
            for other in variants(rule):
                rules = list(getattr(ISSUE262, field))
                rules[index] = other
                digests.add(replace(ISSUE262, **{field: tuple(rules)}).digest)
    digests |= {replace(ISSUE262, kill=k).digest for k in variants(ISSUE262.kill)}
    digests |= {replace(ISSUE262, statistics=s).digest for s in variants(ISSUE262.statistics)}
    assert (
        len(digests) == 3 + (2 + 2 + 3) + 3 + 1 + 4
    )  # registrations, claims, gates, kill, statistics


def test_plan_builds_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    lines = plan(targets(run(), ARMS), store)
    assert len(lines) == 27
    assert not any(line.stored for line in lines)
    assert sum(line.seconds for line in lines) > 10
    assert not list(tmp_path.rglob("manifest.json"))


def test_missing_published_corpus_is_found_before_any_compute(tmp_path: Path) -> None:
    profile = replace(QWEN7B, base=MICRO.base)
    with pytest.raises(PreflightError, match=r"bad_legal_advice_6k\.jsonl"):
        check_machine(targets(run(profile=profile), ("C2",)), Store(tmp_path))


def test_both_question_sets_can_be_evaluated() -> None:
    some = run(ISSUE262_BOTH)
    spec = some.completions("post", "C1").spec
    assert len(spec.questions) == 40  # type: ignore[attr-defined]
    assert len({q.id for q in spec.questions}) == 40  # type: ignore[attr-defined]


def test_scale_beyond_the_questions_is_refused() -> None:
    profile = replace(TINY, scale=replace(TINY.scale, questions=21))
    with pytest.raises(SpecError, match="questions: expected 21 questions"):
        _ = run(profile=profile).completions("post", "C1")


def test_unknown_persona_and_arm_are_refused() -> None:
    roster = replace(ISSUE262.roster, source="pirate")
    with pytest.raises(DataError, match=r"roster: expected one of .*librarian.*got 'pirate'"):
        _ = run(replace(ISSUE262, roster=roster)).personas
    with pytest.raises(SpecError, match=r"arm: expected one of C1, C2, C2p, C3, got 'C9'"):
        targets(run(), ("C9",))


def test_smollm2_states_a_reduced_scale() -> None:
    assert SMOLLM2.scale.questions * SMOLLM2.scale.samples < 200
    assert SMOLLM2.sample.suffix


def test_stage_refuses_two_inputs_of_one_name() -> None:
    base = run().base
    stage = Stage(
        name="clash",
        label="",
        version=1,
        spec={},
        work=lambda *_: {},
        inputs={"base": base},
        data={"base": "0" * 64},
    )
    with pytest.raises(SpecError, match="base"):
        stage.key({"base": Entry(path=Path(), key=base.key({}), content="1" * 64, seconds=0.0,
                                 meta={}, built=False)})  # fmt: skip
