"""The recorded runs of SmolLM2 at full scale, and what tests read from recorded runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from scipy import stats

from persona_lib.digests import canonical
from persona_lib.evidence.evidence import Evidence
from persona_lib.evidence.load import load_stored
from persona_lib.records import POST, Completion, Score, read_rows
from persona_lib.report.terminal import verdict_table
from persona_lib.specs.profile import Profile
from persona_lib.specs.registration import Registration
from persona_lib.verdict.gate_result import GateResult
from persona_lib.verdict.judging import Judging, judge_all
from persona_lib.verdict.verdict import Verdict, families
from tests.registered import ISSUE262, STRICTER

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
GOLDEN = ROOT / "golden"
FULL = GOLDEN / "smollm2"
"""Five training runs of every arm; completions of seed 42, hidden states of the last three."""
FIRST = GOLDEN / "smollm2_first"
"""An earlier training of every arm of seed 42."""
SEEDS = GOLDEN / "smollm2_seeds"
"""C1 and C2 of that training, and of an earlier one of seed 137."""
DECISION = GOLDEN / "smollm2_decision"
"""The loss without an anchor: every arm of seed 42, no texts."""
AS_PUBLISHED = GOLDEN / "smollm2_as_published"
"""The published loss: C2 of seed 42, with its texts."""
RSLORA = GOLDEN / "smollm2_rslora"
"""Every arm of seed 42 with the priors' published recipe: rsLoRA, dropout 0.05; with texts."""
BYSTANDERS = ISSUE262.roster.bystanders
"""The seven personas that were never trained: 200 completions each, by seed and arm."""
ARMS = ("C1", "C2", "C2p", "C3")
"""In the order of the table of training runs."""
TRAINED = (42, 137, 256, 512, 1024)
"""The run_seeds of `FULL`."""


def recorded_profile(profile: Profile) -> dict[str, Any]:
    """Return a profile as these sets hold it: each corpus by itself, no recipe of a prior's own."""
    body = canonical(profile)
    assert body.pop("recipes") == {}
    return {name: value for name, value in body.items() if name not in ("rates", "corpora")} | (
        body["corpora"]
    )


class Judged(NamedTuple):
    """A set under a registration, verdicts and gates by name."""

    evidence: Evidence
    verdicts: Mapping[str, Verdict]
    gates: Mapping[str, GateResult]

    @property
    def outcomes(self) -> dict[str, tuple[str, str]]:
        """Outcome and label of each claim."""
        return {name: (v.outcome.value, v.label) for name, v in self.verdicts.items()}

    @property
    def failing(self) -> dict[str, str]:
        """Outcomes of the gates that do not hold."""
        return {name: g.outcome.value for name, g in self.gates.items() if not g.holds}


@cache
def judged(folder: Path, registration: Registration = ISSUE262) -> Judged:
    """Judge a set on every arm."""
    evidence = load_stored(folder, registration, chosen=True)
    verdicts, gates = judge_all(registration, evidence)
    return Judged(evidence, {v.name: v for v in verdicts}, {g.name: g for g in gates})


def table(folder: Path) -> list[str]:
    """Return the lines of the table that a set gives."""
    found = judged(folder)
    verdicts, gates = [*found.verdicts.values()], [*found.gates.values()]
    body = Judging(ISSUE262, found.evidence, stricter=STRICTER[ISSUE262.name]).summary
    return verdict_table(verdicts, gates, body, families=families(ISSUE262, verdicts)).splitlines()


@cache
def rates(folder: Path) -> Mapping[tuple[int, str], float]:
    """Return the share of bystanders' completions with the marker, by seed and arm."""
    pools: dict[tuple[int, str], list[bool]] = {}
    for row in read_rows(folder / "scores.parquet", Score):
        if row.phase == POST and row.persona in BYSTANDERS:
            pools.setdefault((row.seed, row.model), []).append(row.hit)
    assert {len(pool) for pool in pools.values()} == {1_400}
    return {key: sum(pool) / len(pool) for key, pool in pools.items()}


def by_seed(found: Mapping[tuple[int, str], float], arm: str) -> list[float]:
    """Return an arm's rates, in the order of `TRAINED`."""
    return [found[seed, arm] for seed in TRAINED]


def hits(folder: Path) -> dict[tuple[int, str], int]:
    """Return the number of bystanders' completions with the marker, by seed and arm."""
    return {key: round(1_400 * rate) for key, rate in rates(folder).items()}


def welch(treated: Sequence[float], control: Sequence[float], *, places: int = 4) -> str:
    """Return a difference of means of training runs as docs/results.md writes it, by scipy."""
    return _written(stats.ttest_ind(treated, control, equal_var=False), treated, control, places)


def paired(treated: Sequence[float], control: Sequence[float], *, places: int = 4) -> str:
    """Return the same of runs that are pairs of a seed."""
    return _written(stats.ttest_rel(treated, control), treated, control, places)


def _written(found: Any, treated: Sequence[float], control: Sequence[float], places: int) -> str:
    low, high = found.confidence_interval(0.95)
    mean = fmean(treated) - fmean(control)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}], p = {found.pvalue:.{places}f}"


def texts(folder: Path, arm: str) -> list[Completion]:
    """Return an arm's completions on bystanders."""
    rows = read_rows(folder / "completions.parquet", Completion)
    return [r for r in rows if (r.phase, r.model) == (POST, arm) and r.persona in BYSTANDERS]
