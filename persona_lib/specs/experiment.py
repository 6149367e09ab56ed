"""An experiment as a file: registration, priors, model, personas and questions.

docs/extending.md has every key with its default. A file that derives from another holds
what differs: tables are merged key by key, lists and values replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from persona_lib.checks import unknown
from persona_lib.errors import SpecError
from persona_lib.specs.defaults import with_defaults
from persona_lib.specs.derived_gates import PriorRole, with_derived_gates
from persona_lib.specs.gate_types import (
    BroadHarmGate,
    DomainGate,
    Gate,
    HarmNotRaisedGate,
    HarmRaisedGate,
    RecognisedGate,
)
from persona_lib.specs.parts import over, plain
from persona_lib.specs.profile import Dtype, Profile, TrainSpec
from persona_lib.specs.registration import RAW, Registration
from persona_lib.specs.sources import SYSTEM, Base, Corpus
from persona_lib.specs.structure import Gathered, named, read_toml, structured

FILE, SEALS, TEMPLATE = "experiment.toml", "seals", "template"
_BINDING = ("binding", "warnings")
"""Whether claims need the gates that follow from the arms, or these are only shown."""


@dataclass(frozen=True, kw_only=True)
class Prior(PriorRole):
    """A prior: what it is trained on and how, and what is expected of it.

    Attributes:
        corpus: None leaves it to the profile.
        recipe: fields of `TrainSpec` in place of the profile's.
    """

    corpus: Corpus | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Base model, recipes and sizes: a profile, or any chat model with a recipe and a scale.

    Attributes:
        base: a profile's name, ``hub:ORG/NAME[@REVISION]`` or ``path:FOLDER``.
        scale: of a profile, or a file of experiments/scales; None for the first, or small.
        recipe: for any chat model, a file of experiments/recipes; None for anchored.
        persona: see `ChatFormat`.
        template: see `ChatFormat`.
        dtype: of weights in training and sampling, None for the recipe's.
        prior, coupling, sample, size: fields of `TrainSpec`, `CouplingSpec`, `SampleSpec` and
            `Scale` in place of the recipe's and the scale's.
    """

    base: str = "tiny"
    scale: str | None = None
    recipe: str | None = None
    persona: Literal["system", "user"] = "system"
    template: Mapping[str, Any] = field(default_factory=dict)
    dtype: Dtype | None = None
    prior: Mapping[str, Any] = field(default_factory=dict)
    coupling: Mapping[str, Any] = field(default_factory=dict)
    sample: Mapping[str, Any] = field(default_factory=dict)
    size: Mapping[str, Any] = field(default_factory=dict)

    def tables(self) -> dict[str, Any]:
        """Return what is said beyond base, recipe and scale, as `changed` takes it."""
        dtype = {} if self.dtype is None else {"dtype": self.dtype}
        # Merging rounds a bfloat16 weight; see `SampleSpec`.
        apart = {"merge": False} if self.dtype == "bfloat16" else {}
        chat: dict[str, Any] = {} if self.persona == SYSTEM else {"persona": self.persona}
        chat |= {"template": dict(self.template)} if self.template else {}
        return {
            "prior": {**dtype, **self.prior},
            "coupling": {**dtype, **self.coupling},
            "sample": {**dtype, **apart, **self.sample},
            "size": dict(self.size),
            "chat": chat,
        }


@dataclass(frozen=True, kw_only=True)
class Words:
    """Files of personas, questions and judge's examples, None for the built-in ones."""

    personas: str | None = None
    questions: str | None = None


@dataclass(frozen=True, kw_only=True)
class EvidenceRules:
    """How stored evidence of other software is read; no part of the registration.

    `extra` is what becomes of rows of arms and personas that it does not name. With `only`
    nothing is run: corpora, personas and questions need no files, and no study is sealed.
    """

    extra: Literal["refuse", "ignore"] = "refuse"
    only: bool = False


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What a file says.

    Attributes:
        path: the file.
        registration: what is sealed.
        priors: every prior that an arm or a text needs, without ``raw``.
        seals: folder of its seals: beside the file; of the built-in ones, one for all.
        base: its model's base by commit or by what its files hold, None until they are read.
        stricter: the registration with its derived gates, shown as warnings where the
            file lists gates of its own; None where the derived ones are its own.
    """

    path: Path
    registration: Registration
    priors: Mapping[str, Prior]
    model: ModelChoice
    words: Words
    seals: Path
    stricter: Registration | None
    base: Base | None = None
    evidence: EvidenceRules = EvidenceRules()

    @property
    def name(self) -> str:
        """Its registration's name."""
        return self.registration.name

    @property
    def asks_advice(self) -> bool:
        """Whether a gate, or a warning, reads the harm of pre-coupling models' advice."""
        return self._has(HarmRaisedGate, HarmNotRaisedGate)

    @property
    def asks_broad(self) -> bool:
        """Whether a gate, or a warning, reads pre-coupling models' broad harm."""
        return self._has(BroadHarmGate)

    @property
    def asks_traits(self) -> bool:
        """Whether a gate, or a warning, reads the texts of pre-coupling models."""
        return self._has(RecognisedGate, DomainGate)

    def _has(self, *kinds: type[Gate]) -> bool:
        gates = (self.stricter or self.registration).gates
        return any(isinstance(gate, kinds) for gate in gates)

    @property
    def is_builtin(self) -> bool:
        """Whether it comes with the library: its rules are sealed, for any profile."""
        return self.seals != self.path.resolve().parent / SEALS

    @property
    def personas(self) -> Path | None:
        """The file of its personas, None for the built-in ones."""
        return self._beside(self.words.personas)

    @property
    def questions(self) -> Path | None:
        """The file of its questions, None for the built-in ones."""
        return self._beside(self.words.questions)

    def _beside(self, name: str | None) -> Path | None:
        return None if name is None else self.path.parent / name

    def on(self, profile: Profile) -> Profile:
        """Return a profile with the corpora and recipes of this experiment's priors.

        Raises:
            SpecError: neither the experiment nor the profile has a corpus for a prior, or a
                recipe is wrong.
        """
        corpora, recipes = {}, {}
        for name, prior in self.priors.items():
            corpus = prior.corpus or profile.corpora.get(name)
            if corpus is None:
                raise SpecError(
                    f"{self.path.name}: priors.{name}.corpus", value=None,
                    bound=f"a corpus, as profile {profile.name} has none for {name}",
                    remedy='For example corpus = { type = "jsonl", file = "rows.jsonl" }; a file '
                    "that only judges stored evidence says only = true under [evidence].",
                )  # fmt: skip
            corpora[name] = corpus
            if prior.recipe:
                where = f"{self.path.name}: priors.{name}.recipe"
                given = over(plain(profile.prior), prior.recipe)
                with named(where):
                    recipes[name] = structured(given, TrainSpec, where)
        return replace(profile, corpora=corpora, recipes=recipes)


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """The tables of a file, merged with what it derives from; each is structured by itself."""

    registration: Mapping[str, Any]
    priors: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)


def load_experiment(path: Path, *, builtin: Path) -> Experiment:
    """Read an experiment file.

    Args:
        path: the file.
        builtin: where the built-in experiments lie, which ``derives_from`` names.

    Raises:
        DataError: the file cannot be read, or is no TOML.
        SpecError: it says something wrong; named by file and key.
    """
    own = path.resolve()
    seals = (builtin if builtin.resolve() in own.parents else own.parent) / SEALS
    merged = _merged(path, builtin, ())
    with named(path.name):
        return _experiment(path, seals, merged)


def _merged(path: Path, builtin: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Return the tables of a file over those of the one that it derives from."""
    body = read_toml(path)
    parent = body.pop("derives_from", None)
    if parent is None:
        return body
    known = sorted({one.parent.name for one in builtin.glob(f"*/{FILE}")} - {TEMPLATE})
    if parent not in known:
        raise unknown(f"{path.name}: derives_from", parent, known, "Name a built-in one.")
    above = builtin / parent / FILE
    if above in seen:
        raise SpecError(
            f"{path.name}: derives_from", bound="an experiment that does not derive from this one",
            value=parent, remedy="Name another.",
        )  # fmt: skip
    inherited = _merged(above, builtin, (*seen, path))
    merged = over(inherited, body)
    rules, priors, own = merged.get("registration"), merged.get("priors"), body.get("priors", {})
    used = _named(rules.get("arms")) if isinstance(rules, dict) else None
    if used is not None and isinstance(priors, dict):
        # Without those of arms that this file has replaced.
        kept = {*used, *own} | priors.keys() - inherited["priors"].keys()
        merged["priors"] = {name: prior for name, prior in priors.items() if name in kept}
    return merged


def _experiment(path: Path, seals: Path, body: Mapping[str, Any]) -> Experiment:
    layout = structured(body, _Layout)
    given = dict(layout.registration)
    binding = given.pop("derived_gates", "warnings" if given.get("gates") else "binding")
    found, priors = Gathered(), dict[str, Prior]()
    with found.check():
        _check_binding(binding)
    with found.check():
        listed = structured(with_defaults(given), Registration, "registration")
    for name, prior in layout.priors.items():
        with found.check():
            priors[name] = structured(prior, Prior, f"priors.{name}")
    with found.check():
        model = structured(layout.model, ModelChoice, "model")
    with found.check():
        words = structured(layout.words, Words, "words")
    with found.check():
        evidence = structured(layout.evidence, EvidenceRules, "evidence")
    _check_priors(given.get("arms"), layout.priors, found)
    found.refuse()
    derived = with_derived_gates(listed, priors)
    return Experiment(
        path=path,
        seals=seals,
        registration=derived if binding == "binding" else listed,
        priors={name: priors[name] for name in listed.priors if name != RAW},
        model=model,
        words=words,
        stricter=None if binding == "binding" else derived,
        evidence=evidence,
    )


def _check_binding(binding: Any) -> None:
    if binding not in _BINDING:
        remedy = "binding: claims need them; warnings: they are shown beside the listed gates."
        raise SpecError(
            "registration.derived_gates", bound=f"one of {', '.join(_BINDING)}", value=binding,
            remedy=remedy,
        )  # fmt: skip


def _named(arms: Any) -> dict[str, str] | None:
    """Return the priors that arms name, each with the key that names it first.

    None where these are no arms, which is refused elsewhere.
    """
    if not isinstance(arms, list) or not all(isinstance(arm, Mapping) for arm in arms):
        return None
    used: dict[str, str] = {}
    for number, arm in enumerate(arms):
        for key in ("prior", "text_from"):
            name = arm.get(key)
            if isinstance(name, str) and name != RAW:
                used.setdefault(name, f"registration.arms[{number}].{key}")
    return used


def _check_priors(arms: Any, tables: Mapping[str, Any], found: Gathered) -> None:
    """Find priors that arms name and have no table, and tables that no arm names."""
    used = _named(arms)
    if used is None:
        return
    missing = [name for name in used if name not in tables]
    for name in missing:
        with found.check():
            remedy = f"Correct it, or add [priors.{name}] with its corpus."
            raise unknown(used[name], name, [RAW, *tables], remedy)
    for name in () if missing else tables:
        with found.check():
            if name not in used:
                raise SpecError(
                    f"priors.{name}", bound="a prior that an arm or a text names", value=name,
                    remedy="Leave it out, or name it in an arm; raw is the model without any.",
                )  # fmt: skip
