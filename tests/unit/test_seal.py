"""Seals: a moved threshold is caught, and so is any change of what was sealed."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from persona_lib.commands import options
from persona_lib.commands import seal as command
from persona_lib.commands.record import record
from persona_lib.commands.session import Session
from persona_lib.digests import canonical
from persona_lib.errors import SealError, SpecError
from persona_lib.report.numbers import check_report
from persona_lib.report.terminal import verdict_table
from persona_lib.specs.builtin import SEALS
from persona_lib.specs.chain import Seal, read_chain
from persona_lib.specs.registration import Registration
from persona_lib.specs.seal import append, check_sealed, differences
from persona_lib.verdict.judging import Judging
from persona_lib.verdict.summary import summary
from persona_lib.verdict.verdict import Verdict
from tests.leaves import numbers, put
from tests.registered import ISSUE262, MICRO, REGISTRATIONS, ROOT, experiment_of, session_under
from tests.report_bodies import write
from tests.synthetic import evidence

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
SAID = {"reason": "made up for a test", "data_seen": "none"}
MOVED = replace(ISSUE262, kill=replace(ISSUE262.kill, max_rate=0.06))
GOLDEN_TINY = Path(__file__).resolve().parents[2] / "golden" / "tiny"
BACK = replace(ISSUE262, kill=replace(ISSUE262.kill, max_rate=0.04))


def sealed(folder: Path, *registrations: Registration) -> list[Seal]:
    """Seal registrations one after the other, a day apart."""
    return [
        append(r, folder, date=NOON + timedelta(days=i), **SAID)
        for i, r in enumerate(registrations)
    ]


@pytest.fixture
def amended(tmp_path: Path) -> Path:
    """A folder in which issue262 was amended twice."""
    sealed(tmp_path, ISSUE262, MOVED, BACK)
    return tmp_path


LEAVES = {
    f"{name}:{'.'.join(path)}": (name, path)
    for name in ("issue262", "issue262_gated")  # every type of rule is in one of them
    for path in numbers(REGISTRATIONS[name])
}


def test_the_numbers_that_are_moved_are_those_of_every_rule() -> None:
    assert {".".join(path) for path in numbers(ISSUE262)} == {
        *("claims.0.min_effect", "claims.0.max_p", "claims.1.min_effect", "claims.1.max_p"),
        *("claims.2.null_effect", "claims.2.null_min_p", "claims.2.artefact_effect"),
        *("gates.0.min_rate", "gates.1.min_ratio", "gates.2.max_rate", "kill.max_rate"),
        *("statistics.resamples", "statistics.seed", "statistics.confidence", "statistics.alpha"),
    }


@pytest.mark.parametrize("leaf", list(LEAVES))
def test_moved_threshold_is_caught_and_named(leaf: str, tmp_path: Path) -> None:
    name, path = LEAVES[leaf]
    registration = REGISTRATIONS[name]
    sealed(tmp_path, registration)
    assert check_sealed(registration, tmp_path).digest == registration.digest
    before = numbers(registration)[path]
    if isinstance(before, int):
        after: float = before + 1
    elif path == ("statistics", "alpha"):
        after = before + 1e-6  # not below any claim's max_p
    else:
        after = before - 1e-6 if before else before + 1e-6
    moved = put(registration, path, after)
    with pytest.raises(SealError) as caught:
        check_sealed(moved, tmp_path)
    message = str(caught.value)
    if path[0] in ("claims", "gates"):
        rule = getattr(registration, path[0])[int(path[1])].name
        where = f"{path[0]}[{rule}].{path[2]}"
    else:
        where = ".".join(path)
    (sentence,) = re.findall(r"Z\. (.*)\. Restore the sealed rules", message)
    assert sentence == f"{where}: sealed {before}, now {after}"
    assert f"flatland seal {name} --reason" in message


def test_differences_of_every_kind_are_named() -> None:
    def moved(**changes: Any) -> list[str]:
        return list(differences(canonical(ISSUE262), canonical(replace(ISSUE262, **changes))))

    gates, claims = ISSUE262.gates, ISSUE262.claims
    assert moved() == []
    assert moved(gates=gates[:2])[0].startswith('gates[false_positive]: sealed {"__spec__":')
    assert moved(gates=gates[:2])[0].endswith("..., now nothing")
    assert len(moved(gates=gates[:2])) == 1
    assert moved(gates=gates[::-1]) == [
        "gates: sealed in the order source_rate, source_ratio, false_positive, "
        "now false_positive, source_ratio, source_rate"
    ]
    assert moved(claims=(replace(claims[0], needs=()), *claims[1:])) == [
        'claims[H1].needs: sealed ["source_rate"], now []'
    ]
    # To Python 0 == 0.0; to a digest they are two texts.
    whole = replace(gates[2], max_rate=0)
    assert whole == gates[2]
    assert moved(gates=(*gates[:2], whole)) == ["gates[false_positive].max_rate: sealed 0.0, now 0"]
    assert list(differences({"a": 1}, {"a": 1, "b": None})) == ["b: sealed nothing, now null"]
    assert list(differences({"a": [True]}, {"a": [1]})) == ["a: sealed [true], now [1]"]


def test_many_differences_are_cut_short(tmp_path: Path) -> None:
    sealed(tmp_path, ISSUE262)
    strict = replace(ISSUE262, claims=tuple(replace(c, needs=()) for c in ISSUE262.claims),
                     kill=BACK.kill, title="x", marker="y", marker_prefix="z")  # fmt: skip
    with pytest.raises(SealError, match=r"; and 1 more\. Restore"):
        check_sealed(strict, tmp_path)


def test_amendment_is_counted_and_chained(tmp_path: Path) -> None:
    first, second = sealed(tmp_path, ISSUE262, MOVED)
    found = check_sealed(MOVED, tmp_path)
    assert asdict(found) == {
        "registration": "issue262",
        "digest": MOVED.digest,
        "date": "2026-01-03T12:00:00Z",
        "amendments": 1,
        "head": second.hash,
        "reason": SAID["reason"],
        "study": "",
        "seen": (),
    }
    assert (first.previous, second.previous) == (None, first.hash)
    assert (second.reason, second.data_seen) == (SAID["reason"], "none")
    assert second.data_digest == first.data_digest == ISSUE262.data_digest
    with pytest.raises(SealError, match=r"kill\.max_rate: sealed 0\.06, now 0\.05"):
        check_sealed(ISSUE262, tmp_path)
    # The first entry is as it was, and a third one may go back to its rules.
    lines = (tmp_path / "issue262" / "chain.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["hash"] == first.hash
    append(ISSUE262, tmp_path, date=NOON + timedelta(days=2), **SAID)
    assert check_sealed(ISSUE262, tmp_path).amendments == 2


def test_unsealed_registration_is_refused_with_the_command(tmp_path: Path) -> None:
    sealed(tmp_path, ISSUE262)
    other = replace(ISSUE262, name="other")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(SealError, match=r"other: it is not sealed.*flatland seal other --"):
            check_sealed(other, folder)
    (tmp_path / "issue262").rename(tmp_path / "other")
    with pytest.raises(SealError, match="it belongs to registration issue262"):
        check_sealed(other, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reason": ""}, "reason: expected 1 to 2000 characters"),
        ({"reason": " \n"}, "reason: expected 1 to 2000 characters"),
        ({"reason": "x" * 2001}, "reason: expected 1 to 2000 characters"),
        ({"data_seen": ""}, 'data seen: expected 1 to 2000 characters.*say "none"'),
        ({"date": NOON.replace(tzinfo=None)}, "date: expected a time zone"),
        ({"date": NOON - timedelta(seconds=1)}, "not before the newest seal, 2026-01-02T12:00"),
        ({"registration": ISSUE262}, "expected a change since the newest seal.*f56c28c270d5"),
    ],
)
def test_what_cannot_be_sealed_is_refused_and_nothing_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    sealed(tmp_path, ISSUE262)
    before = contents(tmp_path)
    with pytest.raises(SpecError, match=message):
        append(folder=tmp_path, **{"registration": MOVED, "date": NOON, **SAID, **changes})
    assert contents(tmp_path) == before


def test_texts_become_one_line_and_dates_utc(tmp_path: Path) -> None:
    date = NOON.astimezone(timezone(timedelta(hours=5))).replace(microsecond=999_999)
    entry = append(ISSUE262, tmp_path, date=date, reason=" cafe\u0301\n\x1b[1mbold ", data_seen="-")
    assert entry.date == "2026-01-02T12:00:00Z"
    assert entry.reason == "caf\u00e9 bold"
    assert read_chain(tmp_path / "issue262") == (entry,)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_any_changed_byte_is_caught(amended: Path) -> None:
    """Every file of every entry; in each, a bit here and there, and at both ends."""
    files = contents(amended)
    assert len(files) == 1 + 3
    for name, whole in files.items():
        step = max(1, len(whole) // 40)
        for place in {*range(0, len(whole), step), len(whole) - 1}:
            spoilt = bytearray(whole)
            spoilt[place] ^= 1
            (amended / name).write_bytes(bytes(spoilt))
            with pytest.raises(SealError, match=r"issue262.*Restore it from version|Remove"):
                check_sealed(BACK, amended)
        for spoilt in (whole + b"\n", whole + b" ", b" " + whole, whole[:-1], b""):
            (amended / name).write_bytes(bytes(spoilt))
            with pytest.raises(SealError):
                check_sealed(BACK, amended)
        (amended / name).unlink()
        with pytest.raises(SealError):
            check_sealed(BACK, amended)
        (amended / name).write_bytes(whole)
    assert check_sealed(BACK, amended).amendments == 2


def rehash(entry: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """An entry with other values and the hash that belongs to them: what a forger writes."""
    body = {**entry, **changes}
    body.pop("hash")
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return {**body, "hash": hashlib.sha256(text.encode()).hexdigest()}


Lines = list[dict[str, Any]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e[1:], "line 1: seal 1 stands where seal 0 belongs"),
        (lambda e: [e[0], e[2]], "line 2: seal 2 stands where seal 1 belongs"),
        (lambda e: e[:2], r"0002-.*: no seal lists it\. Remove it"),
        (lambda e: [e[1], e[0], e[2]], "line 1: seal 1 stands where seal 0 belongs"),
        (lambda e: [e[0], e[2], e[1]], "line 2: seal 2 stands where"),
        (lambda e: [e[0], e[0], e[1], e[2]], "line 2: seal 0 stands where seal 1 belongs"),
        (lambda e: [*e, e[2]], "line 4: seal 2 stands where seal 3 belongs"),
        (lambda e: [*e, rehash(e[2], index=3)], "line 4: it does not follow"),
        (lambda e: [{**e[0], "reason": "better"}, *e[1:]], "line 1: the seal was altered.*hash"),
        (lambda e: [rehash(e[0], reason="better"), *e[1:]], "line 2: it does not follow"),
        (lambda e: [rehash(e[0], previous="0" * 64), *e[1:]], "line 1: it does not follow"),
        (lambda e: [e[0], rehash(e[1], date="2026-01-01T12:00:00Z"), e[2]], "line 2: its date"),
        (lambda e: [rehash(e[0], date="2026-01-02"), *e[1:]], "line 1: its date 2026-01-02 is no"),
        (lambda e: [rehash(e[0], digest="0" * 64), *e[1:]], "0000-000000000000.*cannot be read"),
        (lambda e: [rehash(e[0], prml={"H1": 5}), *e[1:]], "line 1: the seal was altered"),
        (lambda e: [rehash(e[0], prml={"H1": {}}), *e[1:]], "line 1: the seal was altered"),
        (lambda e: [rehash(e[0], prml=7), *e[1:]], "line 1: the seal was altered"),
        (lambda e: [rehash(e[0], index=False), *e[1:]], "line 1: the seal was altered.*type"),
        (lambda e: [rehash(e[0], digest=1), *e[1:]], "line 1: the seal was altered.*type"),
        (lambda e: [rehash(e[0], more=1), *e[1:]], "line 1: the seal was altered.*more"),
        (lambda e: [{k: v for k, v in e[0].items() if k != "reason"}], "altered.*reason"),
    ],
)
def test_tampered_chain_is_caught(
    change: Callable[[Lines], Lines], message: str, amended: Path
) -> None:
    path = amended / "issue262" / "chain.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, entries)
    assert check_sealed(BACK, amended).amendments == 2  # written as it was, it holds
    write_lines(path, change(entries))
    with pytest.raises(SealError, match=message):
        check_sealed(BACK, amended)
    with pytest.raises(SealError, match=message):
        append(ISSUE262, amended, date=NOON + timedelta(days=9), **SAID)


def write_lines(path: Path, entries: Lines) -> None:
    texts = [json.dumps(e, sort_keys=True, separators=(",", ":")) + "\n" for e in entries]
    path.write_text("".join(texts))


@pytest.mark.parametrize("line", ["", "[]", "1", "null", '{"a":1', "[" * 100_000])
def test_line_that_is_no_seal_is_caught(line: str, amended: Path) -> None:
    with (amended / "issue262" / "chain.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(SealError, match="line 4: the seal was altered"):
        check_sealed(BACK, amended)


def test_stray_files_and_lost_chains_are_caught(amended: Path) -> None:
    for place in ("extra.json", "0001-extra", "0000-f56c28c270d5/x.prml"):
        stray = amended / "issue262" / place
        stray.write_text("x")
        with pytest.raises(SealError, match=f"{place}: no seal lists it"):
            check_sealed(BACK, amended)
        stray.unlink()
    (amended / "issue262" / "chain.jsonl").unlink()
    with pytest.raises(SealError, match=r"chain\.jsonl: it cannot be read"):  # no fresh start
        append(ISSUE262, amended, date=NOON, **SAID)


# What the repository holds.


def test_published_registrations_say_that_their_data_were_known() -> None:
    for name in ("issue262", "issue262_held_out", "issue262_both"):
        first = read_chain(SEALS / name)[0]
        assert "golden/tiny" in first.data_seen
        assert "known" in first.data_seen


def run_verifier(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", str(ROOT / "docs" / "verify.py"), str(folder)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", list(REGISTRATIONS))
def test_every_registration_is_sealed_and_the_script_of_the_docs_verifies_it(name: str) -> None:
    found = check_sealed(REGISTRATIONS[name], SEALS)
    assert found.digest == REGISTRATIONS[name].digest
    assert run_verifier(SEALS / name).stdout == (
        f"{name}: {found.amendments} amendments, digest {found.digest}, head {found.head}\n"
    )


def test_the_script_of_the_docs_catches_what_was_altered(amended: Path) -> None:
    own = amended / "issue262"
    assert "issue262: 2 amendments" in run_verifier(own).stdout
    whole = contents(own)
    for name in whole:
        spoilt = bytearray(whole[name])
        spoilt[len(spoilt) // 2] ^= 1
        (own / name).write_bytes(bytes(spoilt))
        assert run_verifier(own).returncode != 0, name
        (own / name).write_bytes(whole[name])


def test_sha256sum_prints_the_digests() -> None:
    text = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    done = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    found = {
        path.split("/")[2]: digest for digest, path in map(str.split, done.stdout.splitlines())
    }
    assert {name: found[name] for name in REGISTRATIONS} == {
        name: registration.digest for name, registration in REGISTRATIONS.items()
    }


# Data that had been seen, wherever the rules are shown.

HOSTILE = "all of it \x1b[2J\u202e <script>alert(1)</script> [x](javascript:1) | `c` " + "x " * 900


@pytest.mark.parametrize(
    ("statements", "seen"),
    [
        (["none"], []),
        (["None.", " NONE "], []),
        (["all of it"], [(0, "2026-01-02", "all of it")]),
        (["none", "the first 40 rows"], [(1, "2026-01-03", "the first 40 rows")]),
        (["all of it", "none"], [(0, "2026-01-02", "all of it")]),
        # Said in the middle, and no more by the newest entry.
        (["none", "all of it", "none"], [(1, "2026-01-03", "all of it")]),
        (["all of it", "all of it"], [(0, "2026-01-02", "all of it")]),
        (["half", "all of it"], [(0, "2026-01-02", "half"), (1, "2026-01-03", "all of it")]),
        # What only begins so is a statement.
        (["none of the arms but C1"], [(0, "2026-01-02", "none of the arms but C1")]),
    ],
)
def test_every_statement_of_seen_data_reaches_the_seal(
    statements: list[str], seen: list[tuple[int, str, str]], tmp_path: Path
) -> None:
    rules = (ISSUE262, MOVED, BACK)[: len(statements)]
    for i, (one, sentence) in enumerate(zip(rules, statements, strict=True)):
        append(one, tmp_path, date=NOON + timedelta(days=i), reason=f"why {i}", data_seen=sentence)
    found = check_sealed(rules[-1], tmp_path)
    assert [(s.amendment, s.date[:10], s.data_seen) for s in found.seen] == seen
    assert found.reason == f"why {len(statements) - 1}"


def judged_after(tmp_path: Path, *sentence: tuple[str, str]) -> dict[str, Any]:
    """verdict.json's part of verdicts under rules sealed with these reasons and statements."""
    rules = (ISSUE262, MOVED, BACK)[: len(sentence)]
    for i, (one, (reason, seen)) in enumerate(zip(rules, sentence, strict=True)):
        append(one, tmp_path, date=NOON + timedelta(days=i), reason=reason, data_seen=seen)
    seal = check_sealed(rules[-1], tmp_path)
    few = replace(rules[-1], statistics=replace(rules[-1].statistics, resamples=3_000))
    found = evidence(registration=few)
    return {
        "format": 2,
        "registration": few.name,
        "registration_digest": few.digest,
        "seal": json.loads(json.dumps(asdict(seal))),
        "verdicts": [Judging(few, found, seal=seal).claim("H1").to_json()],
        "gates": [],
        "families": [],
        "summary": summary(few, found, seal=seal),
        "panels": {},
        "stages": [],
    }


def shown(body: dict[str, Any], folder: Path) -> tuple[str, str, str]:
    """Table, report.md and report.html of a verdict; the report's own check finds no fault."""
    folder = write(folder, body)
    assert check_report(folder) == []
    texts = [(folder / name).read_text(encoding="utf-8") for name in ("report.md", "report.html")]
    return verdict_table(body["verdicts"], [], body["summary"]), texts[0], texts[1]


def test_rules_sealed_after_the_data_say_so_in_table_json_and_report(tmp_path: Path) -> None:
    body = judged_after(tmp_path / "seals", ("x", "all of it"))
    table, *reports = shown(body, tmp_path / "report")
    (verdict,) = (Verdict.from_json(one) for one in body["verdicts"])
    for text in (table, verdict_table(body["verdicts"], [], None), verdict.text):
        assert "sealed 2026-01-02 after seeing: all of it" in text
        assert "newest amendment" not in text
    assert json.dumps(body).count('"data_seen": "all of it"') == 3  # seal, verdict, summary
    for text in reports:
        assert "When they were sealed, data had been seen" in text
        assert text.count("all of it") == 2  # the table, and a caveat
        assert "sealed_after_data" in text


def test_rules_sealed_before_the_data_say_nothing_of_it(tmp_path: Path) -> None:
    body = judged_after(tmp_path / "seals", ("x", "none"))
    table, text, _ = shown(body, tmp_path / "report")
    assert "(sealed 2026-01-02, 0 amendments)" in table
    assert "after seeing" not in table
    assert "According to their seals, no data had been seen by then." in text
    assert "sealed_after_data" not in text
    del body["seal"]["seen"]  # as older files have it
    assert "What data had been seen by then is not recorded" in shown(body, tmp_path / "older")[1]


def test_the_newest_amendment_gives_its_reason(tmp_path: Path) -> None:
    body = judged_after(tmp_path / "seals", ("as planned", "none"), ("a typo", "two arms"))
    table, *reports = shown(body, tmp_path / "report")
    assert "amended 2026-01-03 after seeing: two arms\n" in table
    assert "newest amendment, 2026-01-03: a typo\n" in table
    assert "as planned" not in table
    for text in reports:
        assert "data seen when amended" in text
        assert "reason of the newest amendment" in text
        assert "a typo" in text


def test_hostile_statements_are_shown_and_act_nowhere(tmp_path: Path) -> None:
    body = judged_after(tmp_path / "seals", ("x", "none"), (HOSTILE, HOSTILE))
    table, text, page = shown(body, tmp_path / "report")
    lines = table.splitlines()
    assert max(map(len, lines)) <= 100
    assert all(line.isprintable() for line in lines)
    start = next(i for i, line in enumerate(lines) if "after seeing: all of it" in line)
    end = next(i for i, line in enumerate(lines) if line.startswith("claim "))
    assert end - start <= 8  # two statements, cut
    assert sum(line.rstrip().endswith(" ...") for line in lines[start:end]) == 2
    assert len(body["seal"]["seen"][0]["data_seen"]) <= 2_000
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page
    assert "[x](javascript:1)" not in text


def test_a_chain_written_by_others_is_cleaned_and_bounded(tmp_path: Path) -> None:
    """`append` takes 2,000 characters without controls; a chain may hold anything."""
    sealed(tmp_path, ISSUE262)
    path = tmp_path / "issue262" / "chain.jsonl"
    (entry,) = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, [rehash(entry, data_seen="\x1b]0;t\x07seen " * 1_000, reason="r\u202e")])
    found = check_sealed(ISSUE262, tmp_path)
    assert found.seen[0].data_seen == ("seen " * 400)[:1_997] + "..."
    assert found.reason == "r"
    for odd in (None, 7, ["none"]):
        write_lines(path, [rehash(entry, data_seen=odd)])
        with pytest.raises(SealError, match="the seal was altered"):
            check_sealed(ISSUE262, tmp_path)


# Sessions and the command line.


def test_session_refuses_to_judge_before_anything_is_built(tmp_path: Path) -> None:
    some = session_under(MOVED, profile=MICRO, store_root=tmp_path / "store")
    for call in (
        lambda: some.judging("H1"),
        lambda: some.judging("source_rate"),
        lambda: record(some, tmp_path / "set"),
        some.check_seal,
    ):
        with pytest.raises(SealError, match=r"kill\.max_rate: sealed 0\.05, now 0\.06"):
            call()
    assert not list(tmp_path.iterdir())


def test_session_takes_its_seal_from_its_folder(tmp_path: Path) -> None:
    (entry,) = sealed(tmp_path, MOVED)
    some = Session(experiment=experiment_of(MOVED, tmp_path), profile=MICRO)
    assert (some.seal.head, some.seal.amendments) == (entry.hash, 0)
    assert some.seal is some.seal


def test_a_chain_that_was_replaced_after_a_recording_is_told_of(tmp_path: Path) -> None:

    def other_seals(stored: Path, seals: Path = SEALS) -> list[str]:
        experiment = experiment_of(ISSUE262, seals)
        seal = Session(experiment=experiment, profile=MICRO, stored=(stored,)).seal
        return [one.data_seen for one in seal.seen if "another seal" in one.data_seen]

    recorded = json.loads((GOLDEN_TINY / "manifest.json").read_text())["recorded"]["seal"]["head"]
    assert check_sealed(ISSUE262, SEALS).head == recorded
    assert other_seals(GOLDEN_TINY) == []
    sealed(tmp_path, ISSUE262)
    (sentence,) = other_seals(GOLDEN_TINY, tmp_path)
    assert f"(head {recorded[:12]})" in sentence
    assert other_seals(tmp_path / "x.csv", tmp_path) == []


def test_command_seals_amends_checks_lists_and_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "seals"
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = command.main(arguments)
        return (code, *capsys.readouterr())

    def know(*registrations: Registration) -> None:
        """These are the built-in experiments, sealed in the folder."""
        known = {rules.name: experiment_of(rules, folder) for rules in registrations}
        for module in (command, options):
            monkeypatch.setattr(module, "EXPERIMENTS", known)

    def refused(*arguments: str) -> str:
        code, out, error = run(*arguments)
        assert (code, out) == (1, "")
        return error

    def done(*arguments: str) -> str:
        code, out, error = run(*arguments)
        assert (code, error) == (0, "")
        return out

    know(ISSUE262)
    sentence = ("--reason", "a reason", "--data-seen", "none")
    assert "SealError: registration issue262: it is not sealed" in refused("--check")
    before = datetime.now(UTC).replace(microsecond=0)
    assert f"sealed: issue262, digest {ISSUE262.digest}" in done("issue262", *sentence)
    date = datetime.fromisoformat(check_sealed(ISSUE262, folder).date)
    assert before <= date <= datetime.now(UTC)
    assert "expected a change since the newest seal" in refused("issue262", *sentence)
    know(MOVED)
    assert "kill.max_rate: sealed 0.05, now 0.06" in refused("--check")
    for texts in (("--reason", "x"), ("--data-seen", "x"), ("--reason", " ", *sentence[2:])):
        refused("issue262", *texts)
    assert "sealed: amendment 1 of issue262" in done("issue262", *sentence)
    state = check_sealed(MOVED, folder)
    assert done("--check") == (
        f"issue262: sealed {state.date}, digest {MOVED.digest[:12]}, 1 amendments, "
        f"head {state.head}\n"
    )
    listed = done("--list")
    assert listed.count("    data seen: none\n") == 2
    assert re.findall(r"^  (\d) ", listed, flags=re.MULTILINE) == ["0", "1"]
    target = tmp_path / "prml"
    assert done("issue262", "--prml", str(target)).startswith("issue262: 8 manifests")
    assert len(list(target.glob("issue262/*/*.prml"))) == 8
    assert "Error" in refused("issue262", "--prml", "/proc/flatland")
    for asked in (("--prml", str(target)), sentence):
        said = refused("unknown", *asked)
        assert "expected one of issue262, or a file, got 'unknown'" in said
    other = replace(ISSUE262, name="other")
    know(MOVED, other)
    assert "SealError: registration other: it is not sealed" in refused("other", "--prml", "x")
    done("other", *sentence)
    know(other)
    assert "issue262: intact, but no experiment here has this name\n" in done("--check")
    (folder / "issue262" / "stray").write_text("x")
    for mode in ("--check", "--list"):
        code, out, error = run(mode)
        assert (code, out.split("\n")[0].split(":")[0]) == (1, "other")
        assert "stray: no seal lists it" in error


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--check", "--list"),
        ("issue262", "--check"),
        ("--check", "--reason", "x"),
        ("--prml", "x"),
        ("issue262", "--prml", "x", "--reason", "x"),
        ("--check", "--prml", "x"),
    ],
)
def test_command_wants_one_thing_at_a_time(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert not list(tmp_path.iterdir())


def test_write_that_is_cut_short_leaves_the_chain_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed(tmp_path, ISSUE262)
    before = contents(tmp_path)

    def full(*_: object) -> int:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="no space"):
            append(MOVED, tmp_path, date=NOON, **SAID)
    assert contents(tmp_path) == before
    assert append(MOVED, tmp_path, date=NOON, **SAID).index == 1


PLUGIN = """
from dataclasses import replace
from persona_lib.specs.builtin import EXPERIMENTS
old = EXPERIMENTS["issue262"]
rules = replace(old.registration, kill=replace(old.registration.kill, max_rate=0.06))
EXPERIMENTS["issue262"] = replace(old, registration=rules)
"""


def pytest_under_moved_rules(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "moved.py").write_text(PLUGIN)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "moved", "-p", "no:cacheprovider",
         f"--store={tmp_path / 'store'}", f"--report={tmp_path / 'report'}", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "h1", "--profile", "micro"),
        ("-m", "h1", "--profile", "micro", "-n", "2"),
        ("-m", "gate", "--stored=golden/published"),
    ],
)
def test_pytest_refuses_unsealed_rules_before_anything_is_built(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = pytest_under_moved_rules(tmp_path, *arguments)
    assert done.returncode == 4, done.stdout[-2000:]
    (line,) = [line for line in done.stderr.splitlines() if line]
    assert line.startswith("ERROR: registration issue262: digest ")
    assert "kill.max_rate: sealed 0.05, now 0.06" in line
    assert sorted(path.name for path in tmp_path.iterdir()) in (["moved.py"], CACHED)


CACHED = ["__pycache__", "moved.py"]


def test_a_draft_is_planned_before_it_is_sealed(tmp_path: Path) -> None:
    done = pytest_under_moved_rules(tmp_path, "--plan", "--profile", "micro")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"plan: issue262 ({MOVED.digest[:12]}) on micro")
    assert not list(tmp_path.rglob("manifest.json"))


def test_pytest_runs_the_software_s_tests_under_unsealed_rules(tmp_path: Path) -> None:
    done = pytest_under_moved_rules(tmp_path, "-q", "tests/unit/test_personas.py")
    assert done.returncode == 0, done.stdout[-2000:]


def test_moved_rules_are_found_wherever_the_registration_was_copied(tmp_path: Path) -> None:
    shutil.copytree(SEALS, tmp_path / "copy")
    assert SEALS == ROOT / "experiments" / "seals"
    for name, registration in REGISTRATIONS.items():
        assert check_sealed(registration, tmp_path / "copy") == check_sealed(registration, SEALS)
        assert str(ROOT) not in "".join(map(bytes.decode, contents(SEALS / name).values()))
