"""What choosing a cell by validation comes to: each fold has its own choice, and no test score enters it.

The best cell of a study's table was found by its test scores, so its figure is too high for what new speakers would
see. Here the choice lies inside each fold's training side (nested cross-validation: Stone 1974; Cawley and Talbot
2010).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ser_cli.ablation.grids import GridCell
from ser_cli.ablation.scores import CellScores, StudyScores
from ser_cli.ablation.studies import CellRun
from ser_cli.errors import RunError
from ser_cli.evaluation.pages import Section
from ser_cli.evaluation.scores import read_history
from ser_cli.evaluation.sentences import told_of
from ser_cli.evaluation.tables import Column, Table
from ser_cli.runs.directory import Run

VALIDATED = {
    "validation": "speakers whom it does not train on",
    "validation_clips": "clips of speakers who are heard in training too, which flatters those UA",
}
"""By `selected_by`, of runs whose epochs were judged on something held out of the training side: what that was."""

Rates = Mapping[int, float]
"""A rate of each fold, its mean over the seeds."""


@dataclass(frozen=True)
class FoldChoice:
    """The cell that one fold chose."""

    fold: int
    cell: GridCell
    validation_ua: float
    """Of the epochs that were tested, mean over the seeds; in [0, 1]."""
    test_ua: float
    """Of the same models, mean over the seeds; in [0, 1]."""


@dataclass(frozen=True)
class NestedChoice:
    """What the folds of a study chose."""

    folds: tuple[FoldChoice, ...]
    left_out: str = ""
    """Why nothing could be chosen, as a sentence; empty where it could."""

    @property
    def test_ua(self) -> float:
        """Mean over the folds of what each fold's choice came to on its test side."""
        return fmean(choice.test_ua for choice in self.folds)


def choose_nested(found: StudyScores) -> NestedChoice:
    """Let each fold choose the cell with the highest UA on its validation side.

    With v_{c,f,s} the validation UA of the epoch that fold f of cell c with seed s was tested at, and t_{c,f,s} its UA
    on the test side, fold f chooses c_f = argmax_c mean_s v_{c,f,s}, of equals the one with the lowest number, and the
    result is mean_f mean_s t_{c_f,f,s}.

    Args:
        found: the scores of a study.
    """
    reason = _why_not(found)
    if reason:
        return NestedChoice((), reason)
    try:
        validated = {entry.cell.number: _mean_over_seeds(_validation_rates(entry)) for entry in found.cells}
    except RunError as error:
        return NestedChoice((), f"{str(error).splitlines()[0]}.")
    tested = {
        entry.cell.number: _mean_over_seeds([(fold, rates["ua"]) for _, fold, rates in entry.values])
        for entry in found.cells
    }
    choices = []
    for fold in sorted({fold for _, fold in found.cells[0].done}):
        cell = max((entry.cell for entry in found.cells), key=lambda c: (validated[c.number][fold], -c.number))
        choices.append(FoldChoice(fold, cell, validated[cell.number][fold], tested[cell.number][fold]))
    return NestedChoice(tuple(choices))


def _why_not(found: StudyScores) -> str:
    """Why the folds of a study cannot choose, as a sentence; empty where they can."""
    everything = {fold for entry in found.cells for fold in entry.done}
    behind = [str(entry.cell.number) for entry in found.cells if set(entry.done) != everything]
    if not everything or behind:
        told = f"cell {', '.join(behind)} lacks folds that others have" if everything else "no fold is done yet"
        return f"No cell is chosen: {told}."
    scored = [(entry.cell, scores) for entry in found.cells for _, scores in entry.scores]
    blind = sorted({cell.number for cell, scores in scored if scores.selected_by not in VALIDATED})
    if blind:
        return (
            f"No cell is chosen: cell {', '.join(map(str, blind))} holds nothing out of its training side"
            f" (selection.by), so only the test side could choose."
        )
    if len({scores.identity.protocol_hash for _, scores in scored}) > 1:
        return (
            "No cell is chosen: each seed deals its own folds, and what one validates on another tests."
            " Train with one seed, or by a protocol that has fixed folds."
        )
    return ""


def _validation_rates(entry: CellScores) -> list[tuple[int, float]]:
    """Fold and validation UA of each model of a cell.

    Raises:
        RunError: a history is missing or damaged.
    """
    return [(index, _validation_ua(run, index)) for run, scores in entry.scores for index, _ in scores.folds]


def _validation_ua(run: CellRun, fold: int) -> float:
    """UA on the validation side of the epoch that was tested.

    Raises:
        RunError: the history does not tell.
    """
    path = Run(run.folder).fold(fold).history_path
    history = read_history(path)
    best, rates = history.get("is_best", []), history.get("selection_ua", [])
    # A row says whether its epoch was the best so far: the last of them was tested.
    chosen = [rate for is_best, rate in zip(best, rates, strict=False) if is_best]
    if not chosen or chosen[-1] is None or not math.isfinite(chosen[-1]):
        raise RunError(f"{path}: tells no validation UA of the epoch that was chosen; train that fold again")
    return chosen[-1]


def _mean_over_seeds(rates: Sequence[tuple[int, float]]) -> Rates:
    return {fold: fmean(rate for its_fold, rate in rates if its_fold == fold) for fold in {fold for fold, _ in rates}}


def _tested(found: StudyScores) -> str:
    """Who is tested: a publisher's parts, or clips of unknown speakers, may have speakers of the training side."""
    plan = found.study.plan
    if "speaker" in plan.protocol.crossing:
        return "other clips of the corpus, whose speakers may be heard in training too, and not on unheard ones"
    return "speakers who cannot be shown to be unheard" if plan.caveats else "unheard speakers"


def nested_section(found: StudyScores) -> Section:
    """What the folds of a study chose, as a part of its report."""
    nested = choose_nested(found)
    title = "A cell chosen by validation"
    if nested.left_out:
        return Section(title, nested.left_out)
    validated = told_of(
        (
            (str(entry.cell.number), f"It holds out {VALIDATED[scores.selected_by]}.")
            for entry in found.cells
            for _, scores in entry.scores
        ),
        "Cell ",
    )
    text = (
        "Each fold takes the cell with the highest UA on what its own training side holds out, mean over the seeds; no"
        f" test score enters. {' '.join(validated)} UA {100 * nested.test_ua:.1f} %, the mean over the folds, is thus"
        f" an honest estimate of what this way of choosing comes to on {_tested(found)}; a row that is picked from the"
        " table above for its test UA is none, and too high on average."
    )
    columns = (
        Column("fold", "fold", "text"),
        Column("cell", "chosen cell", "text"),
        Column("name", "name", "text"),
        Column("validation_ua", "validation UA %"),
        Column("test_ua", "test UA %"),
    )
    rows = [(str(c.fold), str(c.cell.number), c.cell.name, c.validation_ua, c.test_ua) for c in nested.folds]
    rows.append(("mean", "", "", fmean(c.validation_ua for c in nested.folds), nested.test_ua))
    return Section(title, text, (), (Table("nested", "The choice of each fold", columns, tuple(rows)),))
