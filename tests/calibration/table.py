"""The page of calibration, and the figures of it that docs/statistics.md quotes.

``python -m tests.calibration.table`` measures everything and writes .flatland/pages/calibration.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from persona_lib.store.provenance import git_state
from tests.calibration import run_claims
from tests.calibration.bars import BARS, FULL, NOT_MET, OURS, Bar
from tests.calibration.procedures import RESAMPLES, Tally
from tests.calibration.runs_of_gates import ADVICE, OF_ADVICE, OF_ANSWER, RUNS
from tests.calibration.worlds import (
    ISSUE_WORLDS,
    PERSONAS,
    QUESTIONS,
    RATE,
    ROOT_SEED,
    SAMPLES,
    SEED_SD,
    WORLDS,
)
from tests.house import write_page

STATISTICS = Path(__file__).resolve().parents[2] / "docs" / "statistics.md"
COLUMNS = (
    "procedure",
    "target",
    "world",
    "personas x questions",
    "truth",
    "event",
    "bar",
    "share of data sets",
    "Monte Carlo SE",
    "counted",
    "bar met",
)
INTRODUCTION = """\
# Calibration

How often each procedure errs, measured on simulated data sets whose truth is known. Bars are data
in `tests/calibration/bars.py`. Those of issues 3 and 18 stood before anything was simulated; those
marked "ours" were added so that faults which they miss, planted in the code, do show.

"""
TARGETS = """\
## Whose difference is true

- **these personas**: personas, and what an arm does to each of them, are drawn once for each data
  set and held. The intercept of each arm is then found for which these personas have, over
  questions that are yet to be drawn, an expected mean rate of exactly {rate} and {rate} + d.
- **personas at large**: personas are drawn like everything else. d is the difference of the
  expected rates of two populations, and the intercepts are the populations'.
- **training runs**: seven personas and their questions are fixed. A run shifts all of their logits
  by a normal number; the mean rate of a run has mean {rate} and SD {seed_sd} over runs, and both
  arms are runs of the same kind. Where a correlation r is named, the rates themselves are drawn:
  those of one seed's arms have it, as where arms share a trained prior or a text. With r = -0.8
  two samples take every tenth or more of null data sets for a difference, which is why verdicts
  pair seeds wherever arms share a draw.
- **claims over training runs**: six cells, two sources, 10 or 24 seeds; a figure has SD {run_sd}
  over seeds (heavy tails: the scale of a t with 3 df, common to all arms of a seed), of whose
  variance the sources of a seed share the part named ICC, and the cells that a claim compares have
  the correlation r. S1 = E1 - B1 has the effect named; at S1 = d the other claims are far from d
  where S1 alone is counted, elsewhere S2 and S4 are at d and S3 is S1 - d. "Some outcome is wrong":
  of any of the four claims. The published bootstrap is told completions of runs that shift an
  arm's logits, with an SD of {pooled} of its rate over seeds; no difference is true.

- **the instrument**: what a gate compares is exactly at the number named: a share, a ratio of two
  shares or of two median lengths, a difference of two shares or of two harms. A gate on all
  personas (11) speaks of personas like these: personas and questions are drawn, and the truth is
  the mean over all that could have been. Single personas and advice (1) hold; questions are drawn.
  10 completions of a cell after coupling; before it 2, 5 or 10 where false positives are counted
  and 2 where lengths are compared (10 of two arms), and 5 whose texts are read. Its worlds are
  named by what differs from SDs in logits of 0 of personas, 0.5 of questions, and the others of
  world S; lengths vary by as much in ranks.
- **the instrument, "{runs} runs, SD s"**: so many training runs of one arm, read by `judge_gate` as
  it is shipped. The truth named is the mean over runs and over questions that are yet to be drawn.
  Runs share the effects of their questions. s is the SD between runs: of the difference of harm, of
  log(ratio) of lengths, elsewhere of logits (0.5 is 11 points at a share of 0.5, 2 at 0.05). A
  difference of harm has an SD of {of_advice:g} over {advice} questions and of {of_answer:g} for a
  question within a run; false positives are counted among 5 completions of a cell. "One run without
  a rise": the other four have the rise named, this one none.

Procedures are called as they are shipped (`persona_lib/stats`); "H3 passes" is the registered null
rule with its registered thresholds. The bootstrap draws {resamples:,} resamples in place of the
registered 10,000. "Estimate holds the truth" is the coverage of the 95 % interval. A bar of "none"
is a figure that is reported and asked nothing of.

"""


def quoted() -> dict[str, tuple[str, Tally]]:
    """Return bar and counts of the figures that docs/statistics.md quotes, by `Bar.name`."""
    line = re.compile(r"^(0\.\d{4})  ([\d,]+) of ([\d,]+) +(\S.*?)  +(\S.*: .*)$", re.MULTILINE)
    found = {}
    for rate, hits, n, text, name in line.findall(STATISTICS.read_text(encoding="utf-8")):
        tally = Tally(int(hits.replace(",", "")), int(n.replace(",", "")))
        if f"{tally.rate:.4f}" != rate:
            raise ValueError(f"{name}: {rate} is not {tally.rate:.4f}")
        found[name] = (text, tally)
    return found


def measured(bar: Bar) -> Tally:
    """Return the counts of a bar on as many data sets as it asks for."""
    return bar.measure(FULL)


def text(measure: Callable[[Bar], Tally] = measured) -> str:
    """Return the page; `measured` takes some minutes for all of it."""
    return "".join(
        (INTRODUCTION, _made_by(), *_worlds(), *_targets(), *_measured(measure), *_not_met(measure))
    )


def _made_by() -> str:
    date = datetime.now(UTC).isoformat(timespec="seconds")
    commit, dirty = git_state()
    changed = " with changes on top of it" if dirty else ""
    versions = f"NumPy {metadata.version('numpy')}, SciPy {metadata.version('scipy')}"
    return f"Written {date}, commit {commit}{changed}, {versions}, root seed {ROOT_SEED}.\n\n"


def _worlds() -> Iterator[str]:
    yield "## Worlds\n\n"
    yield (
        f"Logit-normal, {PERSONAS} personas x {QUESTIONS} crossed questions x {SAMPLES} samples an "
        f"arm. SDs in logits; terms with an arm are drawn for each arm anew.\n\n"
    )
    yield "| world | mean rate | persona, control / treated | correlation | persona x arm |"
    yield " question | persona x question | question x arm | persona x question x arm |\n"
    yield "|---|---|---|---|---|---|---|---|---|\n"
    for name, world in WORLDS.items():
        shown = name if name in ISSUE_WORLDS else f"{name} ({OURS})"
        yield (
            f"| {shown} | {world.rate:g} | {world.persona[0]:g} / {world.persona[1]:g} | "
            f"{world.correlation:g} | {world.persona_arm:g} | {world.question:g} | "
            f"{world.persona_question:g} | {world.question_arm:g} | {world.cell_arm:g} |\n"
        )
    yield "\n"


def _targets() -> Iterator[str]:
    yield TARGETS.format(
        rate=RATE,
        seed_sd=SEED_SD,
        run_sd=run_claims.SD,
        pooled=run_claims.RUN_SD,
        resamples=RESAMPLES,
        runs=RUNS,
        advice=ADVICE,
        of_advice=OF_ADVICE,
        of_answer=OF_ANSWER,
    )


def _measured(measure: Callable[[Bar], Tally]) -> Iterator[str]:
    yield "## Measured\n\n"
    yield f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"
    for bar in BARS:
        yield f"{row(bar, measure(bar))}\n"


def row(bar: Bar, tally: Tally) -> str:
    """Return a line of the table."""
    trial = bar.trial
    met = "-" if not bar.binds else "yes" if bar.holds(tally) else "**not met**"
    cells = (
        trial.procedure,
        trial.target,
        trial.world,
        trial.size,
        bar.truth,
        bar.event,
        bar.text if bar.origin != OURS or not bar.binds else f"{bar.text} ({OURS})",
        f"{tally.rate:.4f}",
        f"{tally.error:.4f}",
        f"{tally.hits:,} of {tally.n:,}",
        met,
    )
    return f"| {' | '.join(cells)} |"


def _not_met(measure: Callable[[Bar], Tally]) -> Iterator[str]:
    yield "\n## Not met\n\n"
    for bar in NOT_MET:
        tally = measure(bar)
        yield (
            f"- {bar.name}: {tally.rate:.4f} +- {tally.error:.4f}, bar {bar.text}. Why: "
            f"{bar.not_met}.\n"
        )


if __name__ == "__main__":
    write_page("calibration", text())
