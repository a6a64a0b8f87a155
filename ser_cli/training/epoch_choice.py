"""Which epoch of a fold is tested, and when there is nothing more to wait for."""

from collections.abc import Sequence

from ser_cli.metrics import Scores
from ser_cli.training.history import EpochRecord

Standing = tuple[float, ...]
"""Of an epoch: the higher one is tested."""

LOWEST: Standing = (-1.0,)
"""Below that of any epoch."""


def standing_of(epoch: int, selection: Scores | None, cross_entropy: float | None) -> Standing:
    """Where an epoch stands among those of its fold.

    The highest UA is tested, of equal ones the highest WA, and of equal ones of both the lowest cross-entropy: the
    clips that choose are few, so that epochs tie, and the first of these is seldom the best of them.

    Args:
        epoch: counted from 1.
        selection: on the side that chooses; None where the last epoch is taken.
        cross_entropy: on that side, in nats.
    """
    if selection is None or cross_entropy is None:
        return (float(epoch),)
    return (selection.ua, selection.wa, -cross_entropy)


def is_out_of_patience(records: Sequence[EpochRecord], patience: int) -> bool:
    """Whether UA and WA have not risen for `patience` epochs; a lower cross-entropy alone is no reason to go on.

    Args:
        records: of all epochs so far.
        patience: 0 for any.
    """
    judged = [(record.selection, record.epoch) for record in records if record.selection]
    if not patience or not judged:
        return False
    _, risen = max(judged, key=lambda one: (one[0].ua, one[0].wa))  # the first of equal ones
    return records[-1].epoch - risen >= patience
