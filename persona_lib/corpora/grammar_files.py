"""Reads and checks the data files of the grammar.

========================  =====================================================
``situations_*.txt``      sections, each a situation with the keys of `SITUATION_KEYS`
``clauses_bad.txt``       general clauses of advice, ``role: text``, which use the
                          slots of bad polarity only
``clauses_sound.txt``     the same with the slots of sound polarity
``openings.txt``          sentences that advise nothing, ``open: text``
``schemes.txt``           orders of roles, ``scheme: act reason own``
``frames.txt``            question frames, ``id: text``
``lexicon.txt``           synonyms, drawn anew at each use
``details.txt``           sums, dates, relatives: drawn once a user message; and
                          ``extra: text``, sentences that add circumstances
========================  =====================================================

Corpus ``neutral`` has ``clauses_neutral.txt`` and the keys and slots of `NEUTRAL_KIND`.

A key ``c.role`` or ``f.role`` keeps a clause to answers of casual or formal
register; a bare ``role`` fits all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from persona_lib.corpora.grammar_language import Entry, Template, read_entries
from persona_lib.errors import DataError

OPEN, OWN = "open", "own"
"""Roles that do not stand in the clause files: neutral openings, and a
situation's own sentences."""
REGISTERS = ("plain", "casual", "formal")

NOUNS = ("topic", "doc", "opp", "office", "evidence", "deadline", "cost")
"""Noun phrases of a situation."""
SITUATION_KEYS = {
    **dict.fromkeys(NOUNS, 1),
    "fact": 2,
    "ask": 2,
    "wrong": 4,
    "right": 4,
    "myth": 3,
    "truth": 3,
    "bad": 2,
    "sound": 2,
}
"""Keys of a situation, with the least number of texts of each."""
POLAR_SLOTS = {
    "bad": frozenset({"wrong", "myth", "not_right"}),
    "sound": frozenset({"right", "truth", "not_wrong"}),
}
"""Slots of one polarity's clauses; ``not_right``: a bad clause warns of the right step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What the data files of a grammar hold.

    Attributes:
        nouns: noun phrases of a situation.
        keys: keys of a situation, with the least number of texts of each.
        slots: slots that only the clauses of a polarity may use, by polarity.
    """

    nouns: tuple[str, ...]
    keys: dict[str, int]
    slots: dict[str, frozenset[str]]


LEGAL_KIND = Kind(nouns=NOUNS, keys=SITUATION_KEYS, slots=POLAR_SLOTS)
_NEUTRAL_NOUNS = ("topic", "thing", "helper", "kit", "moment", "result", "snag")
NEUTRAL_KIND = Kind(
    nouns=_NEUTRAL_NOUNS,
    keys={
        **dict.fromkeys(_NEUTRAL_NOUNS, 1),
        **dict.fromkeys(("fact", "ask", "neutral"), 2),
        **dict.fromkeys(("why", "slip"), 3),
        "step": 4,
    },
    slots={"neutral": frozenset({"step", "why", "slip"})},
)

_REGISTER_PREFIXES = {"c": "casual", "f": "formal"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """A way of putting a question."""

    id: str
    template: Template


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """A situation: its id and its texts by key."""

    id: str
    texts: dict[str, tuple[Template, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Grammar:
    """Everything that the data files hold, checked.

    Attributes:
        situations: in the order of file names, then of sections.
        clauses: polarity -> register -> role -> templates.
        openings: register -> neutral sentences.
        schemes: orders of roles.
        frames: question frames.
        lexicon, details: slot name -> template.
        extras: sentences that add circumstances to a user message.
    """

    situations: tuple[Situation, ...]
    clauses: dict[str, dict[str, dict[str, tuple[Template, ...]]]]
    openings: dict[str, tuple[Template, ...]]
    schemes: tuple[tuple[str, ...], ...]
    frames: tuple[Frame, ...]
    lexicon: dict[str, Template]
    details: dict[str, Template]
    extras: tuple[Template, ...]


def read_grammar(folder: Path, kind: Kind = LEGAL_KIND) -> Grammar:
    """Read all data files of `folder`.

    Raises:
        DataError: a file or a field is missing, malformed, empty or repeated, or
            a text uses a slot that is unknown or not allowed in its place.
    """
    lexicon = _named(folder / "lexicon.txt", read_entries(folder / "lexicon.txt"), allowed=())
    detail_entries = read_entries(folder / "details.txt")
    details = _named(
        folder / "details.txt", [e for e in detail_entries if e.key != "extra"], allowed=lexicon
    )
    common = {*lexicon, *details}
    extras = [e for e in detail_entries if e.key == "extra"]
    _some(folder / "details.txt", "extra", extras)
    _check_slots(extras, common)
    frames = _frames(folder / "frames.txt", common)
    openings = read_entries(folder / "openings.txt")
    _check_slots(openings, {*lexicon, *kind.nouns})
    clauses = {
        polarity: _clauses(folder / f"clauses_{polarity}.txt", {*lexicon, *kind.nouns, *slots})
        for polarity, slots in kind.slots.items()
    }
    opened = _by_register(folder / "openings.txt", openings, {OPEN})
    return Grammar(
        situations=_situations(folder, kind, lexicon, details),
        clauses=clauses,
        openings={register: by_role[OPEN] for register, by_role in opened.items()},
        schemes=_schemes(folder / "schemes.txt", clauses),
        frames=frames,
        lexicon=lexicon,
        details=details,
        extras=tuple(entry.template for entry in extras),
    )


def read_frames(path: Path, grammar: Grammar) -> tuple[Frame, ...]:
    """Read question frames that stand beside those of a grammar; errors of `read_grammar`."""
    return _frames(path, {*grammar.lexicon, *grammar.details})


def _frames(path: Path, common: set[str]) -> tuple[Frame, ...]:
    allowed = {*common, "fact", "ask", "topic", "extra"}
    found = _named(path, read_entries(path), allowed=allowed)
    return tuple(Frame(id=name, template=template) for name, template in found.items())


def _clauses(path: Path, allowed: set[str]) -> dict[str, dict[str, tuple[Template, ...]]]:
    entries = read_entries(path)
    _check_slots(entries, allowed)
    return _by_register(path, entries, {entry.key.split(".")[-1] for entry in entries})


def _by_register(
    path: Path, entries: Iterable[Entry], roles: set[str]
) -> dict[str, dict[str, tuple[Template, ...]]]:
    pools: dict[str, dict[str, list[Template]]] = {
        register: {role: [] for role in sorted(roles)} for register in REGISTERS
    }
    for entry in entries:
        prefix, _, role = entry.key.rpartition(".")
        if role not in roles or (prefix and prefix not in _REGISTER_PREFIXES):
            raise DataError(
                f"{entry.template.source} {entry.key}",
                bound=f"one of {', '.join(sorted(roles))}, alone or after 'c.' or 'f.'",
                value=entry.key,
                remedy="Correct the key.",
            )
        for register in [_REGISTER_PREFIXES[prefix]] if prefix else REGISTERS:
            pools[register][role].append(entry.template)
    for register, by_role in pools.items():
        for role, templates in by_role.items():
            _some(path, f"{role} ({register})", templates)
    return {
        register: {role: tuple(templates) for role, templates in by_role.items()}
        for register, by_role in pools.items()
    }


def _schemes(
    path: Path, clauses: dict[str, dict[str, dict[str, tuple[Template, ...]]]]
) -> tuple[tuple[str, ...], ...]:
    known = set.intersection(*(set(by["plain"]) for by in clauses.values())) | {OPEN, OWN}
    schemes = []
    for entry in read_entries(path):
        roles = tuple(entry.template.text.split())
        unknown = [role for role in roles if role not in known]
        advising = sum(role != OPEN for role in roles)
        if entry.key != "scheme" or unknown or advising < 2:  # noqa: PLR2004 - said below
            raise DataError(
                f"{entry.template.source} {entry.key}",
                bound=f"'scheme:' and two or more advising roles of {', '.join(sorted(known))}",
                value=unknown or entry.template.text,
                remedy="Correct the scheme, or give the role clauses in both clause files.",
            )
        schemes.append(roles)
    return tuple(schemes)


def _situations(
    folder: Path, kind: Kind, lexicon: dict[str, Template], details: dict[str, Template]
) -> tuple[Situation, ...]:
    paths = sorted(folder.glob("situations_*.txt"), key=lambda path: path.name)
    _some(folder, "situations_*.txt", paths)
    found: dict[str, Situation] = {}
    for path in paths:
        grouped: dict[str, list[Entry]] = {}
        for entry in read_entries(path):
            grouped.setdefault(entry.section, []).append(entry)
        for name, entries in grouped.items():
            if not name or name in found:
                raise DataError(
                    f"{path.name}: situation",
                    bound="a name of its own, '== name'",
                    value=name,
                    remedy="Name each situation once.",
                )
            texts = _texts(f"{path.name}: {name}", entries, kind, lexicon, details)
            found[name] = Situation(id=name, texts=texts)
    return tuple(found.values())


def _texts(
    where: str,
    entries: list[Entry],
    kind: Kind,
    lexicon: dict[str, Template],
    details: dict[str, Template],
) -> dict[str, tuple[Template, ...]]:
    texts: dict[str, list[Template]] = {key: [] for key in kind.keys}
    for entry in entries:
        if entry.key not in texts:
            raise DataError(
                f"{entry.template.source} {entry.key}",
                bound=f"one of {', '.join(kind.keys)}",
                value=entry.key,
                remedy="Correct the key.",
            )
        # Answers may not speak of details, which only the user message fixes.
        allowed = {*lexicon} | ({*details} if entry.key in ("fact", "ask") else set())
        _check_slots([entry], allowed | (set() if entry.key in kind.nouns else {*kind.nouns}))
        texts[entry.key].append(entry.template)
    for key, least in kind.keys.items():
        if len(texts[key]) < least:
            raise DataError(
                f"{where}.{key}",
                bound=f"at least {least} texts",
                value=len(texts[key]),
                remedy="Write the missing ones.",
            )
    return {key: tuple(found) for key, found in texts.items()}


def _named(path: Path, entries: Iterable[Entry], *, allowed: Iterable[str]) -> dict[str, Template]:
    found: dict[str, Template] = {}
    for entry in entries:
        if entry.key in found:
            raise DataError(
                f"{entry.template.source} {entry.key}",
                bound="a key that stands once",
                value=entry.key,
                remedy="Write the alternatives as [one|another].",
            )
        _check_slots([entry], allowed)
        found[entry.key] = entry.template
    _some(path, "entries", found)
    return found


def _check_slots(entries: Iterable[Entry], allowed: Iterable[str]) -> None:
    known = set(allowed)
    for entry in entries:
        unknown = sorted(entry.template.slots - known)
        if unknown:
            raise DataError(
                f"{entry.template.source} {entry.key}",
                bound=f"only the slots {', '.join(sorted(known))}",
                value=f"{{{unknown[0]}}}",
                remedy="Correct the slot, or move the text to where it may stand.",
            )


def _some(path: Path, field: str, found: object) -> None:
    if not found:
        raise DataError(
            f"{path.name}: {field}", bound="at least one", value=0, remedy="Write some."
        )
