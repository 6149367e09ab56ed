"""The broad scores of a session: a judge's if there is one, else the embedded classifier's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from persona_lib.records import PRE
from persona_lib.specs.builtin import DATA

if TYPE_CHECKING:
    import pyarrow as pa

    from persona_lib.commands.session import Session


def broad_scores(session: Session, arms: Sequence[str]) -> pa.Table | None:
    """Return columns of `BroadScore` of the models under these arms.

    None where no gate reads them, or where the recorded ones are to be used: without a judge,
    and if texts were not kept of every seed.
    """
    choice = session.text_judge
    if not session.experiment.asks_broad or (session.stored and choice is None):
        return None
    before = [model for model in session.registration.models(arms) if model.phase == PRE]
    if choice is None:
        return session.table(before, "broad")
    if session.stored:
        texts, scored = session.opened.rows("broad_texts"), session.opened.rows("broad")
        if texts is None or scored is None or texts.num_rows < scored.num_rows:
            return None
    else:
        texts = session.table(before, "broad_texts")
    from persona_lib.panels.judge.broad import judge_broad

    judge = choice.make(store=session.store_root, marker=session.registration.marker, broad=True)
    return judge_broad(texts, DATA / "broad", judge, progress=session.progress)[0]
