"""`ser train`: cross-validate a recipe on a corpus."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ser_cli.commands import completion, options
from ser_cli.commands.progress import counting_bar
from ser_cli.console import Console
from ser_cli.errors import UsageError, count_of

if TYPE_CHECKING:
    from ser_cli.recipe import Recipe
    from ser_cli.runs.directory import Run
    from ser_cli.training.cross_validation import Plan

EXAMPLES = options.examples(
    "ser train --dataset demo", "ser train --dataset ravdess --folds 6 --encoder conformer --fold 2"
)


def train(
    dataset: options.Dataset = None,
    manifest: options.Manifest = None,
    folds: options.Folds = None,
    fold: options.Fold = None,
    protocol: options.Protocol = None,
    labels: options.Labels = None,
    where: options.Where = None,
    targets: Annotated[
        Literal["hard", "soft"] | None,
        typer.Option(metavar="hard|soft", help="Learn the raters' verdict, or the share of their votes."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="What to train (default: demo, conformer or mll, by corpus and encoder).",
            autocompletion=completion.complete_recipe,
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR|HUB-ID",
            help="`conformer`, `vggish`, or a speech encoder of transformers.",
            autocompletion=completion.complete_encoder,
        ),
    ] = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    normalize: Annotated[
        Literal["clip", "speaker"] | None,
        typer.Option(
            metavar="clip|speaker",
            help="Hear each clip on its own, or against all unlabelled clips of its speaker (said in every report).",
        ),
    ] = None,
    select: Annotated[
        Literal["validation", "last", "test"] | None,
        typer.Option(
            metavar="validation|last|test",
            help="Which epoch is tested: best on held-out speakers, the last, or best on test (said loudly).",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Of everything random.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change one setting of the recipe; may be given several times."
        ),
    ] = None,
    device: options.Device = "auto",
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Run folder (default: runs/, named by what decides the result)."),
    ] = None,
    check_text: Annotated[
        bool, typer.Option("--check-text", help="Warn of texts that are said on both sides of a fold.")
    ] = False,
    embeddings: Annotated[
        bool,
        typer.Option("--embeddings", help="Store embeddings and frame attention too, for the pictures of `evaluate`."),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in the output folder, as the plain command does too; starts one if none is there.",
        ),
    ] = False,
    resume_anyway: options.ResumeAnyway = False,
    checkpoint_every: options.CheckpointEvery = "auto",
    force: Annotated[bool, typer.Option("--force", help="Delete another run that lies in the output folder.")] = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train and test one model per fold; no speaker is ever on both sides.

    Prints the run folder. The same command again goes on where the last one was stopped, and ends with the same
    result; folds may be trained by several processes at once with --fold. SIGTERM, SIGUSR1, SIGHUP and Ctrl-C
    write a checkpoint first.
    """
    from ser_cli.recipe import default_recipe, load_recipe
    from ser_cli.training.checkpoint_times import parse_interval

    # Of several processes that torchrun or accelerate start, the first alone tells what happens.
    is_first = os.environ.get("RANK", "0") == "0"
    console = Console(quiet or not is_first, verbose and is_first)
    interval = parse_interval(checkpoint_every)
    if force and (resume or resume_anyway):
        raise UsageError("--force deletes the run that --resume would go on with; give one of them")
    name = recipe or default_recipe(dataset or "", encoder)
    asked = options.settings_asked(
        {
            "encoder.name": encoder,
            "training.epochs": epochs,
            "training.batch_size": batch_size,
            "training.targets": targets,
            "normalization.by": normalize,
            "selection.by": select,
            "seed": seed,
        },
        set_ or (),
    )
    resolved = load_recipe(name, set_ or (), asked)
    source = f"recipe {name}{'' if recipe else ', the default for this corpus and encoder'}"
    _say_settings(console, source, resolved, asked, set_ or ())

    from ser_cli.dependencies import require_working_torch

    require_working_torch()
    from ser_cli.commands.interruption import StopSignals
    from ser_cli.commands.training_view import TrainingView
    from ser_cli.processes import leave_others
    from ser_cli.training.cross_validation import cross_validate, plan_cross_validation, require_startable

    with counting_bar(console, "preparing", "clip") as progress:
        corpus = options.open_chosen(
            dataset,
            manifest,
            labels,
            where,
            progress,
            soft=resolved.training.targets == "soft",
            may_prepare=not dry_run,
        )
    plan = plan_cross_validation(corpus, resolved, Path(name).stem, folds=folds, protocol=protocol, wanted=fold or ())
    folder = output or plan.default_folder
    for caution in plan.cautions:
        console.warn(caution)
    if check_text:
        _warn_of_repeated_texts(console, plan)
    if dry_run:
        require_startable(plan, folder, device, force=force, changed_anyway=resume_anyway)
        _describe(console, plan, folder, json=json)
        return
    if is_first:
        _say_plan(console, plan, folder, was_default=output is None)
    if resume and not (folder / "run.json").is_file():
        console.say(f"--resume: {folder} holds no run yet; it starts now")
    try:
        with StopSignals() as signals:
            view = TrainingView(console, plan, signals)
            run = cross_validate(
                plan,
                folder,
                device,
                view,
                interval=interval,
                changed_anyway=resume_anyway,
                force=force,
                embeddings=embeddings,
            )
    finally:
        leave_others()
    if not is_first:
        return
    _say_scores(console, run)
    if json:
        from ser_cli.evaluation.scores import evaluate_run

        scores = evaluate_run(run).as_json() if run.done_folds() else {"folds": []}
        console.result_json({"run": str(run.folder), **scores})
    else:
        console.result(str(run.folder))


def _say_settings(
    console: Console, source: str, recipe: "Recipe", asked: Mapping[str, object], changes: Sequence[str]
) -> None:
    """Where the settings are from, and which of those asked for change nothing."""
    from ser_cli.idle_settings import idle_settings

    console.detail(f"settings: {source}")
    for key, value in asked.items():
        console.detail(f"  {key} = {value}, from its option")
    for change in changes:
        console.detail(f"  {change}, from --set")
    for sentence in idle_settings([recipe], changes):
        console.warn(sentence)


def _say_plan(console: Console, plan: "Plan", folder: Path, *, was_default: bool) -> None:
    from ser_cli.evaluation.normalization import Normalization

    corpus, recipe = plan.corpus, plan.recipe
    speakers = len({utterance.speaker for utterance in corpus.utterances})
    console.say(
        f"{corpus.name}: {count_of(len(corpus.utterances), 'clip')}, {count_of(speakers, 'speaker')}, "
        f"{count_of(len(corpus.labels), 'emotion')}; protocol {plan.protocol.name}"
    )
    chosen = corpus.preparation.label_set
    filtered = f", only {' and '.join(corpus.where)}" if corpus.where else ""
    learnt = ", learnt from the raters' votes" if corpus.soft_labels is not None else ""
    console.say(f"labels {chosen}: {', '.join(corpus.labels)}{filtered}{learnt}")
    console.say(f"recipe {plan.recipe_name}, encoder {recipe.encoder.name}, run folder {folder}")
    console.detail(f"run folder {'named by what decides the result' if was_default else 'from --output'}")
    for sentence in Normalization(recipe.normalization.by).sentences():
        console.say(sentence)
    for caveat in plan.caveats:
        console.warn(caveat)
    console.detail(f"folds: {plan.protocol.source}")
    console.detail(f"folds: {plan.protocol.rule}")
    if recipe.selection.by == "test":
        console.insist(
            "each fold's epoch will be chosen on its test side (--select test); "
            "the figures will be too high, and every report will say so"
        )


def _describe(console: Console, plan: "Plan", folder: Path, *, json: bool) -> None:
    """The resolved recipe and the folds, on stdout."""
    if json:
        console.result_json(_as_json(plan, folder))
        return
    console.result(f"# run folder: {folder}")
    console.result(f"# protocol: {plan.protocol.name} {plan.protocol.hash[:12]}: {plan.protocol.rule}")
    console.result(f"# labels: {plan.corpus.preparation.label_set}: {', '.join(plan.corpus.labels)}")
    for condition in plan.corpus.where:
        console.result(f"# where: {condition}")
    for fold in plan.folds:
        told = [f"{side} {' '.join(_speakers(plan, ids))}" for side, ids in fold.sides if ids]
        console.result(f"# fold {fold.index}: {'; '.join(told)}")
    console.result(plan.recipe.as_toml().rstrip())


def _as_json(plan: "Plan", folder: Path) -> dict[str, object]:
    """The same for a program."""
    return {
        "run": str(folder),
        "dataset": plan.corpus.name,
        "protocol": plan.protocol.name,
        "protocol_hash": plan.protocol.hash,
        "rule": plan.protocol.rule,
        "caveats": plan.caveats,
        "label_set": plan.corpus.preparation.label_set,
        "labels": list(plan.corpus.labels),
        "where": list(plan.corpus.where),
        "folds": [
            {
                "fold": fold.index,
                "wanted": fold.index in plan.wanted,
                **{side: {"speakers": _speakers(plan, ids), "clips": len(ids)} for side, ids in fold.sides},
            }
            for fold in plan.folds
        ],
        "recipe_name": plan.recipe_name,
        "recipe": plan.recipe.model_dump(mode="json"),
    }


def _speakers(plan: "Plan", ids: Sequence[str]) -> list[str]:
    """Who is heard in some clips."""
    return sorted({plan.corpus.by_id[identity].speaker for identity in ids})


def _warn_of_repeated_texts(console: Console, plan: "Plan") -> None:
    from ser_cli.data.folds import repeated_texts

    repeated = repeated_texts(plan.folds, plan.corpus)
    if not repeated:
        known = sum(bool(utterance.text) for utterance in plan.corpus.utterances)
        console.say(f"texts: none is said on both sides of a fold ({known:,} clips have a text)")
    for found in repeated:
        console.warn(
            f"fold {found.fold}: {found.clips:,} of {found.tested:,} tested clips say what training clips say,"
            f" such as {found.example!r}; a model may learn the words in the place of the emotion"
        )


def _say_scores(console: Console, run: "Run") -> None:
    from ser_cli.evaluation.normalization import CAPTION
    from ser_cli.evaluation.scores import evaluate_run

    if not run.done_folds():
        return
    scores = evaluate_run(run)
    if scores.missing_folds:
        waiting = ", ".join(map(str, scores.missing_folds))
        console.say(f"not done yet: fold {waiting}; the same run folder takes them from any process")
        return
    mean, std = scores.mean, scores.std
    spread = {rate: f" ± {100 * value:.1f}" for rate, value in (std or {}).items()}
    normalized = f", {CAPTION}" if scores.normalization.by_speaker else ""
    console.say(
        f"mean over {count_of(len(scores.folds), 'fold')}{normalized}: "
        + ", ".join(
            f"{title} {100 * mean[rate]:.1f}{spread.get(rate, '')} %"
            for rate, title in (("wa", "WA"), ("ua", "UA"), ("macro_f1", "macro F1"))
        )
    )
    if scores.normalization.lone_speakers:
        console.warn(scores.normalization.lone_sentence)
