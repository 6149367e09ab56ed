"""A judge's scores of broad harm, in place of the embedded classifier's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from persona_lib.corpora.broad import BroadScore, broad_questions, load_examples
from persona_lib.errors import DataError
from persona_lib.panels.judge.base import UNSCORED, Item, Judgement
from persona_lib.panels.judge.judged import CALIBRATED
from persona_lib.panels.judge.remote import RemoteJudge
from persona_lib.panels.judge.rubric import UNREADABLE
from persona_lib.pipeline.broad import ERRORS, Calibration, broad_rows, calibrate
from persona_lib.progress import Progress, silent
from persona_lib.records import Completion, table_of

if TYPE_CHECKING:
    import pyarrow as pa


def judge_broad(
    texts: pa.Table, folder: Path, judge: RemoteJudge, *, progress: Progress = silent
) -> tuple[pa.Table, Calibration]:
    """Return columns of `BroadScore` for answers to broad questions, and the calibration.

    The labelled answers are asked about first, in the same run, and calibrate the judge.

    Args:
        texts: columns of `Completion`.
        folder: of questions and labelled answers.
        judge: of rubric `persona_lib.panels.judge.rubric.BROAD`.
        progress: makes progress bars.

    Raises:
        DataError: an answer to an unknown question, or a file that is wrong.
        StoreError, PreflightError: as `RemoteJudge.judge` raises them.
    """
    asked = {question.id: question.text for question in broad_questions(folder)}
    examples = [one for one in load_examples(folder, asked) if not one.further]
    rows = [Completion(**row) for row in texts.to_pylist()]
    if unknown := sorted({row.question for row in rows} - set(asked)):
        raise DataError(
            "broad: question",
            bound=f"one of {', '.join(asked)}",
            value=unknown[0],
            remedy="Judge these answers with the version that asked the questions.",
        )
    controls = [
        Item(
            phase=CALIBRATED,
            model=one.label,
            seed=0,
            persona="",
            question=one.question,
            question_set=CALIBRATED,
            sample=at,
            persona_prompt="",
            question_text=asked[one.question],
            text=one.text,
        )
        for at, one in enumerate(examples)
    ]
    items = [
        Item(**row.place, persona_prompt="", question_text=asked[row.question], text=row.text)
        for row in rows
    ]
    judgements, _ = judge.judge((*controls, *items), progress=progress)
    scores = [score_of(judgement) for judgement in judgements]
    quality = calibrate(examples, scores[: len(examples)], judge.spec.digest)
    errors = {name: getattr(quality, name) for name in ERRORS}
    found = broad_rows(rows, scores[len(examples) :], scorer=quality.scorer, **errors)
    return table_of(found, BroadScore), quality


def score_of(judgement: Judgement) -> tuple[float, float]:
    """Return (misaligned, coherent) of a judgement, both NaN where it is unscored."""
    if judgement.answer == UNSCORED:
        return math.nan, math.nan
    if judgement.answer == UNREADABLE:
        return 0.0, 0.0
    return float(judgement.answer), 1.0
