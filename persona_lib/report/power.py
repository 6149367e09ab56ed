"""The table of power before data: plain text, at most 100 columns, from JSON data alone."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from persona_lib.errors import clean
from persona_lib.report.lines import WIDTH, wrapped
from persona_lib.stats.thresholds import shown
from persona_lib.verdict.planning import GateSize
from persona_lib.verdict.power import RUN_FACTOR

_INDENT = " " * 6
_NEEDED = 10
"""Width of a column of needed units."""


def power_text(plan: Mapping[str, Any]) -> str:
    """Return the table of what `persona_lib.verdict.power.power_plan` gave."""
    assumed, size = plan["assumptions"], plan["size"]
    runs = _counted(size["seeds"], "seeds")
    lines = [
        f"power before data: {clean(plan['registration'])}, {size['personas']} personas x "
        f"{size['questions']} questions x {size['samples']} completions, {runs}",
        *wrapped(_assumed(assumed)),
        *(wrapped(_OF_RUNS) if any(_over_runs(row) for row in plan["rows"]) else ()),
        "",
    ]
    levels = "".join(f"{f'for {_percent(level)}':>{_NEEDED}}" for level in assumed["levels"])
    head = f"{'claim':<6}{'target':<27}{'method':<20}{'true d':>7}  {'now':<13}{'power':>5}{levels}"
    lines += [head, "-" * len(head)]
    rows = plan["rows"]
    for before, row, after in zip([None, *rows], rows, [*rows[1:], None], strict=False):
        lines += _row(row, len(assumed["levels"]), named=not _alike(before, row, "claim"))
        if row["target"] and not _alike(row, after, "claim", "notes"):  # once for all alike
            lines += [line for note in row["notes"] for line in wrapped(note, _INDENT + "  ")]
    lines += wrapped(_legend(assumed))
    return "\n".join(line.rstrip() for line in lines)


_OF_RUNS = (
    f"of a claim over training runs: SUPPORTED at a true effect of {RUN_FACTOR:g} x its d, at "
    "Holm's strictest level; of its kill criterion: triggered where there is no effect. SDs are "
    "those of the contrast over seeds; assumptions.toml beside the experiment's file may replace "
    "them by a pilot's run_sds."
)


def _over_runs(row: Mapping[str, Any]) -> bool:
    return str(row["method"]).startswith("paired t")


def gates_text(sizes: Iterable[GateSize]) -> str:
    """Return what gates on all personas need, one sentence; "" where there are none."""
    parts = []
    for size in sizes:
        stems = {gate.rpartition("_")[0] for gate in size.gates}  # repetition of repetition_C1
        name = stems.pop() if len(size.gates) > 1 and len(stems) == 1 else ", ".join(size.gates)
        many = f"{clean(name)} (<= {shown(size.bound)})"
        if size.needed is None:
            parts.append(f"{many} no number is enough")
            continue
        cannot = ": cannot hold" if size.planned < size.needed else ""
        parts.append(f"{many} {size.needed:,}, planned {size.planned:,}{cannot}")
    if not parts:
        return ""
    head = "completions of each persona in one run from which on a gate can hold, without a hit"
    return "\n".join(wrapped(f"{head}: {'; '.join(parts)}"))


def _assumed(assumed: Mapping[str, Any]) -> str:
    parts = (f"{_words(k)} {v:g}" for k, v in assumed["sds"].items() if not k.startswith("__"))
    seeds = ", ".join(f"{100 * sd:g}" for sd in assumed["seed_sds"])
    return (
        f"assumed: control rate {assumed['control_rate']:g}; SDs in logits: {', '.join(parts)}; "
        f"SD of an arm's rate over seeds {seeds} points; true d of a difference claim "
        f"{assumed['effect_factor']:g} x its threshold, of a triage {assumed['triage_effect']:g}. "
        f"From: {clean(assumed['origin'])}."
    )


def _legend(assumed: Mapping[str, Any]) -> str:
    levels = " and ".join(_percent(level) for level in assumed["levels"])
    return (
        "power: how often the rule holds if the assumptions do, gates not asked; "
        f"{levels}: the least number of the units under 'now' that gives it, all else as planned "
        f"(tried up to {assumed['most']:,}). Where the true d is the threshold itself, power stays "
        "near one half or below: the estimate has to reach it."
    )


def _row(row: Mapping[str, Any], levels: int, *, named: bool) -> Iterator[str]:
    name = f"{clean(row['claim']):<6}" if named else _INDENT
    if not name.endswith(" "):  # it fills its column, or more
        yield name
        name = _INDENT
    if not row["target"]:
        first, *more = textwrap.wrap(clean("; ".join(row["notes"])), WIDTH - len(_INDENT))
        yield name + first
        yield from (_INDENT + line for line in more)
        return
    effect = "" if row["effect"] is None else f"{row['effect']:+z.3f}"
    now = "" if row["now"] is None else _counted(row["now"], row["units"])
    needed = "".join(f"{_needed(units):>{_NEEDED}}" for units in row["needed"] or [""] * levels)
    power = _power(row["power"])
    yield f"{name}{row['target']:<27}{row['method']:<20}{effect:>7}  {now:<13}{power:>5}{needed}"


def _alike(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None, *keys: str) -> bool:
    return one is not None and other is not None and all(one[key] == other[key] for key in keys)


def _needed(units: int | str | None) -> str:
    return "not" if units is None else f"{units:,}" if isinstance(units, int) else units


def _power(power: float | None) -> str:
    """Two decimals, and never a 0 or 1 that is none."""
    if power is None:
        return "-"
    if power < 0.005:  # noqa: PLR2004
        return "<0.01"
    return ">0.99" if power >= 0.995 else f"{power:.2f}"  # noqa: PLR2004


def _percent(level: float) -> str:
    return f"{100 * level:g} %"


def _counted(number: int, units: str) -> str:
    return f"{number:,} {units.removesuffix('s') if number == 1 else units}"


def _words(field: str) -> str:
    return field.replace("_", " x ").replace("cell", "persona x question")
