"""`ser evaluate`: score runs from their predictions on disk, compare two, or ask a model about another corpus."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ser_cli.commands import completion, options
from ser_cli.commands.progress import counting_bar
from ser_cli.console import Console
from ser_cli.errors import RunError, SerError, UsageError

if TYPE_CHECKING:
    from ser_cli.data.store import PreparedCorpus
    from ser_cli.evaluation.pages import Report
    from ser_cli.evaluation.scores import RunScores
    from ser_cli.runs.directory import Run

RESULTS = {"run.json": "a run", "study.json": "a study", "model.json": "a model", "done.json": "a fold of a run"}
"""By its file: what folders hold that have scores or predictions of their own."""

EXAMPLES = options.examples("ser evaluate runs/demo", "ser evaluate runs/demo --json")


def evaluate(
    run: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="Run folder that `ser train` printed; a second one is compared; with --ensemble several are averaged.",
            autocompletion=completion.complete_run,
        ),
    ],
    ensemble: Annotated[
        bool,
        typer.Option(
            "--ensemble", help="Average the probabilities of two or more runs on the same folds, and score that."
        ),
    ] = False,
    dataset: options.Dataset = None,
    manifest: options.Manifest = None,
    labels: options.Labels = None,
    where: options.Where = None,
    clip: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Draw the frame attention of this clip; may be given several times."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the report goes (default: the run folder; with several runs or --dataset none is written).",
        ),
    ] = None,
    figures: Annotated[
        bool, typer.Option("--figures/--no-figures", help="Draw pictures and write report.html, or tables alone.")
    ] = True,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default="auto", help="With --dataset: auto, cpu, cuda, cuda:1, mps."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", show_default="16", help="With --dataset: clips at a time.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into an output folder that holds files.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Score a run: each fold, mean and standard deviation over folds, and all clips pooled, with 95 % intervals.

    WA is accuracy, UA the mean recall over the declared emotions. Reads predictions only, never a model, and
    writes report.html, figures/, tables/, report.md and scores.json into the run folder when all folds are done.

    Two runs on the same folds are compared; with --ensemble two or more are averaged, such as the same training with
    several seeds. With --dataset or --manifest, the models of a run, or of one fold folder, are asked about that
    corpus; emotions are matched by name.
    """
    console = Console(quiet, verbose)
    elsewhere = dataset is not None or manifest is not None
    _require_enough(run, elsewhere, ensemble=ensemble)
    _require_sensible(run, elsewhere, choice=bool(labels or where), clip=bool(clip), figures=figures)
    if not elsewhere and (device or batch_size):
        raise UsageError(
            "--device and --batch-size are for the models that --dataset or --manifest asks; leave them out"
        )
    if output is None and not figures and (elsewhere or len(run) > 1):
        raise UsageError("--no-figures is of a report, and none is written without --output DIR; leave it out")
    if force and output is None:
        raise UsageError("--force writes into an --output folder that holds files; give --output DIR, or leave it out")
    if output is not None:
        if elsewhere or len(run) > 1 or output.resolve() != run[0].resolve():
            _require_no_results(output)
        _require_free(output, force)
    if elsewhere:
        from ser_cli.evaluation.model_origin import model_folders

        model_folders(run[0])  # fails now, not after a corpus was prepared
        with counting_bar(console, "preparing", "clip") as progress:
            corpus = options.open_chosen(dataset, manifest, labels, where, progress)
        _evaluate_elsewhere(
            console, run[0], corpus, output, device or "auto", batch_size or 16, figures=figures, json=json
        )
    elif ensemble:
        _average(console, run, output, figures=figures, json=json)
    elif len(run) == 2:
        _compare(console, run[0], run[1], output, figures=figures, json=json)
    else:
        _evaluate_run(console, run[0], output, clip or [], figures=figures, json=json)


def _require_enough(run: list[Path], elsewhere: bool, *, ensemble: bool) -> None:
    if ensemble and elsewhere:
        raise UsageError(
            "--ensemble averages what runs said of the clips that they tested, and asks no model about another corpus\n"
            "  leave it out, or --dataset and --manifest"
        )
    if ensemble and len(run) == 1:
        raise UsageError(
            "--ensemble averages runs, and one is given; name another on the same folds, such as one trained with"
            " --seed 1\n  (and, where the seed dealt the folds, with --protocol and their name, as this run calls them)"
            "\n  the folds of one run test different clips, so there is nothing to average"
        )
    if len(run) > (1 if elsewhere else 2) and not ensemble:
        most = "one run or fold folder with --dataset" if elsewhere else "one run, two to compare, or --ensemble"
        raise UsageError(f"{len(run)} folders given; give {most}")


def _require_sensible(run: list[Path], elsewhere: bool, *, choice: bool, clip: bool, figures: bool) -> None:
    if choice and not elsewhere:
        raise UsageError(
            "--labels and --where choose from another corpus; give it with --dataset or --manifest\n"
            "  a run is scored over what it was trained on"
        )
    if clip and (elsewhere or len(run) > 1):
        raise UsageError("--clip draws what one run stored in training; give one run and no corpus")
    if clip and not figures:
        raise UsageError("--clip asks for a picture and --no-figures for none; leave one of them out")


def _require_free(output: Path, force: bool) -> None:
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output}: it is a file; give a folder")
    if not force and output.is_dir() and any(output.iterdir()):
        raise RunError(f"--output {output}: it holds files already\n  choose another folder, or write into it: --force")


def _require_no_results(output: Path) -> None:
    """See that a report does not take the place of another's: `--force` is for reports that were written here.

    Raises:
        RunError: the folder is that of a run, of one of its folds, or of a study.
    """
    for name, what in RESULTS.items():
        if (output / name).exists():
            raise RunError(
                f"--output {output}: it holds {what} ({name}), whose files may not be mixed with another's report\n"
                f"  choose another folder"
            )


def _evaluate_run(
    console: Console, folder: Path, output: Path | None, clips: list[str], *, figures: bool, json: bool
) -> None:
    from ser_cli.evaluation.scores import evaluate_run
    from ser_cli.evaluation.sections import confusion_rows, scores_table
    from ser_cli.evaluation.sentences import SELECTION_SENTENCES, interval_sentence, missing_folds_warning
    from ser_cli.runs.directory import Run

    opened = Run(folder)
    scores = evaluate_run(opened)
    identity = scores.identity
    console.say(f"{identity.dataset}, recipe {identity.recipe}, encoder {identity.encoder}, {identity.protocol}")
    if scores.selected_by == "test":
        console.insist(SELECTION_SENTENCES["test"])
    else:
        console.say(SELECTION_SENTENCES[scores.selected_by])
    for sentence in scores.normalization.sentences():
        console.say(sentence)
    for change in scores.changes:
        console.insist(f"changed while the run went on: {change}")
    for warning in missing_folds_warning(scores.missing_folds):
        console.insist(warning)
    _write_run_report(console, opened, scores, output, clips, figures=figures)
    console.say(f"95 % intervals: {interval_sentence(scores.breakdown)}")
    if scores.tasks is not None:
        console.say(f"tasks beside emotion: {scores.tasks.sentence()}")
        for sentence in scores.tasks.left_out:
            console.say(f"left out: {sentence}")
    if json:
        console.result_json(scores.as_json())
        return
    console.result_table(*scores_table(scores).plain())
    console.detail("confusion, counts over all folds, truth by row:")
    header, rows = confusion_rows(scores)
    for row in (header, *rows):
        console.detail("  " + "  ".join(f"{cell:>10}" for cell in row))


def _write_run_report(
    console: Console, run: "Run", scores: "RunScores", output: Path | None, clips: list[str], *, figures: bool
) -> None:
    """Write the report; the scores are shown all the same where the run folder cannot be written."""
    from ser_cli.evaluation.report_folder import write_files
    from ser_cli.evaluation.run_report import describe_run

    if scores.missing_folds and output is None:
        if clips:
            raise RunError(
                f"{run.folder}: its report is written when all folds are done\n  give another folder: --output DIR"
            )
        return
    report = describe_run(run, scores, pictures=figures, clips=clips)
    try:
        page = write_files(output or run.folder, report, scores.as_json(), pictures=figures)
    except SerError as error:
        if output is not None:
            raise
        console.warn(f"scores.json and report.md are left as they are: {str(error).splitlines()[0]}")
        return
    _say_where(console, page or (output or run.folder) / "report.md")


def _compare(console: Console, first: Path, second: Path, output: Path | None, *, figures: bool, json: bool) -> None:
    from ser_cli.evaluation.comparison import (
        compare_runs,
        comparison_sentences,
        comparison_warnings,
        describe_comparison,
        differences_table,
    )
    from ser_cli.runs.directory import Run

    found = compare_runs(Run(first), Run(second))
    for sentence in comparison_sentences(found):
        console.say(sentence)
    for warning in comparison_warnings(found):
        console.insist(warning)
    describe = functools.partial(describe_comparison, found)
    _write(console, output, describe, found.as_json(), figures=figures)
    if json:
        console.result_json(found.as_json())
    else:
        console.result_table(*differences_table(found).plain())


def _average(console: Console, folders: list[Path], output: Path | None, *, figures: bool, json: bool) -> None:
    from ser_cli.evaluation.ensemble import average_runs, describe_ensemble, ensemble_sentences, ensemble_warnings
    from ser_cli.evaluation.sections import scores_table
    from ser_cli.evaluation.sentences import interval_sentence
    from ser_cli.runs.directory import Run

    found = average_runs([Run(folder) for folder in folders])
    for sentence in ensemble_sentences(found):
        console.say(sentence)
    for warning in ensemble_warnings(found):
        console.insist(warning)
    console.say(f"95 % intervals: {interval_sentence(found.averaged.breakdown)}")
    _write(console, output, functools.partial(describe_ensemble, found), found.as_json(), figures=figures)
    if json:
        console.result_json(found.as_json())
    else:
        console.result_table(*scores_table(found.averaged).plain())


def _evaluate_elsewhere(
    console: Console,
    folder: Path,
    corpus: "PreparedCorpus",
    output: Path | None,
    device: str,
    batch_size: int,
    *,
    figures: bool,
    json: bool,
) -> None:
    from ser_cli.dependencies import require_working_torch

    require_working_torch()
    from ser_cli.evaluation import cross_corpus, cross_report
    from ser_cli.runs.report_files import PREDICTIONS_NAME

    with counting_bar(console, "classifying", "clip") as progress:
        found = cross_corpus.evaluate_on_corpus(
            folder, corpus, device_name=device, batch_size=batch_size, progress=progress
        )
    console.say(f"{folder} on {found.dataset}")
    for sentence in (*found.normalization.sentences(found.dataset), *cross_report.mapping_sentences(found)):
        console.say(sentence)
    for sentence in cross_report.task_sentences(found):
        console.say(sentence)
    for warning in cross_report.cross_warnings(found):
        console.insist(warning)
    describe = functools.partial(cross_report.describe_cross, found)
    beside = {PREDICTIONS_NAME: cross_report.cross_predictions(found)} if output is not None else None
    _write(console, output, describe, found.as_json(), figures=figures, beside=beside)
    if json:
        console.result_json(found.as_json())
    else:
        console.result_table(*cross_report.cross_table(found).plain())


def _write(
    console: Console,
    output: Path | None,
    describe: "Callable[..., Report]",
    scores: dict[str, Any],
    *,
    figures: bool,
    beside: "Mapping[str, bytes] | None" = None,
) -> None:
    from ser_cli.evaluation.report_folder import write_files

    if output is None:
        return
    page = write_files(output, describe(pictures=figures), scores, pictures=figures, beside=beside)
    _say_where(console, page or output / "report.md")


def _say_where(console: Console, page: Path) -> None:
    console.say(f"report: {page}")
