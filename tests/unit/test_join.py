"""Joining record sets of several seeds: what comes out, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from experiments.issue262 import ISSUE262
from persona_lib.commands.join import join, main
from persona_lib.digests import sha256_of
from persona_lib.errors import CorruptEntryError, DataError, SpecError
from persona_lib.evidence.load import load_geometry, load_stored
from persona_lib.evidence.record_sets import read_manifest
from persona_lib.records import POST

TINY = Path(__file__).resolve().parents[2] / "golden" / "tiny"
Change = Callable[[dict[str, Any]], None]


def seal(folder: Path, body: dict[str, Any]) -> None:
    """Write a manifest that vouches for the files as they are."""
    body["files"] = {
        path.name: {"sha256": sha256_of(path)} for path in sorted(folder.glob("*.parquet"))
    }
    (folder / "manifest.json").write_text(json.dumps(body), "utf-8")


def body_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
    return found


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def reseeded(seed: int) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        at = table.column_names.index("seed")
        return table.set_column(at, table.schema.field("seed"), pa.array([seed] * len(table)))

    return change


def run_of(
    folder: Path, seed: int, *, without: tuple[str, ...] = (), description: Change = dict
) -> Path:
    """Return golden/tiny as if it had been run with this seed, in a folder of its own."""
    shutil.copytree(TINY, folder)
    for name in without:
        (folder / name).unlink()
    for path in folder.glob("*.parquet"):
        rewrite(path, reseeded(seed))
    body = body_of(folder)
    body["source"] = body["source"].replace("seeds 42", f"seeds {seed}")
    body["recorded"]["config"][0]["seed"] = seed
    description(body)
    seal(folder, body)
    return folder


def seeds_in(folder: Path, name: str) -> list[int]:
    found: list[int] = pq.read_table(folder / name)["seed"].unique().to_pylist()
    return found


def test_rows_and_words_are_those_of_one_recording(tmp_path: Path) -> None:
    parts = [run_of(tmp_path / str(seed), seed) for seed in (7, 3, 42)]
    join(parts, tmp_path / "all")
    for name in ("scores", "completions", "advice", "advice_completions", "geometry"):
        found, wanted = (pq.read_table(f / f"{name}.parquet") for f in (tmp_path / "all", TINY))
        assert found.num_rows == 3 * wanted.num_rows
        assert found.schema.equals(wanted.schema)
        # Model by model, and within each seed by seed.
        order = list(dict.fromkeys(zip(*(found[k].to_pylist() for k in ("model", "seed")))))  # noqa: B905
        models = list(dict.fromkeys(wanted["model"].to_pylist()))
        assert order == [(model, seed) for model in models for seed in (7, 3, 42)]
        for seed in (7, 3, 42):
            own = found.filter(pc.field("seed") == seed)
            # By pandas, for which a missing cosine equals another.
            assert reseeded(42)(own).to_pandas().equals(wanted.to_pandas()), name
    manifest = read_manifest(tmp_path / "all")
    assert manifest.source == ("a run of profile tiny, seeds 7, 3, 42 (joined from 3 record sets)")
    recorded = manifest.recorded
    assert [config["seed"] for config in recorded["config"]] == [7, 3, 42]
    assert [part["seeds"] for part in recorded["joined"]] == [[7], [3], [42]]
    assert recorded["joined"][2]["files"] == read_manifest(parts[2]).files
    assert len(recorded["stages"]) == 3 * len(body_of(TINY)["recorded"]["stages"])
    assert recorded["stages_built_from"] == body_of(TINY)["recorded"]["stages_built_from"]
    assert recorded["texts_of_seeds"] == recorded["geometry_of_seeds"] == [7, 3, 42]


def test_it_is_judged_as_runs_of_one_experiment(tmp_path: Path) -> None:
    join([run_of(tmp_path / str(seed), seed) for seed in (3, 5)], tmp_path / "all")
    one, both = (load_stored(folder, ISSUE262) for folder in (TINY, tmp_path / "all"))
    for arm in ("C1", "C2", "C2p", "C3"):
        assert both.count(arm, "bystander").hits == 2 * one.count(arm, "bystander").hits
        assert both.count(arm, "bystander").n == 2 * one.count(arm, "bystander").n
    assert one.harm("em") is not None
    scores = pq.read_table(tmp_path / "all" / "scores.parquet")
    assert scores.filter(pc.field("phase") == POST)["seed"].value_counts().to_pylist() == [
        {"values": 3, "counts": 4_400}, {"values": 5, "counts": 4_400},
    ]  # fmt: skip


def test_what_some_parts_lack_is_of_the_others_and_the_manifest_says_so(tmp_path: Path) -> None:
    bare = ("geometry.parquet", "completions.parquet", "advice_completions.parquet")
    parts = [run_of(tmp_path / "3", 3, without=bare), run_of(tmp_path / "5", 5)]
    join(parts, tmp_path / "all")
    recorded = read_manifest(tmp_path / "all").recorded
    assert recorded["geometry_of_seeds"] == recorded["texts_of_seeds"] == [5]
    assert seeds_in(tmp_path / "all", "scores.parquet") == [3, 5]
    assert seeds_in(tmp_path / "all", "completions.parquet") == [5]
    states = load_geometry(tmp_path / "all")
    assert states is not None
    assert states["seed"].unique().to_pylist() == [5]


def test_texts_of_the_seeds_that_are_named(tmp_path: Path) -> None:
    parts = [run_of(tmp_path / str(seed), seed) for seed in (3, 5)]
    join(parts, tmp_path / "one", texts=(5,))
    assert seeds_in(tmp_path / "one", "completions.parquet") == [5]
    assert seeds_in(tmp_path / "one", "advice_completions.parquet") == [5]
    assert seeds_in(tmp_path / "one", "geometry.parquet") == [3, 5]
    assert read_manifest(tmp_path / "one").recorded["texts_of_seeds"] == [5]
    join(parts, tmp_path / "none", texts=())
    assert "completions.parquet" not in read_manifest(tmp_path / "none").files
    assert read_manifest(tmp_path / "none").recorded["texts_of_seeds"] == []
    with pytest.raises(SpecError, match=r"--texts: expected seeds whose completions .* got 9"):
        join(parts, tmp_path / "all", texts=(3, 9))
    assert not (tmp_path / "all").exists()


def test_joined_sets_can_be_joined_again(tmp_path: Path) -> None:
    parts = [run_of(tmp_path / str(seed), seed) for seed in (1, 2, 3)]
    join(parts[:2], tmp_path / "two")
    join([tmp_path / "two", parts[2]], tmp_path / "three")
    join(parts, tmp_path / "at once")
    a, b = (tmp_path / name for name in ("three", "at once"))
    for path in a.glob("*.parquet"):
        found_rows, wanted_rows = (pq.read_table(f / path.name).to_pandas() for f in (a, b))
        assert found_rows.equals(wanted_rows), path.name
    found, wanted = body_of(a), body_of(b)
    assert found["source"] == wanted["source"]
    assert found["recorded"]["joined"] == wanted["recorded"]["joined"]


def test_machines_of_all_parts_are_listed_once(tmp_path: Path) -> None:
    def built_on(*names: str) -> Change:
        def description(body: dict[str, Any]) -> None:
            body["recorded"]["stages_built_on"] = [{"accelerator": name} for name in names]

        return description

    parts = [
        run_of(tmp_path / "3", 3, description=built_on("H100", "A100")),
        run_of(tmp_path / "5", 5, description=built_on("H100")),
        run_of(tmp_path / "7", 7),
    ]
    join(parts, tmp_path / "all")
    assert read_manifest(tmp_path / "all").recorded["stages_built_on"] == [
        {"accelerator": "A100"}, {"accelerator": "H100"},
    ]  # fmt: skip


def another_profile(body: dict[str, Any]) -> None:
    body["recorded"]["config"][0]["profile"]["coupling"]["beta"] = 0.5


def one_field_more(body: dict[str, Any]) -> None:
    body["recorded"]["config"][0]["profile"]["coupling"]["more"] = 1


def another_loss(body: dict[str, Any]) -> None:
    body["source"] = body["source"].replace("profile tiny", "profile tiny, loss decision")


def another_seal(body: dict[str, Any]) -> None:
    body["recorded"]["seal"]["amendments"] = 1


def another_seed_in_its_words(body: dict[str, Any]) -> None:
    body["source"] = body["source"].replace("seeds 5", "seeds 6")


def another_seed_in_its_config(body: dict[str, Any]) -> None:
    body["recorded"]["config"][0]["seed"] = 6


def no_config(body: dict[str, Any]) -> None:
    del body["recorded"]["config"]


def a_seed_in_words(body: dict[str, Any]) -> None:
    body["recorded"]["config"][0]["seed"] = "5"


def no_profile(body: dict[str, Any]) -> None:
    del body["recorded"]["config"][0]["profile"]


def config_of_other_rules(body: dict[str, Any]) -> None:
    body["recorded"]["config"][0]["registration_digest"] = "0" * 64


def no_stages(body: dict[str, Any]) -> None:
    body["recorded"]["stages"] = None


def a_commit_that_is_none(body: dict[str, Any]) -> None:
    body["recorded"]["stages_built_from"] = [None]


def joined_by_somebody_else(body: dict[str, Any]) -> None:
    body["recorded"]["joined"] = {"a": 1}


def other_rules(body: dict[str, Any]) -> None:
    body["registration"]["digest"] = "0" * 64


def unknown_rules(body: dict[str, Any]) -> None:
    body["registration"]["name"] = "mine"


@pytest.mark.parametrize(
    ("description", "words"),
    [
        (another_profile, r"5: profile\.coupling\.beta: expected that of .*3, 2\.0, got 0\.5"),
        (one_field_more, r"5: profile\.coupling\.more: expected that of .*3, None, got 1"),
        (another_loss, r"5: source: expected that of .*3"),
        (another_seal, r"5: seal\.amendments: expected that of .*3, 0, got 1"),
        (another_seed_in_its_words, "5: source: expected words with 'seeds 5'"),
        (another_seed_in_its_config, r"5/.*\.parquet: seeds: expected those of its conf.*, 6"),
        (no_config, r"5: recorded\.config: expected seed, profile and registration_digest"),
        (a_seed_in_words, r"5: recorded\.config: expected seed, profile"),
        (no_profile, r"5: recorded\.config: expected seed, profile"),
        (config_of_other_rules, r"5: recorded\.config: expected seed, profile"),
        (no_stages, r"5: recorded\.stages: expected a list"),
        (a_commit_that_is_none, r"5: recorded\.stages_built_from: expected a list"),
        (joined_by_somebody_else, r"5: recorded\.joined: expected a list"),
        (other_rules, "digest of registration issue262"),
        (unknown_rules, "5: kind and registration"),
    ],
)
def test_a_set_that_differs_in_more_than_its_seeds_is_refused(
    tmp_path: Path, description: Change, words: str
) -> None:
    parts = [run_of(tmp_path / "3", 3), run_of(tmp_path / "5", 5, description=description)]
    with pytest.raises(DataError, match=words):
        join(parts, tmp_path / "all")
    assert not (tmp_path / "all").exists()


FILES = ("scores", "advice", "geometry", "completions", "advice_completions")


@pytest.mark.parametrize("name", FILES)
def test_rows_of_another_seed_than_the_manifest_says_are_refused(tmp_path: Path, name: str) -> None:
    parts = [run_of(tmp_path / "3", 3), run_of(tmp_path / "5", 5)]
    rewrite(parts[1] / f"{name}.parquet", reseeded(3))
    seal(parts[1], body_of(parts[1]))
    with pytest.raises(DataError, match=rf"5/{name}\.parquet: seeds: expected .*, 5, got \[3\]"):
        join(parts, tmp_path / "all")


@pytest.mark.parametrize("name", FILES)
def test_no_rows_are_refused(tmp_path: Path, name: str) -> None:
    parts = [run_of(tmp_path / str(seed), seed) for seed in (3, 5)]
    for part in parts:
        rewrite(part / f"{name}.parquet", lambda t: t.slice(0, 0))
        seal(part, body_of(part))
    with pytest.raises(DataError, match=rf"3/{name}\.parquet: seeds: expected .*, 3, got \[\]"):
        join(parts, tmp_path / "all")


@pytest.mark.parametrize("name", FILES)
def test_another_roster_of_models_and_a_missing_row_are_refused(tmp_path: Path, name: str) -> None:
    parts = [run_of(tmp_path / "3", 3), run_of(tmp_path / "5", 5)]
    whole = pq.read_table(parts[1] / f"{name}.parquet")
    for change in (whole.filter(pc.field("model") != "raw"), whole.slice(1)):
        pq.write_table(change, parts[1] / f"{name}.parquet")
        seal(parts[1], body_of(parts[1]))
        with pytest.raises(DataError, match=rf"5: rows of each model and seed in {name}"):
            join(parts, tmp_path / "all")


def test_a_model_that_one_seed_of_a_set_lacks_is_refused(tmp_path: Path) -> None:
    """Also where the set stands first, and the others are compared with it."""
    parts = [run_of(tmp_path / str(seed), seed) for seed in (3, 5, 7)]
    join(parts[:2], tmp_path / "two")
    path = tmp_path / "two" / "scores.parquet"
    rewrite(path, lambda t: t.filter((pc.field("model") != "C3") | (pc.field("seed") != 5)))
    seal(tmp_path / "two", body_of(tmp_path / "two"))
    for sets in ([tmp_path / "two", parts[2]], [parts[2], tmp_path / "two"]):
        with pytest.raises(DataError, match="two: rows of each model and seed in scores"):
            join(sets, tmp_path / "all")


def test_advice_in_one_set_alone_is_refused(tmp_path: Path) -> None:
    parts = [run_of(tmp_path / "3", 3), run_of(tmp_path / "5", 5, without=("advice.parquet",))]
    with pytest.raises(DataError, match="5: files: expected that of"):
        join(parts, tmp_path / "all")


def test_a_file_that_no_recording_has_is_refused(tmp_path: Path) -> None:
    parts = [run_of(tmp_path / "3", 3), run_of(tmp_path / "5", 5)]
    shutil.copy(parts[1] / "advice.parquet", parts[1] / "more.parquet")
    seal(parts[1], body_of(parts[1]))
    with pytest.raises(DataError, match=r"5: files: expected some of .* got \['more.parquet'\]"):
        join(parts, tmp_path / "all")


def test_a_seed_that_two_sets_hold_is_refused(tmp_path: Path) -> None:
    parts = [run_of(tmp_path / "a", 3), run_of(tmp_path / "b", 3)]
    with pytest.raises(DataError, match=r"every seed in one set alone, got \[3\]"):
        join(parts, tmp_path / "all")


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    parts = [run_of(tmp_path / "3", 3), run_of(tmp_path / "5", 5)]
    rewrite(parts[1] / "scores.parquet", lambda t: t.slice(1))
    with pytest.raises(CorruptEntryError, match="was altered after it was recorded"):
        join(parts, tmp_path / "all")


def test_one_set_and_a_filled_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="sets: expected two folders of records or more, got 1"):
        join([TINY], tmp_path / "all")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(SpecError, match="folder: expected an empty or a new folder"):
        join([TINY, run_of(tmp_path / "3", 3)], tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]


def test_a_place_where_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    parts = [TINY, run_of(tmp_path / "3", 3)]
    (tmp_path / "file").touch()
    with pytest.raises(SpecError, match="folder: expected a place in a folder that can be"):
        join(parts, tmp_path / "file" / "all")
    with pytest.raises(SpecError, match="folder: expected a place outside of the sets"):
        join(parts, tmp_path / "3" / "sub" / "all")
    assert sorted(path.name for path in (tmp_path / "3").iterdir()) == sorted(
        path.name for path in TINY.iterdir()
    )
    assert body_of(tmp_path / "3")["source"].endswith("seeds 3")


def test_published_totals_cannot_be_joined(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="kind and registration: expected records"):
        join([TINY.parent / "published", TINY], tmp_path / "all")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = run_of(tmp_path / "3", 3)
    assert main([str(tmp_path / "all"), str(TINY), str(part), "--texts", "3"]) == 0
    assert capsys.readouterr().out == f"joined: {tmp_path / 'all'}\n"
    assert seeds_in(tmp_path / "all", "completions.parquet") == [3]
    assert main([str(tmp_path / "more"), str(TINY), str(part), "--without-text"]) == 0
    assert not (tmp_path / "more" / "completions.parquet").exists()
    capsys.readouterr()
    assert main([str(tmp_path / "again"), str(TINY), str(TINY)]) == 1
    assert capsys.readouterr().err.startswith("DataError: seeds of the sets: ")
    assert main([str(tmp_path / "again"), str(TINY), str(tmp_path / "none")]) == 1
    assert "DataError" in capsys.readouterr().err
