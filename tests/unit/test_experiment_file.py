"""Experiment files: the built-in ones are those that were sealed; a mistake is one line."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from persona_lib.commands import check
from persona_lib.commands.options import choose_experiment
from persona_lib.errors import InputError
from persona_lib.specs import experiment, structure
from persona_lib.specs.builtin import EXPERIMENTS, FOLDER
from persona_lib.specs.experiment import load_experiment
from tests.own_study import FILE, write_study
from tests.registered import MICRO
from tests.smoke.conftest import python

SEALED = {
    "issue262": "f56c28c270d5",
    "issue262_held_out": "045747893204",
    "issue262_both": "74d47bfafdef",
    "issue262_gated": "88ab31007d28",
    "issue262_bca": "b584679359a7",
    "factorial": "620f74951bd4",
    "factorial_em": "8aab4a7b7b95",
}


@pytest.mark.parametrize("name", SEALED)
def test_the_built_in_files_give_the_sealed_digests(name: str, tmp_path: Path) -> None:
    found = load_experiment(FOLDER / name / "experiment.toml", builtin=FOLDER)
    assert found.registration.digest[:12] == SEALED[name]
    assert EXPERIMENTS[name] == found
    assert found.is_builtin
    # A file of one's own that only derives from it has the same rules, and seals of its own.
    own = tmp_path / "own.toml"
    own.write_text(f'derives_from = "{name}"\n')
    derived = choose_experiment(str(own))
    assert derived.registration == found.registration
    assert (derived.is_builtin, derived.seals) == (False, tmp_path / "seals")


def test_there_are_no_others() -> None:
    assert set(EXPERIMENTS) == set(SEALED)
    assert {path.parent.name for path in FOLDER.glob("*/experiment.toml")} == {*SEALED, "template"}


def test_what_a_file_leaves_out_has_the_defaults_of_the_docs(tmp_path: Path) -> None:
    found = choose_experiment(str(write_study(tmp_path)))
    rules, (claim,) = found.registration, found.registration.claims
    assert (rules.marker, rules.marker_prefix, rules.kill) == (" ※", "", None)
    assert [arm.label for arm in rules.arms] == ["A", "B"]
    assert claim.statement == "B leaks more than A"
    assert rules.roster.reported == ()
    assert rules.coupling_questions == rules.evaluation_questions == ("evaluation",)
    assert rules.statistics == EXPERIMENTS["issue262"].registration.statistics
    # Gates are listed: those that follow from the arms are warnings.
    assert [gate.name for gate in rules.gates] == ["ratio"]
    assert found.stricter is not None
    assert found.priors["salty"].harm is None
    assert found.model.scale is None
    assert (found.evidence.extra, found.evidence.only) == ("refuse", False)
    assert {(one.evidence.extra, one.evidence.only) for one in EXPERIMENTS.values()} == {
        ("refuse", False)
    }


def test_how_evidence_is_read_is_in_no_digest(tmp_path: Path) -> None:
    plain = choose_experiment(str(write_study(tmp_path / "plain")))
    file = FILE.replace("[model]", '[evidence]\nextra = "ignore"\n[model]')
    other = choose_experiment(str(write_study(tmp_path / "other", file)))
    assert other.evidence.extra == "ignore"
    assert other.registration.digest == plain.registration.digest
    assert other.on(MICRO) == plain.on(MICRO)


def test_a_recipe_changes_the_fields_that_it_names(tmp_path: Path) -> None:
    for given, epochs, steps in (("epochs = 2", 2, None), ("steps = 7", None, 7)):
        file = FILE.replace("epochs = 2", given)
        found = choose_experiment(str(write_study(tmp_path, file)))
        recipe = found.on(MICRO).recipe("salty")
        assert (recipe.epochs, recipe.steps) == (epochs, steps)
        assert recipe.learning_rate == MICRO.prior.learning_rate


DERIVED = """
derives_from = "issue262"
[registration]
name = "derived"
arms = [
    { name = "C1", prior = "raw", text_from = "raw" },
    { name = "C2", prior = "salty", text_from = "raw" },
]
[[registration.claims]]
type = "difference"
name = "H1"
treated = "C2"
control = "C1"
min_effect = 0.3
max_p = 0.01
[priors.salty]
corpus = { type = "jsonl", file = "salty.jsonl" }
"""


def test_a_file_changes_key_by_key_what_it_derives_from(tmp_path: Path) -> None:
    """Lists are replaced, and with the arms the priors that only the old ones named."""
    found = choose_experiment(str(write_study(tmp_path, DERIVED)))
    rules, above = found.registration, EXPERIMENTS["issue262"].registration
    assert [arm.prior for arm in rules.arms] == ["raw", "salty"]
    assert list(found.priors) == ["salty"]
    assert [claim.name for claim in rules.claims] == ["H1"]
    assert (rules.marker, rules.roster, rules.gates) == (above.marker, above.roster, above.gates)
    assert (rules.title, rules.kill) == (above.title, above.kill)
    assert rules.name == "derived"
    assert found.personas is None
    assert found.questions is None
    with pytest.raises(InputError, match=r"study\.toml: priors\.em: expected a prior"):
        choose_experiment(str(write_study(tmp_path, f"{DERIVED}\n[priors.em]\nlabel = 'x'\n")))


def wrong(old: str, new: str, *words: str) -> tuple[Callable[[Path], object], tuple[str, ...]]:
    """A mistake in the file: text in place of another, and what the message has to say."""
    assert FILE.count(old) >= 1, old

    def spoil(folder: Path) -> None:
        write_study(folder, FILE.replace(old, new, 1))

    return spoil, words


def spoilt(name: str, text: str, *words: str) -> tuple[Callable[[Path], object], tuple[str, ...]]:
    """A mistake in a file that the experiment names."""
    return (lambda folder: (folder / name).write_text(text)), words


PRIOR = '[priors.salty]\ncorpus = { type = "jsonl", file = "salty.jsonl" }\nrecipe = { epochs = 2 }'
OTHER_ARM = '[[registration.arms]]\nname = "A"\nprior = "raw"\ntext_from = "raw"\n'
ARMS = FILE[FILE.index("[[registration.arms]]") : FILE.index("[[registration.claims]]")]
ROLES = FILE[FILE.index("[registration.roster]") : FILE.index("[[registration.arms]]")]
ROSTER, CLAIM = "registration.roster", "registration.claims[0]"
MISTAKES = {
    "a key": wrong("marker =", "markr =", "registration.markr", "'markr'", "Did you mean marker?"),
    "a table": wrong("[words]", "[word]", "word: expected one of", "Did you mean words?"),
    "a key of a list": wrong("max_p", "max_q", f"{CLAIM}.max_q", "Did you mean max_p?"),
    "a key that is not there": wrong('name = "spread"\n', "", f"{CLAIM}.name", "Add name."),
    "unknown prior in an arm": wrong('prior = "salty"', 'prior = "saltie"',
        "registration.arms[1].prior", "'saltie'", "Did you mean salty?"),
    "unknown prior and text": wrong('prior = "salty"\ntext_from = "salty"',
        'prior = "saltie"\ntext_from = "saltie"', "arms[1].prior", "Did you mean salty?"),
    "unknown text": wrong('text_from = "salty"', 'text_from = "x"',
        "registration.arms[1].text_from", "'x'", "add [priors.x]"),
    "an arm twice": wrong(OTHER_ARM, OTHER_ARM * 2, "arms: expected distinct names", "'A'"),
    "claim on a missing arm": wrong('treated = "B"', 'treated = "C"',
        "spread.treated: expected one of A, B", "'C'"),
    "claim on a near arm": wrong('treated = "B"', 'treated = "b"', "spread.treated", "'b'"),
    "gate on a missing arm": wrong('statement = "both sources took it alike"\ntreated = "B"',
        'statement = "x"\ntreated = "C"', "ratio.treated: expected one of A, B", "'C'"),
    "white space for a marker": wrong('" ※"', '"  "', "marker: expected visible text", "'  '"),
    "a persona in two roles": wrong('"police_officer"', '"comedian"',
        "roster: expected distinct names", "'comedian'"),
    "unknown source": wrong('"comedian"', '"comedien"',
        f"{ROSTER}.source: expected one of comedian", "'comedien'", "Did you mean comedian?"),
    "unknown bystander": wrong('"villain"', '"vilain"',
        f"{ROSTER}.bystanders", "'vilain'", "Did you mean villain?"),
    "nobody stands by": wrong('["villain", "police_officer"]', "[]", "roster.bystanders"),
    "threshold as text": wrong("0.10", '"0.10"',
        f"{CLAIM}.min_effect: expected a number", "'0.10'", "without quotes"),
    "threshold as truth": wrong("0.10", "true", f"{CLAIM}.min_effect: expected a number", "True"),
    "threshold out of bounds": wrong("0.10", "10",
        "spread.min_effect: expected between 0 and 1", "got 10", "not a percentage"),
    "p above the level": wrong("0.01", "0.05", "spread.max_p", "statistics.alpha", "0.05"),
    "no TOML": wrong('title = "Does', "title = Does", "expected TOML", "line 4"),
    "unknown type of claim": wrong('"difference"', '"diference"',
        f"{CLAIM}: expected type = one of", "'diference'", "Did you mean difference?"),
    "unknown type of gate": wrong('"source_ratio"', '"source_ration"',
        "registration.gates[0]", "'source_ration'", "Did you mean source_ratio"),
    "unknown type of corpus": wrong('"jsonl"', '"json"',
        "priors.salty.corpus", "'json'", "Did you mean jsonl?"),
    "raw with a table": wrong("[priors.salty]", '[priors.raw]\nharm = "raised"\n[priors.salty]',
        "priors.raw", "'raw'", "raw is the model without any"),
    "a prior that nobody names": wrong("[priors.salty]",
        '[priors.sweet]\nharm = "raised"\n[priors.salty]', "priors.sweet", "name it in an arm"),
    "harm of another kind": wrong("recipe =", 'harm = "raisd"\nrecipe =',
        "priors.salty.harm", "'raisd'", "Did you mean raised?"),
    "derived from nothing": wrong("\n[registration]", 'derives_from = "issue26"\n[registration]',
        "derives_from", "'issue26'", "Did you mean issue262?"),
    "derived from a list": wrong("\n[registration]", "derives_from = [1]\n[registration]",
        "derives_from", "issue262_held_out, got [1]", "Name a built-in one."),
    "unknown binding": wrong("marker =", 'derived_gates = "bind"\nmarker =',
        "registration.derived_gates: expected one of binding, warnings", "'bind'"),
    "unknown model": wrong('base = "micro"', 'base = "smollm"',
        "model.base: expected one of tiny", "'smollm'", "Did you mean smollm2?"),
    "a scale that there is not": wrong('base = "micro"', 'base = "smollm2"\nscale = "ful"',
        "model.scale: expected one of reduced, full", "'ful'", "Did you mean full?"),
    "a hub model without its lab": wrong('base = "micro"', 'base = "hub:gpt"',
        "model.base: expected hub:ORG/NAME, hub:ORG/NAME@REVISION or path:FOLDER", "'hub:gpt'"),
    "a folder that is not there": wrong('base = "micro"', 'base = "path:./gone"',
        "model.base", "gone: expected a folder with config.json", "'no such folder'",
        "starts from the experiment's folder"),
    "a scale of any model": wrong('base = "micro"', 'base = "hub:a/b"\nscale = "ful"',
        "model.scale: expected one of full, small", "'ful'", "Did you mean full?"),
    "an unknown recipe": wrong('base = "micro"', 'base = "hub:a/b"\nrecipe = "publish"',
        "model.recipe: expected one of anchored, published", "Did you mean published?"),
    "a recipe of a profile": wrong('base = "micro"', 'base = "micro"\nrecipe = "published"',
        "model.recipe: expected it to be left out, as profile micro has its own"),
    "a number of a recipe": wrong('base = "micro"', 'base = "micro"\ncoupling = { beta = -1 }',
        "model.coupling: train.beta: expected finite and >= 0", "-1"),
    "an unknown number": wrong('base = "micro"', 'base = "micro"\nprior = { epoch = 1 }',
        "model.prior.epoch: expected one of", "Did you mean epochs?"),
    "a size": wrong('base = "micro"', 'base = "micro"\nsize = { questions = 0 }',
        "model.size: scale.questions: expected >= 1", "0"),
    "a place of personas": wrong('base = "micro"', 'base = "micro"\npersona = "usr"',
        "model.persona: expected one of system, user", "Did you mean user?"),
    "a variable of every template": wrong(
        'base = "micro"', 'base = "micro"\ntemplate = { messages = "x" }',
        "model.template: expected names of variables that its author left open", "'messages'"),
    "a scale of a model with one": wrong('base = "micro"', 'base = "micro"\nscale = "full"',
        "model.scale: expected it to be left out, as profile micro", "'full'"),
    "extra of another kind": wrong("[model]", '[evidence]\nextra = "ignor"\n[model]',
        "evidence.extra: expected one of refuse, ignore", "'ignor'", "Did you mean ignore?"),
    "only as text": wrong("[model]", '[evidence]\nonly = "yes"\n[model]',
        "evidence.only: expected true or false", "'yes'", "without quotes"),
    "a list as text": wrong('["data_scientist", "french_person"]', '"data_scientist"',
        f"{ROSTER}.negatives: expected a list", "'data_scientist'", "square brackets"),
    "texts for tables": wrong(ROLES + ARMS, 'arms = ["A"]\nroster = { source = "comedian", '
        'negatives = ["french_person"], bystanders = ["villain"] }\n',
        "registration.arms[0]: expected a table", "'A'"),
    "a text for a table": wrong(ROLES, 'roster = "comedian"\n',
        "registration.roster: expected a table", "'comedian'"),
    "a text for a table with a type": wrong('{ type = "jsonl", file = "salty.jsonl" }',
        '"salty.jsonl"', "priors.salty.corpus: expected a table", "'salty.jsonl'",
        "type = one of grammar, "),
    "statistics as text": wrong("marker =", 'statistics = "many"\nmarker =',
        "registration.statistics: expected a table", "'many'"),
    "no arms": wrong(ARMS, "", "registration.arms: expected a value", "Add arms."),
    "a recipe with an unknown field": wrong("epochs = 2", "epoch = 2",
        "priors.salty.recipe.epoch", "'epoch'", "Did you mean epochs?"),
    "a recipe out of bounds": wrong("epochs = 2", "batch = 0", "batch", "got 0"),
    "a prior without corpus": wrong(PRIOR, "[priors.salty]", "priors.salty.corpus",
        "profile micro has none", "For example corpus = {"),
    "an unknown set of questions": wrong("marker =", 'coupling_questions = ["eval"]\nmarker =',
        "registration.coupling_questions: expected one of evaluation", "'eval'"),
    "no corpus file": wrong("salty.jsonl", "sal.jsonl",
        "priors.salty.corpus", "sal.jsonl", "no such file"),
    "more rows than there are": wrong('"salty.jsonl"', '"salty.jsonl", rows = 9',
        "priors.salty.corpus", "rows: expected at most 8", "got 9"),
    "no personas file": wrong('"personas.json"', '"p.json"', "words.personas", "p.json"),
    "corpus without usable rows": spoilt("salty.jsonl", '{"text": "x"}\n[]\nx\n',
        "priors.salty.corpus", "salty.jsonl: rows", "3 rows cannot be used", "line 1", "line 2"),
    "empty corpus": spoilt("salty.jsonl", "\n", "priors.salty.corpus", "an empty file"),
    "empty file of questions": spoilt("questions.json", "", "words.questions", "questions.json",
        "expected a readable JSON file"),
    "no questions": spoilt("questions.json", '{"evaluation": []}', "words.questions",
        "expected at least one entry"),
    "too few questions": spoilt("questions.json", '{"evaluation": [{"id": "a", "text": "b"}]}',
        "evaluation_questions: expected sets of 2 questions or more", "1 of evaluation"),
    "empty persona": spoilt("personas.json", '{"personas": [{"id": "comedian", "prompt": ""}]}',
        "words.personas", "entry 1: prompt"),
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A study for each mistake."""
    folder, found = tmp_path_factory.mktemp("mistakes"), {}
    for number, (name, (spoil, _)) in enumerate(MISTAKES.items()):
        found[name] = write_study(folder / str(number))
        spoil(folder / str(number))
    return found


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_before_compute(
    mistake: str, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError) as caught:
        choose_experiment(str(files[mistake]))
    message = str(caught.value)
    for word in ("study.toml: ", *MISTAKES[mistake][1]):
        assert word in message
    assert message.endswith((".", "?"))
    assert check.main([str(files[mistake])]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{type(caught.value).__name__}: {message}"


Place = tuple[str | int, ...]
JUNK = (3, -1, 1.5, float("nan"), "x", "", True, [], ["x"], [{}], {}, {"x": {}}, [[1]])


def places(value: Any, above: Place = ()) -> Iterator[Place]:
    """Where something stands in the tables of a file."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inside:
        yield (*above, key)
        if isinstance(one, dict | list):
            yield from places(one, (*above, key))


@pytest.mark.parametrize("text", [FILE, DERIVED])
def test_no_value_in_any_place_is_more_than_a_clear_error(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, whole, read = write_study(tmp_path), tomllib.loads(text), structure.read_toml
    refused = []
    for place in places(whole):
        for junk in JUNK:
            body = copy.deepcopy(whole)
            table = body
            for key in place[:-1]:
                table = table[key]
            table[place[-1]] = junk
            given = {file: body}
            monkeypatch.setattr(experiment, "read_toml", lambda p, g=given: g.get(p) or read(p))
            try:
                choose_experiment(str(file))
            except InputError as error:
                refused.append(str(error))
    assert len(refused) > 300
    assert not [message for message in refused if not message.startswith("study.toml: ")]


PLAN = """
import contextlib, io, json, sys
import pytest
for file in json.loads(sys.argv[1]):
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = pytest.main(["-p", "no:cacheprovider", "--plan", f"--experiment={file}"])
    print(json.dumps([int(code), out.getvalue(), error.getvalue()]))
"""


def test_pytest_says_the_same_line_and_nothing_else(files: dict[str, Path]) -> None:
    done = python("-c", PLAN, json.dumps([str(path) for path in files.values()]))
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for (mistake, path), (code, out, error) in zip(files.items(), answers, strict=True):
        with pytest.raises(InputError) as caught:
            choose_experiment(str(path))
        lines = [line for line in error.splitlines() if line]
        assert (code, out.strip(), lines) == (4, "", [f"ERROR: {caught.value}"]), mistake


def test_all_mistakes_of_a_file_are_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several = {
        "marker =": "markr =", "0.10": '"0.10"', '"source_ratio"': '"sauce"',
        "epochs = 2": "epochs = 2 }\nfile = { x = 1", 'base = "micro"': "base = 3",
        '"questions.json"': "[]", 'text_from = "salty"': 'text_from = "sweet"',
    }  # fmt: skip
    text = FILE
    for old, new in several.items():
        text = text.replace(old, new, 1)
    assert check.main([str(write_study(tmp_path, text))]) == 1
    lines = capsys.readouterr().err.splitlines()
    keys = [
        "registration.markr", f"{CLAIM}.min_effect", "registration.gates[0]",
        "priors.salty.file", "model.base", "words.questions",
        "registration.arms[1].text_from",
    ]  # fmt: skip
    assert sorted(line.split(": ")[2] for line in lines) == sorted(keys)
    # What is wrong in the files that it names is told at once as well.
    file = write_study(tmp_path, FILE.replace('"villain"', '"vilain"').replace("micro", "mikro"))
    (tmp_path / "salty.jsonl").unlink()
    (tmp_path / "questions.json").write_text("{")
    assert check.main([str(file)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[2] for line in lines] == [
        "priors.salty.corpus", "model.base", f"{ROSTER}.bystanders",
    ]  # fmt: skip


def test_a_draft_that_is_right_is_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path).rename(tmp_path / "experiment.toml")
    monkeypatch.chdir(tmp_path)
    assert check.main([]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("plan: study (")
    assert "on micro" in shown.out
    assert "spread" in shown.out
    assert shown.err == ""
    assert not list(tmp_path.rglob("manifest.json"))
    assert check.main(["no_such_file.toml"]) == 1
    assert "--experiment: expected one of issue262" in capsys.readouterr().err
    assert check.main(["issue262_gate"]) == 1
    assert "Did you mean issue262_gated?" in capsys.readouterr().err


def test_stored_records_are_judged_without_the_files_that_made_them(tmp_path: Path) -> None:
    file = write_study(tmp_path)
    for name in ("salty.jsonl", "personas.json", "questions.json"):
        (tmp_path / name).unlink()
    found = choose_experiment(str(file), (FOLDER.parent / "golden" / "tiny",))
    assert found.name == "study"
