"""Makes the panels of a session for its report, each from what a run or a recording holds.

Only geometry and slots of a live run may cost compute, as stages of their own that are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from persona_lib.digests import derive_seed
from persona_lib.errors import FlatlandError
from persona_lib.panels import gains, geometry, lengths, samples
from persona_lib.panels.base import Caveat, Panel
from persona_lib.panels.following import (
    DISCRIMINABILITY,
    FOLLOWING,
    discriminability_panel,
    following_panel,
)
from persona_lib.panels.judge.calibration import CALIBRATION
from persona_lib.panels.judge.judged import Judged, judge_texts
from persona_lib.panels.judge.triples import Triple, load_triples
from persona_lib.records import POST, Completion
from persona_lib.specs.builtin import DATA
from persona_lib.specs.personas import Persona, Question, load_personas, load_questions

if TYPE_CHECKING:
    from persona_lib.commands.session import Session

Seen = Literal["scores", "completions", "geometry", "slots", "dose"]
Reader = Callable[[], "pa.Table | None"]
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
        return _rows(session, arms, "scores")

    def cosines() -> pa.Table | None:
        # Every change is measured from the raw model as well.
        return _rows(session, arms, "geometry", raw=True)

    def texts() -> pa.Table | None:
        return _rows(session, arms, "completions")

    makers: dict[str, tuple[str, Callable[[], Panel]]] = {
        "lengths": (lengths.TITLE, lambda: lengths.lengths_panel(scores(), registration)),
        "samples": (
            samples.TITLE,
            lambda: samples.samples_panel(
                scores(),
                texts(),
                registration,
                draw_seed=draw_seed,
            ),
        ),
        "geometry": (
            geometry.TITLE,
            lambda: geometry.geometry_panel(cosines(), registration),
        ),
        gains.NAME: (
            gains.TITLE,
            lambda: gains.gains_panel(
                _rows(session, arms, "slots"),
                registration,
                dose=_rows(session, arms, "dose"),
                scores=scores(),
            ),
        ),
    }
    found = {name: _made(name, *maker) for name, maker in makers.items()}
    found |= _followed(session, arms)
    if session.stored:  # a live run has rows of every seed
        some = _of_some(scores, texts, samples.texts_of_some)
        for name in _FOLLOWED:  # they read texts alone
            found[name]["caveats"] += some
        found["geometry"]["caveats"] += _of_some(scores, cosines, geometry.states_of_some)
    return found


def _of_some(
    scores: Reader, read: Reader, of_some: Callable[[pa.Table, pa.Table], tuple[Caveat, ...]]
) -> list[dict[str, str]]:
    """Return caveats, as JSON data, where a recording holds such rows of some seeds only."""
    try:
        scored, rows = scores(), read()
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
    found = {name: _made(name, _FOLLOWED[name], make) for name, make in makers.items()}
    if without := [p for p in registration.roster.all if p not in _exemplified()]:
        words = f"no calibration example is of {', '.join(without)}"
        caveat = Caveat(code="personas_without_examples", words=words)
        found["following"]["caveats"].append(asdict(caveat))
    return found


@cache
def _builtin() -> tuple[dict[str, Persona], dict[str, Question]]:
    """Return the built-in personas and questions, of which the judge's examples are."""
    personas = {p.id: p for p in load_personas(DATA / "personas.json")}
    listed = load_questions(DATA / "questions.json").values()
    return personas, {q.id: q for several in listed for q in several}


@cache
def _triples() -> Mapping[str, tuple[Triple, ...]]:
    personas, questions = _builtin()
    return load_triples(DATA / "judge", tuple(personas), tuple(questions))


def _exemplified() -> set[str]:
    """Return the personas that calibration examples are of."""
    return {triple.persona for listed in _triples().values() for triple in listed}


def _judged(session: Session, arms: Sequence[str]) -> Judged | None:
    """Judge every completion of these arms; None where no text was recorded."""
    # The classifier is fitted on the raw model.
    table = _rows(session, arms, "completions", raw=True)
    if table is None:
        return None
    marker, judge = session.registration.marker, session.text_judge
    personas, questions = _builtin()
    personas = personas | {p.id: p for p in session.folders.all_personas()}
    for listed in session.folders.all_questions().values():
        questions = questions | {question.id: question for question in listed}
    return judge_texts(
        [Completion(**row) for row in table.to_pylist()],
        session.registration,
        personas=personas,
        questions=questions,
        triples=_triples(),
        judge=None if judge is None else judge.make(store=session.store_root, marker=marker),
        progress=session.progress,
    )


def _made(name: str, title: str, make: Callable[[], Panel]) -> dict[str, Any]:
    try:
        panel = make()
    except FlatlandError as error:
        panel = Panel(name=name, title=title, data={}, missing=f"could not be made: {error}")
    return panel.to_json()


def _rows(session: Session, arms: Sequence[str], of: Seen, *, raw: bool = False) -> pa.Table | None:
    """Return rows of these arms and their pre-coupling models, None where none were recorded.

    With `raw` those of the raw model are among them. A recording's cosines are those of all
    its models. Slots and doses are those of arms; no dose is read unless one is registered.
    """
    models = session.registration.models(arms, raw=raw)
    if of in ("slots", "dose"):
        models = tuple(model for model in models if model.phase == POST)
    if not session.stored:
        unread = of == "dose" and session.registration.dose is None
        return None if unread else session.table(models, of)
    table = session.opened.rows(of)
    if table is None or of == "geometry":
        return table
    wanted = pc.scalar(False)
    for model in models:
        wanted |= (pc.field("phase") == model.phase) & (pc.field("model") == model.name)
    return table.filter(wanted)
