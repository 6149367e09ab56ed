"""Ways in which arms, their training runs or personas are unlike, in words."""

from __future__ import annotations

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
