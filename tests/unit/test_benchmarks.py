"""Each benchmark at a tiny shape: it checks before it times, and says what it found."""

from __future__ import annotations

import importlib.util
import json
import math
import statistics as numbers
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import (
    common,
    generation,
    small_training,
    statistics,
    train_measure,
    train_setup,
    train_step,
)
from benchmarks import train_variants as variants
from persona_lib.errors import FlatlandError
from persona_lib.models.adapters import TRAINABLE
from persona_lib.models.chat import render_prompt
from tests.byte_model import byte_tokenizer, saved_base
from tests.fake_vllm import STOP_ID, FakeLlm, Started, install

SMALL = ["--tiny", "--quick", "--seed", "3"]


def run(module: Any, folder: Path, *more: str) -> dict[str, Any]:
    """Run a benchmark; what it returns is what it wrote."""
    out = folder / "report.json"
    found = module.main([*SMALL, *more, "--out", str(out)])
    assert json.loads(out.read_text()) == json.loads(json.dumps(found))
    assert found["hardware"].keys() >= {"date", "machine", "python"}
    assert "wrong" not in found
    return dict(found)


# ---- training --------------------------------------------------------------------------


def test_a_training_step_is_the_same_and_its_times_are_a_ratio(tmp_path: Path) -> None:
    found = run(train_step, tmp_path, "--cpu")
    assert found["gradient"]["cosine"] == pytest.approx(1.0, abs=1e-4)
    assert found["gradient"]["relative_gradient"] < 1e-4
    curves = found["curves"]
    assert curves["ours"] == pytest.approx(curves["published"], rel=1e-4)
    assert len(curves["ours"]) == 3
    assert len(set(curves["ours"])) == 3
    times = [found[f"time: {name}"] for name in ("published", "ours")]
    medians = [numbers.median(one["seconds"]) for one in times]
    assert found["result"]["ratio"] == pytest.approx(medians[0] / medians[1])
    assert [one["runs"] for one in times] == [3, 3]
    assert all(one["min"] <= one["median"] <= one["max"] for one in times)
    assert found["set up: ours"]["attention"] == "padded"


def test_small_trainings_are_the_same_and_their_times_are_ratios(tmp_path: Path) -> None:
    found = run(small_training, tmp_path, "--cpu")
    assert found["recorded"] == "no: needs a GPU"
    assert found["plain, decision / ours, decision: losses apart"] < 1e-5
    assert found["ours, decision / ours, anchored, weight 0: losses apart"] < 1e-5
    runs = [found[f"ours, {loss}"] for loss in ("anchored", "decision")]
    assert runs[0]["last"] != runs[1]["last"], "an anchor pulls"
    ratio = found["anchored / decision"]
    assert ratio["training"] == pytest.approx(runs[0]["training"] / runs[1]["training"])
    assert ratio["step"] == pytest.approx(runs[0]["step"]["median"] / runs[1]["step"]["median"])
    assert runs[0]["step"]["runs"] == 2


def test_small_trainings_that_differ_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(*_: Any, progress: Any, way: str, **__: Any) -> dict[str, Any]:
        clock = progress()
        for _ in range(4):
            clock.update()
        return {"losses": [1.002 if way == "recorded" else 1.0] * 4}

    monkeypatch.setattr(small_training, "train_lora", off)
    with pytest.raises(FlatlandError, match="plain, decision and ours, decision differ by 2"):
        small_training.main([*SMALL, "--cpu", "--out", str(tmp_path / "report.json")])
    assert "anchored / decision" in json.loads((tmp_path / "report.json").read_text())


def test_whole_answers_and_a_limit_of_memory_run_too(tmp_path: Path) -> None:
    found = run(train_step, tmp_path, "--cpu", "--loss", "sft", "--limit-gib", "0.5")
    assert found["set up: ours"]["pack_tokens"] == max(found["tokens"]["batches"])


@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_variants_that_differ_are_refused(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = variants._loss

    def wrong(hidden: torch.Tensor, *more: Any) -> torch.Tensor:
        if fault == "loss":
            return original(hidden, *more) * 1.01
        value = original(hidden, *more)
        # The same value with a gradient that points elsewhere.
        return value + (hidden.sum() - hidden.sum().detach())

    monkeypatch.setattr(variants, "_loss", wrong)
    with pytest.raises(FlatlandError, match=f"the {fault}.* of one batch differ"):
        run(train_step, tmp_path, "--cpu")
    kept = json.loads((tmp_path / "report.json").read_text())
    assert kept["wrong"]
    assert kept["result"]["ratio"] > 0


def test_a_variant_that_fails_leaves_the_other_s_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(train_measure, "ours", fails)
    with pytest.raises(FlatlandError, match="ours failed: RuntimeError: no such kernel"):
        run(train_step, tmp_path, "--cpu")
    kept = json.loads((tmp_path / "report.json").read_text())
    assert kept["time: published"]["runs"] == 3
    assert "result" not in kept


def test_rows_are_lognormal_and_every_loss_has_its_targets() -> None:
    rows = train_setup.make_rows(train_setup.QWEN, 0)
    lengths = [len(row.tokens) for row in rows]
    assert len(rows) == 600
    assert 310 < numbers.mean(lengths) < 350
    assert max(lengths) <= 1024
    assert numbers.stdev(map(math.log, lengths)) == pytest.approx(0.5, abs=0.05)
    assert [len(row.supervised) for row in rows[:3]] == [4, 1, 1]
    batches = train_setup.make_batches(rows, train_setup.QWEN, 0, 40)
    assert {len(batch) for batch in batches} == {16}
    first = [row.row for batch in batches[:37] for row in batch]
    assert len(set(first)) == len(first) == 592
    assert batches == train_setup.make_batches(rows, train_setup.QWEN, 0, 40)


def test_the_floor_counts_what_torch_counts() -> None:
    """Forwards and backwards by torch's own counter on a row alone, every position looked at.

    It counts whole squares of attention where the floor counts causal halves.
    """
    shape = train_setup.TINY
    model = train_setup.make_model(shape, "cpu", 0, dropout=0.0)
    (row, *_) = train_setup.make_rows(shape, 0)
    whole = row.__class__(
        row="all", kind="sft", tokens=row.tokens, supervised=tuple(range(1, len(row.tokens) + 1))
    )
    # Written out, attention is batched products, which the counter tells from the others.
    model.get_base_model().set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad(), model.disable_adapter():
        model(input_ids=torch.tensor([row.tokens]))
    counts = counter.get_flop_counts()["Global"]
    attention = counts[torch.ops.aten.bmm]
    products = sum(counts.values()) - attention
    assert attention > 0
    expected = 2 * products + 3 * attention / 2
    assert train_setup.floor_operations(shape, [whole]) == pytest.approx(expected, rel=1e-9)


def test_an_adapter_is_put_back() -> None:
    model = train_setup.make_model(train_setup.TINY, "cpu", 0, dropout=0.05)
    before = {n: p.clone() for n, p in train_setup.trainable(model).items()}
    assert all(f".{TRAINABLE}." in name for name in before)
    restore = variants.snapshot(model)
    published = variants.Published(model, train_setup.TINY)
    batches = train_setup.make_batches(
        train_setup.make_rows(train_setup.TINY, 0), train_setup.TINY, 0, 1
    )
    model.train()
    variants.Stepper(model, published, rate=1e-2, clip=1.0).step(batches[0])
    after = train_setup.trainable(model)
    assert any(not torch.equal(after[n], value) for n, value in before.items())
    restore()
    assert all(torch.equal(after[n], value) for n, value in before.items())


def test_what_was_wanted_is_said_only_of_a_gpu(tmp_path: Path) -> None:
    report = common.Report(tmp_path / "r.json")
    report.body = {
        "time: ours": {"median": 0.4, "share_of_floor": 0.44, "peak_gib": 60.0},
        "time: published": {"median": 2.8},
    }
    bench = train_measure.Bench(
        shape=train_setup.QWEN, device="cuda", model=None, batches=[], compiled=True, limit=1,
        warmups=1, steps=1, curve=1, report=report,
    )  # fmt: skip
    train_measure.conclude(bench)
    assert report.body["result"]["ratio"] == pytest.approx(7.0)
    assert list(report.body["result"]["reached"].values()) == [True, False, True]


# ---- generation ------------------------------------------------------------------------


def test_generation_writes_the_same_and_counts_tokens(tmp_path: Path) -> None:
    found = run(generation, tmp_path, "--cpu")
    assert found["greedy"]["share_equal"] == 1.0
    assert found["greedy"]["completions"] >= 9
    ours, plain = found["rate: ours"], found["rate: plain loop"]
    for one in (ours, plain):
        assert one["tokens_per_second"] == pytest.approx(
            one["tokens"][0] / one["seconds"]["median"]
        )
        # 12 cells of 2 samples, at most 24 tokens each; one in 60 ends at each token.
        assert 12 * 2 * 12 < one["tokens"][0] < 12 * 2 * 24
    ratio = found["result"]["ours / plain loop"]
    assert ratio == pytest.approx(ours["tokens_per_second"] / plain["tokens_per_second"])
    assert "not_run" in found["rate: vllm"]


def test_generation_that_differs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = generation.plain
    monkeypatch.setattr(generation, "plain", lambda *a: [("x", n) for _, n in original(*a)])
    with pytest.raises(FlatlandError, match="differ where nothing is drawn"):
        run(generation, tmp_path, "--cpu")


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Started:
    """A vLLM that writes nothing much, and counts as installed."""
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: name if name == "vllm" else known(name)
    )
    return install(monkeypatch, cpu=True)


def with_vllm(folder: Path) -> dict[str, Any]:
    base = saved_base(folder / "model", positions=2048)
    return run(generation, folder, "--cpu", "--model", str(base))


def test_vllm_is_given_the_same_prompts_ends_and_number_of_completions(
    tmp_path: Path, vllm: Started
) -> None:
    found = with_vllm(tmp_path)
    (options,), (engine,) = vllm, vllm.engines
    assert options["enforce_eager"] is True
    warm, timed = engine.calls
    assert len(warm.prompts) == 2
    cells = generation.make_cells(generation.TINY)
    assert [prompt["prompt_token_ids"] for prompt in timed.prompts] == [
        render_prompt(byte_tokenizer(), cell.system, cell.user) for cell in cells
    ]
    assert (timed.params.n, timed.params.max_tokens) == (2, 24)
    assert (timed.params.temperature, timed.params.top_p) == (1.0, 1.0)
    assert (timed.params.stop_token_ids, timed.params.ignore_eos) == ([STOP_ID], True)
    tokens = len(byte_tokenizer().encode("-/base", add_special_tokens=False)) + 1
    rate = found["rate: vllm"]
    assert rate["tokens"] == [tokens * len(cells)]  # this one writes one completion a prompt
    ours = found["rate: ours"]["tokens_per_second"]
    assert found["result"]["ours / vllm"] == pytest.approx(ours / rate["tokens_per_second"])
    assert engine.events == ["generate", "generate", "shutdown"]


def test_vllm_that_fails_is_stopped_and_the_report_says_so(
    tmp_path: Path, vllm: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(FakeLlm, "generate", failing)
    with pytest.raises(FlatlandError, match="no room"):
        with_vllm(tmp_path)
    assert vllm.engines[0].events == ["shutdown"]
    assert "ours / plain loop" in json.loads((tmp_path / "report.json").read_text())["result"]


# ---- statistics ------------------------------------------------------------------------


def test_statistics_give_the_same_interval(tmp_path: Path) -> None:
    found = run(statistics, tmp_path)
    assert set(found["intervals"]) == {"ours", "scipy", "pandas loop"}
    medians = {name: found[f"time: {name}"]["median"] for name in found["intervals"]}
    assert found["result"] == {
        f"{name} / ours": pytest.approx(medians[name] / medians["ours"])
        for name in ("scipy", "pandas loop")
    }


def test_an_interval_that_is_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too narrow by a third, as where resampling forgets one arm's spread."""
    original = statistics.with_scipy

    def narrow(arms: statistics.Arms) -> statistics.Estimate:
        low, high = original(arms)
        return low + 0.15 * (high - low), high - 0.15 * (high - low)

    monkeypatch.setattr(statistics, "with_scipy", narrow)
    with pytest.raises(FlatlandError, match="interval of scipy"):
        run(statistics, tmp_path)


def test_two_simulations_differ_by_less_than_the_tolerance() -> None:
    """And by more than a fiftieth of it, or the check would ask nothing."""
    ends = []
    for seed in range(20):
        arms = statistics.make_arms(500, 0)
        ends.append(statistics.ours(replace(arms, seed=seed))[0])
    allowed = statistics.tolerance(statistics.ours(arms), 500)
    assert allowed / 50 < numbers.stdev(ends) * math.sqrt(2) < allowed / 3


# ---- what all share --------------------------------------------------------------------


def test_a_report_is_whole_after_every_entry(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "r.json"
    report = common.Report(out)
    report.put("a", 1)
    assert json.loads(out.read_text()) == {"a": 1}

    def fails() -> None:
        raise RuntimeError("no such kernel")

    report.guard("b", lambda: report.put("b", 2))
    report.check(True, "never said")
    assert report.finish() == {"a": 1, "b": 2}
    report.guard("c", fails)
    assert json.loads(out.read_text())["wrong"] == ["c failed: RuntimeError: no such kernel"]
    report.check(False, "two and two")
    with pytest.raises(FlatlandError, match="no such kernel; two and two"):
        report.finish()


def test_spread() -> None:
    assert common.spread([3.0, 1.0, 2.0, 10.0]) == {
        "median": 2.5, "min": 1.0, "max": 10.0, "runs": 4,
    }  # fmt: skip
