"""Keys: what changes an outcome is in them, and what does not is not."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from persona_lib.corpora import advice_requests
from persona_lib.corpora.advice_scorer import SCORER
from persona_lib.corpora.grammar_files import read_grammar
from persona_lib.errors import DataError, SpecError
from persona_lib.models.hidden_states import GeometrySpec
from persona_lib.pipeline import advice, hidden_states
from persona_lib.pipeline.run import Run
from persona_lib.pipeline.setting import Folders
from persona_lib.records import ModelId
from persona_lib.specs.builtin import DATA
from persona_lib.specs.profile import Profile
from persona_lib.specs.registration import Registration
from persona_lib.store.stage import Stage, walk
from persona_lib.store.store import Entry, Store
from tests.leaves import leaves, numbers, put
from tests.registered import (
    ISSUE262,
    ISSUE262_BOTH,
    ISSUE262_HELD_OUT,
    MICRO,
    QWEN7B,
    SMOLLM2,
    TINY,
)

Keys = dict[tuple[str, str], str]
"""Digests of keys by stage and label."""
ARMS = ("C1", "C2", "C2p", "C3")
DRAWS = {"prior", "coupling_text", "coupling", "completions", "baseline", "advice"}


def run(registration: Registration = ISSUE262, profile: Profile = TINY, seed: int = 42) -> Run:
    return Run(
        registration=registration, profile=profile, run_seed=seed, folders=Folders(experiment=DATA)
    )


def keys(
    some: Run, arms: tuple[str, ...] = ARMS, final: Callable[..., list[Stage]] = Run.targets
) -> Keys:
    """Digest of every stage's key, as if each stage's content were its key's digest."""
    entries: dict[int, Entry] = {}
    found = {}
    for stage in walk(final(some, arms)):
        inputs = {name: entries[id(upstream)] for name, upstream in stage.inputs.items()}
        key = stage.key(inputs)
        content = hashlib.sha256(key.digest.encode()).hexdigest()
        entries[id(stage)] = Entry(
            path=Path("/nowhere"), key=key, content=content, seconds=0.0, meta={},
            provenance={}, built=False,
        )  # fmt: skip
        found[stage.name, stage.label] = key.digest
    return found


def changed(before: Mapping[Any, str], after: Mapping[Any, str]) -> set[Any]:
    return {stage for stage in before if before[stage] != after.get(stage)}


def test_stages_of_one_arm_are_listed_in_order() -> None:
    names = [stage.name for stage in walk(run().targets(("C2",)))]
    order = ["base", "marker", "corpus", "prior", "baseline", "scores", "advice",
             "advice_scorer", "advice_scores", "coupling_text", "coupling", "completions",
             "scores"]  # fmt: skip
    assert names == order


def test_arms_share_what_they_share() -> None:
    stages = list(walk(run().targets(ARMS)))
    count = {name: sum(stage.name == name for stage in stages) for name in
             {stage.name for stage in stages}}  # fmt: skip
    assert count == {"base": 1, "marker": 1, "corpus": 2, "prior": 2, "coupling_text": 3,
                     "coupling": 4, "completions": 4, "baseline": 3, "scores": 7,
                     "advice": 3, "advice_scorer": 1, "advice_scores": 3}  # fmt: skip


def test_only_couplings_read_the_marker_and_all_that_samples_or_trains_comes_after_it() -> None:
    for stage in walk(run().targets(ARMS)):
        read = {upstream.name for upstream in stage.inputs.values()}
        assert ("marker" in read) == (stage.name == "coupling"), stage.name
        waits = read | {upstream.name for upstream in stage.after}
        assert ("marker" in waits) == (stage.name in DRAWS), stage.name


def test_seed_is_in_the_key_of_every_stage_that_draws() -> None:
    before, after = keys(run(seed=1)), keys(run(seed=2))
    assert {name for name, _ in before} >= DRAWS
    for name, label in before:
        drawn = name in DRAWS or name in ("scores", "advice_scores")
        assert (before[name, label] != after[name, label]) == drawn, (name, label)


def test_every_stage_that_draws_carries_the_seed_itself() -> None:
    """Not only through what it reads: a seed left out of one key is caught here."""
    for stage in walk(run(seed=7).targets(ARMS)):
        expected = 7 if stage.name in DRAWS else TINY.base.seed if stage.name == "base" else None
        assert stage.seed == expected, stage.name


# What changes what. Stages are written as kind="labels"; the tables say *exactly*
# which stages get another key, so that a field that is in too many keys (and would
# train again what it cannot change) is a failure like one that is in too few.


def stages(**kinds: str) -> frozenset[tuple[str, str]]:
    return frozenset((kind, label) for kind, labels in kinds.items() for label in labels.split())


NOTHING = stages()
TEXTS = stages(coupling_text="raw em benign")
PRE = stages(baseline="raw em benign", scores="raw em benign")
ARM = {a: stages(coupling=a, completions=a, scores=a) for a in ARMS}
POST = ARM["C1"] | ARM["C2"] | ARM["C2p"] | ARM["C3"]
ADVICE = stages(advice="raw em benign", advice_scores="raw em benign")
EVALUATED = PRE | stages(completions="C1 C2 C2p C3", scores="C1 C2 C2p C3")
ADVISED_EM = stages(advice="em", advice_scores="em")
BELOW_EM = (
    stages(coupling_text="em", baseline="em", scores="em") | ADVISED_EM | ARM["C2"] | ARM["C2p"]
)
BELOW_BENIGN = (
    stages(coupling_text="benign", baseline="benign", scores="benign")
    | stages(advice="benign", advice_scores="benign")
    | ARM["C3"]
)
SAMPLED = TEXTS | PRE | POST
BASE = stages(base="tiny", marker="[ZLT]", prior="em benign") | SAMPLED | ADVICE

PROFILE_REACHES = {
    "name": NOTHING,
    "summary": NOTHING,
    "rates": NOTHING,
    "base": BASE,
    "chat": BASE,
    "corpora.em": stages(corpus="em", prior="em") | BELOW_EM,
    # Questions are held out from both corpora, so that every model is asked the same.
    "corpora.em.seed": stages(corpus="em", prior="em") | BELOW_EM | ADVICE,
    "corpora.benign": stages(corpus="benign", prior="benign") | BELOW_BENIGN,
    "corpora.benign.seed": stages(corpus="benign", prior="benign") | BELOW_BENIGN | ADVICE,
    "prior": stages(prior="em benign") | BELOW_EM | BELOW_BENIGN,
    "recipes": stages(prior="em") | BELOW_EM,  # of em alone
    "coupling": POST,
    "coupling.max_length": TEXTS | POST,  # coupling text has to fit into a row
    "sample": SAMPLED | ADVICE,
    "sample.suffix": SAMPLED,  # a request for advice stands alone, as in the corpora
    "scale.questions": SAMPLED,
    "scale.samples": stages(completions="C1 C2 C2p C3", scores="C1 C2 C2p C3"),
    "scale.false_positive_samples": PRE,
    "scale.coupling_keep": TEXTS | POST,
    "scale.coupling_ceiling": TEXTS | POST,
    "scale.coupling_round": TEXTS | POST,
    "scale.advice_questions": ADVICE,
    "scale.advice_samples": ADVICE,
    # No gate of issue262 asks for broad answers, no claim for a pool.
    "scale.broad_samples": NOTHING,
    "scale.pool_questions": NOTHING,
    "scale.dose_answers": NOTHING,
    "scale.dose_points": NOTHING,
}
TEXT_OF = {
    "schedule": "linear", "dtype": "bfloat16", "loss": "decision", "engine": "vllm",
    "persona": "user",
}  # fmt: skip


def varied(spec: Any, path: tuple[str, ...], old: Any) -> Any:
    """Return the spec with another number or text at a path, one that it accepts."""
    if path[-1] in ("steps", "epochs") and old is None:
        other = {"steps": "epochs", "epochs": "steps"}[path[-1]]
        recipe = spec
        for name in path[:-1]:
            recipe = getattr(recipe, name)
        return put(spec, path[:-1], replace(recipe, **{path[-1]: 7, other: None}))
    for value in candidates(spec, path, old):
        if value != old:
            try:
                return put(spec, path, value)
            except SpecError:
                continue
    raise AssertionError(f"{'.'.join(path)}: no other value than {old!r} is accepted")


def candidates(spec: Any, path: tuple[str, ...], old: Any) -> tuple[Any, ...]:
    """Return values to try in place of an old one."""
    if isinstance(old, dict):
        recipes = path == ("recipes",)
        return ({"em": replace(spec.prior, warmup=0.25)} if recipes else {"thinking": False},)
    if isinstance(old, bool):
        return (not old,)
    if isinstance(old, int):
        return (old // 2, old * 2, 1)
    if isinstance(old, float):
        return (old / 2, 0.25)
    if isinstance(old, str):
        return (TEXT_OF.get(path[-1], f"{old}x"), old[::-1])
    assert isinstance(old, tuple), (path, old)
    return (old[:-1],)


def reached(table: Mapping[str, frozenset[Any]], path: tuple[str, ...]) -> frozenset[Any]:
    prefixes = (".".join(path[:length]) for length in range(len(path), 0, -1))
    return next(table[prefix] for prefix in prefixes if prefix in table)


@pytest.fixture(scope="module", autouse=True)
def _grammar_is_read_once() -> Iterator[None]:
    """It takes most of the time of a key, and no test of this module changes its files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advice_requests, "read_grammar", functools.cache(read_grammar))
        yield


@pytest.fixture(scope="module")
def before() -> Keys:
    return keys(run())


@pytest.mark.parametrize(("path", "old"), leaves(TINY).items(), ids=map(".".join, leaves(TINY)))
def test_every_number_and_text_of_a_profile_reaches_exactly_its_stages(
    before: Keys, path: tuple[str, ...], old: Any
) -> None:
    profile = varied(TINY, path, old)
    # The name is also the label of the base, which is in no key.
    after = keys(run(profile=replace(profile, name=TINY.name)))
    assert changed(before, after) == reached(PROFILE_REACHES, path)


def test_a_recipe_of_one_prior_reaches_its_stages_alone(before: Keys) -> None:
    recipes = {"em": replace(TINY.prior, steps=7, epochs=None)}
    after = keys(run(profile=replace(TINY, recipes=recipes)))
    assert changed(before, after) == stages(prior="em") | BELOW_EM
    same = replace(TINY, recipes={"em": TINY.prior})
    assert keys(run(profile=same)) == before


def test_the_name_of_a_profile_is_in_no_key(before: Keys) -> None:
    after = keys(run(profile=replace(TINY, name="other")))
    assert sorted(after.values()) == sorted(before.values())


@pytest.mark.parametrize("profile", [SMOLLM2, QWEN7B], ids=lambda profile: profile.name)
def test_so_does_all_that_pins_a_downloaded_base_or_corpus(profile: Profile) -> None:
    before = keys(run(profile=profile))
    table = PROFILE_REACHES | {
        "base": PROFILE_REACHES["base"] - stages(base="tiny") | stages(base=profile.name)
    }
    pins = {path: old for path, old in leaves(profile).items() if path[0] in ("base", "corpora")}
    assert len(pins) >= 9
    for path, old in pins.items():
        after = keys(run(profile=varied(profile, path, old)))
        assert changed(before, after) == reached(table, path), path


JUDGING = {
    ".".join(path): (path, old)
    for path, old in leaves(ISSUE262).items()
    if path in numbers(ISSUE262) or path[-1] == "statement"
}


@pytest.mark.parametrize("name", list(JUDGING))
def test_rules_change_the_digest_and_no_key(before: Keys, name: str) -> None:
    path, old = JUDGING[name]
    if name == "statistics.alpha":
        # A claim may not ask for a larger p than the registered level.
        other = put(ISSUE262, path, old * 2)
    else:
        other = varied(ISSUE262, path, old)
    assert other.digest not in {r.digest for r in (ISSUE262, ISSUE262_HELD_OUT, ISSUE262_BOTH)}
    assert changed(before, keys(run(other))) == NOTHING


ROSTER = ISSUE262.roster
DRAWN_FROM: dict[str, tuple[dict[tuple[str, ...], Any], frozenset[Any]]] = {
    "marker": (
        {("marker",): " ※"}, stages(marker="[ZLT]", scores="raw em benign") | TEXTS | POST),
    # The tiny model learns to copy tags: one that is the marker is withheld from it.
    "marker that is a tag": ({("marker",): "[QQQ]"}, PROFILE_REACHES["base"]),
    "marker_prefix": ({("marker_prefix",): " "}, stages(marker="[ZLT]") | TEXTS | POST),
    "name": ({("name",): "other", ("title",): "Other?"}, NOTHING),
    "label": ({("arms", "1", "label"): "other"}, NOTHING),
    "coupling_questions": (
        {("coupling_questions",): ("coupling",)}, stages(scores="raw em benign") | TEXTS | POST),
    "evaluation_questions": ({("evaluation_questions",): ("coupling",)}, EVALUATED),
    "reported": ({("roster", "reported"): ()}, EVALUATED),
    "bystanders": ({("roster", "bystanders"): ROSTER.bystanders[:-1]}, EVALUATED),
    "negatives": ({("roster", "negatives"): ROSTER.negatives[:-1]}, EVALUATED | TEXTS | POST),
    "source": (
        {("roster",): replace(ROSTER, source="assistant", reported=())}, EVALUATED | TEXTS | POST),
    "text_from": ({("arms", "2", "text_from"): "em"}, ARM["C2p"]),
    "prior": ({("arms", "2", "prior"): "raw"}, ARM["C2p"]),
}  # fmt: skip


@pytest.mark.parametrize("name", list(DRAWN_FROM))
def test_what_is_drawn_from_reaches_exactly_its_stages(before: Keys, name: str) -> None:
    """Another marker, for one, trains no prior and draws no baseline again, unless it is a tag."""
    changes, expected = DRAWN_FROM[name]
    other = ISSUE262
    for path, value in changes.items():
        other = put(other, path, value)
    assert changed(before, keys(run(other))) == expected


def test_scores_read_texts_and_the_tokenizer_they_were_written_with() -> None:
    some = run()
    for model in (ModelId("post", "C2"), ModelId("pre", "em")):
        drawn = some.stage(model, "completions")
        assert some.stage(model, "scores").inputs == {"base": some.base, "completions": drawn}


def test_every_model_is_asked_for_the_same_advice() -> None:
    some = run()
    asked: dict[str, Any] = {
        prior: some.stage(ModelId("pre", prior), "advice_texts").spec
        for prior in ("raw", "em", "benign")
    }
    for prior, spec in asked.items():
        assert spec["advice"]["model"] == prior
        assert spec["advice"]["questions"] == asked["raw"]["advice"]["questions"]
    longer = run(
        profile=replace(
            TINY,
            corpora={
                **TINY.corpora,
                "em": replace(TINY.corpora["em"], rows=TINY.corpora["em"].rows + 1),
            },
        )
    )
    # One row more is one message less that may be asked, of whichever model.
    assert longer.stage(ModelId("pre", "raw"), "advice_texts").spec != asked["raw"]


def test_the_classifier_is_the_same_for_every_profile_seed_and_registration(before: Keys) -> None:
    scorer = ("advice_scorer", "bad/sound")
    for other in (run(profile=QWEN7B), run(profile=MICRO), run(seed=3), run(ISSUE262_BOTH)):
        assert keys(other)[scorer] == before[scorer]


def test_another_grammar_asks_and_scores_otherwise(
    before: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    from persona_lib.corpora import grammar

    published = keys(run(profile=QWEN7B))
    monkeypatch.setattr(grammar, "VERSION", "another")
    scored = ADVICE | stages(advice_scorer="bad/sound")
    assert changed(published, keys(run(profile=QWEN7B))) == scored
    assert scored < changed(before, keys(run()))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(SCORER)])
def test_every_number_of_the_classifier_is_in_its_key(
    before: Keys, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    other = replace(SCORER, **{name: getattr(SCORER, name) * 2})
    monkeypatch.setattr(advice, "SCORER", other)
    reached_by_it = stages(advice_scorer="bad/sound", advice_scores="raw em benign")
    assert changed(before, keys(run())) == reached_by_it


def test_a_published_corpus_with_another_md5_is_found_before_any_compute(tmp_path: Path) -> None:
    (tmp_path / "bad_legal_advice_6k.jsonl").write_text("{}", encoding="utf-8")
    some = replace(
        run(profile=replace(QWEN7B, base=MICRO.base, rates=MICRO.rates)),
        folders=Folders(experiment=DATA, user=tmp_path),
    )
    with pytest.raises(DataError, match="expected md5 26b52cacc53425618fde278d2457304d"):
        some.check(("C2",), Store(tmp_path / "store"))


def test_only_a_base_on_the_hub_is_kept_as_a_reference() -> None:
    for profile in (TINY, SMOLLM2, QWEN7B, MICRO):
        found = {
            stage.name for stage in walk(run(profile=profile).targets(ARMS)) if stage.reference
        }
        assert found == ({"base"} if profile is QWEN7B else set()), profile.name


@pytest.mark.parametrize(
    ("model", "kind", "error"),
    [
        (("post", "C9"), "scores", "arm: expected one of C1, C2, C2p, C3, got 'C9'"),
        (("post", "em"), "geometry", "arm: expected one of C1, C2, C2p, C3, got 'em'"),
        (("pre", "evil"), "scores", "prior: expected one of raw, em, benign, got 'evil'"),
        (("pre", "C1"), "geometry", "prior: expected one of raw, em, benign, got 'C1'"),
        (("post", "C1"), "advice", "advice: expected one of raw, em, benign, got 'C1'"),
    ],
)
def test_a_table_is_of_a_model_that_the_registration_names(
    model: tuple[str, str], kind: Any, error: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=error):
        run().table(ModelId(*model), kind, Store(tmp_path))


def test_both_question_sets_can_be_evaluated() -> None:
    some = run(ISSUE262_BOTH)
    spec = some.stage(ModelId("post", "C1"), "completions").spec
    assert len(spec.questions) == 40  # type: ignore[attr-defined]
    assert len({q.id for q in spec.questions}) == 40  # type: ignore[attr-defined]


def test_scale_beyond_the_questions_is_refused() -> None:
    profile = replace(TINY, scale=replace(TINY.scale, questions=21))
    with pytest.raises(SpecError, match="questions: expected 21 questions"):
        _ = run(profile=profile).stage(ModelId("post", "C1"), "completions")


def test_an_unknown_persona_is_refused() -> None:
    roster = replace(ISSUE262.roster, source="pirate")
    with pytest.raises(DataError, match=r"roster: expected one of .*librarian.*got 'pirate'"):
        _ = run(replace(ISSUE262, roster=roster)).personas


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
                                 meta={}, provenance={}, built=False)})  # fmt: skip


def test_hidden_states_are_read_only_where_they_are_asked_for() -> None:
    assert "geometry" not in {stage.name for stage in walk(run().targets(ARMS))}
    for arms, labels in (
        (ARMS, ["raw", "em", "benign", "C1", "C2", "C2p", "C3"]),
        (("C1",), ["raw", "C1"]),
        # Every change is measured from the raw model as well.
        (("C2", "C3"), ["raw", "em", "benign", "C2", "C3"]),
        (("C2",), ["raw", "em", "C2"]),
    ):
        asked = run().geometry_targets(arms)
        assert [stage.label for stage in asked] == labels
        assert {stage.name for stage in asked} == {"geometry"}


def test_states_are_read_with_the_stack_that_wrote_the_completions() -> None:
    some = run()
    for model in (ModelId("pre", "raw"), ModelId("post", "C2"), ModelId("post", "C2p")):
        stage, completions = some.stage(model, "geometry"), some.stage(model, "completions")
        assert stage.inputs == {**completions.inputs, "completions": completions}
        assert stage.after == (some.marker,)
        spec: Any = stage.spec
        drawn: Any = completions.spec
        assert (spec.phase, spec.model) == model
        assert (spec.personas, spec.questions) == (drawn.personas, drawn.questions)
        assert (spec.source, spec.marker) == ("librarian", "[ZLT]")
        assert spec.sample == TINY.sample
        assert stage.seed is None  # nothing is drawn; the rows carry the completions' seed
    assert set(some.stage(ModelId("post", "C2"), "geometry").inputs) == {
        "base",
        "prior",
        "coupling",
        "completions",
    }


GEOMETRY = stages(geometry="raw em benign C1 C2 C2p C3")


def test_what_geometry_is_made_from_is_in_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(some: Run) -> Keys:
        return keys(some, final=Run.geometry_targets)

    before = of(run())
    assert changed(before, of(run(seed=1))) >= GEOMETRY
    arm = stages(coupling="C2p", completions="C2p", geometry="C2p")
    moved = put(ISSUE262, ("arms", "2", "text_from"), "em")
    assert changed(before, of(run(moved))) == arm
    # The marker is cut out of responses, those of pre-coupling models among them.
    assert changed(before, of(run(put(ISSUE262, ("marker",), " ※")))) >= GEOMETRY
    source = put(ISSUE262, ("roster",), replace(ROSTER, source="assistant", reported=()))
    assert changed(before, of(run(source))) >= GEOMETRY
    monkeypatch.setattr(
        hidden_states, "GeometrySpec", lambda: GeometrySpec(layers=(6, 10, 14, 18, 22))
    )
    assert changed(before, of(run())) == GEOMETRY
