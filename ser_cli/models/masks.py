"""Which frames of a padded batch are real."""

import torch
from torch import Tensor


def nothing_is_padded(mask: Tensor) -> bool:
    """Whether every frame of a mask is real, so that the masking can be left out.

    Never true while a graph is exported, which has to serve any batch.
    """
    return not torch.compiler.is_exporting() and bool(mask.all())


def frame_mask(lengths: Tensor, size: int) -> Tensor:
    """(batch, size) booleans, True where a frame is no padding.

    Args:
        lengths: (batch,) in frames.
        size: frames of the padded batch.
    """
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)
