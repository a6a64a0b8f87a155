"""Scores as pure functions of truth, prediction and the declared labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ser_cli.errors import SerError


@dataclass(frozen=True)
class Scores:
    """The three figures of the field, as rates in [0, 1]."""

    n: int
    """Clips scored."""
    wa: float
    """Weighted accuracy: correct clips over all clips."""
    ua: float
    """Unweighted accuracy, also UAR: the mean over the declared labels of each one's recall."""
    macro_f1: float
    """The mean over the declared labels of each one's F1."""


def confusion_matrix(truth: Sequence[str], prediction: Sequence[str], labels: Sequence[str]) -> NDArray[np.int64]:
    """Count clips by truth (rows) and prediction (columns), in the order of the labels.

    Raises:
        SerError: a truth or prediction is not among the labels.
    """
    position = {label: index for index, label in enumerate(labels)}
    unknown = sorted({*truth, *prediction} - set(position))
    if unknown:
        raise SerError(f"cannot score: {unknown[0]!r} is not among the declared labels {', '.join(labels)}")
    matrix = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for true, predicted in zip(truth, prediction, strict=True):
        matrix[position[true], position[predicted]] += 1
    return matrix


def score(confusion: NDArray[np.int64], labels: Sequence[str], lacking: Sequence[str] = ()) -> Scores:
    """WA, UA and macro F1 of a confusion matrix.

    With n_ij clips of class i predicted as j and C classes,
    WA = sum_i n_ii / sum_ij n_ij, UA = 1/C sum_i n_ii / sum_j n_ij and
    macro F1 = 1/C sum_i 2 n_ii / (sum_j n_ij + sum_j n_ji).

    Args:
        confusion: (labels, labels) counts, truth by row.
        labels: the declared ones.
        lacking: labels that may have no clip, as a protocol says of a tested speaker; UA and macro F1 are then the
            means over the labels that do have clips.

    Raises:
        SerError: another declared label has no clip, so its recall does not exist.
    """
    support = confusion.sum(axis=1)
    for label, clips in zip(labels, support, strict=True):
        if clips == 0 and label not in lacking:
            raise SerError(f"cannot score: no clip of the declared label {label!r}, so its recall does not exist")
    there = support > 0
    correct = np.diagonal(confusion)[there]
    return Scores(
        n=int(support.sum()),
        wa=float(correct.sum() / support.sum()),
        ua=float((correct / support[there]).mean()),
        macro_f1=float((2 * correct / (support + confusion.sum(axis=0))[there]).mean()),
    )
