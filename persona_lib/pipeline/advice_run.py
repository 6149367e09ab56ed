"""Stages of a run that ask pre-coupling models for advice and score their answers.

``advice_scorer`` fits the classifier, which is the same for every profile, seed and
model; ``advice`` draws a model's answers to held-out questions; ``advice_scores``
scores them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from persona_lib.corpora.advice_requests import held_out_rows, question_spec
from persona_lib.corpora.advice_scorer import SCORER
from persona_lib.corpora.load import corpus_key
from persona_lib.digests import canonical
from persona_lib.pipeline.advice import (
    AdviceSpec,
    as_trained,
    make_advice,
    make_advice_scorer,
    make_advice_scores,
)
from persona_lib.progress import Progress
from persona_lib.specs.profile import Profile
from persona_lib.specs.sources import GrammarCorpus
from persona_lib.store.stage import Stage


@dataclass(frozen=True, kw_only=True)
class AdviceStages:
    """The stages by the name of their prior.

    Attributes:
        answers: stages ``advice``.
        scores: stages ``advice_scores``.
    """

    answers: Mapping[str, Stage]
    scores: Mapping[str, Stage]

    @classmethod
    def of(
        cls,
        profile: Profile,
        *,
        stacks: Mapping[str, Mapping[str, Stage]],
        after: tuple[Stage, ...],
        seed: int,
        grammar_folder: Path,
        estimate: float,
        progress: Progress,
        rank: int,
        preflight: Callable[[], None],
    ) -> AdviceStages:
        """Return the advice stages of a run.

        Args:
            profile: scale, sampling, and what questions are held out from.
            stacks: the inputs that make each pre-coupling model.
            after: stages that must have gone well before anything is drawn.
            seed: root seed of the run.
            grammar_folder: the grammar's data files.
            estimate: seconds that one model's answers may take.
            progress: opens progress bars.
            rank: the largest rank of a stack in the run (see `stages.sampling.open_engine`).
            preflight: checks that the engine is there.
        """
        # What the grammar writes depends on its data files and on its own version.
        source = corpus_key(GrammarCorpus(name="bad_legal", rows=1), grammar_folder=grammar_folder)
        scorer = _scorer(source, grammar_folder)
        questions = question_spec(
            profile.scale.advice_questions,
            # The same for every model, whatever it was trained on: their answers to one
            # question are compared.
            held_out_rows(profile.base, (profile.em, profile.benign)),
            folder=grammar_folder,
        )

        def answers(prior: str) -> Stage:
            spec = AdviceSpec(
                model=prior,
                questions=questions,
                sample=as_trained(profile.sample),
                samples=profile.scale.advice_samples,
            )
            return Stage(
                name="advice",
                label=prior,
                version=1,
                spec={"advice": canonical(spec), "source": source},
                inputs=stacks[prior],
                after=after,
                seed=seed,
                work=lambda out, entries: make_advice(
                    out,
                    entries,
                    spec,
                    seed=seed,
                    grammar_folder=grammar_folder,
                    progress=progress,
                    rank=rank,
                ),
                estimate=estimate,
                preflight=preflight,
            )

        drawn = {prior: answers(prior) for prior in stacks}
        scores = {prior: _scores(prior, stage, scorer) for prior, stage in drawn.items()}
        return cls(answers=drawn, scores=scores)


def _scorer(source: Mapping[str, str], grammar_folder: Path) -> Stage:
    """Return the stage that fits the classifier on what the grammar writes."""
    return Stage(
        name="advice_scorer",
        label="bad/sound",
        version=1,
        spec={"scorer": canonical(SCORER), "source": source},
        work=lambda out, _: make_advice_scorer(out, SCORER, grammar_folder=grammar_folder),
        estimate=5.0,
    )


def _scores(prior: str, answers: Stage, scorer: Stage) -> Stage:
    """Return the stage that scores a model's answers."""
    return Stage(
        name="advice_scores",
        label=prior,
        version=1,
        spec={},
        inputs={"advice": answers, "scorer": scorer},
        work=make_advice_scores,
    )
