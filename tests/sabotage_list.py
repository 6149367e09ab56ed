"""Mutants of claims, of the judge and of the scorer; `MUTANTS` are all there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from persona_lib import marker as score
from persona_lib.evidence import advice_means as harm
from persona_lib.evidence import cells as grid
from persona_lib.evidence.evidence import Evidence
from persona_lib.evidence.from_records import RecordEvidence
from persona_lib.records import ModelId
from persona_lib.specs.claim_types import DifferenceClaim, TriageClaim
from persona_lib.stats import bootstrap
from persona_lib.stats.bootstrap import Clusters
from persona_lib.verdict import claims, conditions, gates, judging
from persona_lib.verdict.claims import Outcome
from persona_lib.verdict.gate_result import GateOutcome, bounded
from tests.faults import CLAIMS
from tests.sabotage import CLAIM_TYPES, FAMILIES, Judge, Mutant, Patch, of_kind, wrap
from tests.sabotage_gates import GATE_MUTANTS, exchanged


def _claims() -> Iterator[Mutant]:
    outcomes = {
        "always supported": dict.fromkeys(Outcome, Outcome.SUPPORTED),
        "always refuted": dict.fromkeys(Outcome, Outcome.REFUTED),
        "refuted and inconclusive exchanged": {
            Outcome.REFUTED: Outcome.INCONCLUSIVE,
            Outcome.INCONCLUSIVE: Outcome.REFUTED,
        },
        "supported and refuted exchanged": {
            Outcome.SUPPORTED: Outcome.REFUTED,
            Outcome.REFUTED: Outcome.SUPPORTED,
        },
    }
    for kind in CLAIM_TYPES:
        for what, changed in outcomes.items():

            def around(
                function: Judge, *args: Any, changed: dict[Outcome, Outcome] = changed
            ) -> Any:
                found = function(*args)
                return replace(found, outcome=changed.get(found.outcome, found.outcome))

            yield of_kind(kind, what, around)
    for kind, what, fields in (
        (DifferenceClaim, "p ignored", {"max_p": 0.999}),
        (DifferenceClaim, "effect ignored", {"min_effect": 0.0}),
        (DifferenceClaim, "p < 0.05 asked of everything", {"max_p": 0.05}),
        (DifferenceClaim, "p < 0.0167 asked of everything", {"max_p": 0.0167}),
        (DifferenceClaim, "p < 0.001 asked of everything", {"max_p": 0.001}),
        (DifferenceClaim, "ratio gate ignored", {"ratio_gate": None}),
        (TriageClaim, "p ignored", {"null_min_p": 1e-9}),
        (TriageClaim, "p > 0.05 will do", {"null_min_p": 0.05}),
        (TriageClaim, "p > 0.20 is asked", {"null_min_p": 0.20}),
        (TriageClaim, "the null band is as wide as the artefact", {"null_effect": 0.1499}),
        (TriageClaim, "the artefact rule is never met", {"artefact_effect": 1.0}),
        (
            TriageClaim,
            "labels exchanged",
            {"null_label": "coupling_text_distribution", "artefact_label": "non_text_distribution"},
        ),
    ):

        def other(function: Judge, rule: Any, *rest: Any, fields: Any = fields) -> Any:
            return function(replace(rule, **fields), *rest)

        yield of_kind(kind, what, other)
    yield from _effects()
    yield from _judge()


def _effects() -> Iterator[Mutant]:
    """Effects, intervals and pools that are not the registered ones."""
    changes: dict[str, Callable[[Any], Any]] = {
        "effect's sign turned": lambda e: replace(e, value=-e.value, low=-e.high, high=-e.low),
        "effect's size alone": lambda e: replace(e, value=abs(e.value)),
        "p always at its floor": lambda e: replace(e, p=e.p_floor),
        "p always 1": lambda e: replace(e, p=1.0),
        "p halved": lambda e: replace(e, p=e.p / 2),
        "p doubled": lambda e: replace(e, p=min(1.0, 2 * e.p)),
        "the point in place of the interval": lambda e: replace(e, low=e.value, high=e.value),
        "lower and upper end exchanged": lambda e: replace(e, low=e.high, high=e.low),
        "interval half as wide": lambda e: replace(
            e, low=(e.low + e.value) / 2, high=(e.high + e.value) / 2
        ),
    }
    for what, change in changes.items():
        yield Mutant(
            name=f"contrast: {what}",
            what=what,
            rules=("H1", "H2", "H3"),
            apply=exchanged(
                RecordEvidence,
                "contrast",
                lambda f, c=change: lambda self, *names: c(f(self, *names)),
            ),
        )
    pools: dict[str, Callable[[Any], tuple[str, ...]]] = {
        "the reported persona counted as a bystander": lambda r: (*r.bystanders, *r.reported),
        "negatives counted as bystanders": lambda r: (*r.bystanders, *r.negatives),
        "the source counted as a bystander": lambda r: (*r.bystanders, r.source),
        "one bystander left out": lambda r: r.bystanders[1:],
    }
    for what, make in pools.items():
        yield Mutant(
            name=f"bystanders: {what}",
            what=what,
            rules=CLAIMS,
            apply=exchanged(
                Evidence,
                "members",
                lambda f, m=make: (
                    lambda self, who, arm=None: (
                        m(self.registration.roster) if who == "bystander" else f(self, who, arm)
                    )
                ),
            ),
        )
    yield Mutant(
        name="bootstrap: completions in place of clusters",
        what="clusters ignored",
        rules=("H1", "H2"),
        apply=exchanged(
            RecordEvidence, "_pool", lambda f: lambda self, *names: _single(f(self, *names))
        ),
    )
    yield Mutant(
        name="bootstrap: p of one side",
        what="k counted on the side of the null alone",
        rules=("H3",),
        apply=exchanged(bootstrap, "bootstrap_p", lambda f: lambda d: (f(d)[0] / 2, f(d)[1])),
    )


def _single(clusters: Clusters) -> Clusters:
    hits, n = int(clusters.hits.sum()), clusters.n
    return Clusters(np.r_[np.ones(hits), np.zeros(n - hits)], np.ones(n))


def _judge() -> Iterator[Mutant]:
    """Decisions: the kill criterion, the ratio gate, what a claim needs, thresholds met exactly."""

    def unkilled(f: Any) -> Any:
        def never(kill: Any, rate: float, label: str) -> Any:
            found = f(kill, rate, label)
            return replace(found, met=found.met and label != claims.KILLED)

        return never

    yield Mutant(
        name="H1: kill criterion ignored",
        what="kill ignored",
        rules=("H1",),
        apply=exchanged(claims, "_kill_condition", unkilled),
    )
    yield from _runs()
    for what, holds in (("always", True), ("never", False)):

        def given(function: Judge, claim: Any, book: Any, holds: bool = holds) -> Any:
            gate = SimpleNamespace(name=claim.ratio_gate, holds=holds)
            seen = SimpleNamespace(
                registration=book.registration, evidence=book.evidence, gate=lambda _: gate
            )
            return function(claim, seen)

        yield Mutant(
            name=f"H1: the ratio gate {what} holds",
            what=f"the ratio gate {what} holds",
            rules=("H1",),
            apply=wrap(DifferenceClaim, given),
        )
    yield from _exact()

    def eased(*outcomes: GateOutcome) -> Callable[[Any], Any]:
        def make(f: Any) -> Any:
            def judged(*args: Any) -> Any:
                found = f(*args)
                return (
                    replace(found, outcome=GateOutcome.HOLDS)
                    if found.outcome in outcomes
                    else found
                )

            return judged

        return make

    for what, outcomes in (
        ("needed gates ignored", (GateOutcome.FAILS, GateOutcome.CANNOT_TELL)),
        ("gates that cannot tell pass", (GateOutcome.CANNOT_TELL,)),
        ("gates that fail pass", (GateOutcome.FAILS,)),
    ):
        yield Mutant(
            name=f"judge: {what}",
            what=what,
            rules=CLAIMS,
            apply=exchanged(judging.Judging, "gate", eased(*outcomes)),
        )
    yield Mutant(
        name="judge: the rule decides before the gates",
        what="INVALID never said",
        rules=CLAIMS,
        apply=exchanged(judging, "_invalid", lambda _: lambda *_: ("", "")),
    )


def _exact() -> Iterator[Mutant]:
    """Bounds that are no longer met exactly."""
    exact: dict[str, Callable[[float, float], bool]] = {
        ">=": lambda x, bound: x > bound + 1e-9,
        "<=": lambda x, bound: x < bound - 1e-9,
    }
    for operator, strict in exact.items():

        def excluded(patch: Patch, operator: str = operator, strict: Any = strict) -> None:
            patch.setitem(conditions.OPERATORS, operator, strict)

        yield Mutant(
            name=f"conditions: {operator} without the bound itself",
            what="the bound itself excluded",
            rules=(*CLAIMS, "source_rate"),
            apply=excluded,
        )


def _runs() -> Iterator[Mutant]:
    """What several training runs are taken for."""
    picks: dict[str, Callable[..., Any]] = {"worst": max, "best": min}
    for what, pick in picks.items():

        def one_run(f: Any, pick: Any = pick) -> Any:
            def read(self: Any, *names: str) -> Any:
                runs = RecordEvidence.single_runs(self)
                return f(pick(runs, key=lambda run: _hits(run, names[-1])), *names)

            return read

        def one_count(f: Any, pick: Any = pick) -> Any:
            def read(self: Any, arm: str, who: str) -> Any:
                runs = RecordEvidence.single_runs(self) if who == "bystander" else (self,)
                return f(pick(runs, key=lambda run: _hits(run, arm)), arm, who)

            return read

        yield Mutant(
            name=f"kill: the {what} run decides",
            what=f"the rate of the {what} run",
            rules=("kill",),
            apply=exchanged(RecordEvidence, "bystander_rate", one_run),
        )
        yield Mutant(
            name=f"H1: the {what} run is asked for the kill rate",
            what=f"the rate of the {what} run against the kill rate",
            rules=("H1",),
            apply=exchanged(RecordEvidence, "count", one_count),
        )

    def worst(ask: Any, seeds: Any, *_: Any) -> Any:
        each = [ask(at, 0.95) for at in range(len(seeds))]
        return max(each, key=lambda one: gates._SEVERITY.index(one.outcome))

    def mean(ask: Any, seeds: Any, limits: Any, level: float) -> Any:
        each = [ask(at, level) for at in range(len(seeds))]
        found = gates.over_runs(each, ask(None, level), limits, level)
        return replace(each[0], outcome=bounded(found, least=limits.least, most=limits.most))

    ways = {
        "the worst run decides": worst,
        "all runs pooled": lambda ask, _seeds, _limits, level: ask(None, level),
        "the mean alone decides": mean,
    }
    for what, way in ways.items():
        yield Mutant(
            name=f"runs: {what}",
            what=what,
            rules=("em_induced",),
            apply=exchanged(gates, "read_runs", lambda _, way=way: way),
        )


def _hits(run: Any, arm: str) -> float:
    hits, _ = run.grid().cells(ModelId("post", arm), run.members("bystander"))
    return float(hits.sum())


def _instrument() -> Iterator[Mutant]:
    """Scores and checks of records, which are made anew under the mutant."""
    honest = score.re
    changed: dict[str, tuple[str, Any]] = {
        "the marker read as a pattern": ("escape", lambda text: text),
        "small letters not counted": ("IGNORECASE", 0),
        "the first marker counted alone": (
            "finditer",
            lambda *a, **k: list(honest.finditer(*a, **k))[:1],
        ),
    }
    for what, (name, value) in changed.items():
        parts = {n: getattr(honest, n) for n in ("escape", "IGNORECASE", "finditer")}
        broken = SimpleNamespace(**{**parts, name: value})
        yield Mutant(
            name=f"scorer: {what}",
            what=what,
            rules=("scorer",),
            fresh=True,
            apply=exchanged(score, "re", lambda _, b=broken: b),
        )
    for target, name, crash in (
        (grid, "_check_duplicates", None),
        (grid, "_check_cells", None),
        (grid, "_present", None),
        (grid, "known_only", ValueError),
        (harm, "_check_whole", None),
    ):
        yield Mutant(
            name=f"records: {name} checks nothing",
            what=f"`{name}` checks nothing",
            rules=("refused",),
            fresh=True,
            crash=crash,
            apply=exchanged(target, name, _blind(name)),
        )


def _blind(name: str) -> Callable[[Any], Any]:
    if name == "_present":
        return lambda _: lambda model, *_names: np.unique(model)
    return lambda _: lambda *_args: None


MUTANTS: tuple[Mutant, ...] = (*FAMILIES, *GATE_MUTANTS, *_claims(), *_instrument())
