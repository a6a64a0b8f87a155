"""Which frames of a padded batch are real."""

import torch
from torch import Tensor


def frame_mask(lengths: Tensor, size: int) -> Tensor:
    """(batch, size) booleans, True where a frame is no padding.

    Args:
        lengths: (batch,) in frames.
        size: frames of the padded batch.
    """
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)
