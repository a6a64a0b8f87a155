"""Each fold of a study chooses its cell on validation speakers, and what is told is what was chosen, never the best."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ser_cli.ablation.nested import choose_nested, nested_section
from ser_cli.ablation.scores import CellScores, StudyScores
from ser_cli.ablation.studies import CellRun
from ser_cli.evaluation.scores import evaluate_run
from ser_cli.evaluation.tables import as_csv, as_markdown
from ser_cli.runs.directory import Run
from tests.conftest import TINY_CELLS
from tests.runs_on_disk import some_rows, write_run

SPEAKERS = (["a", "b"], ["c", "d"])


def write_history(path: Path, rates: Sequence[float]) -> None:
    """A row per epoch; it is the best so far where its UA is above all before it."""
    rows = [f"{n},1.0,{rate},{int(rate > max(rates[: n - 1], default=-1))}" for n, rate in enumerate(rates, start=1)]
    path.write_text("\n".join(["epoch,total,selection_ua,is_best", *rows]) + "\n")


def cell(
    number: int,
    validated: Mapping[int, Sequence[Sequence[float]]],
    wrong: Mapping[int, Sequence[int]],
    folder: Path = Path("study"),
) -> CellScores:
    """A cell on disk.

    Args:
        number: of the cell.
        validated: by seed and fold, the validation UA of each epoch.
        wrong: by seed and fold, how many of the 12 tested clips (3 emotions, 2 speakers, 2 takes) are wrong.
        folder: of the study.
    """
    found = []
    for seed, of_folds in validated.items():
        clips = [some_rows(speakers) for speakers in SPEAKERS]
        mistaken = [[row[0] for row in rows[:count]] for rows, count in zip(clips, wrong[seed], strict=True)]
        rows = [some_rows(speakers, wrong=bad) for speakers, bad in zip(SPEAKERS, mistaken, strict=True)]
        place = write_run(folder / f"cells/{number:02d}/seed-{seed}", rows)
        for fold, rates in enumerate(of_folds, start=1):
            write_history(place / f"fold-{fold}/history.csv", rates)
        made = SimpleNamespace(number=number, name=f"name-{number}")
        found.append((CellRun(made, seed, None, place), evaluate_run(Run(place))))
    return CellScores(made, tuple(found), 2 * len(validated), (), {}, None)


def study(*cells: CellScores, crossing: tuple[str, ...] = (), caveats: tuple[str, ...] = ()) -> StudyScores:
    """A study of which the protocol's crossing and the caveats of its folds are known."""
    plan = SimpleNamespace(protocol=SimpleNamespace(crossing=crossing), caveats=list(caveats))
    return StudyScores(SimpleNamespace(plan=plan), cells)


def ua(wrong: int) -> float:
    """UA where the first clips of the first speaker are wrong: 2 angry, 2 happy, 2 sad of 4 each in the fold."""
    missed = [min(wrong, 2), min(max(wrong - 2, 0), 2), max(wrong - 4, 0)]
    return sum((4 - count) / 4 for count in missed) / 3


def test_each_fold_takes_the_cell_that_is_best_on_its_own_validation_speakers():
    # Cell 2 is by far the best of both test sides; fold 1 cannot know that and takes cell 1.
    first = cell(1, {0: [[0.2, 0.6, 0.5], [0.1, 0.3]]}, {0: [4, 3]})
    second = cell(2, {0: [[0.5, 0.4], [0.2, 0.4]]}, {0: [0, 1]})
    chosen = choose_nested(study(first, second))
    assert [(c.fold, c.cell.number, c.validation_ua) for c in chosen.folds] == [(1, 1, 0.6), (2, 2, 0.4)]
    # 4 wrong in fold 1: recalls 2/4, 2/4, 4/4; 1 wrong in fold 2: 3/4, 1, 1.
    assert [c.test_ua for c in chosen.folds] == [pytest.approx(2 / 3), pytest.approx(11 / 12)]
    assert chosen.test_ua == pytest.approx((2 / 3 + 11 / 12) / 2)


def test_the_epoch_that_was_tested_speaks_and_not_a_later_one_that_is_as_good_or_worse():
    # Of cell 1 the second epoch was tested; its last one has 0.1.
    first = cell(1, {0: [[0.2, 0.6, 0.1], [0.5]]}, {0: [1, 1]})
    second = cell(2, {0: [[0.5], [0.5]]}, {0: [0, 0]})
    chosen = choose_nested(study(first, second))
    assert [(c.cell.number, c.validation_ua) for c in chosen.folds] == [(1, 0.6), (1, 0.5)]


def test_of_several_seeds_the_mean_chooses_and_the_mean_is_told():
    # Fold 1: means 0.5 and 0.55, though cell 1 has the highest single seed. Fold 2: equal means, the lower number.
    first = cell(1, {0: [[0.9], [0.4]], 1: [[0.1], [0.6]]}, {0: [0, 2], 1: [0, 4]})
    second = cell(2, {0: [[0.55], [0.5]], 1: [[0.55], [0.5]]}, {0: [1, 0], 1: [3, 0]})
    chosen = choose_nested(study(first, second))
    assert [(c.fold, c.cell.number) for c in chosen.folds] == [(1, 2), (2, 1)]
    assert [c.validation_ua for c in chosen.folds] == [pytest.approx(0.55), pytest.approx(0.5)]
    assert chosen.folds[0].test_ua == pytest.approx((ua(1) + ua(3)) / 2)
    assert chosen.folds[1].test_ua == pytest.approx((ua(2) + ua(4)) / 2)
    assert chosen.test_ua == pytest.approx((ua(1) + ua(3) + ua(2) + ua(4)) / 4)


def test_no_test_score_changes_the_choice():
    validated = ({0: [[0.3], [0.4]]}, {0: [[0.2], [0.5]]})
    wrongs = ([0, 6], [6, 0]), ([6, 0], [0, 6])
    numbers = []
    for position, wrong in enumerate(wrongs):
        cells = [
            cell(n, v, {0: w}, Path(f"study-{position}")) for n, v, w in zip((1, 2), validated, wrong, strict=True)
        ]
        numbers.append([c.cell.number for c in choose_nested(study(*cells)).folds])
    assert numbers == [[1, 2], [1, 2]]


def test_the_report_has_a_row_for_each_fold_and_says_what_the_figure_means():
    first = cell(1, {0: [[0.6], [0.3]]}, {0: [4, 3]})
    second = cell(2, {0: [[0.5], [0.4]]}, {0: [0, 1]})
    section = nested_section(study(first, second))
    (table,) = section.tables
    assert as_markdown(table).splitlines() == [
        "| fold | chosen cell | name | validation UA % | test UA % |",
        "| --- | --- | --- | ---: | ---: |",
        "| 1 | 1 | name-1 | 60.0 | 66.7 |",
        "| 2 | 2 | name-2 | 40.0 | 91.7 |",
        "| mean |  |  | 50.0 | 79.2 |",
    ]
    assert "no test score enters. " in section.text
    assert " UA 79.2 %, the mean over the folds" in section.text
    assert as_csv(table).splitlines()[0] == "fold,cell,name,validation_ua,test_ua"


def test_who_validated_and_who_is_tested_is_told_as_it_is():
    first = cell(1, {0: [[0.6], [0.3]]}, {0: [4, 3]})
    second = cell(2, {0: [[0.5], [0.4]]}, {0: [0, 1]})
    text = nested_section(study(first, second)).text
    assert " It holds out speakers whom it does not train on. UA 79.2 %" in text
    assert "comes to on unheard speakers; a row that is picked" in text
    clips = [
        replace(c, scores=tuple((run, replace(scores, selected_by="validation_clips")) for run, scores in c.scores))
        for c in (first, second)
    ]
    heard = nested_section(study(*clips))
    assert "speakers" not in heard.title
    assert " It holds out clips of speakers who are heard in training too, which flatters those UA. UA" in heard.text
    assert "speakers whom it does not train on" not in heard.text
    mixed = nested_section(study(first, clips[1])).text
    assert " Cell 1: It holds out speakers whom it does not train on. Cell 2: It holds out clips of speakers" in mixed
    # MELD's publisher lets speakers stand on both sides; another corpus has clips of nobody knows whom.
    meld = nested_section(study(*clips, crossing=("speaker",))).text
    assert "on other clips of the corpus, whose speakers may be heard in training too, and not on unheard ones;" in meld
    unknown = nested_section(study(*clips, caveats=("3 training clips are of unknown speakers",))).text
    assert "comes to on speakers who cannot be shown to be unheard; a row that is picked" in unknown


def test_a_cell_that_lacks_a_fold_leaves_the_choice_out():
    first = cell(1, {0: [[0.6], [0.3]]}, {0: [4, 3]})
    second = cell(2, {0: [[0.5], [0.4]]}, {0: [0, 1]})
    run, _ = second.scores[0]
    (run.folder / "fold-2/done.json").unlink()
    short = replace(second, scores=((run, evaluate_run(Run(run.folder))),))
    told = "No cell is chosen: cell 2 lacks folds that others have."
    assert choose_nested(study(first, short)).left_out == told
    assert (nested_section(study(first, short)).text, nested_section(study(first, short)).tables) == (told, ())
    nothing = CellScores(first.cell, (), 2, (), {}, None)
    assert choose_nested(study(nothing)).left_out == "No cell is chosen: no fold is done yet."


@pytest.mark.parametrize("by", ["last", "test"])
def test_without_a_validation_side_nothing_is_chosen(by):
    first = cell(1, {0: [[0.6], [0.3]]}, {0: [4, 3]})
    second = cell(2, {0: [[0.5], [0.4]]}, {0: [0, 1]})
    run, scores = second.scores[0]
    blind = replace(second, scores=((run, replace(scores, selected_by=by)),))
    assert choose_nested(study(first, blind)).left_out == (
        "No cell is chosen: cell 2 holds nothing out of its training side (selection.by), so only the test side could"
        " choose."
    )


def test_seeds_that_test_other_speakers_in_the_same_fold_choose_nothing():
    # What seed 0 validates on, seed 1 may test: its validation UA must not choose for that.
    both = cell(1, {0: [[0.6], [0.3]], 1: [[0.6], [0.3]]}, {0: [4, 3], 1: [0, 1]})
    run, scores = both.scores[1]
    other = replace(scores, identity=replace(scores.identity, protocol_hash="b" * 64))
    dealt = replace(both, scores=(both.scores[0], (run, other)))
    assert choose_nested(study(dealt)).left_out.startswith("No cell is chosen: each seed deals its own folds")


@pytest.mark.parametrize(
    "text", ["{", "epoch,total,selection_ua,is_best\n1,1.0,,1\n", "epoch,total,selection_ua,is_best\n1,1.0,nan,1\n"]
)
def test_a_history_that_does_not_tell_is_named(text):
    first = cell(1, {0: [[0.6], [0.3]]}, {0: [4, 3]})
    path = first.scores[0][0].folder / "fold-2/history.csv"
    path.write_text(text)
    left_out = choose_nested(study(first)).left_out
    assert left_out.startswith(f"{path}: ") and left_out.endswith("train that fold again.")


def test_the_report_of_a_study_shows_the_choice_in_all_its_forms(ser, tones):
    Path("rules.toml").write_text(
        'title = "two mixing rules"\nrecipe = "conformer"\nreference = "none"\n'
        'components = [{ title = "EAM", setting = "mixup.method", value = "eam" }]\n'
        '[[cells]]\nname = "none"\nchanges.mixup.method = "none"\n'
        '[[cells]]\nname = "eam"\nchanges.mixup.method = "eam"\n'
    )
    options = (
        "--folds",
        2,
        *TINY_CELLS,
        "--epochs",
        1,
        "--set",
        "selection.validation_speakers=1",
        "--output",
        "study",
    )
    result = ser("ablate", "--manifest", tones, "--grid", "rules.toml", *options)
    assert result.exit_code == 0, result.stderr
    header, *rows = Path("study/tables/nested.csv").read_text().splitlines()
    assert header == "fold,cell,name,validation_ua,test_ua"
    told = [row.split(",") for row in rows]
    assert [row[0] for row in told] == ["1", "2", "mean"]
    for fold, number, name, validation_ua, test_ua in told[:2]:
        runs = {cell: Path(f"study/cells/0{cell}-{its_name}/seed-0") for cell, its_name in ((1, "none"), (2, "eam"))}
        rates = {cell: float(last_row(run / f"fold-{fold}/history.csv")["selection_ua"]) for cell, run in runs.items()}
        assert float(validation_ua) == rates[int(number)] == max(rates.values())
        assert float(test_ua) == dict(evaluate_run(Run(runs[int(number)])).folds)[int(fold)].ua
        assert runs[int(number)].parent.name == f"0{number}-{name}"
    for name in ("report.md", "report.html"):
        assert "A cell chosen by validation" in Path("study", name).read_text()


def last_row(path: Path) -> dict[str, str]:
    with path.open() as file:
        return list(csv.DictReader(file))[-1]
