"""What each rater heard: the votes of an utterance as one column of the manifest, and as a soft label."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

COLUMN = "votes"
"""The manifest's column; its text is `angry:2 neutral:1`, each emotion with the weight of the raters who chose it."""


def count_votes(raters: Sequence[Sequence[str]]) -> dict[str, float]:
    """Add up raters, each with the emotions that they chose: a rater who chose several gives each an equal part."""
    votes: dict[str, float] = {}
    for chosen in raters:
        for emotion in chosen:
            votes[emotion] = votes.get(emotion, 0.0) + 1 / len(chosen)
    return votes


def format_votes(votes: Mapping[str, float]) -> str:
    """The text of the manifest's column: most votes first, then by name."""
    ordered = sorted(votes.items(), key=lambda item: (-item[1], item[0]))
    return " ".join(f"{emotion}:{weight:.4g}" for emotion, weight in ordered)


def parse_votes(text: str) -> dict[str, float]:
    """Read the manifest's column.

    Raises:
        ValueError: the text is not of the form `angry:2 neutral:1` with weights that are positive and finite.
    """
    votes: dict[str, float] = {}
    for part in text.split():
        emotion, separator, weight = part.rpartition(":")
        try:
            number = float(weight)
        except ValueError:
            number = 0.0
        if not separator or not emotion or emotion in votes or not 0 < number < float("inf"):
            raise ValueError(f"{part!r} is not an emotion with its number of votes, such as angry:2")
        votes[emotion] = number
    return votes


def soft_label(
    votes: Mapping[str, float], label_of: Mapping[str, str], labels: Sequence[str]
) -> NDArray[np.float32] | None:
    """The share of the votes that each label has, among the votes for any of the labels.

    Args:
        votes: by the corpus's own emotions.
        label_of: the label of each of these emotions; votes for others do not count.
        labels: in the order of the model's outputs.

    Returns:
        (labels,) that sums to 1; None where no vote is for any of the labels.
    """
    row = np.zeros(len(labels))
    for emotion, weight in votes.items():
        if emotion in label_of:
            row[labels.index(label_of[emotion])] += weight
    return (row / row.sum()).astype(np.float32) if row.any() else None
