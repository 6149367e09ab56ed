"""Planning assumptions: what is supposed before any data, for `pytest --plan`. Data only.

They decide nothing: no rule, key or verdict reads them. Where each comes from:

- control rate: the published bystander rate of C1.
- SDs in logits: those of world M of the calibration suite, the middle one of the worlds
  in which every procedure's error rates are measured (docs/statistics.md). No run of
  this experiment has measured them.
- SDs over seeds: 5, 10, 15 and 20 points. Seven training runs of one small model had 12
  and 14 (docs/statistics.md); of others nobody has measured them. Verdicts suppose the first
  three where they speak of a single run.
- true effects: one and a half times the threshold of a difference claim. For H1 that is
  0.30, about what was published. At the threshold itself no size gives a power above
  about one half, because the estimate has to reach it too. For a triage 0: no difference.
"""

from __future__ import annotations

from persona_lib.stats.variances import LogitSDs
from persona_lib.verdict.planning import Assumptions

PLANNING = Assumptions(
    origin=(
        "control rate as published for C1, SDs of world M of docs/statistics.md, SDs over seeds "
        "supposed (12 and 14 points were seen for C1 and C2 of SmolLM2)"
    ),
    control_rate=0.274,
    sds=LogitSDs(
        persona=2.2,
        persona_arm=1.0,
        question=0.5,
        persona_question=0.6,
        question_arm=0.3,
        cell_arm=0.4,
    ),
    seed_sds=(0.05, 0.10, 0.15, 0.20),
    effect_factor=1.5,
    triage_effect=0.0,
    levels=(0.80, 0.90),
    most=1_000,
    held=2_800,
    draws=4_000,
    seed=262,
)
