"""The page of mutations, made of the tables of faults and mutants."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tests.fault_table import CONTROLS, FAULTS, ROWS
from tests.faults import CLAIMS, Fault
from tests.sabotage import noticed_by
from tests.sabotage_list import MUTANTS

INTRODUCTION = """\
# Mutations

For every gate and every claim, what is broken on purpose, and which row notices.

Everything starts from *healthy* records (`tests/healthy.py`): a made-up run on which all
{gates} gates of `issue262_gated` hold and every claim is SUPPORTED. A **fault** breaks these
records, or what the scorer looks for, and has to flip one rule to one outcome. A **control**
changes them so that the rule must not flip: it lies just inside a bound, or is broken where the
rule does not read. A **mutant** breaks the instrument's code, and at least one fault or control
then has to come out otherwise; a mutant that no row notices survives, and the test fails.

"""
SURVIVORS = """\
## What no row can notice

- `CollapseGate` with its ratio upside down: the registered bounds, 0.5 and 2, are each other's
  reciprocals, and so are the interval's ends. `tests/unit/test_gate_bounds.py` holds the figure.
- `TriageClaim` with d in place of |d|: no interval whose lower end lies above -0.05 has an effect
  below it.
- `NegativesGate` that asks the last negative alone whether questions are known: either all
  personas have them or none.
- C2 and C2p exchanged: they share their prior, and H3 is symmetric where it is SUPPORTED.
- Rows of a run copied under another seed: nothing in a score says that two runs are one. The copy
  narrows the interval over runs, and the registered bootstrap and the point gates count it; each
  run still has to hold every bound gate by itself.
- Other looks at a contrast (TOST among them) and the summary decide nothing:
  `tests/unit/test_printed_figures.py` works each of them out again from the rows.
- One persona of an arm that collapsed alone: the collapse gate pools all personas.
- An arm that seldom writes the marker, and loops whenever it does: repetitions are counted among
  all completions.
"""


def page() -> str:
    """Return the page; mutants are run for it, which takes some seconds."""
    gates = len({fault.rule for fault in FAULTS if fault.rule not in CLAIMS})
    return "".join(
        (
            INTRODUCTION.format(gates=gates),
            f"## Faults: {len(FAULTS)} that flip their rule\n\n",
            *_faults(FAULTS),
            f"## Controls: {len(CONTROLS)} that must not\n\n",
            *_faults(CONTROLS),
            f"## Mutants: {len(MUTANTS)} of the code, none of which survives\n\n",
            *_mutants(),
            SURVIVORS,
        )
    )


def _faults(rows: Iterable[Fault]) -> Iterator[str]:
    yield "| what is broken | kind | rule | before | after |\n|---|---|---|---|---|\n"
    merged: dict[tuple[str, ...], list[str]] = {}
    for fault in rows:
        after = f"{fault.outcome} ({fault.label})" if fault.label else fault.outcome
        stem = re.sub(r"_(C1|C2p?|C3|raw|em|benign)$", "", fault.rule)
        key = (fault.broken, fault.kind, stem, fault.before, after)
        merged.setdefault(key, []).append(fault.rule)
    for (broken, kind, stem, before, after), rules in merged.items():
        names = [rules[0], *(rule.removeprefix(stem) for rule in rules[1:])]
        yield f"| {broken} | {kind} | {', '.join(names)} | {before} | {after} |\n"
    yield "\n"


def _mutants() -> Iterator[str]:
    yield "| where | what was sabotaged | first row that notices |\n|---|---|---|\n"
    names = {fault.name for fault in ROWS}
    for mutant in MUTANTS:
        where = mutant.name.partition(":")[0]
        by = noticed_by(mutant)
        yield f"| {where} | {mutant.what} | {by if by in names else f'it ends in {by}'} |\n"
    yield "\nA row is named after its rule and its place among that rule's rows, faults and\n"
    yield "controls, in the code.\n\n"
