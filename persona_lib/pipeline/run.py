"""One run as a graph of stages: their order, which of them a model has, its tables.

base -> marker ->                                  (every run)
corpus -> prior ->                                 (em and benign only)
coupling text -> coupling -> completions -> scores (each arm)
baseline -> scores                                 (each pre-coupling model)
advice -> advice scores <- advice scorer           (each pre-coupling model)
broad -> broad scores <- broad scorer              (likewise, only where a gate reads them)
completions or baseline -> geometry                (each model, only where it is asked for)
completions, baseline of raw -> slots              (each arm, only where a rule reads gains)
baseline, baseline of raw -> traits                (each pre-coupling model, likewise for traits)

A stage's key, version, estimate and work stand in the module that makes it. Only a
coupling reads the marker's tokens. All else that trains or samples comes after stage
marker without having it in its key: a marker that the tokenizer cannot write stops
the run at once, and another marker trains no prior and draws no baseline again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from persona_lib.checks import member
from persona_lib.corpora.advice_scorer import ADVICE_FILE
from persona_lib.corpora.broad import BROAD_FILE, BroadScore
from persona_lib.models.hidden_states import GEOMETRY_FILE
from persona_lib.pipeline.advice import advice_scores_stage, advice_stage, scorer_stage
from persona_lib.pipeline.base_model import base_stage, marker_stage
from persona_lib.pipeline.broad import broad_scorer_stage, broad_scores_stage, broad_stage
from persona_lib.pipeline.completions import COMPLETIONS, SCORES, completions_stage, scores_stage
from persona_lib.pipeline.coupling_text import text_stage
from persona_lib.pipeline.dose import DOSE_FILE
from persona_lib.pipeline.hidden_states import geometry_stage
from persona_lib.pipeline.machine import lacking, refuse
from persona_lib.pipeline.setting import Setting
from persona_lib.pipeline.slots import SLOTS_FILE, slots_stage
from persona_lib.pipeline.training import corpus_stage, coupling_stage, prior_stage
from persona_lib.pipeline.traits import TRAITS_FILE, traits_stage
from persona_lib.records import (
    POST,
    PRE,
    AdviceScore,
    Completion,
    DosePoint,
    GeometryRow,
    ModelId,
    Score,
    SlotReading,
    Trait,
    read_table,
)
from persona_lib.specs.registration import RAW
from persona_lib.store.stage import Stage
from persona_lib.store.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal[
    "scores", "completions", "advice", "advice_texts", "broad", "broad_texts", "geometry",
    "slots", "dose", "traits",
]  # fmt: skip
"""A table of a model; advice, broad answers and traits are those of pre-coupling models, slots
those of arms."""
_FILES: Mapping[Kind, tuple[str, type[Any]]] = {
    "scores": (SCORES, Score),
    "completions": (COMPLETIONS, Completion),
    "advice": (ADVICE_FILE, AdviceScore),
    "advice_texts": (COMPLETIONS, Completion),
    "broad": (BROAD_FILE, BroadScore),
    "broad_texts": (COMPLETIONS, Completion),
    "geometry": (GEOMETRY_FILE, GeometryRow),
    "slots": (SLOTS_FILE, SlotReading),
    "dose": (DOSE_FILE, DosePoint),
    "traits": (TRAITS_FILE, Trait),
}


@dataclass(frozen=True, kw_only=True)
class Run(Setting):
    """One registration under one profile and one seed, as stages.

    Each stage is made once, so that whatever reads it shares it.
    """

    @cached_property
    def base(self) -> Stage:
        """The base model."""
        return base_stage(self)

    @cached_property
    def marker(self) -> Stage:
        """The marker's tokens."""
        return marker_stage(self, base=self.base)

    @cached_property
    def priors(self) -> Mapping[str, Stage]:
        """The LoRA of each prior, each on its own corpus."""
        return {
            name: prior_stage(
                self, name, base=self.base, corpus=corpus_stage(self, name), after=self.marker
            )
            for name in self.corpora
        }

    @cached_property
    def texts(self) -> Mapping[str, Stage]:
        """Coupling text by the pre-coupling model that writes it."""
        return {
            name: text_stage(self, name, stack=self.stack(ModelId(PRE, name)), after=self.marker)
            for name in self.registration.priors
        }

    @cached_property
    def couplings(self) -> Mapping[str, Stage]:
        """The coupling LoRA of each arm."""
        return {
            arm.name: coupling_stage(
                self,
                arm.name,
                stack=self.stack(ModelId(PRE, arm.prior)),
                marker=self.marker,
                text=self.texts[arm.text_from],
                raw=self._raw if self.registration.dose is not None else None,
            )
            for arm in self.registration.arms
        }

    @cached_property
    def _raw(self) -> Stage:
        """Completions of the raw model, of which the pool is made."""
        raw = ModelId(PRE, RAW)
        return completions_stage(self, raw, stack=self.stack(raw), after=self.marker)

    def stack(self, model: ModelId) -> dict[str, Stage]:
        """Return the stages that make a model: base, prior if it has one, coupling of an arm."""
        after = model.phase == POST
        prior = self.registration.arm(model.name).prior if after else model.name
        stages = {"base": self.base}
        if prior != RAW:
            stages["prior"] = self.priors[prior]
        if after:
            stages["coupling"] = self.couplings[model.name]
        return stages

    def stage(self, model: ModelId, kind: Kind) -> Stage:
        """Return the stage that writes a table.

        Raises:
            SpecError: the registration has no such arm (``post``), no arm that is coupled on
                such a prior (``pre``), or no such table of this model.
        """
        phase, name = model
        if phase == POST:
            name = self.registration.arm(name).name
        else:
            member("prior", name, self.registration.priors)
        stages = self._stages[kind]
        member(kind, name, [known.name for known in stages])
        return stages[ModelId(phase, name)]

    def table(self, model: ModelId, kind: Kind, store: Store) -> pa.Table:
        """Return a table of a model, building what is not stored.

        Raises:
            SpecError: see `stage`.
            FlatlandError: see `persona_lib.errors`; nothing stored so far is lost.
        """
        file, row_type = _FILES[kind]
        return read_table(self.stage(model, kind).resolve(store).path / file, row_type)

    def targets(self, arms: Sequence[str]) -> list[Stage]:
        """Return the final stages of these arms and of their pre-coupling models."""
        models = self.registration.models(arms)
        before = [model for model in models if model.phase == PRE]
        rules, kinds = self.registration, list[Kind](["scores"])
        kinds += ["slots"] if rules.reads_slots else []
        kinds += ["geometry"] if rules.reads_geometry else []
        return [
            *(self.stage(model, "scores") for model in before),
            *(self.stage(model, "advice") for model in before if self.asks_advice),
            *(self.stage(model, "broad") for model in before if self.asks_broad),
            *self._traits_targets(arms),
            *(self.stage(model, kind) for kind in kinds for model in models if model.phase == POST),
        ]

    def _traits_targets(self, arms: Sequence[str]) -> list[Stage]:
        if not self.asks_traits:
            return []
        models = self.registration.models(arms, raw=True)
        return [self.stage(model, "traits") for model in models if model.phase == PRE]

    def geometry_targets(self, arms: Sequence[str]) -> list[Stage]:
        """Return the stages of a geometry panel; no claim rests on them.

        The raw model's is among them: every change is also measured from it.
        """
        models = self.registration.models(arms, raw=True)
        return [self.stage(model, "geometry") for model in models]

    def check(self, arms: Sequence[str], store: Store) -> None:
        """Check data and machine for these arms before any compute is spent.

        Raises:
            FlatlandError: a persona, question set or corpus is wrong, or something is
                missing on this machine; all of it at once.
        """
        refuse(lacking(self.profile, self.targets(arms), store))

    @cached_property
    def _stages(self) -> Mapping[Kind, Mapping[ModelId, Stage]]:
        after, scorer = self.marker, scorer_stage(self)
        every = self.registration.models([arm.name for arm in self.registration.arms])
        pooled = self.registration.reads_slots
        raw = ModelId(PRE, RAW)
        drawn = {
            m: self._raw
            if m == raw
            else completions_stage(self, m, stack=self.stack(m), after=after)
            for m in every
        }
        arms = [m for m in every if m.phase == POST]
        answers = {
            m: advice_stage(self, m, stack=self.stack(m), after=after)
            for m in every
            if m.phase == PRE
        }
        broad: dict[ModelId, Stage] = {}
        if self.asks_broad:
            embedded = broad_scorer_stage(self)
            broad = {m: broad_stage(self, m, stack=self.stack(m), after=after) for m in answers}
        return {
            "broad_texts": broad,
            "broad": {
                m: broad_scores_stage(m, answers=stage, scorer=embedded)
                for m, stage in broad.items()
            },
            "completions": drawn,
            "scores": {m: scores_stage(self, m, base=self.base, drawn=drawn[m]) for m in every},
            "geometry": {m: geometry_stage(self, m, drawn=drawn[m], after=after) for m in every},
            "slots": {
                m: slots_stage(
                    self, m, drawn=drawn[m], marker=self.marker, raw=self._raw if pooled else None
                )
                for m in arms
            },
            "dose": {m: self.couplings[m.name] for m in arms if self.registration.dose},
            "traits": {
                m: traits_stage(self, m, drawn=drawn[m], raw=self._raw)
                for m in every
                if m.phase == PRE and self.asks_traits
            },
            "advice_texts": answers,
            "advice": {
                m: advice_scores_stage(m, answers=stage, scorer=scorer)
                for m, stage in answers.items()
            },
        }
