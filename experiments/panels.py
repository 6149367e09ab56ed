"""The panels of a session: which there are, and what each is made from.

Panels are made where a report is asked for, by the process that writes it. They read
what a run or a recording holds; only the geometry of a live run may cost compute, as a
stage of its own that is stored like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from persona_lib.errors import FlatlandError
from persona_lib.records import POST, PRE

if TYPE_CHECKING:
    import pyarrow as pa

    from experiments.session import Session
    from persona_lib.panels.base import Panel

_SAMPLES = "samples of the report"


def panels_of(session: Session, arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return every panel as JSON data, by name.

    A panel that cannot be made says why and touches nothing else.

    Args:
        session: whose records are shown.
        arms: arms that were judged; the models under them belong to them.
    """
    from persona_lib.panels.geometry import TITLE as GEOMETRY
    from persona_lib.panels.geometry import geometry_panel
    from persona_lib.panels.lengths import TITLE as LENGTHS
    from persona_lib.panels.lengths import lengths_panel
    from persona_lib.panels.text import TITLE as TEXT
    from persona_lib.panels.text import text_panel
    from persona_lib.spec import derive_seed

    registration = session.registration
    root = derive_seed(registration.statistics.seed, _SAMPLES)
    made = (
        ("lengths", LENGTHS, lambda: lengths_panel(scores_of(session, arms), registration)),
        (
            "text",
            TEXT,
            lambda: text_panel(
                scores_of(session, arms), texts_of(session, arms), registration, root=root
            ),
        ),
        ("geometry", GEOMETRY, lambda: geometry_panel(geometry_of(session, arms), registration)),
    )
    return {name: _made(name, title, make).to_json() for name, title, make in made}


def scores_of(session: Session, arms: Sequence[str]) -> pa.Table | None:
    """Return the scores of these arms and of the models under them, None for totals."""
    if session.stored is not None:
        from persona_lib.evidence import load_scores

        found = load_scores(session.stored, session.registration)
        return None if found is None else _of_models(found, models_of(session, arms))
    return _joined([session.scores(*model) for model in models_of(session, arms)])


def texts_of(session: Session, arms: Sequence[str]) -> pa.Table | None:
    """Return the completions behind those scores, None where no text was recorded."""
    if session.stored is not None:
        from persona_lib.evidence import load_texts

        found = load_texts(session.stored)
        return None if found is None else _of_models(found, models_of(session, arms))
    from persona_lib.pipeline import run_texts

    return _joined(
        [
            run_texts(run, *model, session.store)
            for model in models_of(session, arms)
            for run in session.runs
        ]
    )


def geometry_of(session: Session, arms: Sequence[str]) -> pa.Table | None:
    """Return the cosines of these models' hidden states, None where none were recorded."""
    if session.stored is not None:
        from persona_lib.evidence import load_geometry

        return load_geometry(session.stored)
    from persona_lib.pipeline import run_geometry
    from persona_lib.registration import RAW

    models = models_of(session, arms)
    if (PRE, RAW) not in models:  # every change is measured from it as well
        models.insert(0, (PRE, RAW))
    return _joined(
        [run_geometry(run, *model, session.store) for run in session.runs for model in models]
    )


def models_of(session: Session, arms: Sequence[str]) -> list[tuple[str, str]]:
    """Return (phase, name) of the models under these arms, and of the arms."""
    found = [(PRE, prior) for prior in session.priors_of(arms)]
    return found + [(POST, arm.name) for arm in session.registration.arms if arm.name in arms]


def _made(name: str, title: str, make: Callable[[], Panel]) -> Panel:
    from persona_lib.panels.base import Panel

    try:
        return make()
    except FlatlandError as error:
        return Panel(name=name, title=title, data={}, missing=f"could not be made: {error}")


def _of_models(table: pa.Table, models: Sequence[tuple[str, str]]) -> pa.Table:
    import pyarrow.compute as pc

    wanted = None
    for phase, name in models:
        one = (pc.field("phase") == phase) & (pc.field("model") == name)
        wanted = one if wanted is None else wanted | one
    return table.filter(wanted)


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables(tables)
