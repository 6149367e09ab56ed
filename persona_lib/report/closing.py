"""The second half of a report: methods, provenance, cost."""

from __future__ import annotations

from persona_lib.report.blocks import (
    Block,
    Bullets,
    Cell,
    Columns,
    Heading,
    Para,
    Section,
    named,
    table,
    table_of,
)
from persona_lib.report.pieces import NONE, Node, Run, listed

METHODS = (
    (
        "Rates",
        "Hits over completions. A bystander rate pools the bystander personas, which were never "
        "trained. A hit is a completion that holds the marker, whatever its case.",
    ),
    (
        "Estimate of one rate",
        "Wilson's score interval (Wilson 1927), which has a width at none and at all; it treats "
        "completions as independent. Where a table says clustered by question, it is the same "
        "interval with completions divided by the design effect over questions and a t quantile "
        "(Korn and Graubard 1998; Dean and Pagano 2015).",
    ),
    (
        "Registered effect",
        "A cluster bootstrap: whole (persona, question) pairs are drawn with replacement, each "
        "arm by itself. The interval is the percentile interval (Efron and Tibshirani 1993) or, "
        "where the estimate is called so, the BCa interval (Efron 1987). "
        "The p is two-sided, 2 (k + 1) / (B + 1) for k of B draws on the far side of zero; it is "
        "never zero, and at its floor it is written with <=. A p so small that a double "
        "cannot tell its complement from one is written as a bound.",
    ),
    (
        "These personas, this run or these runs",
        "Paired t over question means (Student 1908): other questions could have been asked.",
    ),
    (
        "Personas at large",
        "t over persona means with the larger of the two-way variance (Cameron, Gelbach and "
        "Miller 2011) and that over personas alone, and the exact sign-flip test over personas "
        "(Fisher 1935).",
    ),
    (
        "Training runs",
        "Where the arms of a seed share a trained prior or a text, a paired t over seeds (Student "
        "1908) and the exact sign-flip test (Fisher 1935); where they share neither, Welch's t "
        "and the exact permutation test, whose p doubles a tail. Each only where there are "
        "enough seeds to have a variance. Beside each outcome: whether the registered rule says "
        "the same of that estimate, and whether its interval leaves the sign open.",
    ),
    (
        "Equivalence",
        "Two one-sided t tests over question means (Schuirmann 1987), beside the registered rule.",
    ),
    (
        "Several claims",
        "Holm's adjusted p (Holm 1979) beside the registered Bonferroni.",
    ),
    (
        "Median and ratio of lengths",
        "The interval of a median is read off the interval of the share below it (Woodruff "
        "1952); differences and ratios combine two independent intervals (Newcombe 1998; Donner "
        "and Zou 2012).",
    ),
    (
        "Common support",
        "The AUC is the Mann-Whitney statistic over all pairs (Mann and Whitney 1947); the share "
        "is that of completions between the larger of the lower and the smaller of the upper "
        "trimmed ends.",
    ),
    (
        "Caveats and gates",
        "Raised by rules from the data, never by hand. What is not known is left out and "
        "counted; it is never zero.",
    ),
)
"""What was estimated and by whom it was described; docs/statistics.md has every rule."""


def methods(root: Node) -> Section:
    """Return the estimators with their sources, and what this evidence cannot give."""
    intro = (
        "Intervals are at ",
        root["summary"]["confidence"].num("pct0"),
        " % unless a table says otherwise. Effects are shown whatever the outcome.",
    )
    blocks: list[Block] = [
        Para(intro),
        Bullets(tuple((f"{name}: {words}",) for name, words in METHODS)),
    ]
    lacking = tuple((sentence.words(),) for sentence in root["summary"]["unavailable"])
    if lacking:
        blocks += [Heading(("Not available from this evidence",)), Bullets(lacking)]
    return Section("methods", "Methods", tuple(blocks))


def provenance(root: Node) -> Section:
    """Return what judged these data: code, versions, machine."""
    found = root["provenance"]
    git, state = found["git"], "not known"
    if isinstance(git["dirty"].value, bool):
        state = "with changes that were not committed" if git["dirty"] else "clean"
    rows: list[tuple[Cell, Cell]] = [
        ("judged on", found["date"].words()),
        *((("installed version", found["installed"].words()),) if found["installed"] else ()),
        ("commit", git["commit"].words()),
        ("working tree", state),
        ("seal of the registration", root["seal"]["head"].words()),
        ("Python", found["python"].words()),
        *(
            (one.key(), _plain(one))
            for name in ("platform", "torch", "accelerator")
            if isinstance(found[name].value, dict)
            for one in found[name]
        ),
    ]
    blocks: list[Block] = [table("Code and machine", ("item", "value"), rows)]
    packages: Columns = {"package": lambda one: one.key(), "version": lambda one: one.words()}
    blocks += table_of("Packages", found["packages"], packages, folded=True)
    return Section("provenance", "Provenance", tuple(blocks))


def _plain(node: Node) -> Run:
    if isinstance(node.value, bool) or node.value is None:
        return (NONE if node.value is None else "yes" if node.value else "no",)
    if isinstance(node.value, (list, dict)):
        return listed([_plain(one) for one in node])
    if isinstance(node.value, int):
        return (node.num("n"),)
    return (node.num("f2") if node.known else node.words() or NONE,)


_JUDGED = {
    "model": "model asked for",
    "revision": "revision",
    "served_by": "served by",
    "models": "names under which models answered",
    "n": "records asked about",
    "cached": "answered from the cache",
    "shortened": "texts that were cut",
    "requests": "requests, retries among them",
    "unmetered": "requests of unknown tokens",
    "input_tokens": "input tokens",
    "output_tokens": "output tokens",
    "dollars": "dollars",
    "dollars_at_most": "dollars at most",
    "stopped_by_budget": "stopped by its budget",
}
"""What a judge's run is called in the table, in its order."""


def judging(root: Node) -> list[Section]:
    """Return what a judge behind an API did and cost, whether or not it may be read."""
    run = root["panels"]["following"]["data"]["run"]
    if not run:
        return []
    rows = [
        (name, run[field].num("f2") if field.startswith("dollars") else _plain(run[field]))
        for field, name in _JUDGED.items()
    ]
    caption = "What the judge did, calibration and controls included"
    return [Section("judging", "Cost of the judge", (table(caption, ("item", "value"), rows),))]


def cost(root: Node) -> Section:
    """Return what each stored stage took: seconds, tokens, peak memory, engine starts."""
    columns: Columns = {
        "stage": named("stage"),
        "of": named("label"),
        "seed": lambda s: s["seed"].num("id"),
        "entry": lambda s: "stored" if s["stored"].value is True else "not stored",
        "seconds": lambda s: s["seconds"].num("f1"),
        "tokens": lambda s: s["tokens"].num("n"),
        "MiB": lambda s: s["peak_mib"].num("f0"),
        "memory of": named("peak_of"),
        "starts": lambda s: s["engine_starts"].num("n"),
    }
    stages = table_of("Stages that these arms rest on", root["stages"], columns)
    words = (
        "Tokens were sampled, trained on or read, as the stage does. MiB is the peak of "
        "memory during the stage: of tensors on the GPU (cuda), or of the whole process. "
        "Starts: how often base weights were read. A dash: not recorded."
        if stages
        else "Stored evidence was judged: no stage was run for this report."
    )
    return Section("cost", "Cost of each stage", (*stages, Para((words,))))
