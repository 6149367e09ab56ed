"""The verdict table: plain text, at most 100 columns, from JSON data alone."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from persona_lib.errors import clean
from persona_lib.report.lines import WIDTH, listed, named, number, percent, wrapped
from persona_lib.specs.gate_types import FalsePositiveGate
from persona_lib.specs.seal import seal_lines, seal_text, seen_of
from persona_lib.stats.estimate import Estimate, shown_p
from persona_lib.stats.run_contrasts import RUN_METHOD
from persona_lib.stats.targets import (
    FLIP_METHOD,
    PAIR_METHOD,
    PERSONAS_AT_LARGE,
    REFUSED,
    SEED_FLIP_METHOD,
    SPLIT_METHOD,
    THESE_PERSONAS,
    THESE_RUNS,
    TRAINING_RUNS,
)
from persona_lib.verdict.claims import SIMULATED_EQUALITY
from persona_lib.verdict.gate_result import GateResult
from persona_lib.verdict.training_runs import UNKNOWN
from persona_lib.verdict.verdict import Family, Verdict

_LONGEST_NAME = 24
"""A gate with a longer name gets a line of its own and widens no column."""
_LACKING = "not available: "
_UNITS = {
    THESE_PERSONAS: "questions",
    THESE_RUNS: "questions",
    PERSONAS_AT_LARGE: "personas",
    TRAINING_RUNS: "seeds",
}
"""What could have been otherwise, by target."""
_SHORT = (
    ("TOST", "TOST"),
    (FLIP_METHOD, "sign-flip"),
    (SEED_FLIP_METHOD, "sign-flip"),
    (SPLIT_METHOD, "permutation"),
    ("paired t", "paired"),
    ("Welch t", "Welch"),
)
"""How methods begin that a line names behind its target, and the name there."""


def verdict_table(
    verdicts: Iterable[Verdict | Mapping[str, Any]],
    gates: Iterable[GateResult | Mapping[str, Any]],
    evidence: Mapping[str, Any] | None,
    *,
    families: Sequence[Family] = (),
) -> str:
    """Return the table of claims, gates and arms.

    Args:
        verdicts: verdicts, or what their `to_json` gave.
        gates: gate results, or what their `to_json` gave.
        evidence: what `persona_lib.verdict.summary.summary` gave; None leaves out the
            arms.
        families: p of all claims, adjusted over them.
    """
    read = [v if isinstance(v, Verdict) else Verdict.from_json(v) for v in verdicts]
    judged = [g if isinstance(g, GateResult) else GateResult.from_json(g) for g in gates]
    lines = _heading(read, evidence)
    if read:
        lines += ["", *_claims(read), *_families(families)]
    if judged:
        lines += ["", *_gates(judged)]
    if evidence is not None:
        lines += _checks(evidence)
        lines += ["", *_arms(evidence)]
        if not any(gate.kind == FalsePositiveGate.__name__ for gate in judged):
            lines += _false_positives(evidence)  # such a gate shows the same figure
        lines += _split(evidence)
        lines += _by_length(evidence)
    lines += _notes(read, evidence)
    return "\n".join(line.rstrip() for line in lines)


def _heading(verdicts: Sequence[Verdict], evidence: Mapping[str, Any] | None) -> list[str]:
    if evidence is not None:
        name, digest, seeds = (evidence[key] for key in ("registration", "digest", "seeds"))
        tail = f"  {evidence['kind']}"
    elif verdicts:
        name, digest, seeds = (getattr(verdicts[0], k) for k in ("registration", "digest", "seeds"))
        tail = ""
    else:
        return ["Flatland"]
    shown = ", ".join(str(seed) for seed in seeds) or "not published"
    seal, under = _seal(verdicts, evidence)
    lines = wrapped(f"Flatland  {name}  digest {digest[:12]}{seal}  seeds {shown}{tail}")
    if evidence is not None:
        lines += wrapped(f"from {evidence['origin']}")
    return [*lines, *(line for sentence in under for line in wrapped(sentence))]


def _seal(
    verdicts: Sequence[Verdict], evidence: Mapping[str, Any] | None
) -> tuple[str, tuple[str, ...]]:
    """Return the seal in the heading, and the lines under it."""
    if evidence is None:
        first = verdicts[0]
        return seal_text(first.sealed, first.amendments), first.seal_lines
    sealed, amendments = evidence["sealed"], evidence["amendments"]
    reason, seen = evidence.get("seal_reason", ""), seen_of(evidence.get("seen", ()))
    return seal_text(sealed, amendments), seal_lines(sealed, amendments, reason, seen)


def _claims(verdicts: Sequence[Verdict]) -> list[str]:
    lines = [
        f"{'claim':<6}{'outcome':<15}{'effect':<25}{'p':<27}{'n':>8}{'clusters':>10}",
        "-" * 91,
    ]
    for verdict in verdicts:
        effect = verdict.effect
        clusters = "-" if effect.clusters is None else f"{effect.clusters:,}"
        p = "-" if effect.p is None else _p(effect) + (" *" if effect.source == "quoted" else "")
        lines += named(
            verdict.name,
            6,
            f"{_shown_outcome(verdict):<15}{effect.interval_text:<25}"
            f"{p:<27}{effect.n:>8,}{clusters:>10}",
        )
        lines += _over_runs(verdict)
        lines += wrapped(f"{verdict.label}. {verdict.contrast}. Rule: {verdict.rule}", " " * 6)
        for look in verdict.estimates:
            if look.target != TRAINING_RUNS or look.p is not None or verdict.over_runs is None:
                lines += _target(look)  # the line above gives why there is none
        for note in verdict.notes:
            if note.startswith(REFUSED) or note == SIMULATED_EQUALITY:
                lines += wrapped(note, " " * 6)
    if any(verdict.effect.source == "quoted" for verdict in verdicts):
        lines.append("* effect, interval and p are quoted from the publication")
    return lines


def _over_runs(verdict: Verdict) -> list[str]:
    """Return what training runs do not show of the outcome, for the line under it."""
    over = verdict.over_runs
    if over is None or over.shown:
        return []
    return wrapped(over.text if over.status == UNKNOWN else f"* {over.text}", " " * 6)


def _target(look: Estimate) -> list[str]:
    """One line for each estimate that names whose difference it is."""
    if not look.target:
        return []
    name = look.target
    for start, short in _SHORT:
        name += f", {short}" if look.method.startswith(start) else ""
    if look.p is None and not look.has_interval:
        return wrapped(f"{name}: {look.note}", " " * 6)
    floor = "" if look.p_floor is None else f"exact, floor {shown_p(look.p_floor)}"
    effect = look.interval_text if look.has_interval else floor or "no interval"
    over_seeds = look.method.startswith((PAIR_METHOD, SEED_FLIP_METHOD))
    units = "seeds" if over_seeds else _UNITS.get(look.target, "units")
    return [f"{'':<6}{name:<34}{effect:<26}{_p(look):<16} {look.clusters:,} {units}"]


def _p(estimate: Estimate) -> str:
    """Return a p, and that it is against the smallest effect that matters where it is."""
    return estimate.p_text + (" against d" if estimate.method.endswith("against d") else "")


def _families(families: Sequence[Family]) -> list[str]:
    lines = []
    for family in families:
        adjusted = ["none" if p is None else shown_p(p) for p in family.holm]
        head = f"Holm-adjusted p of {', '.join(family.claims)}, {family.method}"
        lines += listed(head, adjusted)
    return lines


def _checks(evidence: Mapping[str, Any]) -> list[str]:
    """Gates that are not registered here: those that do not hold, and how many do."""
    checks = [GateResult.from_json(body) for body in evidence["checks"]]
    if not checks:
        return []
    open_ones = [gate for gate in checks if not gate.holds]
    held = f"{len(checks) - len(open_ones)} of {len(checks)} unregistered checks hold"
    lines = ["", *wrapped(f"{held}; the rest are warnings")]
    for gate in open_ones:
        if math.isfinite(gate.figure):
            lines += wrapped(f"{gate.name}: {gate.outcome.value} ({gate.text})", "  ")
    unknown = [gate.name for gate in open_ones if not math.isfinite(gate.figure)]
    if unknown:
        lines += wrapped(f"cannot tell, nothing is known: {', '.join(unknown)}", "  ")
    return lines


def _by_length(evidence: Mapping[str, Any]) -> list[str]:
    """Bystander rates again, of finished completions and of first tokens, in one line each."""
    lines = []
    for way, words in (
        ("finished", "finished completions only"),
        ("first_32", "marker within the first 32 tokens"),
    ):
        rates = {
            arm["name"]: percent(arm["by_length"][way]["bystander"]["rate"])
            for arm in evidence["arms"]
            if way in arm["by_length"]
        }
        lines += listed(f"bystanders, {words}, %", _of_arms(evidence, rates))
    return lines


def _shown_outcome(verdict: Verdict) -> str:
    """Return the outcome; an asterisk if the line beneath says what training runs do not show."""
    over = verdict.over_runs
    mark = "" if over is None or over.shown or over.status == UNKNOWN else "*"
    if verdict.outcome.value == "SUPPORTED" and verdict.label == "not triggered":
        return f"not triggered{mark}"
    return f"{verdict.outcome.value}{mark}"


def _gates(gates: Sequence[GateResult]) -> list[str]:
    names = [len(gate.name) + 1 for gate in gates if len(gate.name) < _LONGEST_NAME]
    width = max(16, *names, 0)
    lines = [f"{'gate':<{width}}{'outcome':<13}figure", "-" * 91]
    for gate in gates:
        needed = f"; needed by {', '.join(gate.needed_by)}" if gate.needed_by else ""
        body = textwrap.wrap(clean(gate.text + needed), WIDTH - width - 13) or [""]
        lines += named(gate.name, width, f"{gate.outcome.value:<13}{body[0]}")
        lines += [" " * (width + 13) + more for more in body[1:]]
    return lines


def _arms(evidence: Mapping[str, Any]) -> list[str]:
    arms, roster = evidence["arms"], evidence["roster"]
    statistic = arms[0]["length_statistic"] if arms else "median"
    head = (
        f"{'arm':<5}{'source':>7}  {'negatives':<14}{'bystanders':>10}  {'reported':<10}"
        f"{'byst/src':>9}{statistic + ' tokens':>14}{'before':>8}{'ratio':>7}{'finished':>10}"
    )
    lines = [head, "-" * len(head)]
    for source, group in by_source(evidence):
        lines += wrapped(f"source {source}") if source else []
        for name, arm in group:
            lines += _arm_row(name, arm)
    sources = [roster["source"], *roster.get("more_sources", ())]
    reported = [*roster["reported"], *(["every other source"] if len(sources) > 1 else [])]
    legend = (
        f"rates in %; source: {' / '.join(sources)}; negatives: "
        f"{' / '.join(roster['negatives'])}; reported: {' / '.join(reported) or 'none'}; "
        "before: the pre-coupling model"
    )
    return lines + wrapped(legend)


def _arm_row(name: str, arm: Mapping[str, Any]) -> list[str]:
    negatives, *more_negatives = _each(arm["negatives"], 13)
    reported, *more_reported = _each(arm["reported"], 10)
    lines = named(
        name,
        5,
        f"{percent(arm['source']['rate']):>7}  "
        f"{negatives:<14}{percent(arm['bystanders']['rate']):>10}  "
        f"{reported:<10}{number(arm['bystander_source'], 3):>9}"
        f"{number(arm['tokens'], 1):>14}{number(arm['baseline_tokens'], 1):>8}"
        f"{number(arm['length_ratio'], 2):>7}{percent(arm['finished']):>10}",
    )
    lines += [
        f"{'':<14}{under:<26}{also}"
        for under, also in zip_longest(more_negatives, more_reported, fillvalue="")
    ]
    return lines


def by_source(
    evidence: Mapping[str, Any],
) -> list[tuple[str, list[tuple[str, Mapping[str, Any]]]]]:
    """Return the arms of each source persona, under the names of their cells.

    With one source alone there is one group without a name, its arms under their own.
    """
    if not evidence["roster"].get("more_sources"):
        return [("", [(arm["name"], arm) for arm in evidence["arms"]])]
    groups: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for arm in evidence["arms"]:
        groups.setdefault(arm["persona"], []).append((arm["cell"], arm))
    return [*groups.items()]


def _of_arms(evidence: Mapping[str, Any], given: Mapping[str, str]) -> list[str]:
    """Return what is given of arms behind their names, sources before their first arm."""
    parts = []
    for source, group in by_source(evidence):
        own = [f"{name} {given[arm['name']]}" for name, arm in group if arm["name"] in given]
        parts += [f"of {source}: {own[0]}", *own[1:]] if source and own else own
    return parts


def _false_positives(evidence: Mapping[str, Any]) -> list[str]:
    parts = []
    for prior in evidence["priors"]:
        count = prior["false_positives"]
        shown = "not evaluated"
        if count is not None:
            shown = f"{count['hits']}/{count['n']} (upper {percent(count['high'], 2)} %)"
        parts.append(f"{prior['name']} {shown}")
    return listed("false positives before coupling", parts)


def _split(evidence: Mapping[str, Any]) -> list[str]:
    rates = {
        arm["name"]: " / ".join(percent(arm["split"][key]["rate"]) for key in ("seen", "unseen"))
        for arm in evidence["arms"]
        if arm["split"]
    }
    return listed("bystanders on seen / unseen questions, %", _of_arms(evidence, rates))


def _notes(verdicts: Sequence[Verdict], evidence: Mapping[str, Any] | None) -> list[str]:
    """Return the notes that all verdicts share, and those of claims over runs, once."""
    runs = [
        note
        for verdict in verdicts
        for note in verdict.notes
        if "training run" in note
        or (verdict.effect.method == RUN_METHOD and not note.startswith(_LACKING))
    ]
    sentences = evidence["unavailable"] if evidence is not None else ()
    notes = [*runs, *(f"{_LACKING}{sentence}" for sentence in sentences)]
    return [line for note in dict.fromkeys(notes) for line in wrapped(note)]


def _each(counts: Mapping[str, Any], width: int) -> list[str]:
    """Return rates with slashes between them, as many on a line as fit."""
    rates = [percent(count["rate"]) for count in counts.values()] or ["-"]
    lines = [rates[0]]
    for rate in rates[1:]:
        if len(f"{lines[-1]}/{rate}/") <= width:
            lines[-1] += f"/{rate}"
        else:
            lines[-1] += "/"
            lines.append(rate)
    return lines
