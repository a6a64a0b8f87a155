"""From frames to one embedding, padding frames excluded; the poolings that recipes name are in `POOLINGS`."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ser_cli.errors import UsageError
from ser_cli.models.self_attention import attend


@dataclass(frozen=True)
class Pooled:
    """What a pooling makes of frames."""

    embedding: Tensor
    """(batch, values_per_feature * dim)."""
    frames: Tensor
    """(batch, frames, dim): what was pooled, which `flam` changes first."""
    attention: Tensor
    """(batch, frames) weights that sum to 1; 0 on padding."""


class Pooling(nn.Module):
    """Frames (batch, frames, dim) under a mask (batch, frames), True where a frame is no padding, to `Pooled`."""

    values_per_feature = 1
    """Width of the embedding over the width of a frame."""


class FrameLevelAttention(Pooling):
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
        self.self_attention = nn.MultiheadAttention(dim, heads)
        # Zeros: training starts from mean pooling.
        self.frame_weight = nn.Parameter(torch.zeros(dim))

    def forward(self, frames: Tensor, mask: Tensor) -> Pooled:
        """Pool frames (batch, frames, dim) under a mask (batch, frames)."""
        frames = frames + attend(self.self_attention, frames, mask)
        attention = (frames @ self.frame_weight).masked_fill(~mask, -torch.inf).softmax(dim=1)
        return Pooled(torch.einsum("bt,btd->bd", attention, frames), frames, attention)


class MeanPooling(Pooling):
    """The mean over the frames that are no padding."""

    def forward(self, frames: Tensor, mask: Tensor) -> Pooled:
        """Pool frames (batch, frames, dim) under a mask (batch, frames)."""
        attention = mask / mask.sum(dim=1, keepdim=True)
        return Pooled(torch.einsum("bt,btd->bd", attention.to(frames.dtype), frames), frames, attention)


class MaxPooling(Pooling):
    """The largest value of each feature over the frames that are no padding."""

    def forward(self, frames: Tensor, mask: Tensor) -> Pooled:
        """Pool frames (batch, frames, dim) under a mask (batch, frames); attention counts who was largest."""
        embedding, winner = frames.masked_fill(~mask.unsqueeze(-1), -torch.inf).max(dim=1)
        wins = torch.zeros(mask.shape, device=frames.device).scatter_add_(
            1, winner, torch.ones(winner.shape, device=frames.device)
        )
        return Pooled(embedding, frames, wins / frames.shape[-1])


class FirstFrame(Pooling):
    """The first frame alone, as the label-adaptive mixup paper takes it: F^0, section 2.2.

    It stands for the whole clip since self-attention has carried every other frame into it.
    """

    def forward(self, frames: Tensor, mask: Tensor) -> Pooled:
        """Pool frames (batch, frames, dim); the first is never padding."""
        attention = torch.zeros(mask.shape, dtype=frames.dtype, device=frames.device)
        attention[:, 0] = 1
        return Pooled(frames[:, 0], frames, attention)


class AttentiveStatistics(Pooling):
    """Attentive statistics pooling, eq. 3-6 of Okabe et al. 2018, which the multi-task paper takes up.

    e_t = v.tanh(W h_t + b), alpha = softmax over t of e_t, mu = sum_t alpha_t h_t,
    sigma = sqrt(sum_t alpha_t h_t^2 - mu^2), and the embedding is [mu, sigma]. The equation's constant k in e_t is
    left out: the softmax takes it away again. Of the non-linearities that Okabe et al. allow, it is tanh.
    """

    values_per_feature = 2
    smallest_variance = 1e-12
    """The gradient of a square root is infinite at 0, where a clip of one frame has its variance."""

    def __init__(self, dim: int, attention_dim: int = 64) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, attention_dim)
        self.score = nn.Linear(attention_dim, 1, bias=False)

    def forward(self, frames: Tensor, mask: Tensor) -> Pooled:
        """Pool frames (batch, frames, dim) under a mask (batch, frames)."""
        scores = self.score(self.hidden(frames).tanh()).squeeze(-1)
        # From here on in single precision at least: shares in half do not sum to 1, and a small variance rounds to 0.
        # Products and sums rather than matrix products, which autocast would put back into half.
        values = frames.float() if frames.dtype.itemsize < 4 else frames
        attention = scores.to(values.dtype).masked_fill(~mask, -torch.inf).softmax(dim=1)
        shares = attention.unsqueeze(-1)
        mean = (shares * values).sum(dim=1)
        # sum_t alpha_t (h_t - mu)^2 is the equation's difference without its cancellation; it is never below 0.
        variance = (shares * (values - mean.unsqueeze(1)).square()).sum(dim=1)
        deviation = variance.clamp_min(self.smallest_variance).sqrt()
        return Pooled(torch.cat([mean, deviation], dim=-1), frames, attention)


POOLINGS: dict[str, Callable[[int, int, int], Pooling]] = {
    "flam": lambda dim, heads, attention_dim: FrameLevelAttention(dim, heads),
    "mean": lambda dim, heads, attention_dim: MeanPooling(),
    "max": lambda dim, heads, attention_dim: MaxPooling(),
    "first": lambda dim, heads, attention_dim: FirstFrame(),
    "attentive_statistics": lambda dim, heads, attention_dim: AttentiveStatistics(dim, attention_dim),
}
"""Every pooling by the name that recipes use.

Takes the width of a frame, the heads of `flam` and the hidden width of `attentive_statistics`.
"""
