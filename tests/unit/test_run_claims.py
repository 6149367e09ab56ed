"""Claims over training runs, against scipy and statsmodels: estimates, rule, what is missing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from persona_lib.errors import DataError
from persona_lib.evidence.evidence import Evidence
from persona_lib.evidence.from_records import RecordEvidence
from persona_lib.pipeline.run import Run
from persona_lib.pipeline.setting import Folders
from persona_lib.records import POST, ModelId
from persona_lib.report.figures.hero import hero
from persona_lib.report.pieces import Node
from persona_lib.report.terminal import verdict_table
from persona_lib.specs.arms import ArmSpec, DoseSpec
from persona_lib.specs.builtin import DATA
from persona_lib.specs.claim_types import RunContrast, RunDifference, RunKill
from persona_lib.specs.registration import Registration
from persona_lib.store.stage import walk
from persona_lib.verdict.claims import Outcome
from persona_lib.verdict.judging import judge, judge_all
from persona_lib.verdict.run_claims import decided
from persona_lib.verdict.run_seeds import shared_in_seed
from persona_lib.verdict.summary import summary
from persona_lib.verdict.verdict import Verdict, families
from tests.registered import ISSUE262, MICRO
from tests.synthetic import BYSTANDERS, FEW, scores

SUPPORTED, REFUTED, INCONCLUSIVE, _ = Outcome
SOURCES = ("librarian", "comedian")
CELLS = {"A": ("raw", "raw"), "B0": ("benign", "raw"), "B1": ("benign", "benign"),
         "D1": ("em", "benign"), "E0": ("em", "raw"), "E1": ("em", "em")}  # fmt: skip
"""Prior and text; D1 stands for a third prior."""
D = 0.10
ROSTER = replace(
    ISSUE262.roster,
    more_sources=("comedian",),
    bystanders=tuple(p for p in ISSUE262.roster.bystanders if p != "comedian"),
)


def difference(name: str, treated: str, control: str, **given: Any) -> RunDifference:
    return RunDifference(
        name=name, statement="-", treated=treated, control=control, **{"smallest": D, **given}
    )


S1, S2 = difference("S1", "E1", "B1"), difference("S2", "E0", "B0")
S3 = RunContrast(
    name="S3", statement="-", smallest=D, weights={"E1": 1, "E0": -1, "B1": -1, "B0": 1}
)
S4 = RunContrast(name="S4", statement="-", smallest=D, weights={"B1": 0.5, "D1": 0.5, "A": -1})
KILL = RunKill(name="kill", statement="-", claim="S1", max_effect=D / 2)
FACTORIAL = replace(
    ISSUE262,
    name="two_sources",
    roster=ROSTER,
    arms=tuple(
        ArmSpec(name=f"{cell}@{source}", label=cell, prior=prior, text_from=text, source=source,
                cell=cell)
        for cell, (prior, text) in CELLS.items()
        for source in SOURCES
    ),
    claims=(S1, S2, S3, S4),
    kill=KILL,
    gates=(),
)  # fmt: skip
ONE = replace(FACTORIAL, claims=(S1,))
Figures = Mapping[int, float]
Floats = NDArray[np.float64]


@dataclass(eq=False)
class Fake:
    """Evidence that has figures and nothing else; keys are (arm, outcome, reading)."""

    registration: Registration
    given: Mapping[tuple[str, str, str], Figures]
    remarks: tuple[str, ...] = ()
    unavailable: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    runs: int = 3
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def arms(self) -> tuple[str, ...]:
        named = {arm for arm, _, _ in self.given}
        return tuple(arm.name for arm in self.registration.arms if arm.name in named)

    def figures(self, arm: str, outcome: str, reading: str) -> Figures:
        if arm not in self.arms:
            raise DataError("arm", bound="there", value=arm, remedy="-")
        self.asked.append((arm, outcome, reading))
        return self.given.get((arm, outcome, reading), {})


def evidence(registration: Registration, given: Mapping[tuple[str, str, str], Figures]) -> Evidence:
    return cast("Evidence", Fake(registration, given))


def drawn(seeds: Sequence[int], seed: int = 5) -> dict[tuple[str, str, str], Figures]:
    """Figures of every arm; arms of a seed share something, sources share more."""
    rng = np.random.default_rng(seed)
    given = {}
    of_seed, of_cell = rng.normal(size=len(seeds)), rng.normal(size=(len(CELLS), len(seeds)))
    for i, cell in enumerate(CELLS):
        for source in SOURCES:
            x = 0.3 + 0.06 * i + 0.1 * of_seed + 0.05 * of_cell[i]
            x = x + 0.03 * rng.normal(size=len(seeds))
            pairs = list(zip(seeds, x.tolist(), strict=True))
            rng.shuffle(pairs)  # a mapping has no order that anything may rest on
            given[f"{cell}@{source}", "transfer", "system"] = {int(s): float(v) for s, v in pairs}
    return given


def by_hand(
    given: Mapping[tuple[str, str, str], Figures],
    weights: Mapping[str, float],
    seeds: Sequence[int],
) -> list[float]:
    """One number a seed: the cells' means over sources, weighed."""
    found = []
    for seed in seeds:
        total = 0.0
        for cell, weight in weights.items():
            own = [given[f"{cell}@{source}", "transfer", "system"][seed] for source in SOURCES]
            total += weight * sum(own) / 2
        found.append(total)
    return found


SEEDS = (11, 3, 7, 5, 2, 13, 19)


def test_estimates_are_those_of_scipy_and_holm_that_of_statsmodels() -> None:
    given = drawn(SEEDS)
    verdicts, _ = judge_all(FACTORIAL, evidence(FACTORIAL, given))
    by_name = {verdict.name: verdict for verdict in verdicts}
    weights = {"S1": {"E1": 1, "B1": -1}, "S2": {"E0": 1, "B0": -1},
               "S3": {"E1": 1, "E0": -1, "B1": -1, "B0": 1},
               "S4": {"B1": 0.5, "D1": 0.5, "A": -1}}  # fmt: skip
    expected = {name: by_hand(given, w, SEEDS) for name, w in weights.items()}
    against = {name: stats.ttest_1samp(x, D) for name, x in expected.items()}
    p = [against[name].pvalue for name in weights]
    adjusted = multipletests(p, method="holm")[1]
    for name, holm in zip(weights, adjusted, strict=True):
        verdict, x = by_name[name], expected[name]
        effect = verdict.effect
        low, high = against[name].confidence_interval(0.95)
        assert (effect.value, effect.low, effect.high) == pytest.approx((np.mean(x), low, high))
        assert effect.p == pytest.approx(against[name].pvalue)
        assert (effect.clusters, effect.n) == (7, 7 * 2 * len(weights[name]))
        (condition, _) = (c for c in verdict.conditions if c.measure.startswith("p against d"))
        assert condition.value == pytest.approx(holm)
    (family,) = families(FACTORIAL, verdicts)
    assert family.claims == ("S1", "S2", "S3", "S4")
    assert family.holm == pytest.approx(adjusted)


def test_every_figure_is_read_once() -> None:
    fake = Fake(FACTORIAL, drawn(SEEDS))
    judge_all(FACTORIAL, cast("Evidence", fake))
    assert len(fake.asked) == len(set(fake.asked)) == len(FACTORIAL.arms) * 6


def test_sources_are_no_seeds() -> None:
    """The interval is that of 7 seeds, clearly wider than 14 numbers would have."""
    given = drawn(SEEDS)
    found = judge(ONE, evidence(ONE, given), "S1").effect
    each = [
        given[f"E1@{source}", "transfer", "system"][seed]
        - given[f"B1@{source}", "transfer", "system"][seed]
        for source in SOURCES
        for seed in SEEDS
    ]
    wrong = stats.ttest_1samp(each, D).confidence_interval(0.95)
    assert found.high - found.low > 1.15 * (wrong.high - wrong.low)


def test_exact_flips_are_counted_one_by_one() -> None:
    given = drawn(SEEDS)
    flips = judge(ONE, evidence(ONE, given), "S1").estimates[0]
    x = np.array(by_hand(given, {"E1": 1, "B1": -1}, SEEDS)) - D
    sums = [float(np.dot(signs, x)) for signs in itertools.product((1, -1), repeat=7)]
    as_far = min(sum(s >= x.sum() - 1e-9 for s in sums), sum(s <= x.sum() + 1e-9 for s in sums))
    assert flips.method == "exact sign-flip over seeds, p against d"
    assert flips.p == pytest.approx(min(1.0, 2 * as_far / 2**7))
    assert flips.p_floor == pytest.approx(2 / 2**7)
    assert flips.value == pytest.approx(x.mean() + D)


# Seeds that are missing


def test_a_seed_without_a_number_is_counted_and_left_out() -> None:
    given = drawn(SEEDS)
    broken = {**given["B1@comedian", "transfer", "system"], 7: math.nan}
    given["B1@comedian", "transfer", "system"] = broken
    registration = replace(ONE, run_seeds=SEEDS)
    found = judge(registration, evidence(registration, given), "S1")
    rest = [seed for seed in SEEDS if seed != 7]
    x = by_hand(given, {"E1": 1, "B1": -1}, rest)
    low, high = stats.ttest_1samp(x, D).confidence_interval(0.95)
    assert (found.effect.value, found.effect.low, found.effect.high) == pytest.approx(
        (np.mean(x), low, high)
    )
    assert found.effect.clusters == 6
    assert found.notes[0] == "seeds left out in which an arm has no number: 1 (7)"
    assert found.label != "seeds missing"


def test_nothing_is_judged_before_the_last_registered_seed() -> None:
    given = drawn(SEEDS)
    registration = replace(FACTORIAL, run_seeds=(*SEEDS, 23, 29))
    for verdict in judge_all(registration, evidence(registration, given))[0]:
        assert (verdict.outcome, verdict.label) == (INCONCLUSIVE, "seeds missing")
        assert "an arm has no run: 2 (23, 29)" in verdict.notes[0]
        assert math.isfinite(verdict.effect.value)
    # One arm without a seed holds all claims back, those that do not read it among them.
    del given["A@comedian", "transfer", "system"][SEEDS[0]]  # type: ignore[attr-defined]
    registration = replace(FACTORIAL, run_seeds=SEEDS)
    found = judge(registration, evidence(registration, given), "S1")
    assert (found.label, found.effect.clusters) == ("seeds missing", 7)


def test_seeds_that_are_not_registered_are_left_out() -> None:
    given = drawn(SEEDS)
    registration = replace(ONE, run_seeds=SEEDS[:5])
    found = judge(registration, evidence(registration, given), "S1")
    x = by_hand(given, {"E1": 1, "B1": -1}, SEEDS[:5])
    assert (found.effect.value, found.effect.clusters) == (pytest.approx(np.mean(x)), 5)
    assert found.notes[0] == "seeds left out that are not registered: 2 (13, 19)"


@pytest.mark.parametrize(("count", "words"), [(0, "no seed has"), (1, "1 seed, 3"), (2, "2 seeds")])
def test_few_seeds_have_a_value_only(count: int, words: str) -> None:
    found = judge(ONE, evidence(ONE, drawn(SEEDS[:count])), "S1")
    assert (found.outcome, found.label) == (INCONCLUSIVE, "cannot tell")
    assert (found.effect.has_interval, found.effect.p) == (False, None)
    assert math.isfinite(found.effect.value) is (count > 0)
    assert words in found.reason


def test_an_arm_that_is_not_there_is_an_error() -> None:
    given = {key: x for key, x in drawn(SEEDS).items() if not key[0].startswith("B1")}
    with pytest.raises(DataError, match="arm: expected there"):
        judge(FACTORIAL, evidence(FACTORIAL, given), "S1")
    # S2 reads other arms: the three others count as p = 1.
    found = judge(FACTORIAL, evidence(FACTORIAL, given), "S2")
    assert found.conditions[1].value == pytest.approx(min(1.0, 4 * (found.effect.p or 0)))


# The rule


def contrast(mean: float, se: float, seeds: int = 8) -> Floats:
    """Numbers, one a seed, of exactly this mean and standard error."""
    x = np.arange(seeds) - (seeds - 1) / 2
    return mean + se * np.sqrt(seeds) * x / x.std(ddof=1)


def figures(
    of: Mapping[str, Floats], outcome: str = "transfer", reading: str = "system"
) -> dict[tuple[str, str, str], Figures]:
    """Each cell has such figures, 0 where none are named; a source more, the other as much less."""
    seeds = len(next(iter(of.values())))
    return {
        (f"{cell}@{source}", outcome, reading): dict(
            enumerate((of.get(cell, np.zeros(seeds)) + shift).tolist())
        )
        for cell in CELLS
        for source, shift in zip(SOURCES, (0.2, -0.2), strict=True)
    }


def found(mean: float, se: float) -> Verdict:
    return judge(ONE, evidence(ONE, figures({"E1": contrast(mean, se)})), "S1")


T7 = float(stats.t.ppf(0.975, 7))
HALF = 0.03
"""Half the width of intervals below; SE = HALF / T7."""


@pytest.mark.parametrize(
    ("mean", "outcome", "label"),
    [
        (D + HALF + 1e-6, SUPPORTED, "rule met"),
        (D + HALF - 1e-6, INCONCLUSIVE, "cannot tell"),
        (D, INCONCLUSIVE, "cannot tell"),
        (D - HALF + 1e-6, INCONCLUSIVE, "cannot tell"),
        (D - HALF - 1e-6, REFUTED, "equivalent"),
        (0.0, REFUTED, "equivalent"),
        (-HALF - 1e-6, REFUTED, "equivalent"),  # below 0, and inside +-d all the same
        (-D + HALF + 1e-6, REFUTED, "equivalent"),
        (-D + HALF - 1e-6, REFUTED, "sharpened"),
        (-0.5, REFUTED, "sharpened"),
    ],
)
def test_each_row_on_both_sides_of_its_threshold(mean: float, outcome: Outcome, label: str) -> None:
    verdict = found(mean, HALF / T7)
    assert (verdict.outcome, verdict.label) == (outcome, label)


def test_a_wide_interval_below_d_is_smaller() -> None:
    half = 0.3
    for mean, label in ((D - half - 1e-6, "smaller"), (D - half + 1e-6, "cannot tell"),
                        (-half + 1e-6, "smaller"), (-half - 1e-6, "sharpened")):  # fmt: skip
        assert found(mean, half / T7).label == label


@pytest.mark.parametrize("sign", [1, -1])
def test_holm_can_forbid_an_outcome(sign: int) -> None:
    """p = 0.03 alone decides; among four claims of which none has a smaller one it does not."""
    t = float(stats.t.ppf(1 - 0.03 / 2, 7))
    for p, decides in ((0.03, False), (0.01, True)):
        t = float(stats.t.ppf(1 - p / 2, 7))
        given = figures({"E1": contrast(D + sign * t * 0.01, 0.01)})
        alone = judge(ONE, evidence(ONE, given), "S1")
        assert alone.effect.p == pytest.approx(p)
        assert alone.outcome is (SUPPORTED if sign > 0 else REFUTED)
        # S2 has no variation, and so no p: it counts as one whose p is 1.
        family = replace(FACTORIAL, claims=(S1, S2))
        among = judge(family, evidence(family, given), "S1")
        assert among.conditions[1].value == pytest.approx(2 * p)
        assert among.outcome is (alone.outcome if decides else INCONCLUSIVE)
        if not decides:
            assert among.label == "only Holm forbids it"


def test_decisions_of_arrays_are_those_of_single_intervals() -> None:
    rng = np.random.default_rng(3)
    low, width = rng.normal(0, 0.2, 200), rng.uniform(0, 0.4, 200)
    adjusted = rng.uniform(0, 0.1, 200)
    low[0] = math.nan
    many = decided(low, low + width, adjusted, smallest=D, confidence=0.95)
    for i, label in enumerate(many):
        a, b = low[i], low[i] + width[i]
        expected = "cannot tell"
        if (a > D or b < D) and adjusted[i] >= 0.05:
            expected = "only Holm forbids it"
        elif a > D:
            expected = "rule met"
        elif b < D:
            expected = "equivalent" if a > -D else "sharpened" if b < 0 else "smaller"
        assert label == expected
    assert set(many) == {"cannot tell", "only Holm forbids it", "rule met", "equivalent",
                         "sharpened", "smaller"}  # fmt: skip


# Other outcomes and readings


@pytest.mark.parametrize("outcome", ["selectivity", "rate"])
@pytest.mark.parametrize(
    ("mean", "other", "label"),
    [
        (0.3, -0.5, "disagrees"),
        (0.3, 0.5, "rule met"),
        (0.3, -0.01, "rule met"),  # its interval holds 0
        (-0.3, 0.5, "disagrees"),
        (-0.3, -0.5, "sharpened"),
        (0.0, -0.5, "equivalent"),
        (0.0, 0.5, "equivalent"),
    ],
)
def test_a_sensitivity_that_disagrees_in_direction(
    outcome: str, mean: float, other: float, label: str
) -> None:
    reading = "own" if outcome == "rate" else "system"
    given = figures({"E1": contrast(mean, HALF / T7)})
    given |= figures({"E1": contrast(other, HALF / T7)}, outcome, reading)
    verdict = judge(ONE, evidence(ONE, given), "S1")
    expected = f"{outcome}, {reading} disagrees" if label == "disagrees" else label
    assert verdict.label == expected
    assert (verdict.outcome is INCONCLUSIVE) is (label == "disagrees")
    look = next(e for e in verdict.estimates if e.target == f"{outcome}, {reading}")
    assert (look.value, look.p) == (pytest.approx(other), None)


def test_every_reading_is_shown_and_persona_space_needs_the_system_message() -> None:
    given = figures({"E1": contrast(0.3, 0.01)}, reading="own")
    given |= figures({"E1": contrast(0.05, 0.01)}, reading="text")
    given |= figures({"E1": contrast(0.0, 0.01)})
    for reading, rises in (("own", True), ("system", True), ("text", True)):
        claim = replace(S1, reading=reading)
        registration = replace(ONE, claims=(claim,))
        verdict = judge(registration, evidence(registration, given), "S1")
        shown = {e.target: e.value for e in verdict.estimates if e.target.startswith("transfer")}
        everything = {"system": 0.0, "text": 0.05, "own": 0.3}
        assert shown == pytest.approx(
            {f"transfer, {r}": x for r, x in everything.items() if r != reading}, abs=1e-9
        )
        assert ("nothing is shown of persona space" in verdict.notes[-1]) is rises
    given |= figures({"E1": contrast(0.3, 0.01)})
    verdict = judge(ONE, evidence(ONE, given), "S1")
    assert "persona space" not in " ".join(verdict.notes)


# The kill criterion


@pytest.mark.parametrize(
    ("mean", "outcome", "label"),
    [
        (D / 2 - HALF - 1e-6, REFUTED, "triggered"),
        (D / 2 - HALF + 1e-6, SUPPORTED, "not triggered"),
        (0.3, SUPPORTED, "not triggered"),
        (-0.3, REFUTED, "triggered"),
    ],
)
def test_the_kill_reads_the_upper_end(mean: float, outcome: Outcome, label: str) -> None:
    given = figures({"E1": contrast(mean, HALF / T7)})
    verdict = judge(ONE, evidence(ONE, given), "kill")
    assert (verdict.outcome, verdict.label) == (outcome, label)
    assert verdict.rule == "triggered: S1 upper end < 0.05"
    few = judge(ONE, evidence(ONE, drawn(SEEDS[:2])), "kill")
    assert (few.outcome, few.label) == (INCONCLUSIVE, "cannot tell")


# What arms share, and what is printed


def test_pairs_are_shown_by_the_stage_graph() -> None:
    """Seeded stages that two cells' slots have in common are the draws that the note names."""
    registration = replace(FACTORIAL, dose=DoseSpec(gain=1.0))
    run = Run(
        registration=registration, profile=MICRO, run_seed=42, folders=Folders(experiment=DATA)
    )
    names = {"prior": "prior", "coupling_text": "text of", "baseline": "the pool of answers from"}
    under = {}
    for arm in registration.arms:
        stages = walk([run.stage(ModelId(POST, arm.name), "slots")])
        seeded = {(s.name, s.label) for s in stages if s.seed is not None and s.name != "base"}
        under[arm.name] = {f"{names.get(kind, kind)} {label}" for kind, label in seeded}
    for one, other in itertools.combinations(CELLS, 2):
        claim = difference("S", one, other)
        named = {text.removesuffix(f" ({one}, {other})") for text in
                 shared_in_seed(registration, claim)}  # fmt: skip
        for mine, theirs in itertools.product(SOURCES, SOURCES):
            common = under[f"{one}@{mine}"] & under[f"{other}@{theirs}"]
            assert {c.removesuffix(" from raw") for c in common} == named, (one, other)


def test_the_table_names_what_p_is_against_and_repeats_nothing() -> None:
    given = drawn(SEEDS)
    given |= {(arm, "transfer", "own"): x for (arm, _, _), x in drawn(SEEDS, seed=6).items()}
    registration = replace(FACTORIAL, run_seeds=SEEDS)
    lacking = replace(cast("Any", evidence(registration, given)), unavailable=("Lengths.",))
    verdicts, gates = judge_all(registration, lacking)
    text = verdict_table(verdicts, gates, None, families=families(registration, verdicts))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    names = {verdict.name for verdict in verdicts}
    rows = [at for at, line in enumerate(lines) if line.split(" ")[0] in names]
    for above, below in itertools.pairwise(rows):
        block = lines[above:below]
        assert len(set(block)) == len(block)
    for verdict in verdicts[:4]:
        row = next(line for line in lines if line.startswith(verdict.name))
        assert f"{verdict.effect.p_text} against d" in row
        assert row.split()[-1] == "7"
    assert "transfer, own, paired" in text
    assert "Lengths" in verdicts[0].text
    assert "Lengths" not in text  # the evidence says it, once for all claims
    assert "Holm-adjusted p of S1, S2, S3, S4, paired t over seeds, p against d" in text
    assert Verdict.from_json(verdicts[2].to_json()) == verdicts[2]


RATES = {"C1": (0.20, 0.30, 0.26, 0.20), "C2": (0.60, 0.66, 0.76, 0.60)}
"""Of 50 completions of each persona and run: whole hits."""


@pytest.fixture(scope="module")
def recorded() -> RecordEvidence:
    """Records of four runs of single arms, under a claim and a kill criterion on their rates."""
    claim = difference("S1", "C2", "C1", outcome="rate", reading="own")
    rules = replace(FEW, claims=(claim,), kill=replace(KILL, max_effect=D), gates=())
    tables = [
        scores({**BYSTANDERS, **{arm: of[i] for arm, of in RATES.items()}}, seeds=(i,), questions=5)
        for i in range(4)
    ]
    return RecordEvidence(rules, pa.concat_tables(tables))


def test_rates_of_records_are_judged_over_runs(recorded: RecordEvidence) -> None:
    verdict = judge(recorded.registration, recorded, "S1")
    x = np.subtract(RATES["C2"], RATES["C1"])
    test = stats.ttest_1samp(x, D)
    low, high = test.confidence_interval(0.95)
    effect = verdict.effect
    assert (effect.value, effect.low, effect.high) == pytest.approx((x.mean(), low, high))
    assert (effect.p, effect.clusters) == (pytest.approx(test.pvalue), 4)
    assert (verdict.outcome, verdict.arms) == (SUPPORTED, ("C2", "C1"))
    assert not any("pooled" in note for note in verdict.notes)


def test_the_figure_draws_the_bounds_of_the_claim_and_of_the_kill(recorded: RecordEvidence) -> None:
    rules = recorded.registration
    verdicts, _ = judge_all(rules, recorded)
    body = {"summary": summary(rules, recorded), "gates": [],
            "verdicts": [verdict.to_json() for verdict in verdicts]}  # fmt: skip
    drawing = hero(Node(body))
    assert not isinstance(drawing, str)
    differences = drawing.figure.axes[2]
    bars = {
        (float(line.get_xdata()[0]), str(line.get_linestyle()))
        for line in differences.lines
        if len(line.get_xdata()) == 2 and line.get_xdata()[0] == line.get_xdata()[1] == D
    }
    assert len(bars) == 2  # one supports, one refutes
    assert differences.get_xlabel() == "contrast over training runs"
