"""Scores of the tasks, and the table that they are made of."""

from pathlib import Path

import pytest

from ser_cli.errors import RunError
from ser_cli.tasks.predictions import TaskPrediction, read_task_predictions, write_task_predictions
from ser_cli.tasks.scores import TaskScores, score_tasks

SAID = (
    TaskPrediction("a", "female", "female", "Kids are talking.", "kids are walking"),  # one word is another
    TaskPrediction("b", "male", "female", "by the door", "by door a"),  # one lacks, one is too many
    TaskPrediction("c", "", "male", "", "who"),  # nothing is known of it
    TaskPrediction("d", "male", "male", "dogs", "dogs"),
    TaskPrediction("e", "male", "male", "so, so", ""),  # two lack
)


def test_word_errors_are_summed_before_they_are_divided():
    scores = score_tasks(SAID, SAID)
    assert scores == TaskScores(
        gender_clips=4, gender_accuracy=3 / 4, words=9, word_error_rate=pytest.approx((1 + 2 + 0 + 2) / 9)
    )


def test_both_sides_of_the_word_error_rate_are_normalised():
    said = [TaskPrediction("a", "", "", "Kids are talking.", "'Kids ARE, talking")]
    assert score_tasks((), said).word_error_rate == 0


def test_a_gender_that_no_model_can_say_is_not_known():
    said = [TaskPrediction("a", "nonbinary", "", "", ""), TaskPrediction("b", "F", "female", "", ""), SAID[0]]
    assert (score_tasks(said, ()).gender_clips, score_tasks(said, ()).gender_accuracy) == (1, 1.0)


def test_a_task_that_nobody_learnt_or_labelled_has_no_rate():
    assert score_tasks((), SAID).gender_accuracy is None
    assert score_tasks(SAID, ()).word_error_rate is None
    assert score_tasks(SAID[2:3], SAID[2:3]) == TaskScores(0, None, 0, None)


def test_predictions_come_back_from_disk_as_they_were(tmp_path: Path):
    path = tmp_path / "tasks.csv"
    odd = TaskPrediction("e,1", "", "", 'he said "no",\nand left', "=1+1")
    write_task_predictions(path, (*SAID, odd))
    assert read_task_predictions(path) == (*SAID, odd)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no rows"),
        ("id,gender\na,male\n", "predicted_gender"),
        ("id,gender,predicted_gender,text,predicted_text\n", "no rows"),
        ("id,gender,predicted_gender,text,predicted_text\na,,,,\na,,,,\n", "an id twice"),
        ("id,gender,predicted_gender,text,predicted_text\na,,queen,,\n", "a predicted gender is none of female, male"),
    ],
)
def test_a_table_that_is_damaged_is_named(tmp_path: Path, text, reason):
    path = tmp_path / "tasks.csv"
    path.write_text(text)
    with pytest.raises(RunError, match=r"tasks\.csv: cannot be read as predictions of tasks \(.*" + reason):
        read_task_predictions(path)
    with pytest.raises(RunError, match="train that fold again"):
        read_task_predictions(tmp_path / "nothing.csv")
