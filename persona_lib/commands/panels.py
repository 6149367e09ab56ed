"""Makes the panels of a session for its report, each from what a run or a recording holds.

Only the geometry of a live run may cost compute, as a stage of its own that is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from persona_lib.commands.session import DATA
from persona_lib.digests import derive_seed
from persona_lib.errors import FlatlandError
from persona_lib.panels import geometry, lengths, samples
from persona_lib.panels.base import Caveat, Panel
from persona_lib.panels.following import (
    DISCRIMINABILITY,
    FOLLOWING,
    discriminability_panel,
    following_panel,
)
from persona_lib.panels.judge.calibration import CALIBRATION
from persona_lib.panels.judge.judged import Judged, judge_texts
from persona_lib.panels.judge.triples import load_triples
from persona_lib.records import Completion, ModelId
from persona_lib.specs.personas import load_personas, load_questions

if TYPE_CHECKING:
    from persona_lib.commands.session import Session
    from persona_lib.pipeline.run import Kind

_SAMPLES = "samples of the report"
_FOLLOWED = {"discriminability": DISCRIMINABILITY, "following": FOLLOWING}


def panels_of(session: Session, arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return every panel as JSON data, by name.

    A panel that cannot be made says why and touches nothing else.

    Args:
        session: whose records are shown.
        arms: arms that were judged; their pre-coupling models belong to them.
    """
    registration = session.registration
    draw_seed = derive_seed(registration.statistics.seed, _SAMPLES)

    @cache
    def scores() -> pa.Table | None:
        return scores_of(session, arms)

    makers: dict[str, tuple[str, Callable[[], Panel]]] = {
        "lengths": (lengths.TITLE, lambda: lengths.lengths_panel(scores(), registration)),
        "samples": (
            samples.TITLE,
            lambda: samples.samples_panel(
                scores(), texts_of(session, arms), registration, draw_seed=draw_seed
            ),
        ),
        "geometry": (
            geometry.TITLE,
            lambda: geometry.geometry_panel(geometry_of(session, arms), registration),
        ),
    }
    found = {name: _made(name, *maker) for name, maker in makers.items()}
    found |= _followed(session, arms)
    texts = _of_some(session, arms, scores, texts_of, samples.texts_of_some)
    for name in _FOLLOWED:  # they read texts alone
        found[name]["caveats"] += texts
    states = _of_some(session, arms, scores, geometry_of, geometry.states_of_some)
    found["geometry"]["caveats"] += states
    return found


def _of_some(
    session: Session,
    arms: Sequence[str],
    scores: Callable[[], pa.Table | None],
    read: Callable[[Session, Sequence[str]], pa.Table | None],
    of_some: Callable[[pa.Table, pa.Table], tuple[Caveat, ...]],
) -> list[dict[str, str]]:
    """Return caveats, as JSON data, where a recording holds such rows of some seeds only."""
    if not session.stored:  # a live run has them of every seed
        return []
    try:
        scored, rows = scores(), read(session, arms)
    except FlatlandError:  # the panels themselves say so
        return []
    if scored is None or rows is None:
        return []
    return [asdict(caveat) for caveat in of_some(scored, rows)]


def _followed(session: Session, arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the panel of the embedded classifier, and that of the judge."""
    try:
        judged, why = _judged(session, arms), "no texts recorded"
    except FlatlandError as error:
        judged, why = None, f"could not be made: {error}"
    if judged is None:
        return {
            name: Panel(name=name, title=title, data={}, missing=why).to_json()
            for name, title in _FOLLOWED.items()
        }
    registration = session.registration
    makers: dict[str, Callable[[], Panel]] = {
        "discriminability": lambda: discriminability_panel(
            registration, judged.predictions, judged.seen, positives=judged.positives
        ),
        "following": lambda: following_panel(
            registration,
            judged.judgements,
            judged.controls,
            judged.calibration,
            required=CALIBRATION,
            predictions=judged.predictions,
            # Only the classifier itself was fitted on completions of this run.
            seen=judged.seen if judged.run is None else None,
            run=judged.run,
        ),
    }
    return {name: _made(name, _FOLLOWED[name], make) for name, make in makers.items()}


def _judged(session: Session, arms: Sequence[str]) -> Judged | None:
    """Judge every completion of these arms; None where no text was recorded."""
    # The classifier is fitted on the raw model.
    table = _rows(session, session.registration.models(arms, raw=True), "completions")
    if table is None:
        return None
    marker, judge = session.registration.marker, session.text_judge
    personas = {p.id: p for p in load_personas(DATA / "personas.json")}
    listed = load_questions(DATA / "questions.json").values()
    questions = {q.id: q for several in listed for q in several}
    return judge_texts(
        [Completion(**row) for row in table.to_pylist()],
        session.registration,
        personas=personas,
        questions=questions,
        triples=load_triples(DATA / "judge", tuple(personas), tuple(questions)),
        judge=None if judge is None else judge.make(store=session.store_root, marker=marker),
        progress=session.progress,
    )


def scores_of(session: Session, arms: Sequence[str]) -> pa.Table | None:
    """Return the scores of these arms and of their pre-coupling models, None for totals."""
    return _rows(session, session.registration.models(arms), "scores")


def texts_of(session: Session, arms: Sequence[str]) -> pa.Table | None:
    """Return the completions behind those scores, None where no text was recorded."""
    return _rows(session, session.registration.models(arms), "completions")


def geometry_of(session: Session, arms: Sequence[str]) -> pa.Table | None:
    """Return the cosines of these models' hidden states, None where none were recorded."""
    if session.stored:
        return session.opened.geometry
    # Every change is measured from the raw model as well.
    return session.table(session.registration.models(arms, raw=True), "geometry")


def _made(name: str, title: str, make: Callable[[], Panel]) -> dict[str, Any]:
    try:
        panel = make()
    except FlatlandError as error:
        panel = Panel(name=name, title=title, data={}, missing=f"could not be made: {error}")
    return panel.to_json()


def _rows(session: Session, models: Sequence[ModelId], of: Kind) -> pa.Table | None:
    """Return the ``scores`` or ``completions`` of some models, None where none were recorded."""
    if not session.stored:
        return session.table(models, of)
    table = session.opened.scores if of == "scores" else session.opened.texts
    if table is None:
        return None
    wanted = pc.scalar(False)
    for model in models:
        wanted |= (pc.field("phase") == model.phase) & (pc.field("model") == model.name)
    return table.filter(wanted)
