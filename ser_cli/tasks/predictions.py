"""What a model says of tested clips beside their emotion, on disk: `tasks.csv` of a fold."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ser_cli.errors import RunError
from ser_cli.files import read_table, write_atomically
from ser_cli.tasks.outputs import GENDERS


@dataclass(frozen=True)
class TaskPrediction:
    """What a model said of one utterance beside its emotion."""

    id: str
    gender: str
    """`female`, `male`, or empty where unknown or another: nothing that the model can say is right there."""
    predicted_gender: str
    """Empty where the model does not tell."""
    text: str
    """As the manifest has it; empty where unknown."""
    predicted_text: str


COLUMNS = tuple(field.name for field in fields(TaskPrediction))


def write_task_predictions(path: Path, predictions: Sequence[TaskPrediction]) -> None:
    """Write one row per tested utterance as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(prediction, name) for name in COLUMNS] for prediction in predictions)
    write_atomically(path, text.getvalue().encode())


def read_task_predictions(path: Path) -> tuple[TaskPrediction, ...]:
    """Read what `write_task_predictions` wrote.

    Raises:
        RunError: the file is missing or is not that table.
    """
    try:
        _, rows = read_table(path)
        predictions = tuple(TaskPrediction(**{name: row[name] for name in COLUMNS}) for row in rows)
        genders = {p.predicted_gender for p in predictions}
        if not predictions or len({p.id for p in predictions}) < len(predictions):
            raise ValueError("it has no rows, or an id twice")
        if not genders <= {*GENDERS, ""}:
            raise ValueError(f"a predicted gender is none of {', '.join(GENDERS)}")
    except (OSError, KeyError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as predictions of tasks ({error}); train that fold again") from None
    return predictions
