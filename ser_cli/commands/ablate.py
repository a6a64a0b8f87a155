"""`ser ablate`: train every cell of a grid on the same folds and hold them against each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ser_cli.commands import completion, options
from ser_cli.commands.progress import counting_bar
from ser_cli.console import Console
from ser_cli.errors import RunError, count_of

if TYPE_CHECKING:
    from ser_cli.ablation.cells import Outcome
    from ser_cli.ablation.grids import GridCell
    from ser_cli.ablation.studies import Study
    from ser_cli.evaluation.tables import Table

EXAMPLES = options.examples(
    "ser ablate --dataset ravdess --grid mixing --recipe conformer --jobs 2 --output study",
    "ser ablate --dataset iemocap --grid paper-a --cells 3 --output study",
)


def ablate(
    grid: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="Cells to train: a recipe plus named changes.",
            autocompletion=completion.complete_grid,
        ),
    ],
    dataset: options.Dataset = None,
    manifest: options.Manifest = None,
    cells: Annotated[
        str | None,
        typer.Option(metavar="3,7", help="Train only these cells, by number or name (default: all)."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="STUDY", help="Study folder (default: studies/, named by what decides the result)."),
    ] = None,
    folds: options.Folds = None,
    fold: options.Fold = None,
    protocol: options.Protocol = None,
    labels: options.Labels = None,
    where: options.Where = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="What the grid changes (default: its own).",
            autocompletion=completion.complete_recipe,
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR|HUB-ID",
            help="`conformer`, `vggish`, or a speech encoder of transformers; a cell that names one keeps its own.",
            autocompletion=completion.complete_encoder,
        ),
    ] = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of all cells; may be given several times."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Seed of these runs, with --seeds the lowest; a study may hold several."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Train each cell with so many seeds.")] = 1,
    jobs: Annotated[
        int, typer.Option(min=1, max=1024, metavar="N", help="Cells at once on this machine, each its own process.")
    ] = 1,
    device: options.Device = "auto",
    resume_anyway: Annotated[
        bool,
        typer.Option("--resume-anyway", help="Go on with folds although versions have changed since; reports say so."),
    ] = False,
    checkpoint_every: options.CheckpointEvery = "auto",
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Delete another study that lies in the output folder, or damaged runs of this one."
        ),
    ] = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train each cell of a grid by cross-validation on the same folds; compare all with one of them.

    Prints the study folder. Each cell is a run in it that `ser evaluate` reads. What is done is never trained again,
    and the same command goes on where the last one was stopped. The report has check marks, WA and UA, the paper's
    figures, and paired differences with 95 % intervals; cells that are not done are shown as such.

    On a cluster, submit a job per cell, seed or fold into one study on a shared disk: the same command with --cells N,
    --seed N or --fold I, in any order and at any time. With --jobs, processes share the cores; with OMP_NUM_THREADS=1
    each takes one, and the figures are those of one cell after another.
    """
    from ser_cli.ablation.grids import load_grid, overridden
    from ser_cli.idle_settings import idle_cells, idle_settings
    from ser_cli.recipe import parse_overrides
    from ser_cli.training.checkpoint_times import parse_interval

    console = Console(quiet, verbose)
    interval = parse_interval(checkpoint_every)
    asked = options.settings_asked(
        {"encoder.name": encoder, "training.epochs": epochs, "training.batch_size": batch_size, "seed": seed},
        set_ or (),
    )
    resolved = load_grid(grid, recipe, set_ or (), asked)
    chosen = resolved.choose(cells)
    for key, keeping in overridden(resolved, [*parse_overrides(set_ or ()), *asked], chosen).items():
        console.warn(f"{key}: cell {', '.join(str(cell.number) for cell in keeping)} sets its own and keeps it")
    for change in set_ or ():
        console.detail(f"{change}, from --set")
    for sentence in idle_settings([cell.recipe for cell in chosen], set_ or ()):
        console.warn(sentence)
    changes, recipes = {c.name: c.changes for c in chosen}, {c.name: c.recipe for c in chosen}
    for sentence in idle_cells(changes, recipes, resolved.reference.recipe):
        console.warn(sentence)

    from ser_cli.dependencies import require_working_torch

    require_working_torch()
    from ser_cli.ablation.cells import Training, run_study
    from ser_cli.ablation.studies import is_there, open_study, plan_study
    from ser_cli.commands.cell_view import CellWatch
    from ser_cli.commands.interruption import StopSignals
    from ser_cli.training.cross_validation import require_startable

    with counting_bar(console, "preparing", "clip") as progress:
        soft = resolved.reference.recipe.training.targets == "soft"
        corpus = options.open_chosen(dataset, manifest, labels, where, progress, soft=soft, may_prepare=not dry_run)
    study = plan_study(corpus, resolved, output, seeds=seeds, folds=folds, protocol=protocol, wanted=fold or ())
    for caution in dict.fromkeys(caution for run in study.wanted(chosen) for caution in run.plan.cautions):
        console.warn(caution)
    if dry_run:
        is_there(study, force=force)
        for run in study.wanted(chosen):
            require_startable(run.plan, run.folder, device, force=force, changed_anyway=resume_anyway)
        _describe(console, study, chosen, json=json)
        return
    open_study(study, force=force)
    _say_study(console, study, chosen)
    with StopSignals() as signals:
        signals.finishes_steps = True  # of the cells, whose processes a signal is handed on to
        watch = CellWatch(quiet, verbose, several=jobs > 1)
        outcomes = run_study(
            study,
            chosen,
            Training(device, watch, interval, changed_anyway=resume_anyway, force=force),
            jobs=jobs,
            signal_that_came=lambda: signals.came,
        )
    _finish(console, study, outcomes, json=json)


def _say_study(console: Console, study: "Study", cells: "Sequence[GridCell]") -> None:
    plan, grid = study.plan, study.grid
    wanted = study.wanted(cells)
    done = [run for run in wanted if run.is_finished]
    console.say(f"grid {grid.name}: {grid.title}; recipe {grid.recipe_name}, study folder {study.folder}")
    console.say(
        f"{plan.corpus.name}: {count_of(len(plan.corpus.utterances), 'clip')}; protocol {plan.protocol.name};"
        f" {count_of(len(cells), 'cell')} of {len(grid.cells)}, {count_of(len(study.seeds), 'seed')},"
        f" {count_of(len(plan.wanted), 'fold')} each"
    )
    for caveat in plan.caveats:
        console.warn(caveat)
    if any(run.plan.recipe.selection.by == "test" for run in wanted):
        console.insist("epochs are chosen on the test side; the figures will be too high, and the report will say so")
    if done:
        console.say(f"done already: {'; '.join(run.name for run in done)}")


def _describe(console: Console, study: "Study", cells: "Sequence[GridCell]", *, json: bool) -> None:
    """The cells and what they change, on stdout."""
    plan, grid = study.plan, study.grid
    runs = {cell.number: [run for run in study.runs_of(cell) if run.seed in study.seeds] for cell in cells}
    done = {number: sum(run.is_finished for run in of_cell) for number, of_cell in runs.items()}
    if json:
        console.result_json(
            {
                "study": str(study.folder),
                "grid": grid.name,
                "recipe": grid.recipe_name,
                "protocol": plan.protocol.name,
                "protocol_hash": plan.protocol.hash,
                "seeds": list(study.seeds),
                "cells": [
                    {"number": c.number, "name": c.name, "changes": c.changes, "seeds_done": done[c.number]}
                    for c in cells
                ],
                "left_out": list(grid.left_out),
            }
        )
        return
    console.result(f"# study folder: {study.folder}")
    console.result(f"# grid: {grid.name}: {grid.title}; recipe {grid.recipe_name}")
    console.result(f"# protocol: {plan.protocol.name} {plan.protocol.hash[:12]}: {plan.protocol.rule}")
    for sentence in grid.left_out:
        console.result(f"# not in this grid: {sentence}")
    for cell in cells:
        changes = ", ".join(f"{key} = {value}" for key, value in cell.changes.items()) or "no change"
        state = f"{done[cell.number]} of {count_of(len(runs[cell.number]), 'seed')} done"
        console.result(f"{cell.number}\t{cell.name}\t{changes}\t{state}")


def _finish(console: Console, study: "Study", outcomes: "Sequence[Outcome]", *, json: bool) -> None:
    """Write the report, show its tables, and end in an error where a cell could not be trained."""
    from ser_cli.ablation.report import (
        rates_table,
        study_differences,
        study_sentences,
        study_warnings,
        write_study_report,
    )

    found = write_study_report(study)
    for table in (rates_table(found), study_differences(found)):
        _say_table(console, table)
    for sentence in study_sentences(found):
        console.say(sentence)
    for warning in study_warnings(found):
        console.warn(warning)
    console.say(f"report: {study.folder / 'report.html'}")
    if json:
        console.result_json(found.as_json())
    else:
        console.result(str(study.folder))
    for outcome in outcomes:
        if outcome.held:
            console.warn(f"{outcome.name}: left to others; {outcome.held}")
    failed = [outcome for outcome in outcomes if outcome.problem]
    if failed:
        told = [f"{outcome.name}: {line}" for outcome in failed for line in outcome.problem.splitlines()[:1]]
        raise RunError(
            f"{study.folder}: {count_of(len(failed), 'cell')} could not be trained\n  "
            + "\n  ".join(told)
            + "\n  the same command again trains what is not done; --cells N shows all of one cell's message"
            if len(failed) > 1
            else f"{study.folder}: {failed[0].name} could not be trained\n  " + failed[0].problem.replace("\n", "\n  ")
        )


def _say_table(console: Console, table: "Table") -> None:
    rows = [tuple(column.title for column in table.columns), *table.cells()]
    widths = [max(len(row[n]) for row in rows) for n in range(len(table.columns))]
    console.say(table.title)
    for row in rows:
        cells = (
            text.rjust(width) if column.is_number else text.ljust(width)
            for text, width, column in zip(row, widths, table.columns, strict=True)
        )
        console.say(("  " + "  ".join(cells)).rstrip())
