"""What each stage does: reads its inputs' entries, writes its files into a folder.

Keys, order and caching are the pipeline's business; nothing here knows them.
Payload files hold no times and no paths, so that equal outcomes are equal bytes.
"""

from persona_lib.stages.advice import (
    AdviceSpec,
    as_trained,
    make_advice,
    make_advice_scorer,
    make_advice_scores,
)
from persona_lib.stages.base import make_base, make_marker
from persona_lib.stages.geometry import GeometryStageSpec, make_geometry
from persona_lib.stages.sampling import (
    COMPLETIONS,
    SCORES,
    CompletionSpec,
    make_completions,
    make_scores,
)
from persona_lib.stages.text import ROWS, TextSpec, make_text
from persona_lib.stages.training import make_corpus, make_coupling, make_prior

__all__ = [
    "COMPLETIONS",
    "ROWS",
    "SCORES",
    "AdviceSpec",
    "CompletionSpec",
    "GeometryStageSpec",
    "TextSpec",
    "as_trained",
    "make_advice",
    "make_advice_scorer",
    "make_advice_scores",
    "make_base",
    "make_completions",
    "make_corpus",
    "make_coupling",
    "make_geometry",
    "make_marker",
    "make_prior",
    "make_scores",
    "make_text",
]
