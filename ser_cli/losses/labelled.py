"""Losses of tasks whose labels not every clip has: the mean is over those that have one."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ser_cli.global_batch import whole_batch


def mean_over_labelled(values: Tensor, labelled: Tensor) -> Tensor:
    """Mean of the values of labelled clips; 0 where no clip is labelled.

    With several processes the clips are those of all of them, see `whole_batch`.

    Args:
        values: (batch,) of each clip; those of clips without a label are not read.
        labelled: (batch,) True where a clip counts.
    """
    values, counted = whole_batch(torch.where(labelled, values, 0.0), labelled.to(values.dtype))
    return values.sum() / counted.sum().clamp_min(1)


def labelled_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of the clips that have a label, as the multi-task paper trains gender and speaker.

    L = -1/|K| sum_{b in K} log softmax(x_b)_{y_b}, with K the labelled clips.

    Args:
        logits: (batch, outputs).
        classes: (batch,) integers, below 0 where a clip has no label.

    Returns:
        () at least 0.
    """
    labelled = classes >= 0
    values = F.cross_entropy(logits, classes.clamp_min(0), reduction="none")
    return mean_over_labelled(values, labelled)
