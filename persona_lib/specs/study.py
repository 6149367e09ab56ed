"""The study: all that a run depends on besides its registration, and its digest.

A registration says how data are judged; a study says how they come about: base model,
corpora, recipes, sampling, scale, personas and questions. Speeds and names are no part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from persona_lib.checks import unreadable
from persona_lib.digests import canonical, digest, sha256_of
from persona_lib.specs.profile import Profile
from persona_lib.specs.sources import NEUTRAL, GrammarCorpus, parts_of

_NO_PART = ("name", "summary")
_WORDS = ("legal", "dialogues", "advice")
"""Folders of the built-in words, from which corpora, base models and requests are written; a
study with corpus ``neutral`` has those of that name too."""


def study_of(
    profile: Profile, *, personas: Path, questions: Path, words: Path, broad: bool = False
) -> dict[str, Any]:
    """Return a study as JSON data.

    Args:
        profile: with the corpora and recipes of the experiment's priors.
        personas: file whose SHA-256 is part of it.
        questions: likewise.
        words: the folder of the built-in words.
        broad: questions of daily life are asked, and so are part of it.

    Raises:
        DataError: a file cannot be read.
    """
    body = canonical(profile)
    for name in _NO_PART:
        body.pop(name)
    body["files"] = {"personas": _sha256(personas), "questions": _sha256(questions)}
    parts = (part for corpus in profile.corpora.values() for part in parts_of(corpus))
    written = {part.name for part in parts if isinstance(part, GrammarCorpus)}
    names = [*_WORDS, *[NEUTRAL] * (NEUTRAL in written), *["broad"] * broad]
    body["words"] = {name: _of_folder(words / name) for name in names}
    return dict(body)


def _of_folder(folder: Path) -> str:
    files = sorted(path for path in folder.glob("*") if path.suffix in (".json", ".txt"))
    return digest({path.name: _sha256(path) for path in files})


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise unreadable(path, "a readable file", error) from error
