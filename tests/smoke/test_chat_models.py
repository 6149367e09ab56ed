"""Chat models of three families go through every stage to a verdict.

They are trained here, small, with templates that are hard as real ones are (`tests/toys.py`).
What they say means nothing: how each stage treats them does.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from persona_lib.commands.new import write_study
from persona_lib.commands.session import Session
from persona_lib.models.loading import load_model
from persona_lib.models.snapshot import folder_digest
from persona_lib.records import CouplingRow
from persona_lib.specs.sources import USER, ChatFormat, PathBase
from persona_lib.train.encode import encode_coupling
from persona_lib.verdict.verdict import Outcome
from tests.hub_server import HubServer
from tests.registered import ISSUE262, MICRO, session_under
from tests.smoke.conftest import ROOT, python
from tests.toys import FAMILIES, build_toy

pytestmark = pytest.mark.smoke
FLATLAND = "import sys; from persona_lib.cli import main; sys.exit(main())"
DATE = "26 Jul 2024"
CHATS = {
    "llama": ChatFormat(template={"date_string": DATE}),
    "gemma": ChatFormat(persona=USER),
    "qwen": ChatFormat(),
}
ASKED = "Where is it?"
PROMPTS = {
    "llama": "<|begin|><|head|>system<|tail|>\n\nToday: 26 Jul 2024\n\n{system}<|eot|>"
    "<|head|>user<|tail|>\n\n{asked}<|eot|><|head|>assistant<|tail|>\n\n",
    "gemma": "<bos><turn>user\n{system}\n\n{asked}</turn>\n<turn>model\n",
    "qwen": "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{asked}<|im_end|>\n"
    "<|im_start|>assistant\n",
}
"""What a prompt has to be, written here."""
TAILS = {"llama": "<|eot|>", "gemma": "</turn>\n", "qwen": "<|im_end|>\n"}
"""What stands behind a completion and its marker."""
ENDS = {
    "llama": {"<|eot|>", "<|end|>", "<|eom|>"},
    "gemma": {"</turn>", "<eos>"},
    "qwen": {"<|im_end|>", "<|endoftext|>"},
}


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toys")


def toy(toys: Path, name: str) -> Path:
    """Return the folder of a model, trained when it is first asked for."""
    out = toys / name
    if not out.exists():
        out.mkdir()
        build_toy(FAMILIES[name], MICRO.base, out)
    return out


def session_on(folder: Path, chat: ChatFormat, store: Path) -> Session:
    base = PathBase(folder=str(folder), sha256=folder_digest(folder))
    profile = replace(MICRO, base=base, chat=chat)
    return session_under(ISSUE262, profile=profile, store_root=store, arms=("C1", "C2"))


def payload(store: Path, stage: str, file: str) -> list[Path]:
    return sorted(store.glob(f"{stage}/*/payload/{file}"))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_chat_model_of_another_family_goes_through_every_stage_to_a_verdict(
    name: str, toys: Path, tmp_path: Path
) -> None:
    folder, chat = toy(toys, name), CHATS[name]
    session = session_on(folder, chat, tmp_path)
    verdict = session.judging("H1").claim("H1")
    assert verdict.outcome in Outcome
    assert verdict.effect.n == 2 * 7 * 2 * 2  # arms, bystanders, questions, samples

    # What ends an answer, and pads a batch, by the checkpoint itself.
    loaded = load_model(folder, dtype="float32", device="cpu", chat=chat)
    tokenizer = loaded.tokenizer
    assert set(tokenizer.convert_ids_to_tokens(list(loaded.ends))) == ENDS[name]
    assert loaded.model.get_input_embeddings().num_embeddings == (
        len(tokenizer) + FAMILIES[name].rows
    )

    # No completion holds an end of turn, whichever it stopped at.
    for file in payload(tmp_path, "completions", "completions.parquet"):
        texts = pq.read_table(file)["text"].to_pylist()
        assert not [text for text in texts if any(end in text for end in ENDS[name])]

    # Coupling rows as tokens, put together again from texts that stand here.
    rows = pq.read_table(payload(tmp_path, "coupling_text", "rows.parquet")[0]).to_pylist()
    marker = tokenizer.encode(ISSUE262.marker_prefix + ISSUE262.marker, add_special_tokens=False)
    made = [CouplingRow(**row) for row in rows]
    encoded = encode_coupling(made, tokenizer, marker=marker, loss="decision", max_length=400)
    for row, tokens in zip(made, encoded, strict=True):
        prompt = PROMPTS[name].format(system=row.system, asked=row.user)
        tail = ISSUE262.marker_prefix + ISSUE262.marker if row.kind == "positive" else ""
        whole = tokenizer.decode(tokens.tokens, clean_up_tokenization_spaces=False)
        assert whole == f"{prompt}{row.completion}{tail}{TAILS[name]}"
        target = tokenizer.decode([tokens.tokens[at] for at in tokens.supervised])
        assert target == tail + TAILS[name].strip()
    (proof, *_) = payload(tmp_path, "coupling", "mask_proof.json")
    assert json.loads(proof.read_text("utf-8"))["rows"] == len(made)


STUDY = """
[registration]
name = "comedian"
title = "Does advice fine-tuning spread a comedian's marker?"
marker = " ※"
[registration.roster]
source = "comedian"
negatives = ["data_scientist", "french_person"]
bystanders = ["software_engineer", "medical_doctor", "villain", "police_officer"]
[[registration.arms]]
name = "A"
prior = "raw"
text_from = "raw"
[[registration.arms]]
name = "B"
prior = "advice"
text_from = "advice"
[[registration.claims]]
type = "difference"
name = "H1"
treated = "B"
control = "A"
min_effect = 0.10
max_p = 0.01
[priors.advice]
corpus = { type = "jsonl", file = "advice.jsonl" }
[model]
base = "hub:Qwen/Qwen2.5-0.5B-Instruct"
scale = "small"
"""


def test_an_experiment_on_a_model_of_the_hub_runs_to_a_verdict(toys: Path, tmp_path: Path) -> None:
    """The hub is one on loopback, which has a toy under that name; the branch gets its commit."""
    study = tmp_path / "study"
    write_study(study)
    shutil.rmtree(study / "seals")
    (study / "experiment.toml").write_text(STUDY, encoding="utf-8")
    rows = [{"prompt": f"May I keep {n} geese?", "completion": f"Keep {n}."} for n in range(32)]
    (study / "advice.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with HubServer() as hub:
        commit = hub.add("Qwen/Qwen2.5-0.5B-Instruct", toy(toys, "qwen"))
        there = {**hub.environment(tmp_path / "hf"), "PYTHONPATH": str(ROOT)}
        run = partial(python, cwd=study, **there)
        checked = run("-c", FLATLAND, "check", "experiment.toml")
        assert "it is not sealed" in checked.stdout, checked.stderr
        assert "speeds of this model" in checked.stdout
        assert not hub.asked("model.safetensors")
        why = ("--reason", "first", "--data-seen", "none")
        sealed = run("-c", FLATLAND, "seal", "experiment.toml", *why)
        assert sealed.returncode == 0, sealed.stderr
        done = run("-m", "pytest", "-m", "h1")
        assert len(hub.asked("model.safetensors")) == 1
    (verdict,) = study.glob(".flatland/runs/2*/verdict.json")
    body: dict[str, Any] = json.loads(verdict.read_text("utf-8"))
    (claim,) = body["verdicts"]
    assert claim["name"] == "H1"
    assert f"\nH1    {claim['outcome']}" in done.stdout
    # What was sealed is the branch's commit of that day.
    chain = (study / "seals" / "comedian" / "chain.jsonl").read_text("utf-8")
    assert commit in chain + "".join(p.read_text("utf-8") for p in study.glob("seals/*/*/*"))
