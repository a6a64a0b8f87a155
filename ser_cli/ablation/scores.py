"""What the cells of a study came to: rates, and the paired differences to the reference cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from ser_cli.ablation.grids import Component, GridCell
from ser_cli.ablation.studies import CellRun, Study
from ser_cli.errors import RunError
from ser_cli.evaluation.comparison import Difference
from ser_cli.evaluation.intervals import LEVEL, RESAMPLES, Resampled
from ser_cli.evaluation.paired import folds_won, paired_differences
from ser_cli.evaluation.scores import RunScores, evaluate_run, tested_predictions
from ser_cli.runs.directory import Run

TITLES = {"wa": "WA", "ua": "UA", "macro_f1": "macro F1"}


@dataclass(frozen=True)
class CellScores:
    """What one cell came to."""

    cell: GridCell
    scores: tuple[tuple[CellRun, RunScores], ...]
    """Of each seed of which at least one fold is done."""
    folds: int
    """That the seeds have together, done or not."""
    problems: tuple[str, ...]
    """A sentence for each run that is left out, since its files are damaged."""
    differences: dict[str, Difference]
    """To the reference cell, by rate; empty for the reference, and where no fold is done in both."""
    drawn: Resampled | None
    """What the intervals of these rest on; None where there are none."""

    @property
    def values(self) -> list[tuple[int, int, dict[str, float]]]:
        """Seed, fold and rates of each fold that is done."""
        return [
            (run.seed, index, {rate: getattr(found, rate) for rate in TITLES})
            for run, scores in self.scores
            for index, found in scores.folds
        ]

    @property
    def done(self) -> list[tuple[int, int]]:
        """Seed and fold of what is done."""
        return [(seed, fold) for seed, fold, _ in self.values]

    @property
    def tasks_left_out(self) -> list[tuple[int, int, str, str]]:
        """Seed, fold, name and reason of each task that the cell asks for and a fold that is done did not learn."""
        return [
            (run.seed, index, task, reason)
            for run, scores in self.scores
            if scores.tasks is not None
            for index, task, reason in scores.tasks.not_learnt
        ]

    def lacking(self, component: Component) -> int:
        """In how many folds that are done a component was left out: a task, or the fusion where no task was learnt."""
        section, _, name = component.setting.partition(".")
        asked = set(self.cell.recipe.tasks.wanted)
        if section != "tasks" or not asked or not self.cell.has(component):
            return 0
        gone: dict[tuple[int, int], set[str]] = {}
        for seed, fold, task, _ in self.tasks_left_out:
            gone.setdefault((seed, fold), set()).add(task)
        needed = {name} if name in asked else set()
        return sum(tasks >= asked or bool(needed & tasks) for tasks in gone.values())

    def trained(self, component: Component) -> bool:
        """Whether the cell has a component in any fold that is done; before one is, whether its recipe does."""
        return self.cell.has(component) and not 0 < len(self.values) == self.lacking(component)

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

    def as_json(self) -> dict[str, Any]:
        """What `ser ablate --json` prints; rates in [0, 1], the paper's figures in per cent as printed."""
        grid, identity = self.study.grid, self.study.identity(self.study.first_seed)
        del identity["cells"]
        return {
            "study": str(self.study.folder),
            **identity,
            "title": grid.title,
            "source": grid.source,
            "reference": grid.reference.name,
            "rates": list(grid.rates),
            "seeds": sorted({run.seed for run in self.study.runs}),
            "protocols": [
                {"seed": seed, "protocol": protocol.name, "protocol_hash": protocol.hash}
                for seed, protocol in self.study.protocols.items()
            ],
            "cells": [self._cell_json(found) for found in self.cells],
            "bootstrap": {"level": LEVEL, "method": "paired percentile bootstrap", "resamples": RESAMPLES},
            "left_out": list(grid.left_out),
        }

    def _cell_json(self, found: CellScores) -> dict[str, Any]:
        cell, grid = found.cell, self.study.grid
        components = {c.title: cell.setting(c.setting) if c.shown else found.trained(c) for c in grid.components}
        return {
            "number": cell.number,
            "name": cell.name,
            "changes": cell.changes,
            "normalized_by": cell.recipe.normalization.by,
            "components": components,
            "tasks_left_out": [
                {"seed": seed, "fold": fold, "task": task, "reason": reason}
                for seed, fold, task, reason in found.tasks_left_out
            ],
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
            "resampled": found.drawn.kind if found.drawn else "",
            "units": found.drawn.units if found.drawn else 0,
        }


def score_study(study: Study) -> StudyScores:
    """Score what is done of a study, from predictions on disk; damaged runs are left out, and named."""
    scored = {cell.number: _scored(study, cell) for cell in study.grid.cells}
    reference, _ = scored[study.grid.reference.number]
    speakers = {utterance.id: utterance.speaker for utterance in study.plan.corpus.utterances}
    cells = []
    for cell in study.grid.cells:
        own, problems = scored[cell.number]
        differences: dict[str, Difference] = {}
        drawn = None
        if cell is not study.grid.reference:
            differences, drawn = cell_differences(reference, own, study.grid.rates, speakers)
        folds = len(study.runs_of(cell)) * len(study.plan.folds)
        cells.append(CellScores(cell, tuple(own), folds, tuple(problems), differences, drawn))
    return StudyScores(study, tuple(cells))


def _scored(study: Study, cell: GridCell) -> tuple[list[tuple[CellRun, RunScores]], list[str]]:
    """The scores of each seed, and a sentence for each that cannot be read."""
    scored, problems = [], []
    for run in sorted(study.runs_of(cell), key=lambda run: run.seed):
        try:
            if run.is_this_run and Run(run.folder).done_folds():
                scored.append((run, evaluate_run(Run(run.folder))))
        except RunError as error:
            reason = str(error).splitlines()[0]
            problems.append(
                f"{run.name} is left out: {reason}. Delete {run.folder}, and the same command trains it anew."
            )
    return scored, problems


def cell_differences(
    first: Sequence[tuple[CellRun, RunScores]],
    second: Sequence[tuple[CellRun, RunScores]],
    rates: Sequence[str],
    speakers: Mapping[str, str],
) -> tuple[dict[str, Difference], Resampled | None]:
    """What a second cell has more than a first, over the folds that are done in both with the same seed.

    The difference is that of the pooled rates, its mean over the seeds; folds that are dealt by the seed may test
    other clips with each. The interval is that of `evaluation.paired_differences`; with one seed that of
    `comparison.compare_runs`.

    Args:
        first: the scores of each seed of the cell that is held against.
        second: those of the other.
        rates: to compare.
        speakers: speaker by id.

    Returns:
        The difference of each rate and what was resampled; nothing where no fold is in both.
    """
    by_seed = {run.seed: (run, scores) for run, scores in second}
    pairs = []
    for run, scores in first:
        other, its_scores = by_seed.get(run.seed, (None, None))
        if other and its_scores and (folds := sorted(dict(scores.folds).keys() & dict(its_scores.folds).keys())):
            pairs.append(((run, scores), (other, its_scores), folds))
    if not pairs:
        return {}, None
    models = [
        [p for index in folds for p in tested_predictions(Run(pair[side][0].folder))[index]]
        for side in (0, 1)
        for *pair, folds in pairs
    ]
    labels = pairs[0][0][1].identity.labels
    found, units = paired_differences(models[: len(pairs)], models[len(pairs) :], labels, speakers, rates)
    differences = {}
    for rate in rates:
        both = [
            (getattr(dict(a.folds)[index], rate), getattr(dict(b.folds)[index], rate))
            for (_, a), (_, b), folds in pairs
            for index in folds
        ]
        differences[rate] = Difference(found[rate].value, found[rate].interval, folds_won(both))
    return differences, units.resampled
