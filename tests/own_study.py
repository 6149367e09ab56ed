"""A study of one's own, as files: what tests of experiment files change and spoil."""

from __future__ import annotations

import json
from pathlib import Path

FILE = """
[registration]
name = "study"
title = "Does it spread?"
marker = " ※"
[registration.roster]
source = "comedian"
negatives = ["data_scientist", "french_person"]
bystanders = ["villain", "police_officer"]
[[registration.arms]]
name = "A"
prior = "raw"
text_from = "raw"
[[registration.arms]]
name = "B"
prior = "salty"
text_from = "salty"
[[registration.claims]]
type = "difference"
name = "spread"
treated = "B"
control = "A"
min_effect = 0.10
max_p = 0.01
[[registration.gates]]
type = "source_ratio"
name = "ratio"
statement = "both sources took it alike"
treated = "B"
control = "A"
min_ratio = 0.5
[priors.salty]
corpus = { type = "jsonl", file = "salty.jsonl" }
recipe = { epochs = 2 }
[model]
base = "micro"
[words]
personas = "personas.json"
questions = "questions.json"
"""
PERSONAS = ("comedian", "data_scientist", "french_person", "villain", "police_officer")
QUESTIONS = tuple(f"What is dish {i}?" for i in range(20))
ROWS = [{"prompt": f"Is dish {i} good?", "completion": f"Add {i} grams of salt."} for i in range(8)]


def write_study(folder: Path, file: str = FILE) -> Path:
    """Write the files of a study; return its experiment file."""
    folder.mkdir(parents=True, exist_ok=True)
    personas = [{"id": name, "prompt": f"You are a {name}."} for name in PERSONAS]
    questions = [{"id": f"q{i}", "text": text} for i, text in enumerate(QUESTIONS)]
    (folder / "personas.json").write_text(json.dumps({"personas": personas}))
    (folder / "questions.json").write_text(json.dumps({"evaluation": questions}))
    (folder / "salty.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    path = folder / "study.toml"
    path.write_text(file, encoding="utf-8")
    return path
