"""Several record sets, or several files, as one: what is judged, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
import pytest

from persona_lib.commands import panels
from persona_lib.commands.options import choose_experiment, choose_stored
from persona_lib.errors import CorruptEntryError, DataError, SpecError
from persona_lib.evidence.load import Stored, load_stored
from persona_lib.verdict.judging import judge_all
from persona_lib.verdict.summary import summary
from tests.record_sets import body_of, reseeded, rewrite, run_of, seal
from tests.registered import ISSUE262, TINY, session_under
from tests.synthetic import scores

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
SET = GOLDEN / "tiny"
FILES = ("scores", "advice", "geometry", "completions", "advice_completions")


def runs(above: Path, *seeds: int, **kwargs: Any) -> list[Path]:
    return [run_of(SET, above / str(seed), seed, **kwargs) for seed in seeds]


def judged(paths: Path | Sequence[Path]) -> str:
    found = load_stored(paths, ISSUE262)
    verdicts, gates = judge_all(ISSUE262, found)
    body = [x.to_json() for x in (*verdicts, *gates)], summary(ISSUE262, found)
    return json.dumps(body, allow_nan=False)


def refused(paths: Sequence[Path], words: str) -> None:
    for order in (paths, paths[::-1]):
        with pytest.raises(DataError, match=words):
            load_stored(order, ISSUE262)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return runs(tmp_path_factory.mktemp("parts"), 3, 7, 42)


@pytest.fixture(scope="module")
def whole(parts: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One recording of the same seeds: model by model, and within each seed by seed."""
    folder = tmp_path_factory.mktemp("whole") / "set"
    folder.mkdir()
    for name in FILES:
        tables = [pq.read_table(part / f"{name}.parquet") for part in parts]
        models = dict.fromkeys(tables[0]["model"].to_pylist())
        rows = [t.filter(pc.field("model") == model) for model in models for t in tables]
        pq.write_table(pa.concat_tables(rows), folder / f"{name}.parquet")
    body = body_of(SET)
    body["source"] = "a run of profile tiny, seeds 3, 7, 42 (joined from 3 record sets)"
    configs = [body_of(part)["recorded"]["config"][0] for part in parts]
    body["recorded"] |= {"config": configs, "joined": [{}, {}, {}]}
    seal(folder, body)
    return folder


def test_parts_are_judged_as_one_recording_in_any_order(parts: list[Path], whole: Path) -> None:
    wanted = judged(whole)
    assert '"seeds 3, 7, 42 (joined from 3 record sets)' in wanted.replace("tiny, ", '"')
    for order in permutations(parts):
        assert judged(order) == wanted
    one, two = Stored(parts[::-1], ISSUE262), Stored(whole, ISSUE262)
    for kind in ("scores", "completions", "geometry"):
        # By pandas, for which a missing cosine equals another.
        assert one.rows(kind).to_pandas().equals(two.rows(kind).to_pandas()), kind


def test_panels_of_parts_are_those_of_one_recording(
    parts: list[Path], whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the classifier are left out, which reads the texts that were compared above."""
    named = ("discriminability", "following")
    monkeypatch.setattr(panels, "_followed", lambda *_: {n: {"caveats": []} for n in named})

    def made(paths: tuple[Path, ...]) -> str:
        session = session_under(ISSUE262, profile=TINY, stored=paths)
        return json.dumps(panels.panels_of(session, ("C1", "C2")))

    assert made((parts[2], parts[0], parts[1])) == made((whole,))


def test_a_joined_set_is_a_part_like_others(whole: Path, tmp_path: Path) -> None:
    found = load_stored([*runs(tmp_path, 5), whole], ISSUE262)
    assert found.seeds == (3, 5, 7, 42)
    assert found.origin.startswith("a run of profile tiny, seeds 3, 7, 42, 5 (joined from 4 record")


def test_texts_and_states_may_be_of_some_seeds_only(parts: list[Path], tmp_path: Path) -> None:
    bare = runs(tmp_path, 5, without=("geometry", "completions", "advice_completions"))
    stored = Stored([*bare, parts[0]], ISSUE262)
    for table, seeds in (
        (stored.rows("scores"), [3, 5]),
        (stored.rows("completions"), [3]),
        (stored.rows("geometry"), [3]),
    ):
        assert table is not None
        assert sorted(table["seed"].unique().to_pylist()) == seeds
    assert (
        Stored([*bare, *runs(tmp_path, 6, without=FILES[2:])], ISSUE262).rows("completions") is None
    )


def set_to(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(body: dict[str, Any]) -> None:
        for key in path[:-1]:
            body = body[key]
        body[path[-1]] = value

    return change


def source(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    return lambda body: body.update(source=body["source"].replace(old, new))


CONFIG = ("recorded", "config", 0)
BROKEN = r"recorded\.{}: expected a list as flatland record writes it"
REFUSED = [
    (set_to(*CONFIG, "profile", "coupling", "beta", value=0.5),
     r"profile\.coupling\.beta: expected that of .*, (2\.0, got 0\.5|0\.5, got 2\.0)"),
    (set_to(*CONFIG, "profile", "coupling", "more", value=1), r"profile\.coupling\.more: expected"),
    (source("profile tiny", "profile tiny, loss decision"), "source: expected that of"),
    (set_to("recorded", "seal", "amendments", value=1), r"seal\.amendments: expected that of"),
    (source("seeds 5", "seeds 6"), "5: source: expected words with 'seeds 5'"),
    (set_to(*CONFIG, "seed", value=6), r"5/.*\.parquet: seeds: expected those of its conf.*, 6"),
    (set_to("recorded", "config", value=[]), r"5: recorded\.config: expected seed, profile and"),
    (set_to(*CONFIG, "seed", value="5"), r"5: recorded\.config: expected seed, profile"),
    (set_to(*CONFIG, "profile", value=None), r"5: recorded\.config: expected seed, profile"),
    (set_to(*CONFIG, "registration_digest", value="0" * 64), r"5: recorded\.config: expected seed"),
    (set_to("recorded", "config", value=None), BROKEN.format("config")),
    (set_to("recorded", "stages", value=None), BROKEN.format("stages")),
    (set_to("recorded", "stages_built_from", value=[None]), BROKEN.format("stages_built_from")),
    (set_to("recorded", "joined", value={"a": 1}), BROKEN.format("joined")),
    (set_to("registration", "digest", value="0" * 64), "digest of registration issue262"),
    (set_to("registration", "name", value="mine"), r"record sets of one registration, got \['iss"),
    (set_to("kind", value="aggregates"), "files: expected aggregates.json among them"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_a_set_that_differs_in_more_than_its_seeds_is_refused(
    parts: list[Path], tmp_path: Path, change: Any, words: str
) -> None:
    refused([parts[0], *runs(tmp_path, 5, change=change)], words)


@pytest.mark.parametrize("name", FILES)
def test_rows_that_a_set_should_not_have_or_lacks_are_refused(
    parts: list[Path], tmp_path: Path, name: str
) -> None:
    (part,) = runs(tmp_path, 5)
    path = part / f"{name}.parquet"
    whole, rows = pq.read_table(path), f"rows of each model and seed in {name}"
    for changed, words in (
        (reseeded(3)(whole), rf"5/{name}\.parquet: seeds: expected .*, 5, got \[3\]"),
        (whole.slice(0, 0), rf"5/{name}\.parquet: seeds: expected .*, 5, got \[\]"),
        (whole.filter(pc.field("model") != "raw"), rows),
        (whole.slice(1), rows),
        (whole.drop_columns(["sample" if "sample" in whole.column_names else "rank"]),
         rf"{name}\.parquet: column \w+: expected present, got 'missing'"),
    ):  # fmt: skip
        pq.write_table(changed, path)
        seal(part, body_of(part))
        refused([parts[0], part], words)


def test_a_model_that_one_seed_of_a_set_lacks_is_refused(whole: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    shutil.copytree(whole, short)
    gap = (pc.field("model") != "C3") | (pc.field("seed") != 7)
    rewrite(short / "scores.parquet", lambda table: table.filter(gap))
    seal(short, body_of(short))
    refused([short, *runs(tmp_path, 5)], "short: rows of each model and seed in scores")


def test_other_files_are_refused(parts: list[Path], tmp_path: Path) -> None:
    (bare,) = runs(tmp_path, 5, without=("advice",))
    refused([parts[0], bare], "files: expected that of")
    shutil.copy(parts[0] / "advice.parquet", bare / "more.parquet")
    seal(bare, body_of(bare))
    refused([parts[0], bare], r"5: files: expected some of .* got \['more.parquet'\]")


def test_a_seed_that_two_sets_hold_is_refused(parts: list[Path]) -> None:
    for other in (GOLDEN / "tiny", parts[2]):
        refused([parts[2], other], r"every seed in one set alone, got \[42\]")


def test_an_altered_file_is_refused(parts: list[Path], tmp_path: Path) -> None:
    (part,) = runs(tmp_path, 5)
    rewrite(part / "scores.parquet", lambda table: table.slice(1))
    with pytest.raises(CorruptEntryError, match="was altered after it was recorded"):
        load_stored([parts[0], part], ISSUE262)


def exported(path: Path, table: pa.Table) -> Path:
    table = table.rename_columns([{"model": "arm"}.get(n, n) for n in table.column_names])
    write = arrow_csv.write_csv if path.suffix == ".csv" else pq.write_table
    write(table, path)
    return path


def test_files_are_judged_as_one_in_any_order(tmp_path: Path) -> None:
    """Split by seed, by arm, or in the middle of a cell; of different formats."""
    table = scores(questions=3, samples=3, seeds=(1, 2), seen=1)
    whole = load_stored(exported(tmp_path / "all.csv", table), ISSUE262)
    seed, arm = pc.field("seed") == 1, pc.field("model") == "C2"
    for cut in ((table.filter(seed), table.filter(~seed)), (table.filter(arm), table.filter(~arm)),
                (table.slice(0, 700), table.slice(700))):  # fmt: skip
        files = [
            exported(tmp_path / n, t) for n, t in zip(("b.csv", "a.parquet"), cut, strict=True)
        ]
        one, two = (load_stored(paths, ISSUE262) for paths in (files, files[::-1]))
        assert one.origin == two.origin
        assert one.origin.startswith("a.parquet (SHA-256 ")
        assert one.origin.count("nothing says under which rules") == 1
        wanted = repr(judge_all(ISSUE262, whole))
        assert [repr(judge_all(ISSUE262, found)) for found in (one, two)] == [wanted] * 2


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    table = scores(questions=2, samples=2, seeds=(1,))
    one = exported(tmp_path / "one.csv", table)
    bare = exported(tmp_path / "two.csv", reseeded(2)(table).drop_columns(["tokens"]))
    refused([one, bare], "columns: expected those of one.csv, got 'tokens in one of them alone'")
    refused([one, one], "expected one row, got '2 rows")
    refused([one, SET], r"files of other software alone, got 'the folder .*tiny and the file .*one")
    refused([GOLDEN / "published", SET], "kind: expected records")


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        (None, ()),
        ("a,b", ("a", "b")),
        ("a, b", ("a", "b")),
        ("x,y", ("x,y",)),
        ("~/a,b", ("/home/somebody/a", "b")),
    ],
)
def test_paths_have_commas_between_them(
    text: str | None, paths: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x,y").mkdir()
    assert choose_stored(text) == tuple(map(Path, paths))


def test_an_empty_path_is_refused_and_a_misspelt_one_answered_with_names_near_it() -> None:
    for text, near in (("golden/tini", "golden/tiny"), ("goldne/tiny", "golden")):
        with pytest.raises(DataError) as caught:
            choose_experiment(None, [SET, GOLDEN.parent / text])
        assert f"near it: {GOLDEN.parent / near}" in str(caught.value)
    with pytest.raises(SpecError, match="--stored: expected paths with commas between them"):
        choose_stored("golden/tiny,")
    with pytest.raises(DataError, match="Check the path: nothing has this name"):
        load_stored(GOLDEN / "qqq", ISSUE262)
