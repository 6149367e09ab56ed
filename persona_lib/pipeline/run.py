"""One run as a graph: the only place where an arm's stages are listed in order.

base -> marker ->                                  (the instrument)
corpus -> prior ->                                 (em and benign only)
coupling text -> coupling -> completions -> scores (each arm)
baseline -> scores                                 (each pre-coupling model)
advice -> advice scores <- advice scorer           (each pre-coupling model)
completions or baseline -> geometry                (each model, only where it is asked for)

Only a coupling reads the marker's tokens. Everything else that is computed with
the base model comes after stage marker, so that a marker which the tokenizer
cannot write stops the run at once, and does not have it in its key: another
marker trains no prior and draws no baseline again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from persona_lib.corpora import grammar
from persona_lib.corpora.load import corpus_key, preflight_corpus
from persona_lib.digests import canonical
from persona_lib.errors import SpecError
from persona_lib.models.hidden_states import GeometrySpec
from persona_lib.pipeline.advice_run import AdviceStages
from persona_lib.pipeline.base_model import make_base, make_marker, preflight_base, tiny_data
from persona_lib.pipeline.completions import (
    CompletionSpec,
    make_completions,
    make_scores,
    preflight_engine,
)
from persona_lib.pipeline.coupling_text import TextSpec, make_text
from persona_lib.pipeline.hidden_states import GeometryStageSpec, make_geometry
from persona_lib.pipeline.training import make_corpus, make_coupling, make_prior
from persona_lib.progress import Progress, silent
from persona_lib.records import POST, PRE
from persona_lib.specs.personas import Persona, Question, load_personas, load_questions, select
from persona_lib.specs.profile import Profile
from persona_lib.specs.registration import RAW, Registration
from persona_lib.specs.sources import Corpus, HubBase, TinyBase
from persona_lib.store.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where data lies; no path enters a key, only digests of what it holds.

    Attributes:
        experiment: personas.json, questions.json, legal/ and dialogues/.
        user: files that the user brings (published corpora), or None.
    """

    experiment: Path
    user: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One registration under one profile and one seed.

    Attributes:
        registration, profile: what is tested, and on what.
        seed: root seed of every draw of the run.
        folders: where data lies.
        progress: opens progress bars.
    """

    registration: Registration
    profile: Profile
    seed: int
    folders: Folders
    progress: Progress = field(default=silent, compare=False)

    @cached_property
    def personas(self) -> tuple[Persona, ...]:
        """The roster's personas: source, negatives, bystanders, reported."""
        known = load_personas(self.folders.experiment / "personas.json")
        return select(known, self.registration.roster.all, field="roster")

    def questions(self, sets: tuple[str, ...]) -> tuple[Question, ...]:
        """Return the first `scale.questions` questions of each set.

        Raises:
            SpecError: no such set, or it holds fewer questions than the scale asks.
        """
        known = load_questions(self.folders.experiment / "questions.json")
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

    # The stages, in order. Each is made once per run, so that the graph shares it.

    @cached_property
    def base(self) -> Stage:
        """The base model, as safetensors with its tokenizer."""
        spec = self.profile.base
        key: object = spec
        data, seed = {}, None
        if isinstance(spec, TinyBase):
            # The tiny model is pre-trained on our own words: their data, and the
            # version of the code that composes them, are part of what it is.
            key = {"base": canonical(spec), "grammar": grammar.VERSION}
            data, seed = tiny_data(self.folders.experiment), spec.seed
        return Stage(
            name="base",
            label=self.profile.name,
            # From version 2 on a reference to the hub lists what the files hold.
            version=2 if isinstance(spec, HubBase) else 1,
            spec=key,
            data=data,
            seed=seed,
            work=lambda out, _: make_base(
                out, spec, folder=self.folders.experiment, progress=self.progress
            ),
            estimate=self.profile.rates.base_seconds,
            preflight=lambda: preflight_base(spec),
            # The hub's own cache holds the weights, and may be emptied.
            reference=isinstance(spec, HubBase),
        )

    @cached_property
    def marker(self) -> Stage:
        """The marker's tokens, after the proof that the tokenizer reproduces it."""
        text = self.registration.marker_prefix + self.registration.marker
        return Stage(
            name="marker",
            label=self.registration.marker,
            version=1,
            spec={"marker": text},
            inputs={"base": self.base},
            work=lambda out, entries: make_marker(out, entries, text=text),
        )

    def corpus(self, prior: str) -> Stage:
        """The rows of a prior's corpus."""
        return self._corpora[prior]

    def prior(self, name: str) -> Stage | None:
        """The LoRA of a prior; None for ``raw``."""
        return None if name == RAW else self._priors[name]

    def coupling_text(self, prior: str) -> Stage:
        """On-policy text of a pre-coupling model, for the trained personas."""
        return self._texts[prior]

    def coupling(self, arm: str) -> Stage:
        """The coupling LoRA of an arm."""
        return self._couplings[arm]

    def completions(self, phase: str, model: str) -> Stage:
        """Evaluation completions of an arm (``post``) or a pre-coupling model (``pre``)."""
        return self._completions[phase, model]

    def scores(self, phase: str, model: str) -> Stage:
        """Marker scores of those completions."""
        return self._scores[phase, model]

    def advice(self, prior: str) -> Stage:
        """A pre-coupling model's answers to held-out requests for advice."""
        return self._advice.answers[prior]

    def advice_scores(self, prior: str) -> Stage:
        """How bad those answers are."""
        return self._advice.scores[prior]

    def geometry(self, phase: str, model: str) -> Stage:
        """Cosines of the hidden states of an arm (``post``) or a pre-coupling model (``pre``)."""
        return self._geometries[phase, model]

    @cached_property
    def _corpora(self) -> dict[str, Stage]:
        specs: dict[str, Corpus] = {"em": self.profile.em, "benign": self.profile.benign}
        return {prior: self._corpus(prior, spec) for prior, spec in specs.items()}

    def _corpus(self, prior: str, spec: Corpus) -> Stage:
        folder = self._legal
        return Stage(
            name="corpus",
            label=prior,
            version=1,
            spec={"corpus": canonical(spec), "source": corpus_key(spec, grammar_folder=folder)},
            work=lambda out, _: make_corpus(
                out, spec, grammar_folder=folder, data_folder=self.folders.user
            ),
            estimate=5.0,
            preflight=lambda: preflight_corpus(spec, data_folder=self.folders.user),
        )

    @cached_property
    def _priors(self) -> dict[str, Stage]:
        return {name: self._prior(name) for name in self._corpora}

    def _prior(self, name: str) -> Stage:
        recipe, rates = self.profile.prior, self.profile.rates
        rows = (self.profile.em if name == "em" else self.profile.benign).rows
        steps = recipe.steps or (recipe.epochs or 0.0) * rows / recipe.batch
        return Stage(
            name="prior",
            label=name,
            version=1,
            spec={"prior": name, "recipe": canonical(recipe)},
            inputs={"base": self.base, "corpus": self._corpora[name]},
            after=(self.marker,),
            seed=self.seed,
            work=lambda out, entries: make_prior(
                out, entries, name=name, recipe=recipe, seed=self.seed, progress=self.progress
            ),
            estimate=steps * recipe.batch * rates.row_tokens / rates.train_tokens,
        )

    @cached_property
    def _texts(self) -> dict[str, Stage]:
        return {prior: self._text(prior) for prior in self.registration.priors}

    def _text(self, prior: str) -> Stage:
        spec = TextSpec(
            prior=prior,
            personas=self._trained,
            questions=self.questions(self.registration.coupling_questions),
            sample=self.profile.sample,
            keep=self.profile.scale.coupling_keep,
            per_round=self.profile.scale.coupling_round,
            ceiling=self.profile.scale.coupling_ceiling,
            max_length=self.profile.coupling.max_length,
            marker=self.registration.marker,
            marker_prefix=self.registration.marker_prefix,
        )
        draws = len(spec.personas) * len(spec.questions) * spec.per_round
        return Stage(
            name="coupling_text",
            label=prior,
            version=1,
            spec=spec,
            inputs=self._stack(prior),
            after=(self.marker,),
            seed=self.seed,
            work=lambda out, entries: make_text(
                out, entries, spec, seed=self.seed, progress=self.progress, rank=self._rank
            ),
            estimate=self._sampling_seconds(draws),
            preflight=self._preflight_engine,
        )

    @cached_property
    def _couplings(self) -> dict[str, Stage]:
        return {arm.name: self._coupling(arm.name) for arm in self.registration.arms}

    def _coupling(self, name: str) -> Stage:
        arm, recipe = self.registration.arm(name), self.profile.coupling
        marker = self.registration.marker_prefix + self.registration.marker
        scale, rates = self.profile.scale, self.profile.rates
        rows = len(self._trained) * scale.questions * scale.coupling_keep
        passes = recipe.epochs or (recipe.steps or 0) * recipe.batch / rows
        tokens = rates.completion_tokens + rates.row_tokens / 2
        return Stage(
            name="coupling",
            label=name,
            version=1,
            spec={"arm": name, "recipe": canonical(recipe), "marker": marker},
            inputs={
                **self._stack(arm.prior),
                "marker": self.marker,
                "text": self._texts[arm.text_from],
            },
            seed=self.seed,
            work=lambda out, entries: make_coupling(
                out, entries, arm=name, recipe=recipe, marker=marker, seed=self.seed,
                progress=self.progress,
            ),
            estimate=rows * passes * tokens / rates.train_tokens,
        )  # fmt: skip

    @cached_property
    def _completions(self) -> dict[tuple[str, str], Stage]:
        made = {(POST, a.name): self._completion(POST, a.name) for a in self.registration.arms}
        made |= {(PRE, p): self._completion(PRE, p) for p in self.registration.priors}
        return made

    def _completion(self, phase: str, model: str) -> Stage:
        scale = self.profile.scale
        after = phase == POST
        spec = CompletionSpec(
            phase=phase,
            model=model,
            personas=self.personas,
            questions=self.questions(self.registration.evaluation_questions),
            sample=self.profile.sample,
            samples=scale.samples if after else scale.false_positive_samples,
        )
        prior = self.registration.arm(model).prior if after else model
        inputs = self._stack(prior)
        if after:
            inputs["coupling"] = self._couplings[model]
        count = len(spec.personas) * len(spec.questions) * spec.samples
        return Stage(
            name="completions" if after else "baseline",
            label=model,
            version=1,
            spec=spec,
            inputs=inputs,
            after=(self.marker,),
            seed=self.seed,
            work=lambda out, entries: make_completions(
                out, entries, spec, seed=self.seed, progress=self.progress, rank=self._rank
            ),
            estimate=self._sampling_seconds(count),
            preflight=self._preflight_engine,
        )

    @cached_property
    def _scores(self) -> dict[tuple[str, str], Stage]:
        return {key: self._score(*key) for key in self._completions}

    def _score(self, phase: str, model: str) -> Stage:
        marker = self.registration.marker
        seen = tuple(q.id for q in self.questions(self.registration.coupling_questions))
        return Stage(
            name="scores",
            label=model,
            version=2,
            spec={"marker": marker, "seen": seen},
            inputs={"base": self.base, "completions": self._completions[phase, model]},
            work=lambda out, entries: make_scores(out, entries, marker=marker, seen=seen),
        )

    @cached_property
    def _geometries(self) -> dict[tuple[str, str], Stage]:
        return {key: self._geometry(*key) for key in self._completions}

    def _geometry(self, phase: str, model: str) -> Stage:
        completions = self._completions[phase, model]
        spec = GeometryStageSpec(
            phase=phase,
            model=model,
            source=self.registration.roster.source,
            personas=self.personas,
            questions=self.questions(self.registration.evaluation_questions),
            sample=self.profile.sample,
            marker=self.registration.marker,
            geometry=GeometrySpec(),
        )
        rates = self.profile.rates
        tokens = len(spec.personas) * len(spec.questions) * rates.row_tokens
        return Stage(
            name="geometry",
            label=model,
            version=1,
            spec=spec,
            # The stack that wrote the completions reads them.
            inputs={**completions.inputs, "completions": completions},
            after=(self.marker,),
            work=lambda out, entries: make_geometry(out, entries, spec, progress=self.progress),
            # Reading forward only is about three times as fast as training.
            estimate=tokens / (3 * rates.train_tokens),
        )

    @cached_property
    def _advice(self) -> AdviceStages:
        count = self.profile.scale.advice_questions * self.profile.scale.advice_samples
        return AdviceStages.of(
            self.profile,
            stacks={prior: self._stack(prior) for prior in self.registration.priors},
            after=(self.marker,),
            seed=self.seed,
            grammar_folder=self._legal,
            estimate=self._sampling_seconds(count),
            progress=self.progress,
            rank=self._rank,
            preflight=self._preflight_engine,
        )

    @property
    def _legal(self) -> Path:
        """The grammar's data files."""
        return self.folders.experiment / "legal"

    @cached_property
    def _trained(self) -> tuple[Persona, ...]:
        return select(self.personas, self.registration.roster.trained, field="roster")

    def _stack(self, prior: str) -> dict[str, Stage]:
        """The inputs that make a pre-coupling model: base, and the prior if there is one."""
        inputs = {"base": self.base}
        if prior != RAW:
            inputs["prior"] = self._priors[prior]
        return inputs

    @property
    def _rank(self) -> int:
        """The largest rank of a stack: that of a coupling on a prior."""
        return self.profile.prior.lora.rank + self.profile.coupling.lora.rank

    def _preflight_engine(self) -> None:
        preflight_engine(self.profile.sample, self._rank)

    def _sampling_seconds(self, completions: int) -> float:
        rates = self.profile.rates
        return completions * rates.completion_tokens / rates.sample_tokens
