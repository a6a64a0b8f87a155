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


def cross_entropy(truth: Sequence[str], probabilities: Sequence[Sequence[float]], labels: Sequence[str]) -> float:
    """Mean over the clips of -ln p(truth), in nats; a probability below 1e-12 counts as that.

    Args:
        truth: one label per clip.
        probabilities: of each clip, in the order of the labels.
        labels: the declared ones.
    """
    position = {label: index for index, label in enumerate(labels)}
    of_truth = np.array([row[position[label]] for label, row in zip(truth, probabilities, strict=True)])
    return float(-np.log(np.maximum(of_truth, 1e-12)).mean())


def stacked_rates(confusions: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """WA, UA, macro F1 and the recalls of many confusion matrices at once; the formulas of `score`.

    Args:
        confusions: (…, labels, labels) counts, truth by row; all rates of one without clips are NaN.

    Returns:
        `wa`, `ua` and `macro_f1`, each (…,), and `recall` (…, labels), NaN where a label has no clip; such labels
        are left out of the means, as the lacking ones of `score`.
    """
    support = confusions.sum(axis=-1)
    correct = np.diagonal(confusions, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = correct / support
        f1 = np.where(support > 0, 2 * correct / (support + confusions.sum(axis=-2)), np.nan)
        present = (support > 0).sum(axis=-1)
        return {
            "wa": correct.sum(axis=-1) / support.sum(axis=-1),
            "ua": np.nansum(recall, axis=-1) / present,
            "macro_f1": np.nansum(f1, axis=-1) / present,
            "recall": recall,
        }


@dataclass(frozen=True)
class CalibrationBin:
    """Clips whose confidence falls into one interval."""

    low: float
    """Exclusive, but for the first bin."""
    high: float
    """Inclusive."""
    n: int
    confidence: float | None
    """Mean over the bin; None where it holds no clip."""
    accuracy: float | None
    """Share of the bin's clips that are right; None where it holds no clip."""


@dataclass(frozen=True)
class Calibration:
    """How far confidence can be taken at its word."""

    ece: float
    """Expected calibration error, a rate in [0, 1]."""
    bins: tuple[CalibrationBin, ...]


CALIBRATION_BINS = 15


def calibrate(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = CALIBRATION_BINS) -> Calibration:
    """Reliability of confidences and their expected calibration error (Guo et al. 2017, eq. 3).

    With the clips parted into M bins B_m by confidence, bin m holding those in ((m - 1)/M, m/M],
    ECE = sum_m |B_m| / n · |acc(B_m) - conf(B_m)|.

    Args:
        confidence: (clips,) probability of the predicted label, in [0, 1].
        correct: (clips,) whether the prediction is right.
        bins: M, of equal width.
    """
    # Rounded first: 0.2 · 15 is 3.0000000000000004 in floating point and belongs to the third bin.
    position = np.clip(np.ceil(np.round(confidence * bins, 9)).astype(int) - 1, 0, bins - 1)
    n = np.bincount(position, minlength=bins)
    confident = np.bincount(position, weights=confidence, minlength=bins)
    right = np.bincount(position, weights=correct.astype(float), minlength=bins)
    return Calibration(
        ece=float(np.abs(right - confident).sum() / len(confidence)),
        bins=tuple(
            CalibrationBin(
                low=m / bins,
                high=(m + 1) / bins,
                n=int(n[m]),
                confidence=float(confident[m] / n[m]) if n[m] else None,
                accuracy=float(right[m] / n[m]) if n[m] else None,
            )
            for m in range(bins)
        ),
    )
