"""`ser evaluate`: score runs from their predictions on disk."""

from pathlib import Path
from typing import Annotated

import typer

from ser_cli.commands import options
from ser_cli.console import Console
from ser_cli.errors import SerError

EXAMPLES = options.examples("ser evaluate runs/demo", "ser evaluate runs/demo --json")


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder that `ser train` printed.")],
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Score a run: each fold, mean and standard deviation over folds, and all clips pooled.

    WA is accuracy, UA the mean recall over the declared emotions. Reads predictions only, never a model, and
    writes scores.json and report.md into the run folder when all folds are done.
    """
    from ser_cli.evaluation import evaluate_run
    from ser_cli.reports import HEADER, SELECTION_SENTENCES, confusion_rows, score_rows, write_report
    from ser_cli.runs import Run

    console = Console(quiet, verbose)
    opened = Run(run)
    scores = evaluate_run(opened)
    identity = scores.identity
    console.say(f"{identity.dataset}, recipe {identity.recipe}, encoder {identity.encoder}, {identity.protocol}")
    if scores.selected_by == "test":
        console.insist(SELECTION_SENTENCES["test"])
    else:
        console.say(SELECTION_SENTENCES[scores.selected_by])
    if scores.missing_folds:
        console.warn(f"not done yet: fold {', '.join(map(str, scores.missing_folds))}; the figures cover the others")
    if not scores.missing_folds:
        try:
            write_report(opened, scores)
        except SerError as error:
            console.warn(f"scores.json and report.md are left as they are: {str(error).splitlines()[0]}")
    if json:
        console.result_json(scores.as_json())
        return
    console.result_table(HEADER, score_rows(scores))
    console.detail("confusion, counts over all folds, truth by row:")
    if verbose:
        header, rows = confusion_rows(scores)
        for row in (header, *rows):
            console.detail("  " + "  ".join(f"{cell:>10}" for cell in row))
