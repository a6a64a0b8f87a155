"""What is heard and what is said become one feature; the fusions that recipes name are in `FUSIONS`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ser_cli.errors import UsageError
from ser_cli.models.pooling import Pooled, Pooling
from ser_cli.models.self_attention import attend
from ser_cli.models.text import TextStates


class Fusion(nn.Module):
    """The states of a text and the frames of its recording to what the head reads.

    Texts are brought to the width of the frames by a linear layer. The paper on losses for multi-modal recognition
    does not print one; the code of its authors has it in both of their systems.
    """

    def __init__(self, text_dim: int, dim: int) -> None:
        super().__init__()
        self.text_projection = nn.Linear(text_dim, dim)
        self.text_values = 0
        """What the text adds to the width of the embedding, beside what the pooling gives."""

    def forward(self, text: TextStates, frames: Tensor, mask: Tensor, pooling: Pooling) -> Pooled:
        """Fuse and pool.

        Args:
            text: states of the tokens.
            frames: (batch, frames, dim).
            mask: (batch, frames), True where a frame is no padding.
            pooling: over frames of width `dim`.

        Returns:
            `frames` and `attention` of the recording alone.
        """
        raise NotImplementedError


class Concatenation(Fusion):
    """SERVER: the text's feature and the recording's, side by side.

    x = [W t_0 + b, pooled(frames)], where t_0 is the state of the first token, [CLS], which stands for the text as in
    BERT.
    """

    def __init__(self, text_dim: int, dim: int) -> None:
        super().__init__(text_dim, dim)
        self.text_values = dim

    def forward(self, text: TextStates, frames: Tensor, mask: Tensor, pooling: Pooling) -> Pooled:
        """See `Fusion.forward`."""
        pooled: Pooled = pooling(frames, mask)
        said = self.text_projection(text.states[:, 0])
        return Pooled(torch.cat([said, pooled.embedding], dim=-1), pooled.frames, pooled.attention)


class AttentionFusion(Fusion):
    """3M-SER: tokens and frames attend to each other, then all of them are pooled.

    J = [norm(W T + b), norm(F)] along time, J' = norm(J + MSA(J)), x = pooled(J'). The paper says that its fusion
    module, multi-head attention as in the Transformer, works on the concatenated features; the sum with what goes in
    and the layer normalisation are the Transformer's (Vaswani et al. 2017, 3.1). Padding neither attends nor is
    attended to. Tokens come first, so that pooling `first` takes the state of [CLS].

    The shares of frames in the embedding sum to less than 1: tokens have the rest.
    """

    def __init__(self, text_dim: int, dim: int, heads: int) -> None:
        super().__init__(text_dim, dim)
        if dim % heads:
            raise UsageError(
                f"text.heads {heads}: the encoder's width {dim} must be a multiple of it\n"
                f"  set it to a divisor: --set text.heads=N"
            )
        self.text_norm = nn.LayerNorm(dim)
        self.frame_norm = nn.LayerNorm(dim)
        self.self_attention = nn.MultiheadAttention(dim, heads)
        self.norm = nn.LayerNorm(dim)

    def forward(self, text: TextStates, frames: Tensor, mask: Tensor, pooling: Pooling) -> Pooled:
        """See `Fusion.forward`."""
        joint = torch.cat([self.text_norm(self.text_projection(text.states)), self.frame_norm(frames)], dim=1)
        joint_mask = torch.cat([text.mask, mask], dim=1)
        attended = attend(self.self_attention, joint, joint_mask)
        pooled: Pooled = pooling(self.norm(joint + attended), joint_mask)
        tokens = text.mask.shape[1]
        return Pooled(pooled.embedding, pooled.frames[:, tokens:], pooled.attention[:, tokens:])


FUSIONS: dict[str, Callable[[int, int, int], Fusion]] = {
    "concatenate": lambda text_dim, dim, heads: Concatenation(text_dim, dim),
    "attention": AttentionFusion,
}
"""Every fusion by the name that recipes use.

Takes the widths of a token and of a frame and the heads of `attention`.
"""
