"""Predictions on disk: what scores and reports are made of, and nothing else."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ser_cli.errors import RunError
from ser_cli.files import write_atomically

PROBABILITY_PREFIX = "probability_"


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


def read_predictions(path: Path) -> tuple[Prediction, ...]:
    """Read what `write_predictions` wrote.

    Raises:
        RunError: the file is missing or is not a table of predictions.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return tuple(
            Prediction(
                row["id"],
                int(row["fold"]),
                row["truth"],
                row["predicted"],
                tuple(float(v) for name, v in row.items() if name.startswith(PROBABILITY_PREFIX)),
            )
            for row in rows
        )
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path}: cannot be read as predictions ({error}); train that fold again") from None
