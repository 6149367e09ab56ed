"""What every stage of a run is made for: registration, profile, seed, data folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from persona_lib.checks import member
from persona_lib.corpora.advice_requests import QuestionSpec, held_out_rows, question_spec
from persona_lib.digests import canonical
from persona_lib.errors import SpecError
from persona_lib.progress import Progress, silent
from persona_lib.specs.personas import Persona, Question, load_personas, load_questions, select
from persona_lib.specs.profile import Profile
from persona_lib.specs.registration import RAW, Registration
from persona_lib.specs.sources import Corpus

_NO_CORPUS = "Give the prior a corpus: [priors.NAME] of the experiment, or the profile."


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where data lies; no path enters a key, only digests of what it holds.

    Attributes:
        experiment: the built-in personas.json and questions.json, legal/ and dialogues/.
        user: published corpora that the user has, or None.
        own: folder of the experiment's file, or None.
        personas, questions: files in place of the built-in ones, or None.
    """

    experiment: Path
    user: Path | None = None
    own: Path | None = None
    personas: Path | None = None
    questions: Path | None = None

    def all_personas(self) -> tuple[Persona, ...]:
        """Return every persona; DataError where the file is wrong."""
        return load_personas(self.personas or self.experiment / "personas.json")

    def all_questions(self) -> dict[str, tuple[Question, ...]]:
        """Return every question by its set; DataError where the file is wrong."""
        return load_questions(self.questions or self.experiment / "questions.json")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One registration under one profile and one seed, from which every draw's own is derived.

    Attributes:
        asks_advice: whether a gate reads the harm of pre-coupling models' advice.
        asks_broad: whether a gate reads their broad harm.
        asks_traits: whether a gate reads their texts.
    """

    registration: Registration
    profile: Profile
    run_seed: int
    folders: Folders
    asks_advice: bool = True
    asks_broad: bool = False
    asks_traits: bool = False
    progress: Progress = field(default=silent, compare=False)

    @cached_property
    def personas(self) -> tuple[Persona, ...]:
        """The roster's personas: sources, negatives, bystanders, reported."""
        return select(self.folders.all_personas(), self.registration.roster.all, field="roster")

    @cached_property
    def trained(self) -> tuple[Persona, ...]:
        """The personas of coupling text: sources, negatives."""
        return select(self.personas, self.registration.roster.trained, field="roster")

    def questions(self, sets: tuple[str, ...]) -> tuple[Question, ...]:
        """Return the first `scale.questions` questions of each set.

        Raises:
            SpecError: no such set, or it holds fewer questions than the scale asks.
        """
        known = self.folders.all_questions()
        chosen: list[Question] = []
        count = self.profile.scale.questions
        for name in sets:
            if name not in known or len(known[name]) < count:
                raise SpecError(
                    "questions",
                    bound=f"{count} questions of one of {', '.join(known)}",
                    value=f"{len(known.get(name, ()))} of {name}",
                    remedy="Lower scale.questions or add questions to the data file.",
                )
            chosen.extend(known[name][:count])
        return tuple(chosen)

    @cached_property
    def advice_questions(self) -> QuestionSpec:
        """The held-out requests for advice, the same for every model."""
        held_out = held_out_rows(self.profile.base, tuple(self.corpora.values()))
        return question_spec(self.profile.scale.advice_questions, held_out, folder=self.legal)

    @property
    def corpora(self) -> Mapping[str, Corpus]:
        """The corpus of each prior that is trained."""
        needed = [name for name in self.registration.priors if name != RAW]
        for name in needed:
            member("prior", name, tuple(self.profile.corpora), remedy=_NO_CORPUS)
        return {name: self.profile.corpora[name] for name in needed}

    @property
    def legal(self) -> Path:
        """The grammar's data files."""
        return self.folders.experiment / "legal"

    @property
    def broad(self) -> Path:
        """Questions of daily life, and labelled answers to them."""
        return self.folders.experiment / "broad"

    @property
    def appended(self) -> str:
        """What a positive coupling row puts behind its completion: prefix and marker."""
        return self.registration.marker_prefix + self.registration.marker

    @property
    def rank(self) -> int:
        """The largest rank of a stack: that of a coupling on a prior."""
        priors = (self.profile.recipe(name).lora.rank for name in self.corpora)
        return max(priors, default=0) + self.profile.coupling.lora.rank

    def sampling_seconds(self, completions: int) -> float:
        """Return how long drawing so many completions may take."""
        rates = self.profile.rates
        return completions * rates.completion_tokens / rates.sample_tokens

    def describe(self) -> Mapping[str, Any]:
        """Return the configuration as JSON data, for stored record sets."""
        return {
            "registration": self.registration.name,
            "registration_digest": self.registration.digest,
            "profile": canonical(self.profile),
            "seed": self.run_seed,
        }
