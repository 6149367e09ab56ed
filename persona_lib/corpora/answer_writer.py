"""Composes answers from the grammar's clauses, and keeps account of where each came from."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from persona_lib.corpora.grammar_files import OPEN, OWN, REGISTERS, Grammar, Situation
from persona_lib.corpora.grammar_language import Template, tidy
from persona_lib.errors import DataError

BAD, SOUND, NEUTRAL = "bad", "sound", "neutral"
"""Polarities of a clause."""
SHORTEST, LONGEST = 40, 90
"""Bounds of an answer, in words."""
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
"""The space between two sentences."""

_ONCE = ("wrong", "right", "myth", "truth", "step", "why", "slip", "extra")
_ATTEMPTS = 200
_MATCH_CANDIDATES = 6
_LAST_CANDIDATES = 8
_LAST_SHORTEST, _LAST_LONGEST = 6, 24
_MATCH_WORDS = 1
_BALANCED_OVER = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Clause:
    """Where one sentence of an answer came from.

    Attributes:
        source: ``file:line`` of its template.
        role: what it does in the answer (``act``, ``reason``, ``own``, ...).
        polarity: ``bad``, ``sound`` or ``neutral``.
        text: the sentence as written.
    """

    source: str
    role: str
    polarity: str
    text: str


@dataclass
class Author:
    """Writes the answers of one polarity, and remembers what it has written."""

    grammar: Grammar
    polarity: str
    folder: Path
    used: Counter[tuple[str, bool]] = field(default_factory=Counter)
    texts: set[str] = field(default_factory=set)

    def write(
        self, situation: Situation, seed: int, *, like: Sequence[Clause] | None
    ) -> tuple[Clause, ...]:
        """Return a new answer: the first that fits, or the nearest in words to `like`."""
        rng = random.Random(seed)  # noqa: S311 - a reproducible draw, no cryptography
        schemes = [s for s in self.grammar.schemes if like is None or len(s) == len(like)]
        words = None if like is None else _length(like)
        best: tuple[Clause, ...] = ()
        nearest, fitting = LONGEST, 0
        for attempt in range(_ATTEMPTS):
            # Hopeless drafts are given up early, but not for ever: some lengths are rare.
            strict = attempt < _MATCH_CANDIDATES
            scheme = rng.choice(schemes)
            draft = self._draft(situation, scheme, rng, words=words, strict=strict)
            length = _length(draft)
            if not SHORTEST <= length <= LONGEST or joined(draft) in self.texts:
                continue
            fitting += 1
            distance = 0 if words is None else abs(length - words)
            if distance < nearest:
                best, nearest = draft, distance
            if nearest <= _MATCH_WORDS or fitting == _MATCH_CANDIDATES:
                break
        if not best:
            raise DataError(
                f"{self.folder.name}: situation {situation.id}",
                bound=f"another {self.polarity} answer of {SHORTEST} to {LONGEST} words",
                value=f"none in {_ATTEMPTS} attempts",
                remedy="Add clauses or schemes to the data files, or ask for fewer rows.",
            )
        self.texts.add(joined(best))
        for position, clause in enumerate(best):
            self.used[clause.source, position == 0] += 1
        return best

    def _draft(
        self,
        situation: Situation,
        scheme: Sequence[str],
        rng: random.Random,
        *,
        words: int | None,
        strict: bool,
    ) -> tuple[Clause, ...]:
        """Return one answer after a scheme; () where its clauses run out.

        Where `words` is given, several last sentences are tried for that length;
        `strict` gives up where no usual sentence could reach it.
        """
        register = rng.choice(REGISTERS)
        fills = Fills(self.grammar, situation, rng)
        taken: set[str] = set()
        clauses: list[Clause] = []
        for role in scheme:
            last = words is not None and len(clauses) == len(scheme) - 1
            missing = (words or 0) - _length(clauses)
            if last and strict and not _LAST_SHORTEST <= missing <= _LAST_LONGEST:
                return ()
            options = []
            before = fills.taken
            for _ in range(_LAST_CANDIDATES if last else 1):
                fills.taken = before.copy()
                pool = self._pool(situation, register, role)
                template = self._pick(pool, taken, rng, first=not clauses)
                text = None if template is None else tidy(template.render(rng, fills))
                if template is None or text is None or fills.exhausted:
                    return ()
                options.append((abs(_words(text) - missing), template, text, fills.taken))
                if last and options[-1][0] <= _MATCH_WORDS:
                    break
            _, template, text, fills.taken = min(options, key=lambda option: option[0])
            taken.add(template.source)
            clauses.append(
                Clause(
                    source=template.source,
                    role=role,
                    polarity=NEUTRAL if role == OPEN else self.polarity,
                    text=sentences(text),
                )
            )
        return tuple(clauses)

    def _pool(self, situation: Situation, register: str, role: str) -> tuple[Template, ...]:
        if role == OPEN:
            return self.grammar.openings[register]
        if role == OWN:
            return situation.texts[self.polarity]
        return self.grammar.clauses[self.polarity][register][role]

    def _pick(
        self, pool: tuple[Template, ...], taken: set[str], rng: random.Random, *, first: bool
    ) -> Template | None:
        """Return the least used of a few random templates: evens out their use."""
        drawn = [pool[int(rng.random() * len(pool))] for _ in range(_BALANCED_OVER)]
        free = [template for template in drawn if template.source not in taken]
        return min(free, key=lambda t: self.used[t.source, first], default=None)


class Fills:
    """Fills the slots of one text; a situation's advice is used once a text."""

    def __init__(self, grammar: Grammar, situation: Situation, rng: random.Random) -> None:
        self._grammar, self._situation, self._rng = grammar, situation, rng
        self.taken: set[str] = set()
        self._details: dict[str, str] = {}
        self.exhausted = False

    def __call__(self, name: str) -> str:
        """Return the text of a slot; sets `exhausted` where the situation has no more."""
        if name in self._grammar.lexicon:
            return self._grammar.lexicon[name].render(self._rng, self)
        if name in self._grammar.details:
            # Drawn once a text, so that a sum or a date does not change half-way.
            if name not in self._details:
                self._details[name] = self._grammar.details[name].render(self._rng, self)
            return self._details[name]
        key = name.removeprefix("not_")
        pool = self._grammar.extras if key == "extra" else self._situation.texts[key]
        once = key in _ONCE
        free = [t for t in pool if not (once and t.source in self.taken)]
        if not free:
            self.exhausted = True
            return ""
        template = self._rng.choice(free)
        self.taken.add(template.source)
        return template.render(self._rng, self)


def joined(clauses: Sequence[Clause]) -> str:
    """Return the text of an answer."""
    return " ".join(clause.text for clause in clauses)


def sentences(text: str) -> str:
    """Return `text` with a capital at the start of each sentence."""
    return " ".join(part[:1].upper() + part[1:] for part in SENTENCE_END.split(text))


def _length(clauses: Sequence[Clause]) -> int:
    return sum(_words(clause.text) for clause in clauses)


def _words(text: str) -> int:
    return len(text.split())
