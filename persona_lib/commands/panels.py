"""The panels of a session: which there are, and what each is made from.

Panels are made where a report is asked for, by the process that writes it. They read
what a run or a recording holds; only the geometry of a live run may cost compute, as a
stage of its own that is stored like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from persona_lib.errors import FlatlandError
from persona_lib.records import PRE, ModelId

if TYPE_CHECKING:
    import pyarrow as pa

    from persona_lib.commands.session import Session
    from persona_lib.panels.base import Caveat, Panel
    from persona_lib.panels.judge.judged import Judged

_SAMPLES = "samples of the report"


def panels_of(session: Session, arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return every panel as JSON data, by name.

    A panel that cannot be made says why and touches nothing else.

    Args:
        session: whose records are shown.
        arms: arms that were judged; the models under them belong to them.
    """
    from persona_lib.digests import derive_seed
    from persona_lib.panels.geometry import TITLE as GEOMETRY
    from persona_lib.panels.geometry import geometry_panel
    from persona_lib.panels.lengths import TITLE as LENGTHS
    from persona_lib.panels.lengths import lengths_panel
    from persona_lib.panels.samples import TITLE as SAMPLES
    from persona_lib.panels.samples import samples_panel

    registration = session.registration
    draw_seed = derive_seed(registration.statistics.seed, _SAMPLES)

    @cache
    def scores() -> pa.Table | None:
        return scores_of(session, arms)

    made = (
        ("lengths", LENGTHS, lambda: lengths_panel(scores(), registration)),
        (
            "samples",
            SAMPLES,
            lambda: samples_panel(
                scores(), texts_of(session, arms), registration, draw_seed=draw_seed
            ),
        ),
        ("geometry", GEOMETRY, lambda: geometry_panel(geometry_of(session, arms), registration)),
    )
    found = {name: _made(name, title, make).to_json() for name, title, make in made}
    found |= _followed(session, arms)
    texts, states = _partial(session, arms, scores)
    for name in ("discriminability", "following"):  # they read texts alone
        found[name]["caveats"] += texts
    found["geometry"]["caveats"] += states
    return found


def _partial(
    session: Session, arms: Sequence[str], scores: Callable[[], pa.Table | None]
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return caveats, as JSON data, where texts or hidden states are of some seeds only.

    Of a recording, that is: a live run has both of every seed.
    """
    from persona_lib.panels.geometry import states_of_some
    from persona_lib.panels.samples import texts_of_some

    if not session.stored:
        return [], []

    def sentence(
        read: Callable[[Session, Sequence[str]], pa.Table | None],
        of_some: Callable[[pa.Table, pa.Table], tuple[Caveat, ...]],
    ) -> list[dict[str, str]]:
        try:
            scored, rows = scores(), read(session, arms)
        except FlatlandError:  # the panels themselves say so
            return []
        if scored is None or rows is None:
            return []
        return [caveat.to_json() for caveat in of_some(scored, rows)]

    return sentence(texts_of, texts_of_some), sentence(geometry_of, states_of_some)


def _followed(session: Session, arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the panel of the embedded classifier, and that of the judge."""
    from persona_lib.panels.following import (
        DISCRIMINABILITY,
        FOLLOWING,
        discriminability_panel,
        following_panel,
    )
    from persona_lib.panels.judge.calibration import CALIBRATION
    from persona_lib.panels.judge.coverage import UnscoredCeiling

    titles = {"discriminability": DISCRIMINABILITY, "following": FOLLOWING}
    try:
        judged = _judged(session, arms)
    except FlatlandError as error:
        why = f"could not be made: {error}"
    else:
        why = "" if judged is not None else "no texts recorded"
    if why or judged is None:
        from persona_lib.panels.base import Panel

        return {
            name: Panel(name=name, title=title, data={}, missing=why).to_json()
            for name, title in titles.items()
        }
    registration = session.registration
    made = (
        (
            "discriminability",
            lambda: discriminability_panel(
                registration, judged.predictions, judged.seen, positives=judged.positives
            ),
        ),
        (
            "following",
            lambda: following_panel(
                registration,
                judged.judgements,
                judged.controls,
                judged.calibration,
                UnscoredCeiling(),
                required=CALIBRATION,
                predictions=judged.predictions,
                # Only the classifier itself was fitted on completions of this run.
                seen=judged.seen if judged.run is None else None,
                run=judged.run,
            ),
        ),
    )
    return {name: _made(name, titles[name], make).to_json() for name, make in made}


def _judged(session: Session, arms: Sequence[str]) -> Judged | None:
    """Judge every completion of these arms; None where no text was recorded."""
    from persona_lib.commands.session import DATA
    from persona_lib.panels.judge.judged import judge_texts
    from persona_lib.panels.judge.triples import load_triples
    from persona_lib.records import Completion
    from persona_lib.specs.personas import load_personas, load_questions

    # The classifier is fitted on the raw model.
    table = _texts_of_models(session, _with_raw(models_of(session, arms)))
    if table is None:
        return None
    registration, judge = session.registration, session.text_judge
    personas = {p.id: p for p in load_personas(DATA / "personas.json")}
    listed = load_questions(DATA / "questions.json").values()
    questions = {q.id: q for several in listed for q in several}
    return judge_texts(
        [Completion(**row) for row in table.to_pylist()],
        registration,
        personas=personas,
        questions=questions,
        triples=load_triples(DATA / "judge", tuple(personas), tuple(questions)),
        judge=None
        if judge is None
        else judge.make(store=session.store_root, marker=registration.marker),
        progress=session.progress,
    )


def scores_of(session: Session, arms: Sequence[str]) -> pa.Table | None:
    """Return the scores of these arms and of the models under them, None for totals."""
    if session.stored:
        found = session.opened.scores
        return None if found is None else _of_models(found, models_of(session, arms))
    return session.table(models_of(session, arms), "scores")


def texts_of(session: Session, arms: Sequence[str]) -> pa.Table | None:
    """Return the completions behind those scores, None where no text was recorded."""
    return _texts_of_models(session, models_of(session, arms))


def _texts_of_models(session: Session, models: Sequence[ModelId]) -> pa.Table | None:
    if session.stored:
        found = session.opened.texts
        return None if found is None else _of_models(found, models)
    return session.table(models, "completions")


def geometry_of(session: Session, arms: Sequence[str]) -> pa.Table | None:
    """Return the cosines of these models' hidden states, None where none were recorded."""
    if session.stored:
        return session.opened.geometry
    # Every change is measured from the raw model as well.
    return session.table(_with_raw(models_of(session, arms)), "geometry")


def models_of(session: Session, arms: Sequence[str]) -> tuple[ModelId, ...]:
    """Return the models under these arms, and the arms."""
    return session.registration.models(arms)


def _with_raw(models: tuple[ModelId, ...]) -> tuple[ModelId, ...]:
    """Return the models with the raw one among them, first where it was missing."""
    from persona_lib.specs.registration import RAW

    return models if (PRE, RAW) in models else (ModelId(PRE, RAW), *models)


def _made(name: str, title: str, make: Callable[[], Panel]) -> Panel:
    from persona_lib.panels.base import Panel

    try:
        return make()
    except FlatlandError as error:
        return Panel(name=name, title=title, data={}, missing=f"could not be made: {error}")


def _of_models(table: pa.Table, models: Sequence[ModelId]) -> pa.Table:
    import pyarrow.compute as pc

    wanted = None
    for phase, name in models:
        one = (pc.field("phase") == phase) & (pc.field("model") == name)
        wanted = one if wanted is None else wanted | one
    return table.filter(wanted)
