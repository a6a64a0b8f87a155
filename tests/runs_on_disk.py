"""Runs written by hand, so that what is read from disk is tested without training."""

import csv
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from ser_cli.runs.directory import RunIdentity

LABELS = ("angry", "happy", "sad")

Row = tuple[str, str, str, str]
"""Id, speaker, truth, predicted."""


def write_run(
    folder: Path,
    folds: Sequence[Sequence[Row]],
    labels: Sequence[str] = LABELS,
    *,
    gender: dict[str, str] | None = None,
    **identity: object,
) -> Path:
    """Write a finished run whose predictions are sure to 70 %."""
    values = {field.name: "x" for field in fields(RunIdentity)} | {
        **{"dataset": "tones", "labels": list(labels), "label_set": "all", "where": [], "targets": "hard"},
        **{"folds": len(folds), "protocol": "p", "protocol_hash": "a" * 64, "seed": 0},
    }
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(values | identity))
    (folder / "protocol.json").write_text(json.dumps({"rule": "each fold tests unheard speakers", "caveats": []}))
    with (folder / "folds.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["fold", "side", "id", "speaker", "session", "emotion", "gender"])
        for index, rows in enumerate(folds, start=1):
            writer.writerows((index, "test", i, s, "", t, (gender or {}).get(s, "")) for i, s, t, _ in rows)
    for index, rows in enumerate(folds, start=1):
        of_fold = folder / f"fold-{index}"
        of_fold.mkdir()
        (of_fold / "done.json").write_text(json.dumps({"epoch": 2, "selected_by": "validation"}))
        (of_fold / "history.csv").write_text(
            "epoch,learning_rate,total,kl,focal,selection_ua,is_best\n1,0.1,2.0,1.5,0.4,0.3,1\n2,0.1,1.0,0.8,0.2,,0\n"
        )
        with (of_fold / "predictions.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "fold", "truth", "predicted", *(f"probability_{label}" for label in labels)])
            for identity_, _, truth, predicted in rows:
                rest = 0.3 / (len(labels) - 1)
                writer.writerow(
                    [identity_, index, truth, predicted, *(0.7 if label == predicted else rest for label in labels)]
                )
    return folder


def some_rows(
    speakers: Sequence[str], wrong: Sequence[str] = (), labels: Sequence[str] = LABELS, takes: int = 2
) -> list[Row]:
    """Clips of each speaker and label; those named are taken for the next label."""
    rows = []
    for speaker in speakers:
        for position, label in enumerate(labels):
            for take in range(takes):
                name = f"{speaker}-{label}-{take}"
                rows.append((name, speaker, label, labels[(position + (name in wrong)) % len(labels)]))
    return rows
