"""Self-attention among the frames of each clip of a padded batch."""

from torch import Tensor, nn

from ser_cli.models.masks import nothing_is_padded


def attend(attention: nn.MultiheadAttention, frames: Tensor, mask: Tensor) -> Tensor:
    """(batch, frames, dim): what each frame takes from those of its clip; on padding, anything.

    Its memory grows with the number of frames, not its square.

    Args:
        attention: made without `batch_first`: with it torch has a path of its own for evaluation, which holds every
            head's weights for every pair of frames, 1.4 GB in a clip of 5 minutes.
        frames: (batch, frames, dim).
        mask: (batch, frames), True where a frame is no padding.
    """
    assert not attention.batch_first
    by_time = frames.transpose(0, 1)
    padding = None if nothing_is_padded(mask) else ~mask
    attended, _ = attention(by_time, by_time, by_time, key_padding_mask=padding, need_weights=False)
    by_clip: Tensor = attended.transpose(0, 1)
    return by_clip
