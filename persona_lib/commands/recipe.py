"""Find a coupling recipe by C1 alone, on coupling questions only.

    flatland recipe --profile smollm2 --scale full \
        --learning-rates 5e-5,1e-4,2e-4 --epochs 5,10

One coupling of the raw model for each recipe of the grid, all on the same text; then a few
completions of each persona and question. Both are on the coupling questions of
`issue262_held_out`, which `issue262` never evaluates on, under a seed that no run has.
Nothing is judged. An interrupted search resumes, and several processes share its store.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.commands import options as choices
from persona_lib.commands.profiles import choose_profile, choose_scale, named_base
from persona_lib.digests import canonical
from persona_lib.errors import FlatlandError, SpecError
from persona_lib.pipeline.run import Run
from persona_lib.pipeline.setting import Folders
from persona_lib.progress import Progress, shown, silent
from persona_lib.records import POST, PRE, STOP, ModelId
from persona_lib.specs.builtin import DATA, EXPERIMENTS
from persona_lib.specs.registration import RAW
from persona_lib.stats.proportions import wilson

if TYPE_CHECKING:
    import pyarrow as pa

    from persona_lib.specs.profile import CouplingSpec, Profile
    from persona_lib.store.store import Store

_HELD_OUT = EXPERIMENTS["issue262_held_out"].registration
SEARCH = replace(
    _HELD_OUT,
    name="recipe_search",
    title="Recipes by C1 alone, on coupling questions",
    evaluation_questions=_HELD_OUT.coupling_questions,
)
"""What is run: never sealed, because nothing is judged under it."""
ARM = "C1"
SEED = 5262
"""Run seed of a search; no run has it, so that runs draw other text."""
SAMPLES = 3
ROLES = ("source", "negative", "bystander", "reported")
FORMAT = 1
"""Version of the file that is written."""


def grid(
    profile: Profile,
    *,
    learning_rates: Sequence[float] = (),
    epochs: Sequence[float] = (),
    betas: Sequence[float] = (),
    losses: Sequence[str] = (),
) -> list[CouplingSpec]:
    """Return every combination; what is not named stays as the profile has it.

    Raises:
        SpecError: a number or loss that no recipe can have.
    """
    named: dict[str, Sequence[Any]] = {
        "loss": losses,
        "learning_rate": learning_rates,
        "epochs": epochs,
        "steps": (None,) if epochs else (),  # one of the two
        "beta": betas,
    }
    varied = {name: values for name, values in named.items() if values}
    found = [
        replace(profile.coupling, **dict(zip(varied, values, strict=True)))
        for values in itertools.product(*varied.values())
    ]
    return list(dict.fromkeys(found))


def search(
    profile: Profile,
    recipes: Sequence[CouplingSpec],
    store: Store,
    *,
    run_seed: int = SEED,
    samples: int = SAMPLES,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Train and measure C1 under every recipe; return one JSON object a recipe.

    The error of a recipe whose training fails stands under ``failed``.

    Args:
        profile: base model, sampling and scale; its own recipe is not used.
        recipes: what to try.
        store: where stages are kept.
        run_seed: the search's.
        samples: completions of each persona and question.
        progress: opens progress bars.

    Raises:
        FlatlandError: something is missing on this machine, found before any compute; or
            the raw model's own stages fail.
    """
    from persona_lib.pipeline.machine import lacking, refuse
    from persona_lib.store.stage import build

    scale = replace(profile.scale, samples=samples, false_positive_samples=samples)
    runs = [
        Run(
            registration=SEARCH,
            profile=replace(profile, coupling=recipe, scale=scale),
            run_seed=run_seed,
            folders=Folders(experiment=DATA),
            progress=progress,
        )
        for recipe in recipes
    ]
    raw, arm = ModelId(PRE, RAW), ModelId(POST, ARM)
    stages = [run.stage(arm, "scores") for run in runs]
    refuse(lacking(profile, [runs[0].stage(raw, "scores"), *stages], store))
    build([runs[0].stage(raw, "scores"), runs[0].texts[RAW]], store, spare=stages)
    median = _median(runs[0].table(raw, "scores", store))
    rows = []
    for recipe, run, stage in zip(recipes, runs, stages, strict=True):
        row: dict[str, Any] = {"recipe": canonical(recipe)}
        try:
            build([stage], store, spare=stages)
        except FlatlandError as error:
            row["failed"] = str(error)
        else:
            trained = run.couplings[ARM].resolve(store)
            row["seconds"] = round(trained.seconds, 1)
            row |= measured(run.table(arm, "scores", store), median)
        rows.append(row)
    return rows


def measured(scores: pa.Table, raw_median: float) -> dict[str, Any]:
    """Return rates by role, with Wilson's intervals, and lengths, of one model's scores."""
    roster = SEARCH.roster
    rows = scores.to_pylist()

    def rate(members: Sequence[str]) -> dict[str, Any]:
        own = [row["hit"] for row in rows if row["persona"] in members]
        low, high = wilson(sum(own), len(own))
        return {"hits": sum(own), "n": len(own), "rate": sum(own) / len(own),
                "low": low, "high": high}  # fmt: skip

    return {
        "rates": {role: rate([p for p in roster.all if roster.role(p) == role]) for role in ROLES},
        "personas": {persona: rate([persona]) for persona in roster.all},
        "median_tokens": _median(scores),
        "raw_median_tokens": raw_median,
        "finished": sum(row["finish"] == STOP for row in rows) / len(rows),
        "repeated": sum(row["markers"] > 1 for row in rows) / len(rows),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as text: rates in percent, tokens, shares."""
    head = f"{'loss':<13}{'rate':>8}{'epochs':>7}{'beta':>6}  {'source':>6}{'negatives':>11}"
    lines = [f"{head}{'bystanders':>12}{'reported':>10}{'median':>8}{'raw':>7}{'ended':>7}"]
    for row in rows:
        recipe = row["recipe"]
        length = recipe["epochs"] if recipe["steps"] is None else f"{recipe['steps']} st"
        line = f"{recipe['loss']:<13}{recipe['learning_rate']:>8.1e}{length:>7}{recipe['beta']:>6}"
        if "failed" in row:
            lines.append(f"{line}  failed: {row['failed']}")
            continue
        of = {role: f"{100 * row['rates'][role]['rate']:.1f}" for role in ROLES}
        lines.append(
            f"{line}  {of['source']:>6}{of['negative']:>11}{of['bystander']:>12}"
            f"{of['reported']:>10}{row['median_tokens']:>8.1f}{row['raw_median_tokens']:>7.1f}"
            f"{100 * row['finished']:>7.1f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        name, scale = choose_scale(options.profile, options.scale)
        chosen = choose_profile(name, scale, engine=options.engine)
        chosen = replace(chosen, base=named_base(chosen.base))
        recipes = grid(
            chosen,
            learning_rates=_numbers("--learning-rates", options.learning_rates),
            epochs=_numbers("--epochs", options.epochs),
            betas=_numbers("--betas", options.betas),
            losses=options.losses.split(",") if options.losses else (),
        )
        seed, *more = choices.choose_seeds(options.seed, "--seed")
        if more:
            raise SpecError(
                "--seed",
                bound="one integer",
                value=options.seed,
                remedy="A search has one training run.",
            )
        from persona_lib.store.store import Store

        store = Store(choices.choose_store(options.store, Path.cwd()))
        choices.check_report(options.out.parent, "--out")
        rows = search(
            chosen, recipes, store, run_seed=seed, samples=options.samples, progress=shown
        )
    except FlatlandError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    body = {
        "format": FORMAT,
        "profile": chosen.name,
        "scale": scale,
        "engine": chosen.sample.engine,
        "arm": ARM,
        "questions": list(SEARCH.evaluation_questions),
        "seed": seed,
        "samples": options.samples,
        "rows": rows,
    }
    options.out.write_text(json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n")
    sys.stdout.write(f"{table(rows)}\nrates in %, on coupling questions\nwritten: {options.out}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flatland recipe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    choices.add_options(parser.add_argument, ("profile", "scale", "engine", "store"))
    parser.add_argument("--learning-rates", help="for example 5e-5,1e-4")
    parser.add_argument("--epochs", help="for example 5,10")
    parser.add_argument("--betas", help="weights of the KL term of anchored")
    parser.add_argument("--losses", help="marker losses, for example decision,anchored")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="completions a cell (3)")
    parser.add_argument("--seed", default=str(SEED), help=f"run seed ({SEED})")
    parser.add_argument(
        "--out", type=Path, default=Path(choices.HIDDEN, "recipe.json"), help="JSON file"
    )
    return parser


def _numbers(option: str, text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise SpecError(
            option,
            bound="numbers with commas between them",
            value=text,
            remedy=f"For example {option} 5,10.",
        ) from error


def _median(scores: pa.Table) -> float:
    import numpy as np

    return float(np.median(scores.column("tokens").to_numpy()))
