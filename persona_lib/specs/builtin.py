"""The experiments and profiles that come with the library, read from their files."""

from __future__ import annotations

from pathlib import Path

from persona_lib.specs.experiment import FILE, Experiment, load_experiment
from persona_lib.specs.parts import compose
from persona_lib.specs.profile import Profile
from persona_lib.specs.structure import read_toml


def _folder() -> Path:
    """Return the folder of experiments: beside the library in a checkout, inside it in a wheel."""
    library = Path(__file__).resolve().parents[1]
    inside = library / "experiments"
    return inside if inside.is_dir() else library.parent / "experiments"


FOLDER = _folder()
INSTALLED = FOLDER.parent == Path(__file__).resolve().parents[1]
"""Whether they lie inside an installed library, and not in a checkout."""
DATA = FOLDER / "data"
"""Personas, questions, and the words of dialogues, advice and judges."""
SEALS = FOLDER / "seals"
"""Where the built-in registrations are sealed."""
_NAMES = (
    "issue262",
    "issue262_held_out",
    "issue262_both",
    "issue262_gated",
    "issue262_bca",
    "factorial",
    "factorial_em",
)
EXPERIMENTS: dict[str, Experiment] = {
    name: load_experiment(FOLDER / name / FILE, builtin=FOLDER) for name in _NAMES
}
"""The built-in experiments by name."""


def _profile(name: str) -> Profile:
    path = FOLDER / "profiles" / f"{name}.toml"
    return compose(read_toml(path), FOLDER, path.name)


SCALES: dict[str, dict[str, Profile]] = {
    "smollm2": {"reduced": _profile("smollm2"), "full": _profile("smollm2_full")}
}
"""Scales of the profiles that have several, by name, the default first."""
PROFILES: dict[str, Profile] = {
    "tiny": _profile("tiny"),
    "smollm2": SCALES["smollm2"]["reduced"],
    "qwen0.5b": _profile("qwen0.5b"),
    "qwen7b": _profile("qwen7b"),
    "micro": _profile("micro"),
}
"""The built-in profiles by name, each at its default scale."""
