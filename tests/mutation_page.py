"""docs/mutations.md, made of the tables of faults and mutants."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.fault_table import CONTROLS, FAULTS, ROWS
from tests.faults import CLAIMS, Fault
from tests.sabotage import noticed_by
from tests.sabotage_list import MUTANTS

PATH = Path(__file__).resolve().parents[1] / "docs" / "mutations.md"

INTRODUCTION = """\
# Mutations

For every gate and every claim, what is broken on purpose, and who notices. The suite wrote this
page (`python -m tests.faults`) and `tests/unit/test_mutations.py` holds it to the code; do not
edit it.

Everything starts from *healthy* records (`tests/healthy.py`): a made-up run on which all
{gates} gates of `issue262_gated` hold and every claim is SUPPORTED. A **fault** breaks these
records, or what the scorer looks for, and has to flip one rule to one outcome. A **control**
changes them so that the rule must not flip: it lies just inside a bound, or is broken where the
rule does not read. A **mutant** breaks the instrument's code, and at least one fault or control
then has to come out otherwise; a mutant that no row notices survives, and the test fails.

**To add one.** A fault is a line in `tests/fault_gates.py` or `tests/fault_claims.py`: words, the
outcome that must come, and a function from healthy records to broken ones, most often put together
from those of `tests/faults.py`. A gate or claim without a fault fails the suite. A mutant is a
`Mutant` in `tests/sabotage_gates.py` or `tests/sabotage_list.py`: words, and a function that
applies it with monkeypatch; a sabotage that fits many types of rules belongs in
`tests/sabotage.py`. If nothing notices it, the table of faults lacks a row: add that. Then write
this page again.

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
DATE, LATER = "2026-11-25", "2026-11-30"
HAND: tuple[tuple[str, str], ...] = (
    (
        "rates of roles read the first seed alone",
        "test_gate_bounds: test_each_run_is_judged_by_itself_and_the_worst_decides",
    ),
    ("harm: absolute differences", "test_checks_in_verdicts: test_warnings_change_no_outcome"),
    (
        "negatives: the smallest difference is shown",
        "test_gate_bounds: test_negatives_read_the_larger_difference",
    ),
    (
        "totals may not even fail",
        "test_checks_in_verdicts: test_published_h3_as_registered_and_with_checks",
    ),
    (
        "shares of rows: later arms and models counted as well",
        "test_checks_in_verdicts: test_warnings_change_no_outcome",
    ),
    (
        "shares of rows: what is not flagged",
        "test_checks_in_verdicts: test_warnings_change_no_outcome",
    ),
    (
        "a bound gate holds where one bound is kept",
        "test_checks_in_verdicts: test_warnings_change_no_outcome",
    ),
    (
        "a bound gate fails by its point",
        "test_checks_in_verdicts: test_published_h3_as_registered_and_with_checks",
    ),
    ("no interval: a bound gate holds", "test_gate_bounds: test_three_ways"),
    (
        "no figure: a point gate holds",
        "test_mutations: test_a_fault_flips_its_rule_and_a_control_does_not",
    ),
    (
        "false_positive reads the model with fewest",
        "test_mutations: test_a_fault_flips_its_rule_and_a_control_does_not",
    ),
    (
        "the ratio gate makes a claim invalid",
        "test_checks_in_verdicts: test_published_totals_make_every_claim_invalid_with_checks",
    ),
    (
        "the first needed gate alone is asked",
        "test_checks_in_verdicts: test_warnings_change_no_outcome",
    ),
    ("warnings name gates that hold", "test_checks_in_verdicts: test_warnings_change_no_outcome"),
    (
        "warnings name gates of other claims",
        "test_checks_in_verdicts: test_warnings_change_no_outcome",
    ),
    (
        "checks repeat the registered gates",
        "test_checks_in_verdicts: test_a_needed_gate_of_the_registration_itself_is_no_warning",
    ),
    (
        "warnings are not in the text",
        "test_checks_in_verdicts: test_warnings_are_shown_and_survive_json",
    ),
    (
        "four gates that cannot tell are named",
        "test_checks_in_verdicts: test_labels_name_what_fails_first_and_count_the_rest",
    ),
    (
        "warnings know three needed gates",
        "test_checks_in_verdicts: test_warnings_change_no_outcome",
    ),
    (
        "H3 does not need C2p's gates, as published",
        "test_checks_in_verdicts: test_what_each_claim_needs",
    ),
    (
        "H2 does not need a sound benign model",
        "test_checks_in_verdicts: test_what_each_claim_needs",
    ),
    ("no claim needs that EM was induced", "test_checks_in_verdicts: test_what_each_claim_needs"),
    ("H1 keeps its point ratio gate", "test_checks_in_verdicts: test_what_each_claim_needs"),
    (
        "the registered needs are lost",
        "test_checks_in_verdicts: test_every_registration_that_is_not_gated_has_its_stricter_twin",
    ),
    (
        "the kill criterion needs what it needed",
        "test_checks_in_verdicts: test_what_each_claim_needs",
    ),
    (
        "repetition: 0.5 in place of 0.05",
        "test_checks_in_verdicts: test_each_needed_gate_makes_a_claim_invalid",
    ),
    (
        "Bonferroni over claims that have a p",
        "test_family: test_a_claim_without_a_p_counts_as_one_whose_p_is_1",
    ),
    ("Bonferroni above 1", "test_family: test_agrees_with_statsmodels"),
    (
        "a family of the claims that were judged",
        "test_family: test_a_claim_that_was_not_judged_leaves_no_family",
    ),
    (
        "the first look with a p taken for the question-level one",
        "test_family: test_these_personas_p_are_a_family_of_their_own",
    ),
    (
        "the kill criterion is a member of the family",
        "test_family: test_order_does_not_matter_and_the_kill_criterion_is_no_member",
    ),
    ("Holm: adjusted p may fall along the ranks", "test_family: test_agrees_with_statsmodels"),
    ("Holm: one claim too many", "test_family: test_agrees_with_statsmodels"),
    (
        "scores of harm are not checked",
        "test_mutations: test_a_fault_flips_its_rule_and_a_control_does_not",
    ),
    (
        "hits in capital letters alone",
        "test_mutations: test_texts_scored_anew_give_the_same_records",
    ),
    (
        "harm sorted, so that questions are no longer paired",
        "test_checks_in_verdicts: test_each_needed_gate_makes_a_claim_invalid",
    ),
    (
        "a claim is refuted by its point",
        "test_mutations: test_a_fault_flips_its_rule_and_a_control_does_not",
    ),
    (
        "a sign is flipped by its point",
        "test_mutations: test_a_fault_flips_its_rule_and_a_control_does_not",
    ),
    (
        "p: one resample beyond 0 not counted",
        "test_mutations: test_a_fault_flips_its_rule_and_a_control_does_not",
    ),
)
"""Mutants tried by hand in a copy of the tree: what was changed, and which test fails."""

_FIGURES, _RUNS = "test_printed_figures: test_", "test_gate_runs: test_"
HAND_LATER: tuple[tuple[str, str], ...] = (
    ("TOST: arms exchanged", f"{_FIGURES}equality_is_of_the_treated_arm_minus_the_control"),
    ("TOST: the first seed alone", f"{_FIGURES}equality_is_of_the_treated_arm_minus_the_control"),
    ("question-level t: arms exchanged, or the first seed alone", f"{_FIGURES}these_personas"),
    ("persona-level t, sign-flip: arms exchanged", f"{_FIGURES}personas_at_large"),
    (
        "t over seeds, each seed alone: arms exchanged; seeds in another order",
        f"{_FIGURES}training_runs_and_each_seed",
    ),
    (
        "mixed model, naive z, logit at equal length: arms exchanged",
        f"{_FIGURES}models_and_the_naive_z",
    ),
    (
        "registered bootstrap: arms exchanged, or the first seed alone",
        f"{_FIGURES}the_registered_bootstrap",
    ),
    (
        "finished completions, first tokens: arms exchanged, or cut ones kept",
        f"{_FIGURES}finished_completions_and_first_tokens",
    ),
    (
        "bystander/source: arms or sources exchanged",
        f"{_FIGURES}minus_false_positives_and_source_normalised",
    ),
    (
        "minus false positives: added, or priors exchanged",
        f"{_FIGURES}minus_false_positives_and_source_normalised",
    ),
    (
        "kill criterion, and H1's look at it: the worst or the best seed",
        f"{_FIGURES}the_kill_criterion_reads_all_seeds_together",
    ),
    (
        "kill criterion: its reason names another rate",
        f"{_FIGURES}the_kill_criterion_reads_all_seeds_together",
    ),
    (
        "Holm: claims reversed, or the registered p in both families",
        f"{_FIGURES}holm_is_over_the_printed_p_in_the_order_of_claims",
    ),
    (
        "summary: seen and unseen, source and bystanders, before and after exchanged",
        f"{_FIGURES}the_summary_of_an_arm",
    ),
    (
        "summary: cut for finished, the first run for all, a ratio upside down",
        f"{_FIGURES}the_summary_of_an_arm",
    ),
    (
        "personas: lengths before and after exchanged, the baseline added",
        f"{_FIGURES}the_summary_of_personas_and_priors",
    ),
    (
        "runs: the interval of their questions left out",
        f"{_RUNS}questions_that_runs_share_are_in_the_interval",
    ),
    (
        "runs: SD with n, R degrees of freedom, the root of R forgotten",
        f"{_RUNS}the_figure_is_the_mean_over_runs_with_students_interval",
    ),
    (
        "runs: the mean alone decides that a gate holds",
        f"{_RUNS}a_mean_does_not_hide_a_run_that_cannot_tell",
    ),
    (
        "runs: any run beyond the bound fails the gate, or none can",
        f"{_RUNS}a_broken_run_fails_the_gate_where_it_stands_apart",
    ),
    (
        "runs: the run is in its own spread; levels not shared out",
        f"{_RUNS}a_broken_run_fails_the_gate_where_it_stands_apart",
    ),
    (
        "runs: an interval beyond what a share can be",
        f"{_RUNS}an_interval_ends_where_the_number_does",
    ),
    (
        "runs: the worst negative of each run, or the first one",
        f"{_RUNS}each_negative_has_its_own_mean",
    ),
    (
        "two runs: at 95 %, both have to fail, or read as one",
        f"{_RUNS}of_two_runs_one_has_to_fail_at_half_the_level",
    ),
)
"""The same, of figures that are printed and of gates over several training runs."""


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
            *_hand(),
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


def _hand() -> Iterator[str]:
    for date, tried, before in ((DATE, HAND, ""), (LATER, HAND_LATER, "\n")):
        yield f"{before}## Tried by hand in a copy of the tree, {date}\n\n"
        yield "| what was changed | what fails |\n|---|---|\n"
        for changed, fails in tried:
            yield f"| {changed} | {fails} |\n"
