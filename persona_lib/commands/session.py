"""A session of science tests: registration, profile, seeds, stages and evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.commands import options
from persona_lib.commands.options import DEFAULT_SEEDS, HIDDEN
from persona_lib.commands.profiles import profile_of
from persona_lib.errors import SpecError
from persona_lib.progress import Progress, silent
from persona_lib.specs.builtin import DATA

if TYPE_CHECKING:
    import pyarrow as pa

    from persona_lib.evidence.evidence import Evidence
    from persona_lib.evidence.load import Stored
    from persona_lib.panels.judge.choice import JudgeChoice
    from persona_lib.pipeline.run import Kind, Run
    from persona_lib.pipeline.setting import Folders
    from persona_lib.records import ModelId
    from persona_lib.specs.experiment import Experiment
    from persona_lib.specs.profile import Profile
    from persona_lib.specs.registration import Registration
    from persona_lib.specs.seal import SealState
    from persona_lib.store.stage import Stage
    from persona_lib.store.store import Store
    from persona_lib.verdict.judging import Judging


@dataclass(kw_only=True)
class Session:
    """Everything that a science test asks for, made when it is first asked.

    Attributes:
        experiment: whose registration is judged.
        root: the user's folder: store and reports lie under it.
        scale: name of the profile's scale, None where it has one alone.
        loss, engine: what was asked for in place of the profile's, or None.
        seeds: run seeds; one training of every arm for each.
        store_root: where stages are cached.
        stored: folders or files of stored evidence to judge, as one, instead of running.
        chosen: the registration was named by the user, and not by the stored evidence.
        user_data: folder with the published corpora, or None.
        arms: arms that the session as a whole will ask for, () for all; their machine
            needs are checked before the first stage is built.
        text_judge: the judge behind an API that a report asks; None for the classifier.
        command: id that the workers of one command share; None for one process.
    """

    experiment: Experiment
    profile: Profile
    root: Path = field(default_factory=Path.cwd)
    scale: str | None = None
    loss: str | None = None
    engine: str | None = None
    seeds: tuple[int, ...] = DEFAULT_SEEDS
    store_root: Path = Path(HIDDEN, "store")
    stored: tuple[Path, ...] = ()
    chosen: bool = False
    user_data: Path | None = None
    progress: Progress = silent
    arms: tuple[str, ...] = ()
    text_judge: JudgeChoice | None = None
    command: str | None = None
    _checked: bool = field(default=False, init=False)
    _evidence: dict[tuple[str, ...], Evidence] = field(default_factory=dict, init=False)
    _judgings: dict[tuple[str, ...], Judging] = field(default_factory=dict, init=False)

    @classmethod
    def of(cls, given: Any, root: Path, *, stored: tuple[Path, ...] = (), **more: Any) -> Session:
        """Return the session of parsed options (`options.RUN_OPTIONS`), before any is built.

        Paths that options leave out lie under `root`.

        Raises:
            SpecError, DataError: an option is wrong; see `persona_lib.commands.options`.
        """
        experiment = options.choose_experiment(given.experiment, stored, root=root)
        profile, scale = profile_of(
            experiment, given.profile, given.scale, given.loss, given.engine
        )
        return cls(
            experiment=experiment,
            root=root,
            profile=profile,
            scale=scale,
            loss=given.loss,
            engine=given.engine,
            seeds=options.choose_seeds(given.seeds),
            store_root=options.choose_store(given.store, root),
            user_data=options.choose_data(given.data),
            stored=stored,
            **more,
        )

    @property
    def registration(self) -> Registration:
        """The registration of the experiment."""
        return self.experiment.registration

    @cached_property
    def folders(self) -> Folders:
        """Where the session's data lie."""
        from persona_lib.pipeline.setting import Folders

        own = self.experiment
        return Folders(
            experiment=DATA,
            user=self.user_data,
            own=own.path.parent,
            personas=own.personas,
            questions=own.questions,
        )

    @cached_property
    def store(self) -> Store:
        """The store, which also remembers what failed in this command (`Store.failures`)."""
        from persona_lib.store.store import Store

        return Store(self.store_root, command=self.command)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """One run for each seed."""
        from persona_lib.pipeline.run import Run

        self._check_runs()
        return tuple(
            Run(
                registration=self.registration,
                profile=self.profile,
                run_seed=seed,
                folders=self.folders,
                asks_advice=self.experiment.asks_advice,
                asks_broad=self.experiment.asks_broad,
                asks_traits=self.experiment.asks_traits,
                progress=self.progress,
            )
            for seed in self.seeds
        )

    @cached_property
    def opened(self) -> Stored:
        """The stored evidence."""
        from persona_lib.evidence.load import Stored

        extra = self.experiment.evidence.extra
        return Stored(self.stored, self.registration, chosen=self.chosen, extra=extra)

    @cached_property
    def seal(self) -> SealState:
        """The seal of the registration, read once.

        Raises:
            SealError: it is not sealed as it stands.
        """
        from persona_lib.specs.seal import check_sealed

        named = ""
        if self.stored and self.stored[0].is_dir():
            from persona_lib.evidence.record_sets import head_of, read_manifest

            named = head_of(read_manifest(self.stored[0]), self.registration)
        study = None if self.stored or self.experiment.is_builtin else self.study
        own = self.experiment
        file = "" if own.is_builtin else own.path.name
        return check_sealed(self.registration, own.seals, study=study, named=named, file=file)

    @property
    def study(self) -> dict[str, Any]:
        """What data are made from here, as JSON data."""
        from persona_lib.specs.study import study_of

        own = self.experiment
        return study_of(
            self.profile,
            personas=own.personas or DATA / "personas.json",
            questions=own.questions or DATA / "questions.json",
            words=DATA,
            broad=own.asks_broad,
        )

    def check_seal(self) -> None:
        """Raise SealError where the registration is not sealed, before compute is spent.

        SpecError where evidence has to be stored, and is not.
        """
        self._check_runs()
        _ = self.seal

    def _check_runs(self) -> None:
        if self.experiment.evidence.only and not self.stored:
            raise SpecError(
                "--stored",
                bound="stored evidence, as nothing is run under a file with evidence.only = true",
                value=None,
                remedy="Name evidence, or take evidence.only out and add what a run needs.",
            )

    def check_machine(self) -> None:
        """Raise, once, what `Run.check` raises for the session's arms."""
        if not self._checked:
            for run in self.runs:
                run.check(self.asked_arms, self.store)
            self._checked = True

    def build(self, stages: Sequence[Stage]) -> None:
        """Build stages of the session's runs, and what they need, where it is not stored.

        Rather than wait for a stage that another process builds, whatever the session's
        arms need is built.

        Raises:
            FlatlandError: something is missing on this machine, found before the first
                stage is built; or see `persona_lib.store.stage.build`.
        """
        from persona_lib.store.stage import build

        self.check_machine()
        spare = [stage for run in self.runs for stage in run.targets(self.asked_arms)]
        build(stages, self.store, spare=spare)

    def table(
        self, models: Iterable[ModelId], kind: Kind, *, seeds: Sequence[int] | None = None
    ) -> pa.Table:
        """Return the rows of these models, for every seed or for those named.

        What is not stored is built, of all models before any is read.

        Raises:
            SpecError: the session judges stored evidence; or see `Run.stage`.
            FlatlandError: see `build`.
        """
        import pyarrow as pa

        wanted = [
            (model, run)
            for model in models
            for run in self.runs
            if seeds is None or run.run_seed in seeds
        ]
        if self.stored:
            raise SpecError(
                "--stored",
                bound="a run, to build an arm",
                value=",".join(map(str, self.stored)),
                remedy=f"Leave --stored out to build {kind} of {wanted[0][0].name}.",
            )
        self.build([run.stage(model, kind) for model, run in wanted])
        return pa.concat_tables([run.table(model, kind, self.store) for model, run in wanted])

    def evidence(self, arms: Iterable[str]) -> Evidence:
        """Return the evidence on these arms and their pre-coupling models."""
        from persona_lib.commands.broad import broad_scores
        from persona_lib.evidence.from_records import RecordEvidence
        from persona_lib.records import POST, PRE

        chosen = tuple(arm.name for arm in self.registration.arms if arm.name in set(arms))
        if chosen not in self._evidence:
            if self.stored:
                self._evidence[chosen] = self.opened.evidence(
                    chosen, broad=broad_scores(self, chosen)
                )
            else:
                models = self.registration.models(chosen)
                after = [m for m in models if m.phase == POST]
                rules = self.registration
                self._evidence[chosen] = RecordEvidence(
                    self.registration,
                    self.table(models, "scores"),
                    arms=chosen,
                    origin=f"a live run of profile {self.profile_description}: "
                    f"{self.profile.summary}",
                    advice=self.table([m for m in models if m.phase == PRE], "advice")
                    if self.experiment.asks_advice
                    else None,
                    broad=broad_scores(self, chosen),
                    slots=self.table(after, "slots") if rules.reads_slots else None,
                    dose=self.table(after, "dose") if rules.dose is not None else None,
                    traits=self.traits(chosen),
                    geometry=self.table(after, "geometry") if rules.reads_geometry else None,
                )
        return self._evidence[chosen]

    def traits(self, arms: Iterable[str]) -> pa.Table | None:
        """Return the traits of these arms' pre-coupling models and of the raw model's texts.

        None where no gate reads them.
        """
        from persona_lib.records import PRE

        if not self.experiment.asks_traits:
            return None
        models = self.registration.models(arms, raw=True)
        return self.table([model for model in models if model.phase == PRE], "traits")

    def judging(self, rule: str) -> Judging:
        """Return the judging of a claim or gate, on the arms that the rule needs.

        Rules that need the same arms share it, and with it each gate's reading. Claims over
        runs need all arms anyway: then every rule is judged on what the session asks for.
        """
        from persona_lib.verdict.judging import Judging

        self.check_seal()
        arms = self.registration.arms_of(rule)
        if self.registration.run_claims and set(arms) <= set(self.asked_arms):
            arms = self.asked_arms
        if arms not in self._judgings:
            self._judgings[arms] = Judging(
                self.registration,
                self.evidence(arms),
                stricter=self.experiment.stricter,
                seal=self.seal,
            )
        return self._judgings[arms]

    @property
    def profile_description(self) -> str:
        """The words for what is run: the profile's name, its scale, another loss or engine."""
        words = {"scale": self.scale, "loss": self.loss, "engine": self.engine}
        given = (f"{name} {word}" for name, word in words.items() if word is not None)
        return ", ".join((self.profile.name, *given))

    @property
    def asked_arms(self) -> tuple[str, ...]:
        """The arms that the session as a whole asks for: all, unless `arms` says which."""
        return self.arms or self.all_arms

    @property
    def all_arms(self) -> tuple[str, ...]:
        """Every arm of the registration, in reporting order."""
        return tuple(arm.name for arm in self.registration.arms)
