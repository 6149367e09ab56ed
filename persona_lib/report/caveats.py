"""Caveats: what a reader has to know before believing a verdict, each raised by a rule.

A rule reads the body of verdict.json alone. What panels raise themselves is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from persona_lib.panels.base import UNAVAILABLE
from persona_lib.report.pieces import Node, Piece, Run
from persona_lib.specs.gate_types import (
    CollapseGate,
    FalsePositiveBoundGate,
    FalsePositiveGate,
    RepetitionGate,
    SourceBoundGate,
    SourceRateGate,
    TruncationGate,
)
from persona_lib.stats.targets import REFUSED
from persona_lib.verdict.claims import AMBIGUOUS_ZONE
from persona_lib.verdict.gate_result import GateOutcome
from persona_lib.verdict.training_runs import NOT_BORNE_OUT

TOYS = ("tiny", "micro")
"""Profiles whose verdicts say nothing of emergent misalignment."""


@dataclass(frozen=True)
class Raised:
    """One caveat.

    Attributes:
        code: name of the rule.
        words: the sentence, with its figures.
        where: JSON pointer of what raised it.
    """

    code: str
    words: Run
    where: str


Rule = Callable[[Node], Iterator[Raised]]


def caveats(body: Mapping[str, Any]) -> list[Raised]:
    """Return every caveat of a parsed verdict.json, in the order of `RULES`."""
    root = Node(dict(body))
    return [raised for rule in RULES for raised in rule(root)]


def gates_of(root: Node) -> Iterator[Node]:
    """Return the judged gates and the checks that decide nothing, each once."""
    seen = set()
    for gate in (*root["gates"], *root["summary"]["checks"]):
        if gate["name"].value not in seen:
            seen.add(gate["name"].value)
            yield gate


def _not_registered(root: Node) -> Iterator[Raised]:
    origin = root["summary"]["origin"]
    if "not registered for these data" in str(origin.value):
        words = "The data were recorded under other rules: no outcome here is a registered one: "
        yield Raised("not_registered_for_these_data", (words, origin.words()), origin.at)


def _toy(root: Node) -> Iterator[Raised]:
    profile, origin = root["profile"], root["summary"]["origin"]
    named = [f"profile {name}{mark}" for name in TOYS for mark in ",:"]
    for shown, is_toy in (
        (profile, profile.value in TOYS),
        (origin, any(name in str(origin.value) for name in named)),
    ):
        if is_toy:
            words = "A toy model: this checks the instrument and is no evidence about EM: "
            yield Raised("toy_model", (words, shown.words()), shown.at)
            return


def _single_seed(root: Node) -> Iterator[Raised]:
    runs = root["summary"]["runs"]
    if runs.value == 1:
        words = (
            " training run of each arm: run-to-run variance is not estimable, and no verdict "
            "speaks of other seeds."
        )
        yield Raised("single_seed", (runs.num("n"), words), runs.at)


def _seen_before(root: Node) -> Iterator[Raised]:
    for seen in root["seal"]["seen"]:
        sentence = (seen["date"].words(), ": ", seen["data_seen"].words())
        words = ("The rules were sealed after data had been seen, ", *sentence)
        yield Raised("sealed_after_data", words, seen.at)


def _of_verdict(code: str, verdict: Node, words: Piece, where: Node) -> Raised:
    return Raised(code, (verdict["name"].words(), ": ", words), where.at)


def _over_runs(root: Node) -> Iterator[Raised]:
    for verdict in root["verdicts"]:
        over = verdict["over_runs"]
        if over["status"].value == NOT_BORNE_OUT:
            yield _of_verdict("not_borne_out_over_runs", verdict, over["text"].words(), over)


def _population(root: Node) -> Iterator[Raised]:
    for verdict in root["verdicts"]:
        for note in verdict["notes"]:
            if str(note.value).startswith(REFUSED):
                yield _of_verdict("population_claim_refused", verdict, note.words(), note)


def _ambiguous(root: Node) -> Iterator[Raised]:
    words = (
        "the kill criterion did not fire and the rule is not met: the registration claims "
        "nothing there."
    )
    for verdict in root["verdicts"]:
        if verdict["label"].value == AMBIGUOUS_ZONE:
            yield _of_verdict("kill_ambiguous_zone", verdict, words, verdict["label"])


def _of_gates(code: str, kinds: tuple[type, ...], sentence: str) -> Rule:
    """Return a rule: gates of some kinds do not hold, one caveat for each of them."""
    names = {kind.__name__ for kind in kinds}

    def rule(root: Node) -> Iterator[Raised]:
        for gate in gates_of(root):
            if gate["kind"].value in names and gate["outcome"].value != GateOutcome.HOLDS.value:
                words = (sentence, ": ", gate["name"].words(), " ", gate["outcome"].words())
                yield Raised(code, (*words, " (", gate["text"].words(), ")"), gate.at)

    return rule


def _missing(root: Node) -> Iterator[Raised]:
    for arm in root["summary"]["arms"]:
        columns = {
            "tokens": "token counts",
            "finished": "how completions ended",
            "baseline_tokens": "a model before coupling",
        }
        lacks = ", no ".join(words for field, words in columns.items() if not arm[field].known)
        if lacks:
            words = f" has no {lacks}: what rests on them is left out, not zero."
            yield Raised("missing_columns", (arm["name"].words(), words), arm.at)
    for panel in root["panels"]:
        for entry in panel["data"]["missing"]:
            head = (entry.key(), " is missing from the panel ", panel["name"].words(), ": ")
            yield Raised("missing_columns", (*head, entry.words()), entry.at)


def _no_panel(root: Node) -> Iterator[Raised]:
    for panel in root["panels"]:
        if panel["state"].value not in (None, "readable"):
            state = "has nothing to show" if panel["state"].value == UNAVAILABLE else "is not read"
            words = ("Panel ", panel["name"].words(), f" {state}: ", panel["reason"].words())
            yield Raised("panel_not_readable", words, panel.at)


def _of_panels(root: Node) -> Iterator[Raised]:
    """What panels raised themselves: judge_uncalibrated, saturated_probe, probe_blind, ..."""
    for panel in root["panels"]:
        for caveat in panel["caveats"]:
            words = ("Panel ", panel["name"].words(), ": ", caveat["words"].words())
            yield Raised(str(caveat["code"].value), words, caveat.at)


def _dirty(root: Node) -> Iterator[Raised]:
    dirty = root["provenance"]["git"]["dirty"]
    if dirty.value is True:
        words = "The code that judged had uncommitted changes: it cannot be obtained again."
        yield Raised("dirty_tree", (words,), dirty.at)


RULES: tuple[Rule, ...] = (
    _not_registered,
    _seen_before,
    _toy,
    _single_seed,
    _over_runs,
    _of_gates(
        "source_not_established",
        (SourceRateGate, SourceBoundGate),
        "An arm is not shown to have taken the marker under its source persona, so that a "
        "contrast on it compares nothing",
    ),
    _of_gates(
        "collapsed",
        (CollapseGate,),
        "Coupling is not shown to have left the length of completions within bounds",
    ),
    _of_gates(
        "truncated", (TruncationGate,), "Completions cut at the token limit are not shown to be few"
    ),
    _of_gates(
        "repeated_marker", (RepetitionGate,), "Repetition of the marker is not shown to be rare"
    ),
    _of_gates(
        "false_positives_open",
        (FalsePositiveGate, FalsePositiveBoundGate),
        "Before coupling the marker is not shown to be as rare as asked",
    ),
    _ambiguous,
    _population,
    _missing,
    _no_panel,
    _of_panels,
    _dirty,
)
