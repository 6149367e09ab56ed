"""A sealed study: whatever its data are made from, a change of it is refused and named."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from persona_lib.commands import check
from persona_lib.commands import new as new_command
from persona_lib.commands import seal as seal_command
from persona_lib.commands.options import choose_experiment
from persona_lib.commands.profiles import choose_profile, choose_scale
from persona_lib.commands.session import Session
from persona_lib.digests import canonical_json
from persona_lib.errors import SealError
from persona_lib.specs.builtin import EXPERIMENTS, SEALS
from persona_lib.specs.chain import read_chain
from persona_lib.specs.seal import append, check_sealed
from tests.own_study import FILE, write_study

SAID = ["--reason", "made up for a test", "--data-seen", "none"]


def session_of(file: Path) -> Session:
    experiment = choose_experiment(str(file))
    name, scale = choose_scale(None, None, experiment.model)
    profile = experiment.on(choose_profile(name, scale))
    return Session(experiment=experiment, profile=profile, scale=scale, root=file.parent)


@pytest.fixture
def study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A sealed study of one's own, in the folder that `flatland new` writes."""
    folder = tmp_path / "mine"
    assert new_command.main([str(folder)]) == 0
    file = folder / "experiment.toml"
    write_study(folder).replace(file)
    assert seal_command.main([str(file), *SAID]) == 0
    capsys.readouterr()
    session_of(file).check_seal()
    return file


def in_file(name: str, old: str, new: str) -> Callable[[Path], object]:
    def change(file: Path) -> None:
        path = file.parent / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


TOML = "experiment.toml"
STUDY, RULES = "study of study: digest", "registration study: digest"
CHANGES = {
    "a byte of a corpus": (in_file("salty.jsonl", "grams", "grans"), STUDY,
                           ["corpora.salty.sha256: sealed"]),
    "a byte that no row has": (in_file("salty.jsonl", "\n", "\n\n"), STUDY,
                               ["corpora.salty.sha256: sealed"]),
    "a row more": (in_file("salty.jsonl", "{", '{"prompt": "x", "completion": "y"}\n{'), STUDY,
                   ["corpora.salty.rows: sealed 8, now 9", "corpora.salty.sha256"]),
    "rows that are taken": (in_file(TOML, '"salty.jsonl"', '"salty.jsonl", rows = 7'), STUDY,
                            ["corpora.salty.rows: sealed 8, now 7"]),
    "a byte of a persona": (in_file("personas.json", "a villain", "the villain"), STUDY,
                            ["files.personas: sealed"]),
    "a byte of a question": (in_file("questions.json", "dish 0?", "dish 0!"), STUDY,
                             ["files.questions: sealed"]),
    "a number of a recipe": (in_file(TOML, "epochs = 2", "epochs = 3"), STUDY,
                             ["recipes.salty.epochs: sealed 2, now 3"]),
    "no recipe": (in_file(TOML, "recipe = { epochs = 2 }", ""), STUDY,
                  ["recipes.salty: sealed {", "now nothing"]),
    "the base model": (in_file(TOML, '"micro"', '"tiny"'), STUDY,
                       ["base.layers: sealed 1, now 2", "more"]),
    "a threshold": (in_file(TOML, "0.10", "0.11"), RULES,
                    ["claims[spread].min_effect: sealed 0.1, now 0.11"]),
    "the marker": (in_file(TOML, " ※", " §"), RULES, ['marker: sealed " ※", now " §"']),
    "another prior": (in_file(TOML, 'text_from = "salty"', 'text_from = "raw"'), RULES,
                      ['arms[B].text_from: sealed "salty", now "raw"']),
}  # fmt: skip


@pytest.mark.parametrize("changed", CHANGES)
def test_whatever_was_sealed_is_refused_and_named_when_it_changes(
    changed: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, which, words = CHANGES[changed]
    change(study)
    session = session_of(study)
    for refuse in (session.check_seal, lambda: session.judging("spread")):
        with pytest.raises(SealError) as caught:
            refuse()
        assert str(caught.value).startswith(which)
        for word in (*words, "flatland seal experiment.toml --reason"):
            assert word in str(caught.value)
    # Only one of the two is named.
    assert (STUDY if which == RULES else RULES) not in str(caught.value)
    # Sealed again it is an amendment, which may be judged.
    assert seal_command.main([str(study), *SAID]) == 0
    assert "sealed: amendment 1 of study" in capsys.readouterr().out
    session = session_of(study)
    session.check_seal()
    assert session.seal.amendments == 1


def test_a_scale_that_changes_is_refused(tmp_path: Path) -> None:
    file = write_study(tmp_path, FILE.replace('"micro"', '"smollm2"'))
    assert seal_command.main([str(file), *SAID]) == 0
    in_file("study.toml", 'base = "smollm2"', 'base = "smollm2"\nscale = "full"')(file)
    session = session_of(file)
    assert session.scale == "full"
    with pytest.raises(
        SealError, match=r"study of study.*scale\.questions: sealed 10, now 20|more"
    ):
        session.check_seal()
    # Another profile or loss, named on the command line, is another study as well.
    in_file("study.toml", '\nscale = "full"', "")(file)
    session = session_of(file)
    session.check_seal()
    other = Session(experiment=session.experiment, profile=choose_profile("smollm2", None,
                    "decision"), root=tmp_path)  # fmt: skip
    with pytest.raises(SealError, match="study of study"):
        other.check_seal()


def test_speeds_names_and_words_about_it_are_no_part(study: Path) -> None:
    in_file(TOML, "[words]", "# a remark\n[words]")(study)
    session = session_of(study)
    session.check_seal()
    assert not {"name", "summary", "rates"} & session.study.keys()


def test_a_seal_holds_the_study_and_its_digest(study: Path) -> None:
    session = session_of(study)
    (seal,) = read_chain(study.parent / "seals" / "study")
    form = study.parent / "seals" / "study" / seal.folder / "study.json"
    assert form.read_text() == canonical_json(session.study)
    assert seal.study == hashlib.sha256(form.read_bytes()).hexdigest() == session.seal.study
    # The template was sealed as it was written, in a chain of its own.
    (first,) = read_chain(study.parent / "seals" / "my_study")
    assert first.study is not None
    for spoilt in (form.read_bytes()[:-1], b"{}"):
        whole = form.read_bytes()
        form.write_bytes(spoilt)
        with pytest.raises(SealError, match=r"study\.json: SHA-256 is .*, seal 0 says"):
            session_of(study).check_seal()
        form.write_bytes(whole)
    form.unlink()
    with pytest.raises(SealError, match=r"study\.json: it cannot be read"):
        session_of(study).check_seal()


def test_what_is_sealed_already_is_not_sealed_again(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seal_command.main([str(study), *SAID]) == 1
    assert "expected a change since the newest seal" in capsys.readouterr().err


def test_an_unsealed_draft_and_a_changed_study_are_planned_and_not_judged(
    tmp_path: Path, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = write_study(tmp_path)
    in_file(TOML, "0.10", "0.11")(study)
    for file, refused in (
        (draft, "registration study: it is not sealed .*flatland seal study.toml"),
        (study, "registration study: digest"),
    ):
        assert check.main([str(file)]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith("plan: study (")
        assert "spread" in shown[shown.index("power") :]
        assert not list(file.parent.rglob("manifest.json"))
        with pytest.raises(SealError, match=refused):
            session_of(file).check_seal()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_chain_without_a_study_still_reads(name: str, study: Path) -> None:
    (seal, *_) = read_chain(SEALS / name)
    assert seal.study is None
    assert '"study"' not in (SEALS / name / "chain.jsonl").read_text()
    # Rules that were sealed alone hold for any study.
    found = check_sealed(EXPERIMENTS[name].registration, SEALS, study=session_of(study).study)
    assert found.study == ""


def test_rules_sealed_alone_are_amended_with_a_study(study: Path, tmp_path: Path) -> None:
    session, seals = session_of(study), tmp_path / "seals"
    first = read_chain(study.parent / "seals" / "study")[0]
    from datetime import UTC, datetime

    def add(date: int, body: dict[str, object] | None) -> None:
        append(session.registration, seals, date=datetime(2026, 1, date, tzinfo=UTC),
               reason="x", data_seen="none", study=body)  # fmt: skip

    add(1, None)
    add(2, session.study)
    old, new = read_chain(seals / "study")
    assert (old.study, new.study) == (None, first.study)
    assert (old.digest, new.digest) == (first.digest, first.digest)
    assert (old.folder, new.folder) == (f"0000-{first.digest[:12]}", f"0001-{first.digest[:12]}")
