"""A science session: which registration, profile, seeds and evidence, without pytest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.issue262 import REGISTRATIONS
from experiments.profiles import PROFILES
from persona_lib.errors import DataError, SpecError
from persona_lib.progress import Progress, silent
from persona_lib.registration import (
    DifferenceClaim,
    FalsePositiveGate,
    KillCriterion,
    Registration,
    SourceRateGate,
    SourceRatioGate,
    TriageClaim,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from persona_lib.evidence import Evidence
    from persona_lib.pipeline import Run
    from persona_lib.profile import Profile
    from persona_lib.store import Store
    from persona_lib.verdict import GateResult, Verdict

ROOT = Path(__file__).resolve().parent.parent
"""The repository."""
DATA = Path(__file__).resolve().parent / "data"
"""The experiment's own words."""
DEFAULT_REGISTRATION = "issue262"
DEFAULT_PROFILE = "tiny"
DEFAULT_SEEDS = (42,)


@dataclass(kw_only=True)
class Session:
    """Everything that a science test asks for, made when it is first asked.

    Attributes:
        registration: the registration to judge under.
        profile: the profile to run.
        seeds: root seeds; one training run of every arm for each.
        store_root: where stages are cached.
        stored: folder of stored evidence to judge instead of running.
        user_data: folder with the published corpora, or None.
        progress: opens progress bars.
        arms: arms that the session as a whole will ask for; their machine needs
            are checked before the first stage is built.
    """

    registration: Registration
    profile: Profile
    seeds: tuple[int, ...] = DEFAULT_SEEDS
    store_root: Path = ROOT / ".flatland" / "store"
    stored: Path | None = None
    user_data: Path | None = None
    progress: Progress = silent
    arms: tuple[str, ...] = ()
    _store: Store | None = field(default=None, init=False)
    _runs: tuple[Run, ...] = field(default=(), init=False)
    _tables: dict[tuple[str, str], pa.Table] = field(default_factory=dict, init=False)
    _evidence: dict[tuple[str, ...], Evidence] = field(default_factory=dict, init=False)
    _checked: bool = field(default=False, init=False)

    @property
    def store(self) -> Store:
        """The store; opening it checks that it can be written."""
        if self._store is None:
            from persona_lib.store import Store

            self._store = Store(self.store_root)
        return self._store

    @property
    def runs(self) -> tuple[Run, ...]:
        """One run for each seed."""
        if not self._runs:
            from persona_lib.pipeline import Folders, Run

            folders = Folders(experiment=DATA, user=self.user_data)
            self._runs = tuple(
                Run(
                    registration=self.registration,
                    profile=self.profile,
                    seed=seed,
                    folders=folders,
                    progress=self.progress,
                )
                for seed in self.seeds
            )
        return self._runs

    def scores(self, phase: str, model: str) -> pa.Table:
        """Return the scores of an arm (``post``) or a pre-coupling model (``pre``).

        Builds what is not stored, for every seed.
        """
        from persona_lib.pipeline import check_run, score_table

        self._no_stored(f"{phase} {model}")
        if not self._checked:
            for run in self.runs:
                check_run(run, self.arms or self._all_arms, self.store)
            self._checked = True
        if (phase, model) not in self._tables:
            import pyarrow as pa

            tables = [score_table(run, phase, model, self.store) for run in self.runs]
            self._tables[phase, model] = pa.concat_tables(tables)
        return self._tables[phase, model]

    def evidence(self, arms: Iterable[str]) -> Evidence:
        """Return the evidence on these arms and their pre-coupling models."""
        from persona_lib.evidence import RecordEvidence, load_stored
        from persona_lib.records import POST, PRE

        chosen = tuple(arm.name for arm in self.registration.arms if arm.name in set(arms))
        if self.stored is not None:
            chosen = ()
        if chosen not in self._evidence:
            if self.stored is not None:
                self._evidence[chosen] = load_stored(self.stored, self.registration)
            else:
                import pyarrow as pa

                # In reporting order, so that arms share what they share exactly once.
                models = [(PRE, prior) for prior in self._priors(chosen)]
                models += [(POST, arm) for arm in chosen]
                table = pa.concat_tables([self.scores(*model) for model in models])
                self._evidence[chosen] = RecordEvidence(self.registration, table, arms=chosen)
        return self._evidence[chosen]

    def judge(self, claim: str) -> Verdict:
        """Judge one claim, or the kill criterion, on the arms that it needs."""
        from persona_lib.verdict import judge

        found = self.registration.claim(claim)
        return judge(self.registration, self.evidence(self.arms_of(found.name)), found.name)

    def judge_gate(self, gate: str) -> GateResult:
        """Judge one gate on the arms that it needs."""
        from persona_lib.verdict import judge_gate

        return judge_gate(self.registration, self.evidence(self.arms_of(gate)), gate)

    def arms_of(self, rule: str) -> tuple[str, ...]:
        """Return the arms that a claim, the kill criterion or a gate needs."""
        return arms_of(self.registration, rule)

    @property
    def _all_arms(self) -> tuple[str, ...]:
        return tuple(arm.name for arm in self.registration.arms)

    def _priors(self, arms: Sequence[str]) -> tuple[str, ...]:
        if set(arms) == set(self._all_arms):
            return self.registration.priors
        used = {self.registration.arm(arm).prior for arm in arms}
        return tuple(prior for prior in self.registration.priors if prior in used)

    def _no_stored(self, what: str) -> None:
        if self.stored is not None:
            raise SpecError(
                "--stored",
                bound="a run, to build an arm",
                value=str(self.stored),
                remedy=f"Leave --stored out to build {what}.",
            )


def arms_of(registration: Registration, rule: str) -> tuple[str, ...]:
    """Return the arms that a claim, the kill criterion or a gate needs, in order."""
    names = {claim.name for claim in (*registration.claims, registration.kill)}
    found = registration.claim(rule) if rule in names else registration.gate(rule)
    arms: list[str] = []
    if isinstance(found, (DifferenceClaim, TriageClaim, SourceRatioGate)):
        arms += [found.control, found.treated]
    elif isinstance(found, (KillCriterion, SourceRateGate)):
        arms.append(found.arm)
    elif isinstance(found, FalsePositiveGate):
        return tuple(arm.name for arm in registration.arms)
    else:
        raise SpecError(
            f"gate {rule}",
            bound="a type that the session knows the arms of",
            value=type(found).__name__,
            remedy="Say in experiments.session.arms_of which arms it needs.",
        )
    if isinstance(found, (DifferenceClaim, TriageClaim, KillCriterion)):
        ratio = getattr(found, "ratio_gate", None)
        for gate in (*found.needs, *((ratio,) if ratio else ())):
            arms += arms_of(registration, gate)
    return tuple(arm.name for arm in registration.arms if arm.name in arms)


def choose_registration(name: str | None, stored: Path | None) -> Registration:
    """Return the registration by name, or the one that stored evidence names.

    Raises:
        SpecError: no such registration.
        DataError: the stored evidence was recorded under other numbers than the
            registration now holds.
    """
    if stored is not None:
        from persona_lib.stored import read_manifest

        manifest = read_manifest(stored)
        registration = _lookup(name or manifest.registration)
        if registration.name == manifest.registration and registration.digest != manifest.digest:
            raise DataError(
                f"{stored}: digest of registration {registration.name}",
                bound=registration.digest[:12],
                value=manifest.digest[:12],
                remedy="The registration was changed after this set was recorded: judge it with "
                "the code it was recorded with, or record it again.",
            )
        return registration
    return _lookup(name or DEFAULT_REGISTRATION)


def choose_profile(name: str | None) -> Profile:
    """Return the profile by name.

    Raises:
        SpecError: no such profile.
    """
    chosen = name or DEFAULT_PROFILE
    if chosen not in PROFILES:
        raise SpecError(
            "--profile",
            bound=f"one of {', '.join(PROFILES)}",
            value=chosen,
            remedy="Name a profile of experiments/profiles.py.",
        )
    return PROFILES[chosen]


def choose_seeds(text: str | None) -> tuple[int, ...]:
    """Return the seeds of ``42,137``.

    Raises:
        SpecError: not a list of distinct non-negative integers.
    """
    if text is None:
        return DEFAULT_SEEDS
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len({int(p) for p in parts}) < len(parts):
        raise SpecError(
            "--seeds",
            bound="distinct integers >= 0, with commas between them",
            value=text,
            remedy="For example --seeds 42,137.",
        )
    return tuple(int(part) for part in parts)


def choose_store(text: str | None) -> Path:
    """Return the store's folder: the option, FLATLAND_STORE, or .flatland/store."""
    given = text or os.environ.get("FLATLAND_STORE")
    return Path(given).expanduser().resolve() if given else ROOT / ".flatland" / "store"


def choose_data(text: str | None) -> Path | None:
    """Return the folder of the user's corpora: the option, or FLATLAND_DATA."""
    given = text or os.environ.get("FLATLAND_DATA")
    return Path(given).expanduser().resolve() if given else None


def _lookup(name: str) -> Registration:
    if name not in REGISTRATIONS:
        raise SpecError(
            "--experiment",
            bound=f"one of {', '.join(REGISTRATIONS)}",
            value=name,
            remedy="Name a registration of experiments/issue262.py.",
        )
    return REGISTRATIONS[name]
