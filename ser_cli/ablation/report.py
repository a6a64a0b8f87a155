"""What a study came to: each cell's rates, the paper's, and the paired differences to the reference cell."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np

from ser_cli.ablation.grids import GridCell
from ser_cli.ablation.studies import STUDY_LOCK, CellRun, Study
from ser_cli.errors import count_of
from ser_cli.evaluation.breakdown import read_people
from ser_cli.evaluation.comparison import Difference
from ser_cli.evaluation.intervals import FEW_SPEAKERS, LEVEL, RESAMPLES, count_units, percentile_interval, resample
from ser_cli.evaluation.pages import Picture, Report, Section
from ser_cli.evaluation.reports import SELECTION_SENTENCES, write_files
from ser_cli.evaluation.scores import RunScores, evaluate_run, tested_predictions
from ser_cli.evaluation.tables import Column, Table, Value
from ser_cli.metrics import stacked_rates
from ser_cli.runs.directory import Run
from ser_cli.runs.locks import locked_folder

TITLES = {"wa": "WA", "ua": "UA", "macro_f1": "macro F1"}
CHECK = "✓"


@dataclass(frozen=True)
class CellScores:
    """What one cell came to."""

    cell: GridCell
    scores: tuple[tuple[CellRun, RunScores], ...]
    """Of each seed of which at least one fold is done."""
    folds: int
    """That the seeds have together, done or not."""
    differences: dict[str, Difference]
    """To the reference cell, by rate; empty for the reference, and where no fold is done in both."""
    resampled: str
    units: int

    @property
    def values(self) -> list[tuple[int, int, dict[str, float]]]:
        """Seed, fold and rates of each fold that is done."""
        return [
            (run.seed, index, {rate: getattr(found, rate) for rate in TITLES})
            for run, scores in self.scores
            for index, found in scores.folds
        ]

    @property
    def is_finished(self) -> bool:
        """Whether all folds of all seeds are done."""
        return len(self.values) == self.folds

    def mean(self, rate: str) -> float | None:
        """Over folds and seeds; None where no fold is done."""
        return fmean(rates[rate] for _, _, rates in self.values) if self.values else None

    def std(self, rate: str) -> float | None:
        """Sample standard deviation over folds and seeds; None for fewer than two."""
        return stdev(rates[rate] for _, _, rates in self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class StudyScores:
    """What all cells came to."""

    study: Study
    cells: tuple[CellScores, ...]

    @property
    def unfinished(self) -> list[CellScores]:
        """Cells that have folds left."""
        return [found for found in self.cells if not found.is_finished]

    def as_json(self) -> dict[str, Any]:
        """What `ser ablate --json` prints; rates in [0, 1], the paper's figures in per cent as printed."""
        grid, identity = self.study.grid, dict(self.study.identity)
        del identity["cells"]
        return {
            "study": str(self.study.folder),
            **identity,
            "title": grid.title,
            "source": grid.source,
            "reference": grid.reference.name,
            "rates": list(grid.rates),
            "seeds": sorted({run.seed for run in self.study.runs}),
            "cells": [self._cell_json(found) for found in self.cells],
            "bootstrap": {"level": LEVEL, "method": "paired percentile bootstrap", "resamples": RESAMPLES},
            "left_out": list(grid.left_out),
        }

    def _cell_json(self, found: CellScores) -> dict[str, Any]:
        cell, grid = found.cell, self.study.grid
        components = {c.title: cell.setting(c.setting) if c.shown else cell.has(c) for c in grid.components}
        return {
            "number": cell.number,
            "name": cell.name,
            "changes": cell.changes,
            "components": components,
            "runs": [str(run.folder) for run, _ in found.scores],
            "folds_done": len(found.values),
            "folds_in_all": found.folds,
            "folds": [{"seed": seed, "fold": fold, **rates} for seed, fold, rates in found.values],
            "mean": {rate: found.mean(rate) for rate in grid.rates},
            "std": {rate: found.std(rate) for rate in grid.rates},
            "paper_percent": {rate: text for rate, text in cell.paper.items() if text},
            "difference": {
                rate: {
                    "value": d.value,
                    "low": d.interval.low,
                    "high": d.interval.high,
                    "folds_won": dict(zip(("reference", "cell", "tied"), d.folds_won, strict=True)),
                }
                for rate, d in found.differences.items()
            },
            "resampled": found.resampled,
            "units": found.units,
        }


def score_study(study: Study) -> StudyScores:
    """Score what is done of a study, from predictions on disk.

    Raises:
        RunError: a file of a run is damaged.
    """
    scored = {cell.number: _scored(study, cell) for cell in study.grid.cells}
    reference = scored[study.grid.reference.number]
    cells = []
    for cell in study.grid.cells:
        own = scored[cell.number]
        differences, kind, units = ({}, "", 0) if cell is study.grid.reference else paired_differences(
            reference, own, study.grid.rates
        )  # fmt: skip
        folds = len(study.runs_of(cell)) * len(study.plan.folds)
        cells.append(CellScores(cell, tuple(own), folds, differences, kind, units))
    return StudyScores(study, tuple(cells))


def _scored(study: Study, cell: GridCell) -> list[tuple[CellRun, RunScores]]:
    runs = sorted(study.runs_of(cell), key=lambda run: run.seed)
    return [(run, evaluate_run(Run(run.folder))) for run in runs if run.is_this_run and Run(run.folder).done_folds()]


def paired_differences(
    first: Sequence[tuple[CellRun, RunScores]], second: Sequence[tuple[CellRun, RunScores]], rates: Sequence[str]
) -> tuple[dict[str, Difference], str, int]:
    """What a second cell has more than a first, over the folds that are done in both with the same seed.

    The difference is that of the pooled rates, its mean over the seeds. The interval is that of a paired bootstrap
    over whole speakers: all runs of both cells see the same draw, so that a second seed of the same speakers does not
    count as new speakers. With one seed it is that of `comparison.compare_runs`.

    Returns:
        The difference of each rate, what was resampled and how many there are; nothing where no fold is in both.
    """
    by_seed = {run.seed: (run, scores) for run, scores in second}
    pairs = [((run, scores), by_seed[run.seed]) for run, scores in first if run.seed in by_seed]
    shared = [sorted(dict(a[1].folds).keys() & dict(b[1].folds).keys()) for a, b in pairs]
    pairs = [pair for pair, folds in zip(pairs, shared, strict=True) if folds]
    shared = [folds for folds in shared if folds]
    if not pairs:
        return {}, "", 0
    tested = [
        {p.id: p for index in folds for p in tested_predictions(Run(pair[side][0].folder))[index]}
        for side in (0, 1)
        for pair, folds in zip(pairs, shared, strict=True)
    ]
    ids = sorted(set.intersection(*(set(found) for found in tested)))
    people = read_people(Run(pairs[0][0][0].folder).folds_path)
    speakers = {identity: people[identity].speaker for identity in ids if identity in people}
    labels = pairs[0][0][1].identity.labels
    units = count_units([[found[identity] for identity in ids] for found in tested], labels, speakers)
    drawn = stacked_rates(resample(units, 0))
    whole = stacked_rates(np.einsum("u,umtp->mtp", units.multiplicity, units.contributions))
    differences = {}
    for rate in rates:
        seeds = len(pairs)
        interval = percentile_interval(drawn[rate][:, seeds:].mean(axis=1) - drawn[rate][:, :seeds].mean(axis=1))
        assert interval
        value = float(whole[rate][seeds:].mean() - whole[rate][:seeds].mean())
        both = [
            (getattr(dict(a.folds)[index], rate), getattr(dict(b.folds)[index], rate))
            for ((_, a), (_, b)), folds in zip(pairs, shared, strict=True)
            for index in folds
        ]
        won = (sum(a > b for a, b in both), sum(b > a for a, b in both), sum(a == b for a, b in both))
        differences[rate] = Difference(value, interval, won)
    return differences, units.kind, units.total


def rates_table(found: StudyScores) -> Table:
    """Check marks, ours and the paper's, a row per cell."""
    grid = found.study.grid
    columns = [Column("cell", "cell", "text"), Column("name", "name", "text")]
    columns += [
        Column(c.setting if c.value is None else f"{c.setting}={c.value}", c.title, "text") for c in grid.components
    ]
    columns.append(Column("folds", "folds", "text"))
    for rate in grid.rates:
        columns += [
            Column(rate, f"{TITLES[rate]} %"),
            Column(f"{rate}_std", "± std"),
            Column(f"{rate}_paper_percent", f"paper {TITLES[rate]} %", "text"),
        ]
    rows = []
    for entry in found.cells:
        marks: list[Value] = [
            str(entry.cell.setting(c.setting)) if c.shown else (CHECK if entry.cell.has(c) else "")
            for c in grid.components
        ]
        done = f"{len(entry.values)}/{entry.folds}" if entry.values else "not run"
        figures: list[Value] = []
        for rate in grid.rates:
            figures += [entry.mean(rate), entry.std(rate), entry.cell.paper[rate]]
        rows.append((str(entry.cell.number), entry.cell.name, *marks, done, *figures))
    seeds = sorted({run.seed for run in found.study.runs})
    over = f"folds and {count_of(len(seeds), 'seed')}" if len(seeds) > 1 else "folds"
    return Table("ablation", f"Mean and sample standard deviation over {over}", tuple(columns), tuple(rows))


def study_differences(found: StudyScores) -> Table:
    """Each cell against the reference, a row per cell."""
    grid = found.study.grid
    columns = [Column("cell", "cell", "text"), Column("name", "name", "text")]
    for rate in grid.rates:
        columns += [
            Column(f"{rate}_difference", TITLES[rate], "difference"),
            Column(f"{rate}_low", "from", "difference"),
            Column(f"{rate}_high", "to", "difference"),
            Column(f"{rate}_folds_won", "folds won", "text"),
        ]
    rows = []
    for entry in found.cells:
        figures: list[Value] = []
        for rate in grid.rates:
            d = entry.differences.get(rate)
            figures += (
                [d.value, d.interval.low, d.interval.high, f"{d.folds_won[1]} of {sum(d.folds_won)}"]
                if d
                else [None, None, None, "reference" if entry.cell is grid.reference else "no fold in both"]
            )
        rows.append((str(entry.cell.number), entry.cell.name, *figures))
    title = f"Difference to {grid.reference.name} in percentage points, pooled clips, with its 95 % interval"
    return Table("differences", title, tuple(columns), tuple(rows))


def study_sentences(found: StudyScores) -> list[str]:
    """What a reader of the tables has to know."""
    grid, study = found.study.grid, found.study
    kinds = {(entry.resampled, entry.units) for entry in found.cells if entry.units}
    drawn = " and ".join(f"{units:,} {kind}s" for kind, units in sorted(kinds))
    few = any(kind == "speaker" and units < FEW_SPEAKERS for kind, units in kinds)
    sentences = [
        f"Grid {grid.name}: {grid.title}. Recipe {grid.recipe_name}, {study.plan.corpus.name}, protocol"
        f" {study.plan.protocol.name} (hash {study.plan.protocol.hash[:12]}).",
        *([f"The paper's figures: {grid.source}."] if grid.source else []),
        *(
            [f"Intervals: {100 * LEVEL:.0f} % paired percentile bootstrap, {RESAMPLES:,} resamples of {drawn}"
             f"{'; so few speakers make them rough' if few else ''}. One that holds 0 may well be chance."]
            if drawn else []
        ),
        *(f"Not in this grid: {sentence}" for sentence in grid.left_out),
    ]  # fmt: skip
    return sentences


def study_warnings(found: StudyScores) -> list[str]:
    """What would mislead if it were not said."""
    warnings = []
    scored = [scores for entry in found.cells for _, scores in entry.scores]
    if any(scores.selected_by == "test" for scores in scored):
        warnings.append(SELECTION_SENTENCES["test"])
    if found.unfinished:
        told = ", ".join(f"{e.cell.number} ({len(e.values)} of {e.folds} folds)" for e in found.unfinished)
        warnings.append(f"Not done yet: cell {told}; means over other folds cannot be compared.")
    others = [run for run in found.study.runs if (run.folder / "run.json").is_file() and not run.is_this_run]
    warnings += [f"{run.name} is left out: its folder holds another run." for run in others]
    return warnings


def write_study_report(study: Study) -> StudyScores:
    """Score a study and write its tables, its picture and its pages into its folder.

    Raises:
        RunError: a file of a run is damaged, or the folder cannot be written to.
    """
    with locked_folder(study.folder, STUDY_LOCK):  # whoever comes last has seen what all others finished
        found = score_study(study)
        write_files(study.folder, describe_study(found), found.as_json())
    return found


def describe_study(found: StudyScores) -> Report:
    """Everything that is said of a study."""
    study = found.study
    pictures = (_picture(found),) if any(entry.values for entry in found.cells) else ()
    return Report(
        title=f"{study.grid.title} on {study.plan.corpus.name}",
        sentences=tuple(study_sentences(found)),
        warnings=tuple(study_warnings(found)),
        tiles=(),
        sections=(
            Section("Cells", "", pictures, (rates_table(found),)),
            Section("Differences", "", (), (study_differences(found),)),
        ),
        facts=(
            ("grid hash", study.grid.hash),
            ("protocol hash", study.plan.protocol.hash),
            ("folds hash", study.plan.identity.folds_hash),
            ("manifest hash", study.plan.identity.manifest_hash),
        ),
    )


def _picture(found: StudyScores) -> Picture:
    from ser_cli.figures import ablation as drawing
    from ser_cli.figures.style import as_png, as_svg, as_themed_svg

    rate = found.study.grid.rates[-1]
    rows = [
        drawing.Row(
            name=f"{entry.cell.number} {entry.cell.name}",
            values=[rates[rate] for _, _, rates in entry.values],
            mean=entry.mean(rate),
            paper=float(entry.cell.paper[rate]) / 100 if entry.cell.paper[rate] else None,
            difference=(d.value, d.interval.low, d.interval.high) if (d := entry.differences.get(rate)) else None,
        )
        for entry in found.cells
    ]
    figure = drawing.draw_ablation(rows, TITLES[rate], found.study.grid.reference.name)
    caption = (
        f"{TITLES[rate]}: small dots are folds, large ones their mean, diamonds the paper's figure on its own corpus;"
        f" right, the difference to {found.study.grid.reference.name} with its 95 % interval."
    )
    svg = as_svg(figure)
    return Picture("ablation", caption, svg, as_png(figure), as_themed_svg(svg))
