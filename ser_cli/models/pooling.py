"""From frames to one embedding, padding frames excluded: frame-level attention, mean, maximum."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ser_cli.errors import UsageError
from ser_cli.models.masks import nothing_is_padded


@dataclass(frozen=True)
class Pooled:
    """What a pooling makes of frames."""

    embedding: Tensor
    """(batch, dim)."""
    frames: Tensor
    """(batch, frames, dim): what was pooled, which `flam` changes first."""
    attention: Tensor
    """(batch, frames) weights that sum to 1; 0 on padding."""


class FrameLevelAttention(nn.Module):
    """FLAM, eq. 5 of the multi-loss paper.

    F' = F + MSA(F), alpha = softmax over t of f'_t.w, f = sum_t alpha_t f'_t; padding frames neither attend nor
    are attended to.
    """

    def __init__(self, dim: int, heads: int = 16) -> None:
        super().__init__()
        if dim % heads:
            raise UsageError(
                f"pooling.heads {heads}: the encoder's width {dim} must be a multiple of it\n"
                f"  set it to a divisor: --set pooling.heads=N"
            )
        self.self_attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        # Zeros: training starts from mean pooling.
        self.frame_weight = nn.Parameter(torch.zeros(dim))

    def forward(self, frames: Tensor, mask: Tensor) -> Pooled:
        """Pool frames (batch, frames, dim) under a mask (batch, frames)."""
        padding = None if nothing_is_padded(mask) else ~mask
        attended, _ = self.self_attention(frames, frames, frames, key_padding_mask=padding, need_weights=False)
        frames = frames + attended
        attention = (frames @ self.frame_weight).masked_fill(~mask, -torch.inf).softmax(dim=1)
        return Pooled(torch.einsum("bt,btd->bd", attention, frames), frames, attention)


class MeanPooling(nn.Module):
    """The mean over the frames that are no padding."""

    def forward(self, frames: Tensor, mask: Tensor) -> Pooled:
        """Pool frames (batch, frames, dim) under a mask (batch, frames)."""
        attention = mask / mask.sum(dim=1, keepdim=True)
        return Pooled(torch.einsum("bt,btd->bd", attention.to(frames.dtype), frames), frames, attention)


class MaxPooling(nn.Module):
    """The largest value of each feature over the frames that are no padding."""

    def forward(self, frames: Tensor, mask: Tensor) -> Pooled:
        """Pool frames (batch, frames, dim) under a mask (batch, frames); attention counts who was largest."""
        embedding, winner = frames.masked_fill(~mask.unsqueeze(-1), -torch.inf).max(dim=1)
        wins = torch.zeros(mask.shape, device=frames.device).scatter_add_(
            1, winner, torch.ones(winner.shape, device=frames.device)
        )
        return Pooled(embedding, frames, wins / frames.shape[-1])


POOLINGS: dict[str, Callable[[int, int], nn.Module]] = {
    "flam": FrameLevelAttention,
    "mean": lambda dim, heads: MeanPooling(),
    "max": lambda dim, heads: MaxPooling(),
}
"""Every pooling by the name that recipes use; takes the width of a frame and the number of heads."""
