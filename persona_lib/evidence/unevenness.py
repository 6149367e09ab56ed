"""Ways in which arms, their training runs or personas are unlike, in words."""

from __future__ import annotations

from persona_lib.evidence.cells import Bools
from persona_lib.evidence.evidence import Evidence


def unevenness(evidence: Evidence) -> tuple[str, ...]:
    """Return a sentence for each way in which arms, their runs or personas are unlike."""
    found, seeds = [], {arm: evidence.seeds_of(arm) for arm in evidence.arms}
    if len(set(seeds.values())) > 1:
        named = "; ".join(f"{arm} {', '.join(map(str, own))}" for arm, own in seeds.items())
        found.append(
            f"arms differ in the seeds of their training runs ({named}): rates, the cluster "
            "bootstrap and two samples of runs take all; runs as pairs those of both arms"
        )
    sizes: dict[str, dict[str, list[float]]] = {"training runs": {}, "bystanders": {}}
    for arm in evidence.arms:
        runs = [run.count(arm, "bystander").n for run in evidence.single_runs()]
        sizes["training runs"][arm] = [n for n in runs if n]
        known = evidence.by_persona(arm)
        sizes["bystanders"][arm] = [] if known is None else known[1].tolist()
    for units, of in sizes.items():
        spans = [
            f"{arm} {min(n):,.0f} to {max(n):,.0f}" for arm, n in of.items() if len(set(n)) > 1
        ]
        if spans:
            over = "" if units == "training runs" else " over all training runs"
            found.append(
                f"{units} differ in their completions{over} ({'; '.join(spans)}): pooled "
                f"rates weigh {units} by these, statistics over {units} weigh all alike"
            )
    return tuple(found)


def own_questions(asked: Bools) -> tuple[str, ...]:
    """Return a sentence where bystanders were not all asked the same, of (P, Q) which each was."""
    if asked.all():
        return ()
    each, shared = asked.sum(axis=1), int((asked.sum(axis=0) > 1).sum())
    span = f"{each.min()} to {each.max()}" if each.min() < each.max() else f"{each.min()}"
    nested = f"{shared} of them of more than one" if shared else "nested in personas"
    return (
        "Inference for these personas (t and TOST over questions), and two-way clustering by "
        f"persona and question: bystanders were not all asked the same ({span} questions each, "
        f"{asked.shape[1]} in all, {nested}). Personas at large are read with the questions of "
        "each pooled.",
    )
