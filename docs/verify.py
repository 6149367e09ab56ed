"""Check a chain of seals with no code of this project: python docs/verify.py SEALS/NAME."""

import hashlib
import json
import pathlib
import sys


def digest(data: bytes) -> str:
    """Return a SHA-256."""
    return hashlib.sha256(data).hexdigest()


own, before, last = pathlib.Path(sys.argv[1]), None, ""
for index, line in enumerate((own / "chain.jsonl").read_text().splitlines()):
    entry = json.loads(line)
    claimed = entry.pop("hash")
    plain = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    form = own / f"{index:04d}-{entry['digest'][:12]}" / "canonical.json"
    study = form.with_name("study.json")
    holds = {
        "hash": digest(plain.encode()) == claimed,
        "order": (entry["index"], entry["previous"]) == (index, before),
        "name": entry["registration"] == own.resolve().name,
        "date": entry["date"] >= last,
        "canonical.json": digest(form.read_bytes()) == entry["digest"],
        "study.json": "study" not in entry or digest(study.read_bytes()) == entry["study"],
    }
    if not all(holds.values()):
        sys.exit(f"entry {index} was altered: {[what for what in holds if not holds[what]]}")
    before, last = claimed, entry["date"]
sys.stdout.write(f"{own.name}: {index} amendments, digest {entry['digest']}, head {before}\n")
