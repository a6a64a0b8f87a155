"""Predictions on disk: what scores and reports are made of, and nothing else."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ser_cli.errors import RunError
from ser_cli.files import read_table, write_atomically

PROBABILITY_PREFIX = "probability_"
SUM_TOLERANCE = 1e-3
"""Of the sum of a row's probabilities to 1: each has six digits behind the point."""


@dataclass(frozen=True)
class Prediction:
    """What a model said of one utterance."""

    id: str
    fold: int
    truth: str
    predicted: str
    probabilities: tuple[float, ...]
    """In the order of the declared labels; they sum to 1."""


def write_predictions(path: Path, predictions: Sequence[Prediction], labels: Sequence[str]) -> None:
    """Write `id,fold,truth,predicted` and one probability column per label as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "fold", "truth", "predicted", *(PROBABILITY_PREFIX + label for label in labels)))
    for p in predictions:
        writer.writerow((p.id, p.fold, p.truth, p.predicted, *(f"{value:.6f}" for value in p.probabilities)))
    write_atomically(path, text.getvalue().encode())


def read_predictions(path: Path, labels: Sequence[str], fold: int) -> tuple[Prediction, ...]:
    """Read what `write_predictions` wrote.

    Args:
        path: of the file.
        labels: the declared ones, each with its column, in whatever order those stand.
        fold: that every row has to be of.

    Raises:
        RunError: the file is missing or is not a table of such predictions.
    """
    try:
        header, rows = read_table(path)
        columns = [PROBABILITY_PREFIX + label for label in labels]
        told = [name for name in header if name.startswith(PROBABILITY_PREFIX)]
        if sorted(told) != sorted(columns):
            raise ValueError(f"not one probability for each of the {len(labels)} labels")
        predictions = tuple(
            Prediction(
                row["id"],
                int(row["fold"]),
                row["truth"],
                row["predicted"],
                tuple(float(row[name]) for name in columns),
            )
            for row in rows
        )
        _require_sound(predictions, fold)
    except (OSError, KeyError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as predictions ({error}); train that fold again") from None
    return predictions


def _require_sound(predictions: Sequence[Prediction], fold: int) -> None:
    """See that rows are what `write_predictions` writes.

    Raises:
        ValueError: one is not.
    """
    if not predictions or len({prediction.id for prediction in predictions}) < len(predictions):
        raise ValueError("it has no rows, or an id twice")
    for prediction in predictions:
        if prediction.fold != fold:
            raise ValueError(f"id {prediction.id} is of fold {prediction.fold} and not of fold {fold}")
        if not all(0 <= value <= 1 for value in prediction.probabilities):
            raise ValueError(f"id {prediction.id}: a probability lies outside of 0 to 1")
        if abs(sum(prediction.probabilities) - 1) > SUM_TOLERANCE:
            raise ValueError(f"id {prediction.id}: its probabilities sum to {sum(prediction.probabilities):.3g}, not 1")
